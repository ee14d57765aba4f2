"""A second provider that nobody here wrote, on another HTTP server: it limits, and it breaks its streams."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.worlds.fronts import gateway
from tests.worlds.providers import llmock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def client_of(folder: Path, *options: str) -> AsyncIterator[AsyncOpenAI]:
    """The SDK, through a gateway, to llmock with these options."""
    with llmock(folder, *options) as upstream:
        async with (
            gateway(upstream) as front,
            AsyncOpenAI(base_url=f"{front.origin}/v1", api_key=front.key, max_retries=0) as client,
        ):
            yield client


async def test_a_providers_limit_is_the_clients_to_see(tmp_path: Path) -> None:
    """Two requests are answered, whole and streamed; the third is the provider's 429 with its `retry-after`. F21."""
    async with client_of(tmp_path, "--rpm", "2") as client:
        assert (await client.chat.completions.create(model="m", messages=HELLO)).choices[0].message.content
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert [chunk async for chunk in stream]
        with pytest.raises(sdk.RateLimitError) as caught:
            await client.chat.completions.create(model="m", messages=HELLO)
    assert float(caught.value.response.headers["retry-after"]) > 0


async def test_a_providers_truncated_stream_raises(tmp_path: Path) -> None:
    """A stream that the provider ends without its terminal event raises, though its framing is whole. F09."""

    async def read(client: AsyncOpenAI) -> None:
        async for _ in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
            pass

    async with client_of(tmp_path, "--stream-fault", "truncate=1") as client:
        with pytest.raises(sdk.APIError):
            await read(client)
