"""How streamed answers end, and where they report usage: by endpoint, because providers serve each other's.

A stream that stops without its terminator was cut, and no SDK notices it (traps.md): only the terminator tells. JSON is
parsed when somebody asks for the usage, not as events pass: one event in hundreds carries any.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gateway.dialects.usage import parse_object, read_usage

if TYPE_CHECKING:
    from gateway.contract import Usage
    from gateway.dialects.base import StreamWatch
    from gateway.dialects.sse import Event


def watch(path: str) -> StreamWatch:
    """A watch for one streamed answer to a request for ``path`` (its query may be left on)."""
    for ending, kind in _BY_ENDING:
        if ending.search(path):
            return kind()
    return Unwatched()


class Unwatched:
    """A kind of stream whose terminator is not known: it may end anywhere."""

    complete = True
    over = False
    usage: Usage | None = None

    def on_event(self, event: Event) -> None:
        """Nothing is known of it."""


class ChatWatch:
    """Chat and legacy completions: nameless chunks, then ``[DONE]``. The last chunk with a usage has the final one."""

    def __init__(self) -> None:
        self.complete = False
        self._reported = b""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        data = event.data
        if _USAGE.search(data):
            self._reported = data
        if data.startswith(b"[DONE]") or event.name == b"error" or (b'"error"' in data and _is_error(data)):
            self.complete = True

    @property
    def over(self) -> bool:
        """Whether the terminator has passed."""
        return self.complete

    @property
    def usage(self) -> Usage | None:
        """The usage of the last chunk that had one."""
        return read_usage(parse_object(self._reported)) if self._reported else None


class ResponsesWatch:
    """Responses: named events; the one that ends the stream holds the whole response, and its usage."""

    def __init__(self) -> None:
        self.complete = False
        self._last = b""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        if _kind(event) in _RESPONSE_ENDS or event.data.startswith(b"[DONE]"):
            self.complete = True
            self._last = self._last or event.data

    @property
    def over(self) -> bool:
        """Whether the terminator has passed."""
        return self.complete

    @property
    def usage(self) -> Usage | None:
        """The usage of the response that ended."""
        response = parse_object(self._last).get("response") if self._last else None
        return read_usage(response) if isinstance(response, dict) else None


class MessagesWatch:
    """Anthropic's messages: ``message_start`` has the input's usage, each ``message_delta`` the output's so far."""

    def __init__(self) -> None:
        self.complete = False
        self._start = b""
        self._delta = b""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        kind = _kind(event)
        if kind == b"message_start":
            self._start = event.data
        elif kind == b"message_delta":
            self._delta = event.data
        elif kind in _MESSAGE_ENDS:
            self.complete = True

    @property
    def over(self) -> bool:
        """Whether the terminator has passed."""
        return self.complete

    @property
    def usage(self) -> Usage | None:
        """The largest of each number that was reported: later events repeat some, and leave out others."""
        message = parse_object(self._start).get("message") if self._start else None
        start: dict[str, Any] = message if isinstance(message, dict) else {}
        largest: dict[str, Any] = {}
        for reported in (start.get("usage"), parse_object(self._delta).get("usage") if self._delta else None):
            for name, value in reported.items() if isinstance(reported, dict) else ():
                if type(value) is int:
                    largest[name] = max(value, largest.get(name, 0))
        return read_usage({"usage": largest, "model": start.get("model")})


_RESPONSE_ENDS = frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"error"})
_MESSAGE_ENDS = frozenset({b"message_stop", b"error"})

# An object, not the null of the chunks before the last. Quotes inside of strings are escaped, so this is a key.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_TYPE = re.compile(rb'"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)|message_(?:start|delta|stop)|error)"')

_BY_ENDING = (
    (re.compile(r"/completions(?:\?|$)"), ChatWatch),
    (re.compile(r"/responses(?:/[^/?]+)?(?:\?|$)"), ResponsesWatch),
    (re.compile(r"/messages(?:\?|$)"), MessagesWatch),
)


def _kind(event: Event) -> bytes:
    """The event's name; of a nameless one the ``type`` in its data, where that is one that matters here."""
    if event.name or not _TYPE.search(event.data):
        return event.name
    kind = parse_object(event.data).get("type")
    return kind.encode("utf-8", "replace") if isinstance(kind, str) else b""


def _is_error(data: bytes) -> bool:
    return bool(parse_object(data).get("error"))
