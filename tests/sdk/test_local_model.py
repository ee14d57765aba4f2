"""A real model behind the gateway: real tokens, at a real model's pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI

from tests.worlds.fronts import gateway
from tests.worlds.providers import local_model

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = [{"role": "user", "content": "Count from one to five."}]


async def test_real_tokens(tmp_path: Path) -> None:
    """A real model's answer, sampled the same way, is the same whole and streamed, and the tokens are counted."""
    options: dict[str, Any] = {"model": "smollm2", "messages": PROMPT, "max_tokens": 12, "temperature": 0, "seed": 1}
    with local_model(tmp_path) as upstream:
        async with (
            gateway(upstream) as front,
            AsyncOpenAI(base_url=f"{front.origin}/v1", api_key=front.key) as client,
        ):
            whole = await client.chat.completions.create(**options)
            stream = await client.chat.completions.create(**options, stream=True)
            pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert whole.usage.completion_tokens == 12
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(bool(piece) for piece in pieces) > 5
