"""Listeners: sockets, aiohttp's HTTP/1.1 server behind our own protocol class, the start and the end of the process.

Built on the public seam of aiohttp's low-level server: :class:`GatewayServer` is a ``web.Server`` whose protocols are
:class:`GatewayProtocol`, which answers what the parser refused without repeating a byte of it. There is no
``web.Application``: routing is ours, and an Application costs a quarter of the throughput.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway import accounting
from gateway.dialects import for_request
from gateway.edge import Edge, GatewayRequest
from gateway.errors import ListenError, Refusal
from gateway.generation import Generation
from gateway.security.headers import DEFAULT_HEADERS, DEFAULT_HEADERS_OVER_TLS
from gateway.services import open_services
from gateway.tls import Certificates
from gateway.ulid import ulid

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from gateway.config import GatewayConfig, LimitsConfig, ListenerConfig
    from gateway.contract import Clock, RequestBody
    from gateway.services import Running

MAX_LINE = 32 * 1024
"""Bytes of a request line or of one header line; the guard bounds all of them together."""

MAX_HEADERS = 128
LINGER_S = 5.0
"""How long the rest of a refused upload is read and thrown away, so that the client gets to read the refusal."""

BACKLOG = 1024
"""Connections that wait in the kernel to be accepted."""

ACCEPTED_AT_ONCE = 16
"""How many of them asyncio accepts in one turn of the loop."""

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


class Gateway:
    """A running gateway: the configuration's listeners, served. An asynchronous context manager.

    Entering opens everything and accepts connections; leaving drains: it stops accepting, lets what is running finish
    for up to ``drain_timeout``, cuts the rest honestly, and closes everything. ``addresses`` says where it listens.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._edges: list[Edge] = []
        self._servers: list[GatewayServer] = []
        self._sockets: list[asyncio.Server] = []
        self._certificates: Certificates
        self.addresses: dict[str, tuple[str, int]] = {}
        self.running: Running

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._certificates = await asyncio.to_thread(Certificates, self._config)
            self.running = await stack.enter_async_context(open_services(self._config, self._in_flight))
            services = self.running.services
            generation = await stack.enter_async_context(Generation(self._config, services))
            observers = (
                accounting.log_line(services.log),
                accounting.count(services.metrics),
                accounting.usage(self.running.usage),
            )
            for name, listener in self._config.listeners.items():
                secure = listener.tls is not None
                edge = Edge(name, services, lambda: generation, secure=secure, observers=observers)
                await self._listen(stack, name, listener, edge)
            self._stack = stack.pop_all()
        self._certificates.warn(services)
        self.running.services.log.info("serving", **{name: f"{h}:{p}" for name, (h, p) in self.addresses.items()})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.draining = True
        for listening in self._sockets:
            listening.close()
        for server in self._servers:
            server.pre_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_timeout):
                await self._drained()
        for edge in self._edges:
            edge.cut()
        await self._drained()
        await self._stack.aclose()

    async def reload_certificates(self) -> None:
        """Give new connections what the files hold now. What cannot be used changes nothing, and is logged."""
        await self._certificates.reload(self.running.services)

    async def _drained(self) -> None:
        for edge in self._edges:
            await edge.drained()

    def _in_flight(self) -> int:
        return sum(edge.in_flight for edge in self._edges)

    async def _listen(self, stack: AsyncExitStack, name: str, listener: ListenerConfig, edge: Edge) -> None:
        server = GatewayServer(edge, self.running.services.clock, self._config.limits)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            listening = await self._bind(server, listener, self._certificates.context(name))
        except OSError as error:
            where = f"{listener.host}:{listener.port}"
            raise ListenError(f"listener {name!r} cannot listen on {where}: {os.strerror(error.errno or 0)}") from error
        stack.callback(listening.close)
        host, port = listening.sockets[0].getsockname()[:2]
        self.addresses[name] = (host, port)
        self._edges.append(edge)
        self._servers.append(server)
        self._sockets.append(listening)

    async def _bind(
        self, server: GatewayServer, listener: ListenerConfig, tls: ssl.SSLContext | None
    ) -> asyncio.Server:
        """Accept connections. A handshake has the time that the first request's head would have.

        aiohttp's own TCPSite cannot say so: a silent client would be asyncio's guest for a minute, and not counted.
        """
        options: dict[str, Any] = {}
        if tls is not None:
            shake_s = self._config.limits.header_timeout
            options = {"ssl": tls, "ssl_handshake_timeout": shake_s, "ssl_shutdown_timeout": LINGER_S}
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server, listener.host, listener.port, backlog=ACCEPTED_AT_ONCE, **options)
        # asyncio has one number for the kernel's queue and for its tries in a row. Where no descriptor is left it does
        # not stop at the first that fails, and logs each: a thousand tracebacks in one turn of the loop.
        for sock in listening.sockets:
            with socket.socket(fileno=os.dup(sock.fileno())) as same:
                same.listen(BACKLOG)
        return listening


def run(config: GatewayConfig, *, started: Callable[[Mapping[str, tuple[str, int]]], None]) -> None:
    """:func:`serve` on a loop of its own: uvloop's where it is installed (1.2 to 1.4 times the requests per second).

    The process may then open as many files as the system lets it: every connection is one, and 1024 are a usual start.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(config, started=started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(config: GatewayConfig, *, started: Callable[[Mapping[str, tuple[str, int]]], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once. SIGHUP renews certificates.

    ``started`` is told where each listener listens. Raises GatewayError where the gateway cannot start.
    """
    loop = asyncio.get_running_loop()
    stop, hangup = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: now
        stop.set()

    async with Gateway(config) as gateway:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.freeze()
        started(gateway.addresses)
        async with asyncio.TaskGroup() as group:
            reloading = group.create_task(_reload_when_told(hangup, gateway))
            await stop.wait()
            reloading.cancel()


async def _reload_when_told(hangup: asyncio.Event, gateway: Gateway) -> None:
    """Reload at every signal, one after the other."""
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await gateway.reload_certificates()
        except Exception as error:  # noqa: BLE001 - the rim: what serves goes on serving
            gateway.running.services.log.error("reload failed", error=error)
