"""Server-sent events, read from bytes as they pass: where events begin and end, and nothing of what they mean.

The rules are those of WHATWG HTML, section 9.2.6: a line ends with CRLF, LF or CR; a line that starts with a colon is a
comment; ``data`` lines add up; a blank line ends the event; a byte order mark at the very start is skipped; an event
without a ``data`` line is none. Only ``event`` and ``data`` are kept. Nothing here raises, whatever the bytes are: the
stream belongs to the client, this only looks on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.contract import Relay


class Event(NamedTuple):
    """One event. ``name`` is empty where the stream names none; of a ``truncated`` one the data is not kept."""

    name: bytes
    data: bytes
    truncated: bool = False


_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_COLON = ord(":")

# Of a line that is too long to be kept this much is: which field it is, and the name of an event.
_HEAD_BYTES = 128


class EventStream:
    """Cuts one stream into events, however it was split. Keeps at most ``max_event_bytes`` of one that is incomplete.

    The lines of an event count, without line ends and comments. A larger event is reported at its end as truncated: its
    name, without its data (faults.md F26).
    """

    __slots__ = ("_after_cr", "_bytes", "_data", "_has_data", "_limit", "_line", "_name", "_pending", "_started")

    def __init__(self, *, max_event_bytes: int = 2**20) -> None:
        self._limit = max_event_bytes
        self._started = False
        self._after_cr = False
        self._line = bytearray()
        self._data = bytearray()
        self._clear()

    @property
    def at_boundary(self) -> bool:
        """Whether an event written here would be read as one of its own: nothing before it is incomplete."""
        return not self._line and not self._pending

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes."""
        if not self._line and not self._pending and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            events = self._whole(chunk)
            if events is not None:
                return events
        return self._cut(chunk)

    def _whole(self, chunk: bytes) -> list[Event] | None:
        """The events of a chunk as providers write it, whole events of one ``data`` line; None for any other.

        Half the time of :meth:`_cut`, and almost every chunk is such a one.
        """
        events = []
        for block in chunk[:-2].split(b"\n\n"):
            name, data = b"", block
            if block.startswith(b"event: "):
                name, _, data = block.partition(b"\n")
            if not data.startswith(b"data: ") or b"\n" in data:
                return None
            if len(name) > _HEAD_BYTES or len(name) + len(data) > self._limit:
                return None
            events.append(Event(name[7:], data[6:]))
        self._started = True
        self._after_cr = False
        return events

    def _cut(self, chunk: bytes) -> list[Event]:
        """The same for any chunk."""
        if not self._started:
            chunk = self._without_mark(chunk)
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        *lines, rest = _LINE_END.split(chunk)
        events: list[Event] = []
        for part in lines:
            line = bytes(self._line) + part if self._line else part
            self._line.clear()
            if not line:
                self._end(events)
            elif line[0] != _COLON:
                self._field(line)
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        self._keep(rest)
        return events

    def _without_mark(self, chunk: bytes) -> bytes:
        """The stream's beginning without its byte order mark; nothing while that may still come."""
        head = bytes(self._line) + chunk
        self._line.clear()
        if len(head) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(head):
            self._line += head
            return b""
        self._started = True
        return head.removeprefix(_BYTE_ORDER_MARK)

    def _keep(self, part: bytes) -> None:
        """Remember the beginning of a line, within the bound."""
        self._line += part
        if len(self._line) <= _HEAD_BYTES:
            return
        if self._line[0] == _COLON:
            del self._line[_HEAD_BYTES:]
        elif self._bytes + len(self._line) > self._limit:
            self._truncate()
            del self._line[_HEAD_BYTES:]

    def _field(self, line: bytes) -> None:
        self._pending = True
        self._bytes += len(line)
        if self._bytes > self._limit:
            self._truncate()
        field, _, value = line.partition(b":")
        if field == b"event":
            self._name = line[:_HEAD_BYTES].partition(b":")[2].removeprefix(b" ")
        elif field == b"data":
            self._has_data = True
            if not self._truncated:
                self._data += value.removeprefix(b" ")
                self._data += b"\n"

    @property
    def _truncated(self) -> bool:
        return self._bytes > self._limit

    def _truncate(self) -> None:
        self._bytes = self._limit + 1
        self._data.clear()

    def _end(self, events: list[Event]) -> None:
        if self._has_data:
            events.append(Event(self._name, bytes(self._data[:-1]), self._truncated))
        self._clear()

    def _clear(self) -> None:
        self._name = b""
        self._data.clear()
        self._bytes = 0
        self._has_data = False
        self._pending = False


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """Whether the body under these headers is server-sent events that can be read: not compressed."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and headers.get("Content-Encoding", "identity").lower() == "identity"


def subscribe(relay: Relay, listener: Callable[[Event], None]) -> EventStream:
    """Show ``listener`` every event of a stream, which is cut once for all who subscribe. The shared cutter.

    The listener is a tap of its own: its exception detaches it and nobody else, and counts it.
    """
    shared = relay.get(_SHARED)
    if shared is None:
        shared = relay[_SHARED] = _Shared()
    relay.tap(_Subscription(shared, listener))
    return shared.stream


class _Shared:
    """One stream's cutter, and the events of the chunk that its subscribers are being shown."""

    def __init__(self) -> None:
        self.stream = EventStream()
        self.chunks = 0
        self.events: list[Event] = []


class _Subscription:
    """Feeds the cutter if it is the first to be shown a chunk, and hands the events to its listener."""

    def __init__(self, shared: _Shared, listener: Callable[[Event], None]) -> None:
        self._shared = shared
        self._listener = listener
        self._seen = shared.chunks

    def __call__(self, chunk: bytes) -> None:
        shared = self._shared
        if self._seen == shared.chunks:
            shared.events = shared.stream.feed(chunk)
            shared.chunks += 1
        self._seen += 1
        for event in shared.events:
            self._listener(event)


_SHARED = web.ResponseKey("_SHARED", _Shared)
