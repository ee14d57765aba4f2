"""WebSockets: dialling an upstream, and passing messages between it and a client (RFC 6455).

Frames are aiohttp's business on both sides. What is decided here:

* a message passes as it is, one at a time and in order, with backpressure: the next is read when the last was written;
* pings and pongs pass, so that each side measures the other and not the gateway; nothing is compressed;
* a close passes with its code and reason. Codes that must not be sent (RFC 6455, 7.4.1) are translated: "no status" is
  1000, everything else of that kind, an abort above all, is 1011: the client can tell it from an end;
* whichever side is gone, the other is told at once, and is given a moment to say goodbye.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import aiohttp
from aiohttp import WSMsgType
from yarl import URL

from gateway.contract import Ended
from gateway.contract.answers import CLOSE_TIMEOUT_S
from gateway.errors import Refusal, UpstreamInvalid, UpstreamTimeout, UpstreamUnreachable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence
    from types import SimpleNamespace

    from multidict import CIMultiDict

    from gateway.contract import Exchange, Tunnel

NORMAL, NO_STATUS, INTERNAL, RESTART = 1000, 1005, 1011, 1012
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_PRIVATE_USE = range(3000, 5000)

_MESSAGES = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})
_CONTROLS = frozenset({WSMsgType.PING, WSMsgType.PONG})

Socket = aiohttp.ClientWebSocketResponse[bool]


class Dialer:
    """Opens WebSockets to one upstream. aiohttp's client, with everything off that acts on its own."""

    def __init__(self, origin: str, context: ssl.SSLContext | None, *, deadline_s: float) -> None:
        self._origin = origin
        self._ssl = context
        self._deadline_s = deadline_s
        self._session: aiohttp.ClientSession | None = None

    async def dial(
        self, target: str, headers: CIMultiDict[str], protocols: Sequence[str], *, max_message_bytes: int
    ) -> Socket:
        """An open WebSocket. Raises UpstreamError, or a Refusal with the status with which the upstream declined."""
        url = URL(self._origin.replace("http", "ws", 1) + target, encoded=True)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._open_session().ws_connect(
                    url,
                    headers=headers,
                    protocols=protocols,
                    autoclose=False,
                    autoping=False,
                    compress=0,
                    decode_text=False,
                    max_msg_size=max_message_bytes,
                    ssl=self._ssl or True,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
        except TimeoutError as error:
            raise UpstreamTimeout("the WebSocket was not opened in time") from error
        except aiohttp.WSServerHandshakeError as error:
            raise _declined(error.status) from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnreachable("cannot connect for a WebSocket") from error
        except aiohttp.ClientError as error:
            raise UpstreamInvalid("the answer to the WebSocket's handshake is not usable") from error

    async def close(self) -> None:
        """Close every socket that is still open."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_redirect.append(_never)
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=None),
                trace_configs=[tracing],
                trust_env=False,
            )
        return self._session


async def _never(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> NoReturn:  # noqa: ARG001
    """Stop at a redirect: followed, it would take the provider's key to wherever it points."""
    raise UpstreamInvalid("the upstream redirects a WebSocket")


def abort(socket: Socket) -> None:
    """Drop an upstream's WebSocket at once; synchronous, for a closer, and without effect on a closed one."""
    socket._response.close()  # noqa: SLF001 - aiohttp has no public synchronous way


def _declined(status: int) -> Refusal | UpstreamInvalid:
    """What an answer other than 101 means for the client."""
    if status == 401:  # noqa: PLR2004 - RFC 9110, 15.5.2
        return Refusal(502, "upstream_auth", "The provider did not accept the gateway's key.")
    if status in (404, 405, 426):
        return Refusal(404, "unknown_url", "The provider offers no WebSocket here.")
    if 400 <= status < 600:  # noqa: PLR2004 - RFC 9110, 15.5 and 15.6
        return Refusal(status, "upstream_error", "The provider declined the WebSocket.")
    return UpstreamInvalid(f"the upstream answered a WebSocket's handshake with {status}")


class Relaying:
    """One tunnel in operation. ``bytes_up`` and ``bytes_down`` count the messages' bytes."""

    def __init__(self, tunnel: Tunnel, exchange: Exchange, tap_failed: Callable[[Exception], None]) -> None:
        self._tunnel = tunnel
        self._exchange = exchange
        self._tap_failed = tap_failed
        self.bytes_up = 0
        self.bytes_down = 0
        self.ended: Ended | None = None
        """How it ended, where one side said so. The close itself then loses the client's connection."""

    async def run(self, is_stopping: Callable[[], bool]) -> None:
        """Pass messages until one side ends, then end the other. Cancelled, it ends both.

        ``is_stopping`` says whether a cancellation means that the gateway stops, and not that the client is gone.
        """
        loop = asyncio.get_running_loop()
        up, down = loop.create_task(self._up()), loop.create_task(self._down())
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            code, reason = (up if up.done() else down).result()
            self.ended = self.ended or Ended.COMPLETE
        except asyncio.CancelledError:
            code, reason = RESTART if is_stopping() else _sendable(self._tunnel.said), b""
            raise
        except ConnectionError:
            code, reason = INTERNAL, b""
        finally:
            # Said to both: to whoever has ended it is the answer that it waits for. Bounded by CLOSE_TIMEOUT_S.
            await asyncio.shield(self._end((up, down), code, reason))

    async def _end(self, pumps: Sequence[asyncio.Task[tuple[int, bytes]]], code: int, reason: bytes) -> None:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        await asyncio.gather(
            _close(self._tunnel.upstream.close, code, reason),
            _close(self._tunnel.close, code, reason),
        )

    async def _up(self) -> tuple[int, bytes]:
        tunnel = self._tunnel
        while True:
            message = await tunnel.receive()
            if message.type in _MESSAGES:
                if tunnel.asks(message.data) and not await self._admitted(message.data):
                    continue
                await tunnel.upstream.send_frame(message.data, message.type)
                self.bytes_up += len(message.data)
            elif message.type in _CONTROLS:
                await tunnel.upstream.send_frame(message.data, message.type)
            else:
                return _ending(message.type, message.data, message.extra)

    async def _down(self) -> tuple[int, bytes]:
        tunnel = self._tunnel
        while True:
            message = await tunnel.upstream.receive()
            if message.type in _MESSAGES:
                await tunnel.send_frame(message.data, message.type)
                self.bytes_down += len(message.data)
                self._observe(message.data)
            elif message.type in _CONTROLS:
                await tunnel.send_frame(message.data, message.type)
            else:
                if message.type is not WSMsgType.CLOSE:
                    self.ended = Ended.UPSTREAM_BROKEN
                return _ending(message.type, message.data, message.extra)

    async def _admitted(self, data: bytes) -> bool:
        """Whether a message that asks for an answer may pass; who sent it is told where not."""
        try:
            for admission in self._tunnel.admissions:
                await admission(data)
        except Refusal as refusal:
            event = self._exchange.dialect.error_message(refusal, self._exchange.id)
            await self._tunnel.send_frame(event, WSMsgType.TEXT)
            return False
        return True

    def _observe(self, data: bytes) -> None:
        taps = self._tunnel.taps
        for tap in tuple(taps):
            try:
                tap(data)
            except Exception as error:  # noqa: BLE001 - the rim: an observer never touches the stream
                taps.remove(tap)
                self._tap_failed(error)


def _ending(kind: WSMsgType, data: object, extra: str | None) -> tuple[int, bytes]:
    """The code and the reason with which the other side is told."""
    if kind is WSMsgType.CLOSE and isinstance(data, int):
        return _sendable(NORMAL if data in (0, NO_STATUS) else data), (extra or "").encode()
    return _sendable(data.code if isinstance(data, aiohttp.WebSocketError) else None), b""


def _sendable(code: int | None) -> int:
    return code if code is not None and (code in _SENDABLE or code in _PRIVATE_USE) else INTERNAL


async def _close(close: Callable[..., Awaitable[bool]], code: int, reason: bytes) -> None:
    """Say goodbye to one side; that it may be gone already is what this is for."""
    with suppress(ConnectionError, RuntimeError, aiohttp.ClientError):
        await close(code=code, message=reason)
