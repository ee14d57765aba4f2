"""Anthropic's API."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.dialects.base import ResponseHeaders
from gateway.dialects.streams import watch
from gateway.dialects.usage import usage_of

if TYPE_CHECKING:
    from gateway.contract import Refusal, Usage
    from gateway.dialects.base import StreamWatch

_HEADERS = ResponseHeaders(
    names=("anthropic-version",),
    prefixes=("anthropic-fast-", "anthropic-priority-", "anthropic-ratelimit-"),
)

# https://docs.anthropic.com/en/api/errors. What is not listed is api_error from 500 on, else invalid_request_error.
_TYPE_BY_STATUS = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        431: "request_too_large",
        503: "overloaded_error",
        504: "timeout_error",
    }
)
# 503s that waiting does not cure.
_API_ERRORS = frozenset({"auth_unavailable", "credential_unavailable"})


class Anthropic:
    """Errors as ``{"type": "error", "error": {type, message}, "request_id"}``, with Anthropic's own types."""

    name = "anthropic"

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:
        """The JSON body of a refusal."""
        error = {"type": _type(refusal), "message": refusal.message}
        return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """An event named ``error``: the SDK silently ignores an error in any other."""
        return b"event: error\ndata: " + self.error_body(refusal, request_id) + b"\n\n"

    def allows_response_header(self, name: str) -> bool:
        """Whether a response header may go to the client."""
        return _HEADERS.allow(name)

    def watch(self, path: str) -> StreamWatch:
        """A watch for one streamed answer."""
        return watch(path)

    def usage_of(self, body: bytes) -> Usage | None:
        """The usage that a complete JSON answer reports."""
        return usage_of(body)

    def error_message(self, refusal: Refusal, request_id: str) -> bytes:
        """The WebSocket message of a refusal, though no WebSocket is spoken here."""
        return self.error_body(refusal, request_id)

    def offers_websocket(self, path: str) -> bool:  # noqa: ARG002 - nowhere
        """Nowhere."""
        return False

    def asks(self, message: bytes) -> bool:  # noqa: ARG002 - there are no messages
        """Never."""
        return False

    def usage_in(self, message: bytes) -> Usage | None:  # noqa: ARG002 - there are no messages
        """Nothing."""
        return None


def _type(refusal: Refusal) -> str:
    known = _TYPE_BY_STATUS.get(refusal.status)
    if known is None or refusal.code in _API_ERRORS:
        return "api_error" if refusal.status >= 500 else "invalid_request_error"  # noqa: PLR2004 - RFC 9110, 15.6
    return known
