r"""An upstream that does to the byte what a script says, and keeps every byte it was sent.

A script is a coroutine function over one connection (:class:`~gateway.testing.wire.Wire`). It pauses on events, never
on the clock: it waits for the request's head, for an :class:`asyncio.Event` of the test, or for the peer's close. What
it does not do matters as much: a script that returns leaves the connection open, so "accepts and never answers" is an
empty script. Connections and scripts end with the upstream.

::

    async def half_an_answer(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        wire.reset()

    async with RawUpstream(half_an_answer) as upstream:
        ...  # point the proxy at upstream.origin
        wire = await upstream.connection()
        assert await wire.ended() == "fin"
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from gateway.testing.wire import PeerGone, Wire

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

BACKLOG = 2048
"""Connections that wait to be accepted: a test may open a thousand at once."""

Script = Callable[[Wire], Awaitable[None]]
"""What the upstream does on one connection."""


async def silence(wire: Wire) -> None:
    """Accept and never say a word: the test drives the connection, or watches what becomes of it."""


def answering(answer: bytes) -> Script:
    """Give every request on a connection the same bytes."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.message()
            await wire.send(answer)

    return script


def listening_socket() -> socket.socket:
    """A socket that listens on a free port of loopback."""
    return socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)


class RawUpstream:
    """A listener on loopback whose connections run a script, for ``async with``.

    The end of the block aborts the connections and cancels the scripts that still wait. A script that failed, for
    another reason than that its peer left, fails the block. ``script`` may be replaced, for the connections that are
    still to come. ``sock`` is a listening socket to accept from instead of a new one; it stays open, so that one proxy
    can meet many upstreams in turn at one address.
    """

    def __init__(
        self,
        script: Script = silence,
        *,
        sock: socket.socket | None = None,
        deadline_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connections: list[Wire] = []
        self.script = script
        self._deadline_s = deadline_s
        self._tls = tls
        self._sock = sock or listening_socket()
        self._owns_sock = sock is None
        self._accepted = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._scripts: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def origin(self) -> str:
        """``http://127.0.0.1:port``; ``https`` where it has TLS."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def scripts(self) -> set[asyncio.Task[None]]:
        """The tasks that run the scripts of its connections."""
        return set(self._scripts)

    async def connection(self, number: int = 0) -> Wire:
        """The connection of that number, in the order of accepting; waits until it exists."""
        async with asyncio.timeout(self._deadline_s), self._accepted:
            await self._accepted.wait_for(lambda: len(self.connections) > number)
        return self.connections[number]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        sock = self._sock.dup()
        self._server = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        if self._owns_sock:
            self._sock.close()
        for wire in self.connections:
            wire.transport.abort()
            await wire.lost.wait()
        for script in self._scripts:
            script.cancel()
        ends = await asyncio.gather(*self._scripts, return_exceptions=True)
        failures = [end for end in ends if isinstance(end, Exception)]
        if failures and error is None:
            raise failures[0]

    def _accept(self) -> Wire:
        wire = Wire(deadline_s=self._deadline_s)
        # Not a TaskGroup: it would wrap what the test itself raises in a group.
        self._scripts.append(asyncio.get_running_loop().create_task(self._run(wire)))
        return wire

    async def _run(self, wire: Wire) -> None:
        await wire.made.wait()
        self.connections.append(wire)
        async with self._accepted:
            self._accepted.notify_all()
        with suppress(PeerGone):
            await self.script(wire)
