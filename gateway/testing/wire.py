"""One end of a TCP connection with every received byte kept, for peers that are scripted byte by byte.

Nothing here normalises: names keep their case, targets their escapes, bodies their chunks. A :class:`Message` holds one
message as it was sent, and says whether its framing (RFC 9112, section 6) calls it whole. The scripted upstream and the
raw client are both made of this; neither knows what a proxy is.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

Ending = Literal["fin", "reset"]
"""How the peer ended its direction: an orderly FIN, or a reset."""

AHEAD = 256 * 1024
"""Bytes that :meth:`Wire.take` lets wait. One read may exceed it once."""

_BLANK_LINE = b"\r\n\r\n"
_BODYLESS = re.compile(rb"^HTTP/1\.[01] (?:1..|204|304)")


class PeerGone(ConnectionError):
    """The peer ended the connection before what was awaited had arrived."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer, as it was on the wire.

    ``head`` ends with the blank line, ``framed`` is the body with its chunk framing, ``body`` is without. ``complete``
    says whether the framing calls the message whole; a body that is delimited by the close is whole after a FIN.
    """

    head: bytes
    framed: bytes
    body: bytes
    complete: bool

    @property
    def start_line(self) -> bytes:
        """The request line or the status line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def status(self) -> int:
        """The answer's status code."""
        return int(self.start_line.split(b" ", 2)[1])

    @property
    def target(self) -> bytes:
        """The request's target: path and query as they were sent."""
        return self.start_line.split(b" ", 2)[1]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Every field in order, the name as it was written, the value without the spaces around it."""
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of that name, whatever its case."""
        return [value for field, value in self.headers if field.lower() == name.lower()]

    def value(self, name: bytes) -> bytes | None:
        """The first value of that name, or None."""
        return next(iter(self.values(name)), None)


class Wire(asyncio.Protocol):
    """A connection whose received bytes stay in ``received``.

    Every wait is bounded by ``deadline_s`` seconds and raises TimeoutError past it: a peer that says nothing fails a
    test, it does not hang it. ``reading(False)`` stops taking bytes from the socket, so that the peer's writes pile up.
    """

    def __init__(self, *, deadline_s: float = 10.0) -> None:
        self.received = bytearray()
        self.ending: Ending | None = None
        self.ended_at: float | None = None
        self._deadline_s = deadline_s
        self._cursor = 0
        self._ahead: int | None = None
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self.made = asyncio.Event()
        self.lost = asyncio.Event()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's
        self.made.set()

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.received += data
        if self._ahead is not None and len(self.received) - self._cursor > self._ahead:
            self.reading(False)
        self._changed.set()

    def eof_received(self) -> bool:
        """The peer sent a FIN; our direction stays open until we end it. asyncio's TLS cannot be half open."""
        self._end("fin")
        return self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing can be sent or received any more."""
        self._end("fin" if exc is None else "reset")
        self._writable.set()
        self.lost.set()

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writable.set()

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.ended_at = asyncio.get_running_loop().time()
        self._changed.set()

    # what a script does

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, once connected."""
        assert self._transport is not None, "not connected yet"
        return self._transport

    async def send(self, data: bytes) -> None:
        """Write, and wait while the peer does not read. Raises PeerGone where the connection is closed already."""
        if self.transport.is_closing():  # asyncio would drop the bytes, uvloop would raise RuntimeError
            raise PeerGone(f"ended by {self.ending} before {data[:300]!r} was sent")
        self.transport.write(data)
        async with asyncio.timeout(self._deadline_s):
            await self._writable.wait()

    def reading(self, wanted: bool) -> None:
        """Stop or resume taking bytes from the socket."""
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def finish(self) -> None:
        """Send a FIN: nothing more will be written, but what comes is still read."""
        self.transport.write_eof()

    def close(self) -> None:
        """Close both directions in order, after what was written."""
        self.transport.close()

    def reset(self) -> None:
        """Break the connection: the peer sees a reset, and what was not yet sent is lost."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def ended(self) -> Ending:
        """Wait until the peer has ended its direction, and say how."""
        await self._until(lambda: self.ending is not None)
        assert self.ending is not None
        return self.ending

    async def holds(self, part: bytes) -> None:
        """Wait until ``part`` stands anywhere in what was received. Raises PeerGone where it never will."""
        await self._until(lambda: part in self.received or self.ending is not None)
        if part not in self.received:
            raise PeerGone(f"ended by {self.ending} before {part!r}: {bytes(self.received[-300:])!r}")

    async def more(self) -> bytes:
        """What was received after the last message, or the last call of this; waits for some. Empty: the peer ended."""
        await self._until(lambda: len(self.received) > self._cursor or self.ending is not None)
        start, self._cursor = self._cursor, len(self.received)
        return bytes(self.received[start:])

    async def take(self, size: int) -> AsyncIterator[bytes]:
        """The next ``size`` bytes as they come, which are not kept. Fewer where the peer ends before.

        Meanwhile no more than ``AHEAD`` bytes are read ahead of whoever iterates.
        """
        self._ahead = AHEAD
        while size:
            self.reading(True)
            await self._until(lambda: len(self.received) > self._cursor or self.ending is not None)
            piece = bytes(self.received[self._cursor : self._cursor + size])
            if not piece:
                break
            del self.received[self._cursor : self._cursor + size]
            size -= len(piece)
            yield piece
        self._ahead = None
        self.reading(True)

    async def head(self) -> bytes:
        """The next message's head, blank line included. The cursor stays before it."""
        await self._until(lambda: self.received.find(_BLANK_LINE, self._cursor) >= 0 or self.ending is not None)
        end = self.received.find(_BLANK_LINE, self._cursor)
        if end < 0:
            raise PeerGone(f"ended by {self.ending} within a head: {bytes(self.received[self._cursor :])[:300]!r}")
        return bytes(self.received[self._cursor : end + 4])

    def skip(self, size: int) -> None:
        """Pass over bytes that were received: the head that was only looked at."""
        self._cursor += size

    async def message(self, *, bodyless: bool = False) -> Message:
        """The next message, as far as it came: ``complete`` is False where the peer ended it early.

        ``bodyless`` says that this answers a HEAD request. Raises PeerGone where not even a head came.
        """
        head = await self.head()
        start = self._cursor + len(head)
        framed, body, complete = await self._body(head, start, bodyless=bodyless or bool(_BODYLESS.match(head)))
        self._cursor = start + len(framed)
        return Message(head, framed, body, complete)

    async def _body(self, head: bytes, start: int, *, bodyless: bool) -> tuple[bytes, bytes, bool]:
        fields = Message(head, b"", b"", complete=False)
        if bodyless:
            return b"", b"", True
        if b"chunked" in (fields.value(b"transfer-encoding") or b"").lower():
            return await self._chunked_body(start)
        length = fields.value(b"content-length")
        if length is None and not head.startswith(b"HTTP/"):
            return b"", b"", True
        size = None if length is None else int(length)
        await self._until(lambda: self.ending is not None or (size is not None and len(self.received) - start >= size))
        body = bytes(self.received[start:] if size is None else self.received[start : start + size])
        complete = self.ending == "fin" if size is None else len(body) == size
        return body, body, complete

    async def _chunked_body(self, start: int) -> tuple[bytes, bytes, bool]:
        body = bytearray()
        position = start
        while True:
            line_end = await self._find(b"\r\n", position)
            if line_end is None:
                return bytes(self.received[start:]), bytes(body), False
            size = int(self.received[position:line_end].split(b";")[0], 16)
            if size == 0:
                return await self._trailers(start, position, body)
            data, position = line_end + 2, line_end + 2 + size + 2
            await self._until(lambda end=position: len(self.received) >= end or self.ending is not None)  # type: ignore[misc]
            body += self.received[data : position - 2]
            if len(self.received) < position:
                return bytes(self.received[start:]), bytes(body), False

    async def _trailers(self, start: int, last_chunk: int, body: bytearray) -> tuple[bytes, bytes, bool]:
        end = await self._find(_BLANK_LINE, last_chunk)
        stop = len(self.received) if end is None else end + len(_BLANK_LINE)
        return bytes(self.received[start:stop]), bytes(body), end is not None

    async def _find(self, part: bytes, position: int) -> int | None:
        """Where ``part`` stands at or after ``position``, or None where the peer ended before."""
        await self._until(lambda: self.received.find(part, position) >= 0 or self.ending is not None)
        found = self.received.find(part, position)
        return None if found < 0 else found

    async def _until(self, ready: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                while not ready():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise TimeoutError(f"nothing more after {bytes(self.received[-300:])!r}") from error


@asynccontextmanager
async def dial(origin: str, *, deadline_s: float = 10.0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A raw connection to ``http://host:port``, aborted at the end of the block if it is still open.

    To ``https://host:port`` it is made with ``tls``: then ``received`` is what came out of the encryption.
    """
    host, _, port = origin.partition("://")[2].partition(":")
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(deadline_s=deadline_s), host, int(port), ssl=tls)
    try:
        yield wire
    finally:
        wire.transport.abort()
        await wire.lost.wait()
