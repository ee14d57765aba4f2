"""OpenAI's API, and the many that speak like it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.dialects.base import ResponseHeaders
from gateway.dialects.streams import watch
from gateway.dialects.usage import parse_object, read_usage, usage_of

if TYPE_CHECKING:
    from gateway.contract import Refusal, Usage
    from gateway.dialects.base import StreamWatch

_HEADERS = ResponseHeaders(names=("openai-model", "openai-processing-ms", "openai-version"))
_WEBSOCKETS = frozenset({"/realtime", "/responses"})
_ENDS = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})


class OpenAI:
    """Errors as ``{"error": {message, type, param, code}}``: all four keys, ``param`` and ``code`` a string or null."""

    name = "openai"

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG002 - stands in x-request-id
        """The JSON body of a refusal."""
        error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
        return json.dumps({"error": error}).encode()

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """A nameless event: the SDKs raise APIError for any whose data has an ``error``."""
        return b"data: " + self.error_body(refusal, request_id) + b"\n\n"

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
        """The WebSocket message of a refusal: the shape of Realtime's ``error`` event, and of Responses'."""
        error = {"type": refusal.type, "code": refusal.code, "message": refusal.message, "param": refusal.param}
        event = {"type": "error", "event_id": request_id, "status": refusal.status, "error": error}
        return json.dumps(event).encode()

    def offers_websocket(self, path: str) -> bool:
        """Realtime and Responses."""
        return path in _WEBSOCKETS

    def asks(self, message: bytes) -> bool:
        """Whether it is a ``response.create``, however its JSON is escaped, or may be read as one by somebody."""
        if b"response.create" not in message and b"\\u" not in message:
            return False
        try:
            pairs = json.loads(message, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return True
        types = [pair[1] for pair in pairs if pair[0] == "type"] if isinstance(pairs, list) else []
        return types in ([], ["response.create"]) or len(types) > 1

    def usage_in(self, message: bytes) -> Usage | None:
        """Of ``response.done`` (Realtime) and ``response.completed`` and its kin (Responses)."""
        if b'"usage"' not in message:
            return None
        event = parse_object(message)
        answer = event.get("response")
        return read_usage(answer) if event.get("type") in _ENDS and isinstance(answer, dict) else None
