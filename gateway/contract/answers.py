"""What a chain returns when it does not refuse, and how a refusal is worded."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp import WSMsgType
    from aiohttp._websocket.models import WSMessageNoDecodeText

    from gateway.errors import Refusal


Tap = Callable[[bytes], None]

CLOSE_TIMEOUT_S = 1.0
"""How long a WebSocket's close waits for the other side's."""


class Relay(web.StreamResponse):
    """An answer whose head is known and whose body is still to come. The edge sends it; a layer edits its headers.

    ``body`` yields the bytes. ``whole`` is the body where it is complete already: the edge then sends head and body in
    one write. ``verify_end`` is called after the last byte and raises
    :class:`~gateway.errors.UpstreamBroken` where the body, though its framing ended, is not a complete answer of its
    dialect; the client then gets the dialect's error event and an unclean close instead of a clean end. ``is_over``
    says, before the framing ends, that the dialect's last event has passed: SDKs leave there, with the whole answer.

    Who creates a Relay keeps the duty to close what stands behind ``body``: push the closer to the exchange.
    """

    def __init__(
        self,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: AsyncIterable[bytes] | None = None,
        whole: bytes | None = None,
        verify_end: Callable[[], None] | None = None,
        is_over: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.body = body
        self.whole = whole
        self.verify_end = verify_end
        self.is_over = is_over
        self.taps: list[Tap] = []

    def tap(self, observer: Tap) -> None:
        """Show ``observer`` every chunk after it was written. It can neither delay nor change a byte.

        Synchronous. An exception detaches the observer and is logged and counted; the stream goes on.
        """
        self.taps.append(observer)


Admission = Callable[[bytes], Awaitable[None]]
"""Looks at a client's WebSocket message before it is passed on, and raises a Refusal where it must not be."""


class Tunnel(web.WebSocketResponse[Literal[False]]):
    """A WebSocket between the client and an upstream that has been dialled already. The edge prepares and runs it.

    Messages pass one by one, each as it is: text stays the bytes that came. ``asks`` says which of the client's
    messages ask for an answer; those, and no others, are shown to the admissions first. ``tap`` observes
    what the upstream has said, after it was passed on. ``max_message_bytes`` bounds a message either
    way.

    Who creates a Tunnel keeps the duty to close ``upstream``: push a closer to the exchange.
    """

    def __init__(
        self, upstream: Peer, *, asks: Callable[[bytes], bool], protocols: Sequence[str], max_message_bytes: int
    ) -> None:
        super().__init__(
            autoclose=False,
            autoping=False,
            compress=False,
            decode_text=False,
            max_msg_size=max_message_bytes,
            protocols=protocols,
            timeout=CLOSE_TIMEOUT_S,
        )
        self.upstream = upstream
        self.asks = asks
        self.admissions: list[Admission] = []
        self.taps: list[Tap] = []
        self.said: int | None = None
        """The code with which the client was told the end; None while it was not."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Say goodbye to the client, and remember with which code: aiohttp forgets it where the client just leaves."""
        if self.said is None:
            self.said = code
        return await super().close(code=code, message=message, drain=drain)

    def admit(self, admission: Admission) -> None:
        """Let ``admission`` decide on every message with which the client asks for an answer."""
        self.admissions.append(admission)

    def tap(self, observer: Tap) -> None:
        """Show ``observer`` every message of the upstream after it was passed on."""
        self.taps.append(observer)


class Peer(Protocol):
    """The upstream's end of a tunnel, as aiohttp's client gives it."""

    async def receive(self) -> WSMessageNoDecodeText:
        """The next message."""

    async def send_frame(self, message: bytes, opcode: WSMsgType) -> None:
        """Pass a frame on."""

    async def close(self, *, code: int, message: bytes) -> bool:
        """Say goodbye, and wait a moment for the answer."""


class Dialect(Protocol):
    """How one family of APIs says things: the bytes of its errors and the end of its streams."""

    name: str

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:
        """The JSON body of a refusal."""

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """The server-sent event that tells a client in mid-stream that the stream broke."""

    def error_message(self, refusal: Refusal, request_id: str) -> bytes:
        """The WebSocket message that tells a client why one of its messages was not passed on."""
