"""What a chain returns when it does not refuse, and how a refusal is worded."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from gateway.errors import Refusal


Tap = Callable[[bytes], None]


class Relay(web.StreamResponse):
    """An answer whose head is known and whose body is still to come. The edge sends it; a layer edits its headers.

    ``body`` yields the bytes. ``whole`` is the body where it is complete already: the edge then sends head and body in
    one write. ``verify_end`` is called after the last byte and raises
    :class:`~gateway.errors.UpstreamBroken` where the body, though its framing ended, is not a complete answer of its
    dialect; the client then gets the dialect's error event and an unclean close instead of a clean end.

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
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.body = body
        self.whole = whole
        self.verify_end = verify_end
        self.taps: list[Tap] = []

    def tap(self, observer: Tap) -> None:
        """Show ``observer`` every chunk after it was written. It can neither delay nor change a byte.

        Synchronous. An exception detaches the observer and is logged and counted; the stream goes on.
        """
        self.taps.append(observer)


class Dialect(Protocol):
    """How one family of APIs says things: the bytes of its errors and the end of its streams."""

    name: str

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:
        """The JSON body of a refusal."""

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """The server-sent event that tells a client in mid-stream that the stream broke."""
