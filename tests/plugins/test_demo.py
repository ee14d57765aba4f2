"""The layer ``demo``, driven by the SDK that it must look right to."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from aiohttp import web

from gateway.contract import EXCHANGE, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.contract import Handler
    from tests.plugins.conftest import Client, World

AT_ONCE = {"demo": {"pace": "0ms"}}
ECHO = "gateway.testing:Echo"
HELLO: list[Any] = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "good morning"}]


@pytest.fixture
async def get(world: World) -> AsyncIterator[Client]:
    """A gateway with the demo model, in a hurry."""
    async with world.serve(AT_ONCE, ECHO, path="/v1/") as client:
        yield client


@pytest.fixture
async def sdk(get: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, with its base URL changed, as strict as it can be."""
    url = get.url + "/v1"
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest.fixture
async def usual_sdk(get: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK as everybody has it: the strict one fails on the base64 that it asks for itself."""
    async with openai.AsyncOpenAI(api_key="k", base_url=get.url + "/v1", max_retries=0) as client:
        yield client


async def test_chat(sdk: openai.AsyncOpenAI) -> None:
    """A chat is answered, with every word counted and the user's own shown."""
    answer = await sdk.chat.completions.create(model="demo", messages=HELLO)
    text = answer.choices[0].message.content or ""
    assert text.endswith("You said: good morning")
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("chat.completion", "demo", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, len(text.split()))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_streamed_chat(sdk: openai.AsyncOpenAI) -> None:
    """Streamed, the chunks add up to the same text, begin with the role and end with a reason."""
    whole = await sdk.chat.completions.create(model="demo", messages=HELLO)
    chunks = [chunk async for chunk in await sdk.chat.completions.create(model="demo", messages=HELLO, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 10
    assert [chunk for chunk in chunks if chunk.usage] == []


async def test_usage_of_a_stream_for_who_asks(sdk: openai.AsyncOpenAI) -> None:
    """With include_usage the last chunk has no choices and the same usage as the whole answer."""
    whole = await sdk.chat.completions.create(model="demo", messages=HELLO)
    stream = await sdk.chat.completions.create(
        model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert [chunk for chunk in chunks[:-1] if chunk.usage] == []


async def test_the_stream_as_bytes(get: Client) -> None:
    """On the wire it is server-sent events that no proxy keeps back, closed by the terminator."""
    answer = await get("POST", "/v1/chat/completions", json={"model": "demo", "messages": HELLO, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.body.startswith(b'data: {"id": "chatcmpl-')
    assert answer.body.endswith(b"}\n\ndata: [DONE]\n\n")
    assert b'"usage"' not in answer.body


USED: list[Usage | None] = []


@web.middleware
async def accountant(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep what each exchange used."""
    request[EXCHANGE].on_done(lambda _, outcome: USED.append(outcome.usage))
    return await handler(request)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": HELLO}),
        ("/chat/completions", {"messages": HELLO, "stream": True}),
        ("/responses", {"input": "be kind good morning"}),
        ("/embeddings", {"input": "be kind good morning"}),
    ],
)
async def test_usage_is_accounted(world: World, path: str, body: dict[str, Any]) -> None:
    """What an exchange used is known when it ends, streamed or not."""
    USED.clear()
    async with world.serve(f"{__name__}:accountant", AT_ONCE, ECHO, path="/v1/") as get:
        await get("POST", "/v1" + path, json={"model": "demo", **body})
        await get.edge.drained()
    (usage,) = USED
    assert usage is not None
    assert (usage.input, usage.model) == (4, "demo")
    assert (usage.output > 10) is (path != "/embeddings")


async def test_the_sdks_stream_helper(sdk: openai.AsyncOpenAI) -> None:
    """The SDK's own accumulator is satisfied with the stream."""
    async with sdk.chat.completions.stream(model="demo", messages=HELLO) as stream:
        final = await stream.get_final_completion()
    assert (final.choices[0].message.content or "").endswith("good morning")


async def test_responses(sdk: openai.AsyncOpenAI) -> None:
    """A response is answered, whatever form its input has."""
    plain = await sdk.responses.create(model="demo", input="good morning")
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "good morning"}]}]
    listed = await sdk.responses.create(model="demo", input=items)
    assert plain.output_text == listed.output_text
    assert plain.output_text.endswith("You said: good morning")
    assert plain.usage is not None
    assert (plain.status, plain.usage.input_tokens) == ("completed", 2)
    assert plain.usage.output_tokens == len(plain.output_text.split())


async def test_streamed_responses(sdk: openai.AsyncOpenAI) -> None:
    """Streamed, the events have the provider's order, numbers without a gap, and the whole response at the end."""
    events = [event async for event in await sdk.responses.create(model="demo", input="good morning", stream=True)]
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.usage is not None


async def test_the_sdks_response_stream_helper(sdk: openai.AsyncOpenAI) -> None:
    """The SDK's own accumulator is satisfied with the events."""
    async with sdk.responses.stream(model="demo", input="good morning") as stream:
        final = await stream.get_final_response()
    assert final.output_text.endswith("good morning")


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(usual_sdk: openai.AsyncOpenAI, encoding: Any) -> None:
    """The same text has the same vector of length one, in both encodings."""
    answer = await usual_sdk.embeddings.create(model="demo", input=["a", "b", "a"], encoding_format=encoding)
    vectors: list[Any] = [item.embedding for item in answer.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert (answer.usage.prompt_tokens, [item.index for item in answer.data]) == (3, [0, 1, 2])
    if encoding == "float":
        assert len(vectors[0]) == 256
        assert sum(number * number for number in vectors[0]) == pytest.approx(1)


async def test_embeddings_the_sdks_own_way(usual_sdk: openai.AsyncOpenAI) -> None:
    """Without an encoding the SDK asks for base64 and unpacks it; tokens are taken too, and sizes are obeyed."""
    plain = await usual_sdk.embeddings.create(model="demo", input="a")
    floats = await usual_sdk.embeddings.create(model="demo", input="a", encoding_format="float")
    small = await usual_sdk.embeddings.create(model="demo", input=[1, 2, 3], dimensions=8)
    assert plain.data[0].embedding == pytest.approx(floats.data[0].embedding)
    assert (len(small.data), len(small.data[0].embedding)) == (1, 8)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat/completions", {"model": "demo"}, "messages"),
        ("/chat/completions", {"model": "demo", "messages": []}, "messages"),
        ("/chat/completions", {"model": "demo", "messages": "hello"}, "messages"),
        ("/embeddings", {"model": "demo"}, "input"),
        ("/embeddings", {"model": "demo", "input": []}, "input"),
        ("/embeddings", {"model": "demo", "input": ["x"] * 65}, "input"),
        ("/embeddings", {"model": "demo", "input": "x", "dimensions": 10**9}, "dimensions"),
    ],
)
async def test_what_it_cannot_answer(get: Client, path: str, body: dict[str, Any], param: str) -> None:
    """A wrong request is a 400 that names the field, and no amount of work."""
    answer = await get("POST", "/v1" + path, json=body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "bad_request", param)


STRANGE: list[Any] = [[None], [5], [{"content": None}], [{"content": [5, {"text": 7}]}], [{"content": {"text": "x"}}]]


@pytest.mark.parametrize("messages", STRANGE)
async def test_strange_messages_are_no_fault(get: Client, messages: Any) -> None:
    """F42: whatever stands in a message, the demo model answers."""
    answer = await get("POST", "/v1/chat/completions", json={"model": "demo", "messages": messages})
    assert answer.status == 200


async def test_lone_surrogates_are_no_fault(get: Client) -> None:
    """F42: half a character in a message comes back as it was written."""
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = await get("POST", "/v1/chat/completions", data=body)
    assert b"\\ud800" in answer.body


PASSING = [
    ("POST", "/v1/chat/completions", b'{"model": "gpt-x", "messages": ["demo"]}'),
    ("POST", "/v1/chat/completions", b'{"model": "demo-2"}'),
    ("POST", "/v1/chat/completions", b'{"model": "demo"'),
    ("POST", "/v1/chat/completions", b'["demo"]'),
    ("POST", "/v1/chat/completions", b'["demo", ' + b"[" * 50_000),
    ("POST", "/v1/chat/completions", json.dumps({"model": "demo", "x": "y" * 70_000}).encode()),
    ("POST", "/v1/images/generations", b'{"model": "demo"}'),
    ("GET", "/v1/chat/completions", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), PASSING)
async def test_everything_else_passes_untouched(get: Client, method: str, path: str, body: bytes) -> None:
    """Another model, another path, what is no JSON and what is large reach the next layer to the byte."""
    answer = await get(method, path, data=body)
    assert answer.json["target"] == path
    assert answer.json["body"].encode("latin-1") == body


async def test_a_client_that_leaves_ends_the_stream(world: World) -> None:
    """F28: with the client gone, nothing of the stream is left running."""
    body = {"model": "demo", "messages": HELLO, "stream": True}
    async with world.serve({"demo": {"pace": "1h"}}, ECHO, path="/v1/") as get:
        async with get.session.post(get.url + "/v1/chat/completions", json=body) as answer:
            assert (await answer.content.readline()).startswith(b"data: {")
            assert get.edge.in_flight == 1
        async with asyncio.timeout(5):
            await get.edge.drained()
