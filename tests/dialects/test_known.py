"""Which dialect a caller is answered in."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from gateway.dialects import for_request, get


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/chat/completions", {}, "openai"),
        ("/v1/models", {}, "openai"),
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages?beta=true", {}, "anthropic"),
        ("/v1/messages/batches/b1", {}, "anthropic"),
        ("/v1/messages_of_mine", {}, "openai"),
        ("/v1/models", {"Anthropic-Version": "2023-06-01"}, "anthropic"),
        ("/anthropic/v1/messages", {"anthropic-version": "2023-06-01"}, "anthropic"),
        ("/v1/threads/t/messages", {}, "openai"),
    ],
)
def test_the_caller_is_answered_in_its_dialect(path: str, headers: dict[str, str], dialect: str) -> None:
    """Who asks for messages or names an Anthropic version speaks Anthropic, everybody else OpenAI."""
    assert for_request(path, CIMultiDict(headers)).name == dialect


@pytest.mark.parametrize("name", ["openai", "anthropic", "passthrough"])
def test_a_dialect_is_found_by_its_name(name: str) -> None:
    """The names that gateway.yaml may use are the dialects' own."""
    assert get(name).name == name
