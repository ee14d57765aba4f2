"""The HTTP/1.1 side of a listener: aiohttp's low-level server behind our own protocol class.

Built on the public seam of aiohttp's low-level server: :class:`GatewayServer` is a ``web.Server`` whose protocols are
:class:`GatewayProtocol`, which answers what the parser refused without repeating a byte of it. There is no
``web.Application``: routing is ours, and an Application costs a quarter of the throughput.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway.dialects import for_request
from gateway.edge import Edge, GatewayRequest
from gateway.errors import Refusal
from gateway.security.headers import DEFAULT_HEADERS, DEFAULT_HEADERS_OVER_TLS
from gateway.ulid import ulid

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from gateway.config import LimitsConfig
    from gateway.contract import Clock, RequestBody

MAX_LINE = 32 * 1024
"""Bytes of a request line or of one header line; the guard bounds all of them together."""

MAX_HEADERS = 128
LINGER_S = 5.0
"""How long the rest of a refused upload is read and thrown away, so that the client gets to read the refusal."""

_OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n%b"
)


class GatewayProtocol(web.RequestHandler):
    """One client connection, and how long its client may keep us waiting.

    The deadlines are no timers of their own: the server's sweep calls :meth:`sweep`. A client that sends a FIN has
    left: until something is written to it, it cannot be told from one that closed its socket.
    """

    __slots__ = (
        "_body",
        "_busy",
        "_clock",
        "_head_since",
        "_limits",
        "_server",
        "_stalled_at",
        "_stalled_since",
        "_wire",
    )

    def __init__(
        self, server: GatewayServer, clock: Clock, limits: LimitsConfig, *, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to have none
            auto_decompress=False,
            keepalive_timeout=limits.idle_timeout,
            lingering_time=LINGER_S,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            max_line_size=MAX_LINE,
            tcp_keepalive=False,
        )
        self._clock = clock
        self._limits = limits
        self._server = server
        self._wire: asyncio.Transport | None = None
        self._busy = False
        self._head_since: float | None = None
        self._body: RequestBody | None = None
        self._stalled_at = 0
        self._stalled_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._head_since = self._server.now()
        if not self._server.opened(self):
            body = for_request("", {}).error_body(Refusal(503, "overloaded", "The gateway is at its limit."), "")
            self._wire.write(_OVERLOADED % (len(body), body))
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: closed, by whomever."""
        self._server.closed(self)
        self._wire = self._body = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        if not self._busy and self._head_since is None:
            self._head_since = self._server.now()
        super().data_received(data)

    def began(self, body: RequestBody) -> None:
        """Know that an exchange has begun: its head is complete (called by the edge)."""
        self._busy, self._head_since, self._body = True, None, body

    def ended(self) -> None:
        """Know that it has ended."""
        self._busy, self._body = False, None

    def sweep(self, now: float) -> None:
        """End what has taken too long. ``now`` is the loop's time."""
        if self._wire is None:
            return
        if self._head_since is not None and now - self._head_since > self._limits.header_timeout:
            self.force_close()
        if self._body is not None:
            self._body.expire_if_overdue(now, timeout_s=self._limits.body_timeout, min_rate=self._limits.min_body_rate)
        self._end_if_unread(self._wire, now)

    def _end_if_unread(self, wire: asyncio.Transport, now: float) -> None:
        """Abort a connection whose client takes nothing of what waits for it; the handler is cancelled by that."""
        waiting = wire.get_write_buffer_size() if self.writing_paused or wire.is_closing() else 0
        if not waiting or waiting < self._stalled_at or not self._stalled_at:
            self._stalled_at, self._stalled_since = waiting, now
        elif now - self._stalled_since > self._limits.write_timeout:
            wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - whatever there is of it is not to be trusted
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request, and with it whatever key it carries
    ) -> web.StreamResponse:
        """Answer what never became an exchange: the parser's refusals. Nothing of the request is repeated or logged."""
        if isinstance(exc, LineTooLong):
            refusal = Refusal(431, "request_too_large", f"A line of the request is longer than {MAX_LINE} bytes.")
        elif status < web.HTTPInternalServerError.status_code:
            refusal = Refusal(400, "bad_request", "The request is malformed.")
        else:
            refusal = Refusal(500, "server_error", "The gateway failed.")
        self.logger.warning("request refused by the parser: %s", type(exc).__name__)
        number = ulid(self._clock.time())
        over_tls = self.transport is not None and self.transport.get_extra_info("sslcontext") is not None
        response = web.Response(
            status=refusal.status,
            body=for_request("", {}).error_body(refusal, number),
            content_type="application/json",
            headers={
                **(DEFAULT_HEADERS_OVER_TLS if over_tls else DEFAULT_HEADERS),
                "x-request-id": number,
                "x-gateway-error": "edge",
            },
        )
        response.force_close()
        return response


class GatewayServer(web.Server):
    """One listener's connections.

    ``web.Server`` itself drops every option where one is misspelt; here they are named once, in our protocol class.
    """

    def __init__(self, edge: Edge, clock: Clock, limits: LimitsConfig) -> None:
        super().__init__(edge, request_factory=self._request, handler_cancellation=True)
        self._clock = clock
        self._limits = limits
        self._event_loop = asyncio.get_running_loop()
        self._open: set[GatewayProtocol] = set()
        shortest = min(limits.header_timeout, limits.body_timeout, limits.write_timeout)
        self._sweep_s = min(1.0, max(0.02, shortest / 4))
        self._sweeper: asyncio.TimerHandle | None = None
        self.now = self._event_loop.time

    def __call__(self) -> GatewayProtocol:
        """A protocol for a new connection."""
        return GatewayProtocol(self, self._clock, self._limits, loop=self._event_loop)

    def opened(self, connection: GatewayProtocol) -> bool:
        """Count a connection in; False where there are too many (called by it)."""
        self._open.add(connection)
        self._keep_sweeping()
        return len(self._open) <= self._limits.max_connections

    def closed(self, connection: GatewayProtocol) -> None:
        """Count it out (called by it)."""
        self._open.discard(connection)

    def _keep_sweeping(self) -> None:
        if self._sweeper is None and self._open:
            self._sweeper = self._event_loop.call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.now()
        for connection in tuple(self._open):
            connection.sweep(now)
        self._keep_sweeping()

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> GatewayRequest:
        return GatewayRequest(message, payload, protocol, writer, task, self._event_loop)
