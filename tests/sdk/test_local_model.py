"""A real model behind the gateway: real tokens, at a real model's pace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openai import AsyncOpenAI

from tests.worlds.fronts import gateway_program
from tests.worlds.providers import local_model

if TYPE_CHECKING:
    import pytest

PROMPT = [{"role": "user", "content": "Count from one to five."}]


async def test_real_tokens(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real model's answer, sampled the same way, is the same whole and streamed, and the tokens are counted."""
    workdir = tmp_path_factory.mktemp("model")
    options = {"model": "smollm2", "messages": PROMPT, "max_tokens": 16, "temperature": 0, "seed": 1}
    with local_model(workdir) as upstream, gateway_program(upstream, workdir) as gateway:
        async with AsyncOpenAI(base_url=f"{gateway.origin}/v1", api_key=gateway.key) as client:
            whole = await client.chat.completions.create(**options)  # type: ignore[call-overload]
            stream = await client.chat.completions.create(**options, stream=True)  # type: ignore[call-overload]
            pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert whole.usage.completion_tokens == 16
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 10
