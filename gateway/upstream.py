"""The upstream side: one :class:`HttpUpstream` per entry of ``upstreams``, each a bounded pool of connections.

This is the seam towards providers. A layer that forwards calls :meth:`HttpUpstream.send` with a request that is ready
to go out, byte for byte, and gets an :class:`~gateway.http1.Answer`. Name resolution is the system's (in its thread),
racing IPv6 and IPv4 is aiohappyeyeballs' (RFC 8305), TLS is ``gateway/tls.py``'s: certificates are always verified.

Deadlines are not timers per request but one sweep per pool: a connection carries its ``deadline``, the sweeper ends
what is late (a timer per request costs a fifth of a forwarded request). So a deadline is kept to a quarter of itself,
and to one second at the most.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohappyeyeballs

from gateway.errors import Refusal, UpstreamError, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable
from gateway.http1 import Answer, Connection
from gateway.tls import client_context
from gateway.tunnel import Dialer, Socket, abort

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Sequence
    from types import TracebackType

    from multidict import CIMultiDict

    from gateway.config import UpstreamConfig
    from gateway.contract import Metrics

__all__ = ["HttpUpstream", "abort", "upstream_refusal"]

IDLE_LIFETIME_S = 20.0
"""How long an unused connection is kept: shorter than any provider's own limit, so that the race of F23 stays rare."""

MAX_IDLE = 256

# RFC 9110, 9.2.2: may be sent twice without harm. POST may not, unless the client says so by an idempotency key.
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})


class HttpUpstream:
    """A provider, reached over HTTP/1.1 with or without TLS. Implements ``contract.Upstream``.

    Use it as an asynchronous context manager: leaving it closes every connection.
    """

    def __init__(self, name: str, config: UpstreamConfig, metrics: Metrics) -> None:
        self.name = name
        self.origin = config.origin
        self.base_path = config.base_path
        self.dialect = config.dialect
        self.credential = config.credential
        self.needs_credential = config.credential != "none"
        self.response_headers = tuple(config.response_headers)
        self.first_byte_s = config.timeouts.first_byte
        self.idle_s = config.timeouts.idle
        self._connect_s = config.timeouts.connect
        parts = urlsplit(config.origin)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._ssl = client_context(None if config.tls is None else config.tls.ca) if secure else None
        self._limit = config.max_connections
        self._metrics = metrics
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._connecting = 0
        self._dialled: set[Socket] = set()
        self._dialer = Dialer(self.origin, self._ssl, deadline_s=self._connect_s + self.first_byte_s)
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_s = min(1.0, max(0.02, min(self.first_byte_s, self.idle_s) / 4))
        self.host_header = parts.netloc.encode("ascii")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()
        await self._dialer.close()

    def credential_line(self, secret: str) -> bytes:
        """The header line that authenticates us to this provider."""
        if self.credential == "bearer":
            return b"Authorization: Bearer " + secret.encode("ascii")
        assert not isinstance(self.credential, str)  # noqa: S101 - "none" needs no credential and is never asked
        return self.credential.header.encode("ascii") + b": " + secret.encode("ascii")

    @property
    def in_use(self) -> int:
        """Connections that an exchange holds."""
        return len(self._open) - len(self._idle)

    async def send(
        self,
        method: str,
        head: bytes,
        body: bytes | AsyncIterable[bytes] | None,
        *,
        chunked: bool = False,
        repeatable: bool = False,
    ) -> Answer:
        """Send one request and wait for the head of its answer. The caller ends the answer with ``abort``.

        ``head`` is complete, up to and with its blank line. A request on a reused connection that died before the first
        byte of an answer is sent once more, on a fresh one, if its body is in memory and it is idempotent by method or
        ``repeatable`` says so. Raises UpstreamError, or Refusal 503 ``overloaded`` where the pool is at its bound.
        """
        connection = self._checkout()
        if connection is not None:
            try:
                return await connection.send(head, body, chunked=chunked, method=method)
            except UpstreamInvalid:
                replayable = body is None or isinstance(body, bytes)
                if connection.received or not replayable or not (repeatable or method in _IDEMPOTENT):
                    raise
        return await (await self._connect()).send(head, body, chunked=chunked, method=method)

    async def probe(self) -> None:
        """Connect, TLS included, and close again. Nothing is sent. Raises UpstreamError."""
        (await self._connect()).abort()

    async def dial(
        self, target: str, headers: CIMultiDict[str], protocols: Sequence[str], *, max_message_bytes: int
    ) -> Socket:
        """Open a WebSocket. The caller ends it. Raises UpstreamError or Refusal."""
        self._dialled = {socket for socket in self._dialled if not socket.closed}
        if self.in_use + len(self._dialled) >= self._limit:
            raise _overloaded()
        socket = await self._dialer.dial(target, headers, protocols, max_message_bytes=max_message_bytes)
        self._dialled.add(socket)
        return socket

    # ── The pool ──

    def _checkout(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def remember(self, connection: Connection) -> None:
        """Know that a connection is open (called by it)."""
        self._open.add(connection)
        self._keep_sweeping()

    def give_back(self, connection: Connection) -> None:
        """Take a connection that may serve again (called by it)."""
        if len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Know that a connection is closed (called by it)."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    async def _connect(self) -> Connection:
        if len(self._open) + self._connecting >= self._limit:
            raise _overloaded()
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_s):
                connection = await self._dial()
        except TimeoutError as error:
            self._metrics.count("upstream_errors", upstream=self.name, kind="connect_timeout")
            msg = f"no connection within {self._connect_s:g} s"
            raise UpstreamTimeout(msg) from error
        except ssl.SSLError as error:
            self._metrics.count("upstream_errors", upstream=self.name, kind="tls")
            msg = f"TLS failed: {error.reason or type(error).__name__}"
            raise UpstreamUnreachable(msg) from error
        except (OSError, UnicodeError) as error:  # a name that IDNA refuses is a UnicodeError
            self._metrics.count("upstream_errors", upstream=self.name, kind="unreachable")
            msg = f"cannot connect: {getattr(error, 'strerror', None) or type(error).__name__}"
            raise UpstreamUnreachable(msg) from error
        finally:
            self._connecting -= 1
        return connection

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(self._host, self._port, type=1)
        sock = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.25, interleave=1)
        try:
            tls: dict[str, Any] = {"ssl": self._ssl, "server_hostname": self._host} if self._ssl is not None else {}
            _, connection = await loop.create_connection(lambda: Connection(self, loop), sock=sock, **tls)
        except BaseException:
            sock.close()
            raise
        return connection

    def _keep_sweeping(self) -> None:
        if self._sweeper is None and self._open:
            self._sweeper = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._open):
            if connection.deadline < now:
                connection.expire()
        while self._idle and self._idle[0].idle_since < now - IDLE_LIFETIME_S:
            self._idle.popleft().close()
        self._keep_sweeping()


def _overloaded() -> Refusal:
    return Refusal(503, "overloaded", "The gateway is at its limit of open requests.", headers={"retry-after": "1"})


def upstream_refusal(error: UpstreamError) -> Refusal:
    """What a client is told of an upstream's failure: which kind, and nothing of the inside."""
    if isinstance(error, UpstreamTimeout):
        return Refusal(504, "upstream_timeout", "The provider did not answer in time.")
    if isinstance(error, UpstreamUnreachable):
        return Refusal(502, "upstream_unreachable", "The provider cannot be reached.")
    return Refusal(502, "upstream_invalid", "The provider's answer was not usable.")
