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
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway import accounting
from gateway.dialects import for_request
from gateway.edge import Edge, GatewayRequest
from gateway.errors import ListenError, Refusal
from gateway.generation import Generation
from gateway.security.headers import DEFAULT_HEADERS
from gateway.services import open_services
from gateway.ulid import ulid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from gateway.config import GatewayConfig, ListenerConfig
    from gateway.contract import Clock
    from gateway.services import Running

KEEP_ALIVE_S = 75.0
"""How long an idle client connection is kept, and how long a new one may take to send its first request."""

MAX_LINE = 32 * 1024
"""Bytes of a request line or of one header line; the guard bounds all of them together."""

MAX_HEADERS = 128
LINGER_S = 5.0
"""How long the rest of a refused upload is read and thrown away, so that the client gets to read the refusal."""

BACKLOG = 1024


class GatewayProtocol(web.RequestHandler):
    """One client connection."""

    __slots__ = ("_clock",)

    def __init__(self, server: GatewayServer, clock: Clock, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to have none
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            max_line_size=MAX_LINE,
            tcp_keepalive=False,
        )
        self._clock = clock

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
        response = web.Response(
            status=refusal.status,
            body=for_request("", {}).error_body(refusal, number),
            content_type="application/json",
            headers={**DEFAULT_HEADERS, "x-request-id": number, "x-gateway-error": "edge"},
        )
        response.force_close()
        return response


class GatewayServer(web.Server):
    """One listener's connections.

    ``web.Server`` itself drops every option where one is misspelt; here they are named once, in our protocol class.
    """

    def __init__(self, edge: Edge, clock: Clock) -> None:
        super().__init__(edge, request_factory=self._request, handler_cancellation=True)
        self._clock = clock
        self._event_loop = asyncio.get_running_loop()

    def __call__(self) -> GatewayProtocol:
        """A protocol for a new connection."""
        return GatewayProtocol(self, self._clock, loop=self._event_loop)

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
        self._sites: list[web.TCPSite] = []
        self.addresses: dict[str, tuple[str, int]] = {}
        self.running: Running

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.running = await stack.enter_async_context(open_services(self._config, self._in_flight))
            services = self.running.services
            generation = await stack.enter_async_context(Generation(self._config, services))
            observers = (
                accounting.log_line(services.log),
                accounting.count(services.metrics),
                accounting.usage(self.running.usage),
            )
            for name, listener in self._config.listeners.items():
                edge = Edge(name, services, lambda: generation, secure=False, observers=observers)
                await self._listen(stack, name, listener, edge)
            self._stack = stack.pop_all()
        self.running.services.log.info("serving", **{name: f"{h}:{p}" for name, (h, p) in self.addresses.items()})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.running.draining = True
        for site in self._sites:
            await site.stop()
        for server in self._servers:
            server.pre_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_timeout):
                await self._drained()
        for edge in self._edges:
            edge.cut()
        await self._drained()
        await self._stack.aclose()

    async def _drained(self) -> None:
        for edge in self._edges:
            await edge.drained()

    def _in_flight(self) -> int:
        return sum(edge.in_flight for edge in self._edges)

    async def _listen(self, stack: AsyncExitStack, name: str, listener: ListenerConfig, edge: Edge) -> None:
        server = GatewayServer(edge, self.running.services.clock)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, listener.host, listener.port, backlog=BACKLOG)
        try:
            await site.start()
        except OSError as error:
            where = f"{listener.host}:{listener.port}"
            raise ListenError(f"listener {name!r} cannot listen on {where}: {os.strerror(error.errno or 0)}") from error
        host, port = runner.addresses[0][:2]
        self.addresses[name] = (host, port)
        self._edges.append(edge)
        self._servers.append(server)
        self._sites.append(site)


def run(config: GatewayConfig, *, started: Callable[[Mapping[str, tuple[str, int]]], None]) -> None:
    """:func:`serve` on a loop of its own: uvloop's where it is installed (1.2 to 1.4 times the requests per second)."""
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
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    ``started`` is told where each listener listens. Raises GatewayError where the gateway cannot start.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: now
        stop.set()

    async with Gateway(config) as gateway:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.freeze()
        started(gateway.addresses)
        await stop.wait()
