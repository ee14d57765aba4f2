"""Streams know whether they are complete, and what they used: on the shapes that providers really send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Usage
from gateway.dialects import StreamWatch, get
from gateway.dialects.sse import Event, EventStream

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def event(data: object, name: str = "") -> bytes:
    """One event as it travels."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chunk(content: str | None, **more: object) -> bytes:
    """One chunk of a chat."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices, **more})


CHAT_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "accepted_prediction_tokens": 0},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-x",
    "usage": {
        "input_tokens": 37,
        "input_tokens_details": {"cached_tokens": 12},
        "output_tokens": 11,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 48,
    },
}
MESSAGE_START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "claude-x",
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
MESSAGE_DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}

DONE = event("[DONE]")
CHAT_STREAM = [chunk("Hel", usage=None), chunk("lo", usage=None), chunk(None, usage=CHAT_USAGE), DONE]
RESPONSES_STREAM = [
    event({"type": "response.created", "response": {**RESPONSE, "usage": None}}, "response.created"),
    event({"type": "response.output_text.delta", "delta": "Hello"}, "response.output_text.delta"),
    event({"type": "response.completed", "response": RESPONSE}, "response.completed"),
]
MESSAGES_STREAM = [
    event(MESSAGE_START, "message_start"),
    event({"type": "ping"}, "ping"),
    event({"type": "content_block_delta", "delta": {"text": "Hello"}}, "content_block_delta"),
    event(MESSAGE_DELTA, "message_delta"),
    event({"type": "message_stop"}, "message_stop"),
]


def watched(path: str, stream: list[bytes], dialect: str = "openai") -> StreamWatch:
    """What the watch knows after these events."""
    watch = get(dialect).watch(path)
    parser = EventStream()
    for part in stream:
        for one in parser.feed(part):
            watch.on_event(one)
    return watch


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("path", "stream"),
    [
        (CHAT, CHAT_STREAM),
        (COMPLETIONS, CHAT_STREAM),
        ("/openai/deployments/d/chat/completions?api-version=1", CHAT_STREAM),
        (RESPONSES, RESPONSES_STREAM),
        ("/v1/responses/resp_1?stream=true", RESPONSES_STREAM),
        (MESSAGES, MESSAGES_STREAM),
    ],
)
def test_complete_with_the_last_event_and_not_before(dialect: str, path: str, stream: list[bytes]) -> None:
    """F09: a stream that lost even its last event is not complete; providers also serve each other's endpoints."""
    assert watched(path, stream, dialect).complete
    for end in range(len(stream)):
        assert not watched(path, stream[:end], dialect).complete


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed", "error"])
def test_every_end_of_a_response(kind: str) -> None:
    """A response may end in four ways, and all are ends; named by the event or by its data alone."""
    assert watched(RESPONSES, [event({"type": kind}, kind)]).complete
    assert watched(RESPONSES, [event({"type": kind})]).complete


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (CHAT, event({"error": {"message": "overloaded", "code": 502}})),
        (CHAT, event({"id": "1", "choices": [], "error": {"message": "overloaded"}})),
        (CHAT, event({"message": "x"}, "error")),
        (RESPONSES, event({"type": "error", "message": "x"}, "error")),
        (MESSAGES, event({"type": "error", "error": {"type": "overloaded_error"}}, "error")),
    ],
)
def test_the_providers_own_error_is_an_honest_end(path: str, error: bytes) -> None:
    """After the provider's error event nothing is missing: no second error is added."""
    assert watched(path, [error]).complete


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (CHAT, chunk('say "error": {"x": 1} and "usage": {"prompt_tokens": 9} and [DONE]')),
        (CHAT, chunk("x", error=None)),
        (CHAT, event('"[DONE]"')),
        (RESPONSES, event({"type": "response.output_text.delta", "delta": '{"type":"response.completed"}'})),
        (RESPONSES, event({"type": "response.output_item.done", "item": {"type": "error"}})),
        (MESSAGES, event({"type": "message_stop"}, "ping")),
        (MESSAGES, event({"type": "content_block_delta", "delta": {"text": '"type": "message_stop"'}})),
    ],
)
def test_what_a_model_says_is_no_end(path: str, said: bytes) -> None:
    """A model that is asked to write a terminator or a usage does not end the stream, and reports none."""
    watch = watched(path, [said])
    assert not watch.complete
    assert watch.usage is None


@pytest.mark.parametrize(
    ("path", "stream", "usage"),
    [
        (CHAT, CHAT_STREAM, Usage(input=19, output=10, cached=16, reasoning=4, model="gpt-x")),
        (RESPONSES, RESPONSES_STREAM, Usage(input=37, output=11, cached=12, reasoning=7, model="gpt-x")),
        (MESSAGES, MESSAGES_STREAM, Usage(input=1125, output=15, cached=1000, model="claude-x")),
    ],
)
def test_usage_of_a_whole_stream(path: str, stream: list[bytes], usage: Usage) -> None:
    """The reported usage is read; what was cached is part of the input, whoever reports it."""
    assert watched(path, stream).usage == usage


def test_usage_of_a_stream_that_was_cut() -> None:
    """F28: what was reported before the cut is known: Anthropic's input from the first event on."""
    assert watched(MESSAGES, MESSAGES_STREAM[:2]).usage == Usage(input=1125, output=1, cached=1000, model="claude-x")


def test_a_terminator_after_the_end_takes_nothing_away() -> None:
    """Servers that close a response's stream with [DONE] as well leave its usage known."""
    usage = watched(RESPONSES, [*RESPONSES_STREAM, DONE]).usage
    assert usage == Usage(input=37, output=11, cached=12, reasoning=7, model="gpt-x")


def test_usage_in_every_chunk() -> None:
    """Where a provider reports in every chunk, the last report counts."""
    growing = [chunk("a", usage={"prompt_tokens": 5, "completion_tokens": count}) for count in (1, 2, 3)]
    assert watched(CHAT, growing).usage == Usage(input=5, output=3, model="gpt-x")


def test_a_delta_that_repeats_less_takes_nothing_away() -> None:
    """The largest number of each kind counts: a delta that reports zero input does not undo the start's."""
    delta = event({"type": "message_delta", "usage": {"input_tokens": 0, "output_tokens": 15}}, "message_delta")
    usage = watched(MESSAGES, [MESSAGES_STREAM[0], delta]).usage
    assert usage == Usage(input=1125, output=15, cached=1000, model="claude-x")


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/threads/t/runs", "/v1/audio/speech", "/"])
def test_unknown_streams_may_end_anywhere(path: str) -> None:
    """A stream whose terminator is not known is never called broken."""
    assert watched(path, [event({"x": 1})]).complete


def test_passthrough_watches_nothing() -> None:
    """In the passthrough dialect no stream is watched, whatever its path."""
    watch = watched(CHAT, CHAT_STREAM[:1], "passthrough")
    assert watch.complete
    assert watch.usage is None


def test_an_event_that_was_too_large_still_ends_by_its_name() -> None:
    """F26: a last event over the bound ends the stream; only its usage is lost."""
    watch = get("openai").watch(RESPONSES)
    watch.on_event(Event(b"response.completed", b"", truncated=True))
    assert watch.complete
    assert watch.usage is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["usage", "error", "type", "message", "response", "prompt_tokens", "input_tokens", "model",
                         "prompt_tokens_details", "cached_tokens", "cache_read_input_tokens"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
NAMES = st.sampled_from(["", "error", "message_start", "message_delta", "response.completed", "x"])


@given(
    path=st.sampled_from([CHAT, RESPONSES, MESSAGES]),
    events=st.lists(st.tuples(NAMES, JSON.map(json.dumps).map(str.encode) | st.binary(max_size=30)), max_size=6),
)
def test_nothing_raises(path: str, events: list[tuple[str, bytes]]) -> None:
    """F26: no event, however wrong, raises into the stream or yields a usage that is no number of tokens."""
    watch = get("openai").watch(path)
    for name, data in events:
        watch.on_event(Event(name.encode(), data))
    _check(watch.usage)


@given(body=JSON.map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_no_body_raises(body: bytes) -> None:
    """The same for whole answers."""
    _check(get("openai").usage_of(body))


def _check(usage: Any) -> None:
    if usage is not None:
        numbers = (usage.input, usage.output, usage.cached, usage.reasoning)
        assert all(type(number) is int and 0 <= number < 2**55 for number in numbers)
        assert usage.model is None or isinstance(usage.model, str)
