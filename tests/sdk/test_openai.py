"""OpenAI's Python SDK through the gateway: every endpoint that a user reaches for, and its errors as SDK exceptions."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import openai as sdk
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

    from tests.worlds.fronts import Front

GREETING = "Hello from a provider that nobody here wrote. 你好 🙂"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Event(BaseModel):
    """A structured answer."""

    name: str
    day: str


async def test_chat(openai: AsyncOpenAI) -> None:
    """A chat completion arrives whole."""
    answer = await openai.chat.completions.create(model="any", messages=HELLO)
    assert answer.choices[0].message.content == GREETING
    assert answer.usage is not None


async def test_chat_streamed(openai: AsyncOpenAI) -> None:
    """A streamed chat completion arrives in its pieces, with its finish reason and its usage."""
    stream = await openai.chat.completions.create(
        model="any", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == GREETING
    assert sum(bool(piece) for piece in pieces) > 1
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None


async def test_tools(openai: AsyncOpenAI) -> None:
    """A tool is called with its arguments, and its result is answered: two rounds of one conversation."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "weather"}]
    call = (await openai.chat.completions.create(model="any", messages=messages, tools=[WEATHER])).choices[0].message
    assert call.tool_calls is not None
    tool_call = call.tool_calls[0]
    assert tool_call.type == "function"
    assert json.loads(tool_call.function.arguments) == {"city": "Bergen"}
    messages += [
        call.model_dump(include={"role", "content", "tool_calls"}),  # type: ignore[list-item]
        {"role": "tool", "tool_call_id": tool_call.id, "content": "rain"},
    ]
    answer = await openai.chat.completions.create(model="any", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "It rains in Bergen."


async def test_tools_streamed(openai: AsyncOpenAI) -> None:
    """A streamed tool call is put together by the SDK."""
    async with openai.chat.completions.stream(
        model="any", messages=[{"role": "user", "content": "weather"}], tools=[WEATHER]
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert json.loads(calls[0].function.arguments) == {"city": "Bergen"}


async def test_structured_output(openai: AsyncOpenAI) -> None:
    """`parse` gets JSON that fits its schema."""
    answer = await openai.chat.completions.parse(
        model="any", messages=[{"role": "user", "content": "an event"}], response_format=Event
    )
    assert answer.choices[0].message.parsed == Event(name="launch", day="friday")


async def test_responses(openai: AsyncOpenAI) -> None:
    """The Responses API answers whole."""
    answer = await openai.responses.create(model="any", input="hello")
    assert answer.output_text == GREETING


async def test_responses_streamed(openai: AsyncOpenAI) -> None:
    """The Responses API streams its events up to the last one."""
    async with openai.responses.stream(model="any", input="hello") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") > 1
    assert final.output_text == GREETING


async def test_embeddings(openai: AsyncOpenAI) -> None:
    """Embeddings come back as the numbers that the provider gave."""
    answer = await openai.embeddings.create(model="any", input="a vector", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5, 0.125]


async def test_images(openai: AsyncOpenAI) -> None:
    """A generated image comes back byte for byte."""
    answer = await openai.images.generate(model="gpt-image-1", prompt="a lighthouse")
    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "") == b"\x89PNG\r\n\x1a\n"


async def test_audio_upload(openai: AsyncOpenAI) -> None:
    """Audio is uploaded as multipart and transcribed."""
    answer = await openai.audio.transcriptions.create(model="whisper-1", file=("a.wav", bytes(range(256)) * 500))
    assert answer.text == "said aloud"


async def test_speech_download(openai: AsyncOpenAI) -> None:
    """Speech is downloaded as a stream of bytes, CR and LF and zero among them."""
    async with openai.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="x") as answer:
        audio = b"".join([piece async for piece in answer.iter_bytes()])
    assert audio == bytes([0, 1, 2, 3, 4, 5, 0xFF, 0, 0xFE, 0x0D, 0x0A, 0x0D, 0x0A])


async def test_files(openai: AsyncOpenAI) -> None:
    """A file that is uploaded is listed, and downloaded byte for byte; deleted, it is not found."""
    content = b'{"prompt": "\xe4\xbd\xa0"}\r\n\x00\xff--boundary--\r\n' * 4000
    file = await openai.files.create(file=("data.jsonl", content), purpose="user_data")
    assert file.bytes == len(content)
    assert file.id in [listed.id async for listed in openai.files.list()]
    assert (await openai.files.content(file.id)).content == content
    await openai.files.delete(file.id)
    with pytest.raises(sdk.NotFoundError):
        await openai.files.retrieve(file.id)


async def test_models(openai: AsyncOpenAI) -> None:
    """The provider's models are listed."""
    assert [model.id async for model in openai.models.list()]


@pytest.mark.parametrize(
    ("status", "exception", "code"),
    [
        (400, sdk.BadRequestError, "bad_thing"),
        (403, sdk.PermissionDeniedError, "forbidden"),
        (404, sdk.NotFoundError, "model_not_found"),
        (409, sdk.ConflictError, "conflict"),
        (422, sdk.UnprocessableEntityError, "unprocessable"),
        (429, sdk.RateLimitError, "rate_limit_exceeded"),
        (500, sdk.InternalServerError, "internal"),
        (503, sdk.InternalServerError, "overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_providers_error_is_the_sdks_exception(
    openai: AsyncOpenAI, status: int, exception: type[sdk.APIStatusError], code: str, *, stream: bool
) -> None:
    """A provider's error reaches the caller as the SDK's own class, with the provider's words and a request id."""
    with pytest.raises(exception) as caught:
        await openai.chat.completions.create(model=f"fails-{status}", messages=HELLO, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.code == code
    assert f"no {status}" in caught.value.message
    assert caught.value.request_id


async def test_a_bad_key_is_an_authentication_error(gateway: Front) -> None:
    """A key that the gateway does not know is AuthenticationError, as at the provider's own API."""
    async with AsyncOpenAI(base_url=f"{gateway.origin}/v1", api_key="gw_" + "0" * 32) as client:
        with pytest.raises(sdk.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.type == "invalid_request_error"


async def test_the_providers_refusal_of_our_key_is_not_the_clients_fault(
    gateway: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider's 401 is our 502 `upstream_auth`, and the SDK does not repeat it. F20."""
    caplog.set_level(logging.INFO, logger="openai")
    async with AsyncOpenAI(base_url=f"{gateway.origin}/v1", api_key=gateway.key, max_retries=2) as client:
        with pytest.raises(sdk.InternalServerError) as caught:
            await client.chat.completions.create(model="fails-401", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_auth")
    assert "Retrying" not in caplog.text


async def test_retry_after_is_honoured(gateway: Front, caplog: pytest.LogCaptureFixture) -> None:
    """The provider's 429 with `retry-after` makes the SDK wait just that long, and its second try succeeds. F21."""
    caplog.set_level(logging.INFO, logger="openai")
    async with AsyncOpenAI(
        base_url=f"{gateway.origin}/v1",
        api_key=gateway.key,
        max_retries=1,
        default_headers={"x-test-id": uuid4().hex},
    ) as client:
        answer = await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "busy at first"}]
        )
    assert answer.choices[0].message.content == "Thanks for waiting."
    assert "in 0.250000 seconds" in caplog.text


async def test_a_stream_that_the_provider_cuts_raises(openai: AsyncOpenAI) -> None:
    """A provider that drops a stream half way makes the SDK raise; the pieces before it were delivered. F07."""
    stream = await openai.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "cut short"}], stream=True
    )
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            pieces.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(sdk.APIError):
        await read()
    assert "".join(pieces).startswith("This sentence")
