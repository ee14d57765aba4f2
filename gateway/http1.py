"""One HTTP/1.1 connection to an upstream: requests written, one answer at a time parsed by llhttp.

The parser is reached through httptools. Why not aiohttp's client: it cannot send a request target as it was received
(``/v1/files?`` loses its ``?``), it adds and reorders headers, and it costs half of the CPU of a forwarded request
(``docs/decisions/0001-own-upstream-client.md``). TLS, happy eyeballs and name resolution stay with the libraries; see
``gateway/upstream.py``.

What this file owns: framing (RFC 9112), the bounds of a head, backpressure towards the socket, and the question whether
a connection may serve again. What it does not know: URLs, pools, providers, retries, refusals.

The life of a :class:`Connection`::

    idle ── send() ──► waiting for the head ──► body ──► idle     (pool.give_back)
                              │                  │
                              └── fail() / lost ─┴──► closed      (pool.forget)

A connection goes back to idle only if the answer ended by its own framing, the request had been sent whole, both sides
agreed on keep-alive, and not a byte came after the end. In every other case it is closed: a cancelled exchange leaves
half an answer on the wire, and the next caller must never read it (aiohttp#12953).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from gateway.errors import UpstreamBroken, UpstreamError, UpstreamInvalid, UpstreamTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

MAX_HEAD_BYTES = 64 * 1024
"""Of status line and headers together, informational heads included; beyond it the answer is invalid."""

MAX_HEADERS = 256

HIGH_WATER = 256 * 1024
"""Bytes of an answer held for a slow reader before the socket is paused. One read may exceed it once."""

_FOREVER = float("inf")
_INFORMATIONAL = range(100, 200)
_SWITCHING_PROTOCOLS = 101
_BODILESS = frozenset({204, 304})

RawHeaders = list[tuple[bytes, bytes]]


class Owner(Protocol):
    """The pool, as far as a connection knows it."""

    first_byte_s: float
    idle_s: float

    def remember(self, connection: Connection) -> None:
        """Know that a connection is open."""

    def give_back(self, connection: Connection) -> None:
        """Take a connection that may serve again."""

    def forget(self, connection: Connection) -> None:
        """Know that a connection is closed."""


class Answer:
    """One answer of an upstream: its head, and its body as an asynchronous iterator of chunks as they arrived.

    Whoever holds an Answer ends it with :meth:`abort`, which is synchronous, may be called at any time, and does
    nothing once the answer is complete.
    """

    __slots__ = ("_connection", "_error", "_held", "_parts", "_waiter", "finished", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: UpstreamError | None = None
        self.status = 0
        self.headers: RawHeaders = []
        self.finished = False

    def take_whole(self) -> bytes | None:
        """The complete body, where none of it is still to come; else None, and nothing is taken."""
        if not self.finished or self._error is not None:
            return None
        return self._take() if self._parts else b""

    def abort(self) -> None:
        """Close the connection behind an unfinished answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.finished:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._take()

    def _take(self) -> bytes:
        chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if self._connection is not None:
            self._connection.resume()
        return chunk

    # What follows is called by the connection.

    def feed(self, chunk: bytes) -> bool:
        """Hold a chunk for the reader; True where enough is held."""
        self._parts.append(chunk)
        self._held += len(chunk)
        self._wake()
        return self._held > HIGH_WATER

    def end(self, error: UpstreamError | None) -> None:
        """Nothing more will come: the body is complete, or it broke."""
        self._connection = None
        self._error = error
        self.finished = error is None
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """An upstream's connection. Created by the pool; serves one exchange at a time."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        # The parser holds its protocol: a cycle, cut in connection_lost.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._head: asyncio.Future[Answer] | None = None
        self._head_complete = False
        self._head_bytes = 0
        self._headers: RawHeaders = []
        self._to_eof = False
        self._is_head_request = False
        self._sent = True
        self._keep_alive = True
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._writing_paused = False
        self.deadline = _FOREVER
        """When, on the loop's clock, the pool's sweeper gives this connection up."""
        self.idle_since = 0.0
        self.served = 0
        """Answers begun on this connection before the current one."""
        self.received = False
        """Whether a byte of the current answer has arrived."""

    # ── For the pool ──

    @property
    def usable(self) -> bool:
        """Whether an exchange may begin here."""
        return self._transport is not None and not self._transport.is_closing() and self._answer is None

    async def send(
        self, head: bytes, body: bytes | AsyncIterable[bytes] | None, *, chunked: bool, method: str
    ) -> Answer:
        """Send a request and wait for the head of its final answer.

        ``head`` is complete, from the request line to the blank line; ``chunked`` says that it promised a chunked body.
        Bytes go out with the head in one write; an iterable streams with backpressure, and stops when the upstream
        answers before it has read everything (RFC 9112, 9.3). Raises UpstreamError; what the iterable raises is raised.
        """
        transport = self._begin(method)
        head_future = self._head
        assert head_future is not None  # noqa: S101 - set by _begin
        try:
            if body is None or isinstance(body, bytes):
                transport.write(head + body if body else head)
                self._request_sent()
                return await head_future
            transport.write(head)
            self.deadline = _FOREVER  # while the client sends, its own deadlines count
            return await self._stream_up(body, head_future, chunked=chunked)
        except BaseException:
            self.abort()
            raise
        finally:
            self._head = None

    def abort(self) -> None:
        """Close at once, without a goodbye: what is half done must not look done."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(UpstreamBroken("the exchange was abandoned"))
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        if self._transport is not None:
            self._transport.close()

    def fail(self, error: UpstreamError) -> None:
        """End the current exchange with an error and close."""
        head, answer = self._head, self._answer
        self._answer = None
        if head is not None and not head.done():
            head.set_exception(error)
        if answer is not None:
            answer.end(error)
        self.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        what = "mid-answer" if self._head_complete else "before the answer"
        self.fail(UpstreamTimeout(f"the upstream was silent for too long, {what}"))

    def resume(self) -> None:
        """The reader has taken what was held."""
        if self._paused:
            self._paused = False
            self.deadline = self._loop.time() + self._owner.idle_s
            if self._transport is not None:
                self._transport.resume_reading()

    # ── Sending ──

    def _begin(self, method: str) -> asyncio.Transport:
        transport = self._transport
        if transport is None or transport.is_closing():
            msg = "the connection is closed"
            raise UpstreamInvalid(msg)
        self._answer = Answer(self)
        self._head = self._loop.create_future()
        self._head_complete = self._to_eof = self._sent = self.received = False
        self._head_bytes = 0
        self._is_head_request = method == "HEAD"
        self.deadline = self._loop.time() + self._owner.first_byte_s
        return transport

    def _request_sent(self) -> None:
        self._sent = True
        self.deadline = self._loop.time() + self._owner.first_byte_s

    async def _stream_up(self, body: AsyncIterable[bytes], head: asyncio.Future[Answer], *, chunked: bool) -> Answer:
        # The head's arrival must end the upload, and the upload's failure must end the wait: two tasks. Not a
        # TaskGroup, which would wrap the one error that can come out of here in a group.
        upload = self._loop.create_task(self._upload(body, head, chunked=chunked))
        try:
            return await head
        finally:
            upload.cancel()
            await asyncio.wait([upload])

    async def _upload(self, body: AsyncIterable[bytes], head: asyncio.Future[Answer], *, chunked: bool) -> None:
        try:
            async for chunk in body:
                if self._transport is None or self._transport.is_closing():
                    return
                self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                if self._writing_paused:
                    self.deadline = self._loop.time() + self._owner.first_byte_s
                    self._drained = self._loop.create_future()
                    await self._drained
                    self.deadline = _FOREVER
        except Exception as error:  # noqa: BLE001 - handed over to whoever waits for the head
            if not head.done():
                head.set_exception(error)
            return
        if self._transport is not None:
            if chunked:
                self._transport.write(b"0\r\n\r\n")
            self._request_sent()

    def pause_writing(self) -> None:
        """asyncio: the socket's buffer is full."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """asyncio: there is room again."""
        self._writing_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # ── Receiving ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        # Not isinstance: uvloop's transports are none of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._owner.remember(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        if self._answer is None or self._parser is None:
            # Nobody asked: the answer to a question that was never put must not meet the next one (F16).
            self.abort()
            return
        self.received = True
        if self._head_complete:
            self.deadline = self._loop.time() + self._owner.idle_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(UpstreamInvalid("the upstream switched protocols unasked"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self.fail(cause if isinstance(cause, UpstreamError) else UpstreamInvalid("the answer cannot be handled"))
        except httptools.HttpParserError as error:
            # After the end of an answer with `Connection: close` llhttp calls further bytes an error: so be it, close.
            self.fail(UpstreamInvalid(f"the answer is not valid HTTP: {error.args[0] if error.args else ''}"))
        else:
            if not self._head_complete and self._answer is not None:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self.fail(UpstreamInvalid(f"the answer's head is larger than {MAX_HEAD_BYTES} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: closed, by whomever."""
        self._transport = None
        self._parser = None
        self.resume_writing()
        answer = self._answer
        if answer is not None:
            if self._head_complete and self._to_eof and exc is None:
                self._answer = None
                answer.end(None)
            elif self._head_complete:
                self.fail(UpstreamBroken("the upstream closed the connection in mid-answer"))
            else:
                self.fail(UpstreamInvalid("the upstream closed the connection before it answered"))
        self._owner.forget(self)

    # ── llhttp's callbacks ──

    def on_message_begin(self) -> None:
        """llhttp: the first byte of a message."""
        if self._answer is None:
            msg = "a second answer arrived unasked"
            raise UpstreamInvalid(msg)
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: a header, or a trailer."""
        if self._head_complete:
            return  # trailers are dropped: nothing of them may become a header
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            msg = f"the answer has more than {MAX_HEADERS} headers"
            raise UpstreamInvalid(msg)

    def on_headers_complete(self) -> None:
        """llhttp: the blank line."""
        parser, answer, head = self._parser, self._answer, self._head
        assert parser is not None  # noqa: S101 - we are inside it
        assert answer is not None  # noqa: S101 - on_message_begin refused otherwise
        status = parser.get_status_code()
        if status in _INFORMATIONAL and status != _SWITCHING_PROTOCOLS:
            return  # 100, 103: hints, never the answer (F18)
        if status not in range(200, 600) or parser.get_http_version() not in {"1.0", "1.1"}:
            msg = f"the answer has status {status}, HTTP/{parser.get_http_version()}"
            raise UpstreamInvalid(msg)
        if sum(len(name) + len(value) + 4 for name, value in self._headers) > MAX_HEAD_BYTES:
            msg = f"the answer's head is larger than {MAX_HEAD_BYTES} bytes"
            raise UpstreamInvalid(msg)
        self._head_complete = True
        self.deadline = self._loop.time() + self._owner.idle_s
        self._to_eof = self._ends_with_connection(status)
        answer.status = status
        answer.headers = self._headers
        if head is not None and not head.done():
            head.set_result(answer)
        if self._is_head_request:
            # llhttp cannot be told that this answer has no body whatever its headers say (RFC 9110, 9.3.2).
            self._finish(reusable=False)

    def _ends_with_connection(self, status: int) -> bool:
        """Whether the end of the body is the end of the connection (RFC 9112, 6.3, rule 8)."""
        codings = [value for name, value in self._headers if name.lower() == b"transfer-encoding"]
        if codings:
            if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
                msg = "the answer has a transfer coding that we do not speak"
                raise UpstreamInvalid(msg)
            return False
        if status in _BODILESS:
            return False
        return not any(name.lower() == b"content-length" for name, _ in self._headers)

    def on_body(self, chunk: bytes) -> None:
        """llhttp: a piece of the body, chunk framing removed."""
        if self._answer is not None and self._answer.feed(chunk) and not self._paused and self._transport is not None:
            self._paused = True
            self.deadline = _FOREVER  # the client is slow now, not the upstream
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """llhttp: the end of a message."""
        if not self._head_complete:
            return  # an informational head
        parser = self._parser
        self._finish(reusable=parser is not None and parser.should_keep_alive())

    def _finish(self, *, reusable: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self.resume()
        self.deadline = _FOREVER
        answer.end(None)
        self.served += 1
        if reusable and self._sent:
            self.idle_since = self._loop.time()
            self._owner.give_back(self)
        elif self._sent:
            self.close()
        else:
            self.abort()  # an upload was stopped: its rest would wait in the buffer for ever (F17)
