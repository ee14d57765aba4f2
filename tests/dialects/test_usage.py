"""The usage of complete JSON answers, in the shapes that providers really send."""

from __future__ import annotations

import json

import pytest

from gateway.contract import Usage
from gateway.dialects import get


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (
            {
                "object": "chat.completion",
                "model": "gpt-x",
                "usage": {
                    "prompt_tokens": 19,
                    "completion_tokens": 10,
                    "prompt_tokens_details": {"cached_tokens": 16},
                    "completion_tokens_details": {"reasoning_tokens": 4},
                },
            },
            Usage(input=19, output=10, cached=16, reasoning=4, model="gpt-x"),
        ),
        (
            {
                "object": "response",
                "model": "gpt-x",
                "usage": {
                    "input_tokens": 37,
                    "input_tokens_details": {"cached_tokens": 12},
                    "output_tokens": 11,
                    "output_tokens_details": {"reasoning_tokens": 7},
                },
            },
            Usage(input=37, output=11, cached=12, reasoning=7, model="gpt-x"),
        ),
        (
            {
                "type": "message",
                "model": "claude-x",
                "usage": {
                    "input_tokens": 25,
                    "cache_creation_input_tokens": 100,
                    "cache_read_input_tokens": 1000,
                    "output_tokens": 15,
                },
            },
            Usage(input=1125, output=15, cached=1000, model="claude-x"),
        ),
        (
            {"object": "list", "data": [], "model": "emb-x", "usage": {"prompt_tokens": 8, "total_tokens": 8}},
            Usage(input=8, model="emb-x"),
        ),
        ({"text": "hello", "usage": {"type": "duration", "seconds": 4}}, None),
        ({"input_tokens": 14}, None),
        ({"object": "list", "data": [{"usage": {"prompt_tokens": 8}}]}, None),
        ({"usage": {"prompt_tokens": -5, "completion_tokens": True}}, None),
        ({"usage": {"prompt_tokens": 10**30, "completion_tokens": 2}}, Usage(output=2)),
        ({"usage": None}, None),
    ],
)
def test_reported_usage(answer: dict[str, object], usage: Usage | None) -> None:
    """Input includes what was cached; what is no count of tokens counts nothing."""
    assert get("openai").usage_of(json.dumps(answer).encode()) == usage
    assert get("anthropic").usage_of(json.dumps(answer, indent=1).encode()) == usage


def test_a_large_answer_is_read_at_its_end() -> None:
    """Embeddings of megabytes are not parsed; the usage that stands last is found all the same."""
    usage = {"input_tokens": 8, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
    answer = {"object": "list", "data": [0.123456789] * 40_000, "model": "m", "usage": usage}
    assert get("openai").usage_of(json.dumps(answer).encode()) == Usage(input=8, output=3, cached=2)


def test_a_nested_usage_is_nobodys() -> None:
    """A large answer whose last usage belongs to an inner object reports none."""
    answer = {"data": ["x" * 300_000], "last": {"usage": {"prompt_tokens": 8}}}
    assert get("openai").usage_of(json.dumps(answer).encode()) is None


def test_passthrough_reads_nothing() -> None:
    """Of an unknown provider no number is believed."""
    assert get("passthrough").usage_of(b'{"usage": {"prompt_tokens": 8}}') is None
