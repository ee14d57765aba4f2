"""A gateway as a running process: what it opens, where it listens, how it stops.

The order of things: services, then one generation of the configuration, then the listeners; and back. A stop drains: no
new connections, what runs may finish, the rest is cut honestly.
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
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from gateway import accounting
from gateway.edge import Edge
from gateway.errors import ListenError
from gateway.generation import Generation
from gateway.server import LINGER_S, GatewayServer
from gateway.services import open_services
from gateway.tls import Certificates

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from gateway.config import GatewayConfig, ListenerConfig
    from gateway.services import Running

BACKLOG = 1024
"""Connections that wait in the kernel to be accepted."""

ACCEPTED_AT_ONCE = 16
"""How many of them asyncio accepts in one turn of the loop."""


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
