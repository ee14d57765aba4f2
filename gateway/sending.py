"""One answer on its way to the client: the only code that writes to a client's socket.

How an answer can end:

========================  ===========================================================================================
complete                  by its framing: the last chunk, or Content-Length reached
the client is gone        ConnectionError, or aiohttp's cancellation of the handler, whichever is first
the body broke off        server-sent events: the dialect's error event, then a close without the last chunk; anything
                          else: an abort. Never a clean end: both SDKs take that for success.
========================  ===========================================================================================
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web

from gateway.contract import Ended, Relay, Tunnel
from gateway.errors import Refusal, UpstreamError
from gateway.tunnel import Relaying

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

    from aiohttp.http import StreamWriter
    from multidict import CIMultiDict

    from gateway.contract import Exchange

_EVENT_STREAM = "text/event-stream"
_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
_TAIL = 4
_BODILESS = frozenset({204, 304})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


MAY_WRITE = web.RequestKey("MAY_WRITE", bool)
"""Set on a request while its answer is being sent: before that, a layer that writes to the client is stopped."""


class Broken(Exception):
    """The answer began and cannot be finished. ``refusal`` has the words for the client."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Sending:
    """Writes one answer. ``status`` is 0 and ``bytes_out`` counts nothing until a head has been written."""

    __slots__ = (
        "_ends_itself",
        "_exchange",
        "_is_stopping",
        "_request",
        "_stream",
        "_tail",
        "_tap_failed",
        "bytes_out",
        "ended",
        "reusable",
        "status",
    )

    def __init__(
        self,
        request: web.Request,
        exchange: Exchange,
        *,
        tap_failed: Callable[[Exception], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._tap_failed = tap_failed
        self._is_stopping = is_stopping
        self._ends_itself = False
        self._stream = False
        self._tail = b""
        self.bytes_out = 0
        self.status = 0
        self.ended: Ended | None = None
        """How the answer ended, where its own words said so before its framing did."""
        self.reusable = False
        """Whether the client's connection may carry another request."""

    async def send(self, response: web.StreamResponse, now: float) -> None:
        """Write the answer to its end. ``now`` is the time of day in seconds.

        Raises Broken where the body breaks off, ConnectionError where the client is gone.
        """
        if not self._request.content.is_eof() or hdrs.TRANSFER_ENCODING in self._request.headers:
            # 1. The rest of an unwanted body must not be read as the next request.
            # 2. aiohttp's parser takes the last trailer of a chunked body for a header of the connection's next
            #    request: behind a proxy that is another client's, and the trailer would speak in its name.
            response.force_close()
        if isinstance(response, Relay):
            await self._relay(response, now)
        elif isinstance(response, Tunnel):
            await self._tunnel(response)
        else:
            self.status = response.status
            self._request[MAY_WRITE] = True
            await response.prepare(self._request)
            await response.write_eof()
            body = response.body if isinstance(response, web.Response) else None
            self.bytes_out = len(body) if isinstance(body, bytes) else response.body_length
            self.reusable = bool(response.keep_alive)

    @property
    def client_is_gone(self) -> bool:
        """Whether nobody is there any more to write to."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def break_off(self, refusal: Refusal) -> None:
        """End what cannot be finished so that nobody takes it for whole; refuse where nothing was sent yet."""
        transport = self._request.transport
        self.reusable = False
        if self._ends_itself or transport is None or transport.is_closing():
            return
        if not self.status:
            self.status = refusal.status
            transport.write(self._plain(refusal))
            transport.close()
        elif self._stream and self._chunked:
            event = self._error_event(refusal)
            transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            transport.close()  # flushes the event; that the last chunk is missing says that this was no end
        else:
            if self._stream:
                transport.write(self._error_event(refusal))
            _reset(transport)

    # ── Tunnels ──

    async def _tunnel(self, tunnel: Tunnel) -> None:
        self._request[MAY_WRITE] = True
        self.status = tunnel.status
        self._ends_itself = True
        await tunnel.prepare(self._request)
        relaying = Relaying(tunnel, self._exchange, self._tap_failed)
        try:
            await relaying.run(self._is_stopping)
        finally:
            self.ended = relaying.ended
            self.bytes_out = relaying.bytes_down
            self._exchange.body.received = relaying.bytes_up
        if self.ended is Ended.UPSTREAM_BROKEN:
            raise Broken(Refusal(502, "upstream_broken", "The provider broke off the WebSocket."))

    # ── Relays ──

    async def _relay(self, relay: Relay, now: float) -> None:
        if relay.whole is None and relay.body is None:
            relay.whole = b""
        at_once = relay.whole if relay.verify_end is None else None
        writer = await self._head(relay, at_once, now)
        if self._is_bodiless(relay):
            await writer.write_eof()
        elif at_once is not None:
            self.bytes_out = len(at_once)
            await writer.write_eof(at_once)
            self._observe(relay, at_once)
        else:
            body = relay.body if relay.whole is None else _once(relay.whole)
            assert body is not None  # noqa: S101 - see the first line
            writer.send_headers()
            await self._pump(relay, body, writer)
            await writer.write_eof()

    async def _pump(self, relay: Relay, body: AsyncIterable[bytes], writer: StreamWriter) -> None:
        try:
            async for chunk in body:
                await writer.write(chunk)
                self.bytes_out += len(chunk)
                self._tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (self._tail + chunk)[-_TAIL:]
                if relay.taps:
                    self._observe(relay, chunk)
            if relay.verify_end is not None:
                relay.verify_end()
        except UpstreamError as error:
            raise Broken(Refusal(502, "upstream_broken", "The provider broke off its answer.")) from error
        except (asyncio.CancelledError, ConnectionError):
            # SDKs close at the dialect's last event, without waiting for the end of the framing: that is no leaving.
            self.ended = Ended.COMPLETE if relay.is_over is not None and relay.is_over() else None
            raise
        except Refusal as refusal:
            raise Broken(refusal) from refusal.__cause__
        if writer.length:
            msg = "a layer's answer is shorter than its Content-Length"
            raise ValueError(msg)

    def _observe(self, relay: Relay, chunk: bytes) -> None:
        for tap in tuple(relay.taps):
            try:
                tap(chunk)
            except Exception as error:  # noqa: BLE001 - the rim: an observer never touches the stream
                relay.taps.remove(tap)
                self._tap_failed(error)

    async def _head(self, relay: Relay, at_once: bytes | None, now: float) -> StreamWriter:
        request, headers = self._request, relay.headers
        writer: StreamWriter = request.writer  # type: ignore[assignment] # what aiohttp's server always hands over
        modern = request.version == HttpVersion11
        keep_alive = request.keep_alive if relay.keep_alive is None else relay.keep_alive
        if not self._is_bodiless(relay):
            if at_once is not None:
                headers[hdrs.CONTENT_LENGTH] = str(len(at_once))
            elif hdrs.CONTENT_LENGTH in headers:
                writer.length = int(headers[hdrs.CONTENT_LENGTH])
            elif modern:
                writer.enable_chunking()
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
            else:
                keep_alive = False
        if modern != keep_alive:
            headers[hdrs.CONNECTION] = "keep-alive" if keep_alive else "close"
        headers.setdefault(hdrs.DATE, _http_date(int(now)))
        _write_as_they_came(headers)
        self.reusable = keep_alive
        self._stream = headers.get(hdrs.CONTENT_TYPE, "").startswith(_EVENT_STREAM)
        self.status = relay.status
        version = "HTTP/1.1" if modern else "HTTP/1.0"
        await writer.write_headers(f"{version} {relay.status} {_PHRASES.get(relay.status, '')}", headers)
        return writer

    # ── Small questions ──

    @property
    def _chunked(self) -> bool:
        writer: StreamWriter = self._request.writer  # type: ignore[assignment] # see _head
        return writer.chunked

    def _is_bodiless(self, relay: Relay) -> bool:
        return self._request.method == hdrs.METH_HEAD or relay.status in _BODILESS

    def _error_event(self, refusal: Refusal) -> bytes:
        event = self._exchange.dialect.error_event(refusal, self._exchange.id)
        if self._tail and not self._tail.endswith(_BLANK_LINES):
            # An event that was begun cannot be taken back; ended, it does not swallow ours.
            return b"\n\n" + event
        return event

    def _plain(self, refusal: Refusal) -> bytes:
        body = self._exchange.dialect.error_body(refusal, self._exchange.id)
        head = (
            f"HTTP/1.1 {refusal.status} {_PHRASES.get(refusal.status, '')}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"x-request-id: {self._exchange.id}\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + body


def _write_as_they_came(headers: CIMultiDict[str]) -> None:
    """Let values beyond ASCII go out as the bytes they are: a header is Latin-1 text here, and aiohttp writes UTF-8.

    What is not UTF-8 cannot be written and is dropped; field values are ASCII by RFC 9110, 5.5, for all but old peers.
    """
    for name in {name for name, value in headers.items() if not value.isascii()}:
        values = headers.popall(name)
        for value in values:
            with suppress(UnicodeError):
                headers.add(name, value.encode("latin-1").decode())


def _reset(transport: asyncio.Transport) -> None:
    """Close so that the peer sees it broken: where a body ends with the connection, an orderly close looks whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


@lru_cache(maxsize=2)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
