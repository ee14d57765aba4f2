"""WebSocket messages: which of a client's ask for an answer, and what a provider's report."""

from __future__ import annotations

import json

import pytest

from gateway.dialects import get


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "response.create"}',
        '{"type": "response\\u002ecreate"}',
        '{"type": "session.update", "type": "response.create"}',
        '{"type": "response.create", "type": "session.update"}',
        '{"event_id": "response.create"}',
        '["response.create"]',
        "response.create {",
    ],
)  # fmt: skip
def test_what_somebody_may_read_as_a_question(message: str) -> None:
    """What is doubtful counts: a provider that reads it otherwise is not asked past a limit."""
    assert get("openai").asks(message.encode())
    assert get("passthrough").asks(message.encode())


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "session.update"}',
        '{"type": "input_audio_buffer.append", "audio": "response.create"}',
        '{"type": "é\\u0041"}',
    ],
)
def test_what_is_no_question(message: str) -> None:
    """The rest of a session costs nothing."""
    assert not get("openai").asks(message.encode())


def test_usage_of_an_answer() -> None:
    """Of the event that ends an answer, and of no other."""
    usage = {"input_tokens": 3, "output_tokens": 4}
    event = {"type": "response.done", "response": {"usage": usage}}
    found = get("openai").usage_in(json.dumps(event).encode())
    assert found is not None
    assert (found.input, found.output) == (3, 4)
    assert get("openai").usage_in(json.dumps(event | {"type": "response.created"}).encode()) is None
    assert get("openai").usage_in(b'{"usage" nonsense') is None


def test_where_websockets_are_spoken() -> None:
    """OpenAI's two endpoints, nowhere at Anthropic's, anywhere where nothing is known."""
    paths = ("/realtime", "/responses", "/chat/completions", "")
    offered = [path for path in paths if get("openai").offers_websocket(path)]
    assert offered == ["/realtime", "/responses"]
    assert not get("anthropic").offers_websocket("/messages")
    assert get("passthrough").offers_websocket("/anything")
