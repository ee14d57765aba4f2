"""Anthropic's Python SDK through the gateway: messages whole and streamed, and its errors as SDK exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anthropic as sdk
import pytest
from anthropic import AsyncAnthropic

if TYPE_CHECKING:
    from anthropic.types import MessageParam

    from tests.worlds.fronts import Front

GREETING = "Hello from a provider that nobody here wrote. 你好 🙂"
HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]


async def test_messages(anthropic: AsyncAnthropic) -> None:
    """A message is answered whole."""
    answer = await anthropic.messages.create(model="any", max_tokens=100, messages=HELLO)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == GREETING


async def test_messages_streamed(anthropic: AsyncAnthropic) -> None:
    """A message is streamed in its pieces, to its stop reason."""
    async with anthropic.messages.stream(model="any", max_tokens=100, messages=HELLO) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(pieces) == GREETING
    assert len(pieces) > 1
    assert final.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("status", "exception"),
    [(400, sdk.BadRequestError), (429, sdk.RateLimitError), (500, sdk.InternalServerError)],
)
async def test_a_providers_error_is_the_sdks_exception(
    anthropic: AsyncAnthropic, status: int, exception: type[sdk.APIStatusError]
) -> None:
    """A provider's error reaches the caller as the SDK's own class, with the provider's words."""
    with pytest.raises(exception) as caught:
        await anthropic.messages.create(model=f"fails-{status}", max_tokens=100, messages=HELLO)
    assert caught.value.status_code == status
    assert f"no {status}" in str(caught.value.body)


async def test_a_bad_key_is_an_authentication_error(gateway: Front) -> None:
    """A key that the gateway does not know is AuthenticationError, in Anthropic's own words and shape."""
    async with AsyncAnthropic(base_url=gateway.origin, api_key="gw_" + "0" * 32) as client:
        with pytest.raises(sdk.AuthenticationError) as caught:
            await client.messages.create(model="any", max_tokens=100, messages=HELLO)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["request_id"]


async def test_a_stream_that_the_provider_cuts_raises(anthropic: AsyncAnthropic) -> None:
    """A provider that drops a stream half way makes the SDK raise. F07."""
    with pytest.raises(sdk.APIError):
        async with anthropic.messages.stream(
            model="any", max_tokens=100, messages=[{"role": "user", "content": "cut short"}]
        ) as stream:
            await stream.get_final_message()
