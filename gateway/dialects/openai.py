"""OpenAI's API, and the many that speak like it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.dialects.base import ResponseHeaders
from gateway.dialects.streams import watch
from gateway.dialects.usage import usage_of

if TYPE_CHECKING:
    from gateway.contract import Refusal, Usage
    from gateway.dialects.base import StreamWatch

_HEADERS = ResponseHeaders(names=("openai-model", "openai-processing-ms", "openai-version"))


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
