"""A provider of which nothing is known: its streams may end anywhere, its usage is not read.

The gateway's own errors are worded as OpenAI words them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dialects.base import ResponseHeaders
from gateway.dialects.openai import OpenAI
from gateway.dialects.streams import Unwatched

if TYPE_CHECKING:
    from gateway.contract import Refusal, Usage
    from gateway.dialects.base import StreamWatch

_HEADERS = ResponseHeaders()
_ERRORS = OpenAI()


class Passthrough:
    """Relays and understands nothing."""

    name = "passthrough"

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:
        """The JSON body of a refusal."""
        return _ERRORS.error_body(refusal, request_id)

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """The event that tells of a broken stream."""
        return _ERRORS.error_event(refusal, request_id)

    def allows_response_header(self, name: str) -> bool:
        """Whether a response header may go to the client."""
        return _HEADERS.allow(name)

    def watch(self, path: str) -> StreamWatch:  # noqa: ARG002 - no endpoint is known
        """A watch that finds nothing missing."""
        return Unwatched()

    def usage_of(self, body: bytes) -> Usage | None:  # noqa: ARG002 - no shape is known
        """Nothing."""
        return None

    def error_message(self, refusal: Refusal, request_id: str) -> bytes:
        """The WebSocket message of a refusal."""
        return _ERRORS.error_message(refusal, request_id)

    def offers_websocket(self, path: str) -> bool:  # noqa: ARG002 - no endpoint is known
        """Anywhere: the upstream decides."""
        return True

    def asks(self, message: bytes) -> bool:  # noqa: ARG002 - no shape is known
        """Every message may."""
        return True

    def usage_in(self, message: bytes) -> Usage | None:  # noqa: ARG002 - no shape is known
        """Nothing."""
        return None
