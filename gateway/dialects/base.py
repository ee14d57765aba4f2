"""The seam: what a dialect knows, and what all dialects agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.contract import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.contract import Usage
    from gateway.dialects.sse import Event

CREDENTIAL_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "x-goog-api-key",
    }
)
"""Request headers, in lower case, in which clients carry credentials: none of them ever goes to an upstream."""

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""What precedes the key in the ``Sec-WebSocket-Protocol`` of browsers, which can set no other header."""


class StreamWatch(Protocol):
    """Watches the events of one streamed answer. Never raises, whatever the events hold."""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""

    @property
    def complete(self) -> bool:
        """Whether the stream may end here: its terminator, or the provider's own error event, has passed.

        Always so for a kind of stream whose terminator is not known.
        """

    @property
    def over(self) -> bool:
        """Whether the stream has said all: its terminator has passed, and nothing of worth can follow."""

    @property
    def usage(self) -> Usage | None:
        """What the provider has reported so far."""


class ProviderDialect(Dialect, Protocol):
    """What is known of one family of providers. Holds no state of an exchange."""

    def allows_response_header(self, name: str) -> bool:
        """Whether a response header may go to the client. ``name`` is in lower case."""

    def watch(self, path: str) -> StreamWatch:
        """A watch for one answer of ``text/event-stream`` to a request for ``path``."""

    def usage_of(self, body: bytes) -> Usage | None:
        """The usage that a complete JSON answer reports. Never raises."""

    def offers_websocket(self, path: str) -> bool:
        """Whether a WebSocket is spoken at ``path``, which begins below the API's base: ``/realtime``."""

    def asks(self, message: bytes) -> bool:
        """Whether a client's WebSocket message asks for an answer: what a limit counts. Never raises."""

    def usage_in(self, message: bytes) -> Usage | None:
        """The usage that a provider's WebSocket message reports of the answer it ends. Never raises."""


# What describes the body, its freshness, the limits that the client is under and whether to come again.
_COMMON_HEADERS = frozenset(
    {
        "accept-ranges",
        "age",
        "allow",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-range",
        "content-type",
        "deprecation",
        "etag",
        "expires",
        "last-modified",
        "retry-after",
        "retry-after-ms",
        "sunset",
        "vary",
        "x-accel-buffering",
        "x-should-retry",
    }
)
_COMMON_PREFIXES = ("x-ratelimit-",)


class ResponseHeaders:
    """An allow-list of response headers: the common ones and a dialect's own.

    Everything else stays behind: cookies, server banners, CORS, alternative services, the organisation that pays. A
    request id is passed under another name, by whoever relays; ``location`` is left to it as well.
    """

    def __init__(self, *, names: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        self._names = _COMMON_HEADERS.union(names)
        self._prefixes = (*_COMMON_PREFIXES, *prefixes)

    def allow(self, name: str) -> bool:
        """Whether the header of this lower-case name may pass."""
        return name in self._names or name.startswith(self._prefixes)
