"""The innermost layer: the request goes to the provider, byte for byte, and the answer comes back as a Relay."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from multidict import CIMultiDict
from pydantic import Field

from gateway.codings import undo
from gateway.contract import (
    CREDENTIAL,
    EXCHANGE,
    Plugin,
    PluginConfig,
    Refusal,
    Relay,
    Requirement,
    Size,
    Tunnel,
    Usage,
    Verdict,
)
from gateway.dialects import CREDENTIAL_HEADERS, KEY_SUBPROTOCOL, get, sse
from gateway.errors import UpstreamBroken, UpstreamError
from gateway.upstream import HttpUpstream, abort, upstream_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.contract import Exchange, Handler, Question, Services
    from gateway.dialects import ProviderDialect, StreamWatch
    from gateway.http1 import Answer

SMALL_BODY = 64 * 1024
"""Bytes of a request body that are read first and sent with the head in one write; larger ones stream."""

# RFC 9110, 7.6.1, and what belongs to one connection without saying so. Expect is answered by us; Content-Length and
# Transfer-Encoding are written anew with the framing.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Who the client is, where it came from and what it authenticated with is between it and the gateway.
_PRIVATE = frozenset(name.encode() for name in CREDENTIAL_HEADERS) | {b"forwarded", b"x-real-ip", b"via"}
_DROPPED = _HOP_BY_HOP | _PRIVATE
_VERSIONS = (HttpVersion10, HttpVersion11)


class Forward(Plugin):
    """Sends the request to an upstream and streams its answer back, unchanged in both directions.

    The path below the route's prefix is appended to the upstream's ``base_url``. Goes up: method, the rest of the
    target, end-to-end headers and body as received; not the client's credentials, hop-by-hop headers and
    ``X-Forwarded-*``. Comes down: status, body, and the headers that the upstream's dialect lists.
    """

    class Config(PluginConfig):
        """What ``forward`` may be told."""

        upstream: str
        """The name of an entry of ``upstreams``."""
        websockets: bool = True
        """Whether WebSockets are offered where the upstream's dialect has them; elsewhere they get 404."""
        max_message: Annotated[Size, Field(gt=0)] = 16 * 2**20
        """Largest WebSocket message, either way; a larger one ends the connection with 1009. Default 16MiB."""

    terminal: ClassVar[bool] = True

    def __init__(self, config: Config, services: Services) -> None:
        upstream = services.upstreams.get(config.upstream)
        if not isinstance(upstream, HttpUpstream):
            known = ", ".join(sorted(services.upstreams)) or "none"
            raise ValueError(  # noqa: TRY004 - a wrong configuration, not a wrong type
                f"there is no upstream {config.upstream!r}; configured: {known}"
            )
        self._upstream = upstream
        self._dialect = get(upstream.dialect)
        self._metrics = services.metrics
        self._websockets = config.websockets
        self._max_message = config.max_message
        # RFC 9110, 7.6.3: the protocol is the one in which the request was received.
        self._via = {version: f"1.{version.minor} {services.pseudonym}".encode() for version in _VERSIONS}

    def needs(self) -> frozenset[Requirement]:
        """The provider's key, unless the upstream wants none."""
        return frozenset({CREDENTIAL}) if self._upstream.needs_credential else frozenset[Requirement]()

    async def explain(self, question: Question) -> Verdict:
        """Where it would go. Asks for the provider's key, and does nothing with it."""
        source = question.facts.get(CREDENTIAL) if self._upstream.needs_credential else None
        if source is not None:
            source.credential_for(self._upstream)
        key = "without a key" if source is None else f"with the key of {self._upstream.name}"
        return Verdict(f"sends {question.method} {self._upstream.origin}{self._target(question)} {key}", answers=True)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG002 - terminal
        """Send, wait for the head of the answer, and hand it on."""
        exchange = request[EXCHANGE]
        exchange.upstream = self._upstream.name
        if "websocket" in request.headers.get(hdrs.UPGRADE, "").lower():
            return await self._tunnel(request, exchange)
        secret = self._secret(exchange)
        body: bytes | AsyncIterator[bytes] | None = await exchange.body.peek(SMALL_BODY)
        chunked = False
        if body is None:
            body, chunked = exchange.body.stream(), exchange.body.declared is None
        head = self._head(request, exchange, secret, None if chunked else _length(exchange, body))
        try:
            answer = await self._upstream.send(
                request.method, head, body, chunked=chunked, repeatable="idempotency-key" in request.headers
            )
        except UpstreamError as error:
            raise self._failed(error) from error
        exchange.push(answer.abort)
        return await self._relay(exchange, answer, secret)

    async def _tunnel(self, request: web.Request, exchange: Exchange) -> Tunnel:
        """Dial the upstream, and hand on a WebSocket that speaks the subprotocol it chose."""
        if not self._websockets or not self._dialect.offers_websocket(exchange.path[len(exchange.prefix) :]):
            # 404 at once makes clients fall back to plain requests; 405 costs Codex five reconnects.
            raise Refusal(404, "unknown_url", "No WebSocket is offered here.")
        if not web.WebSocketResponse().can_prepare(request):
            raise Refusal(400, "bad_request", "The WebSocket's handshake is malformed.", close=True)
        try:
            socket = await self._upstream.dial(
                self._target(exchange),
                self._handshake_headers(request, exchange),
                _subprotocols(request),
                max_message_bytes=self._max_message,
            )
        except UpstreamError as error:
            raise self._failed(error) from error
        exchange.push(partial(abort, socket))
        tunnel = Tunnel(
            socket,
            asks=self._dialect.asks,
            protocols=[socket.protocol] if socket.protocol else [],
            max_message_bytes=self._max_message,
        )
        tunnel.tap(partial(_add_usage, exchange, self._dialect))
        return tunnel

    def _failed(self, error: UpstreamError) -> Refusal:
        self._metrics.count("upstream_errors", upstream=self._upstream.name, kind=type(error).__name__)
        return upstream_refusal(error)

    # ── Up ──

    def _secret(self, exchange: Exchange) -> str | None:
        """The provider's key, asked for per attempt and kept no longer than this call."""
        source = exchange.get(CREDENTIAL) if self._upstream.needs_credential else None
        return None if source is None else source.credential_for(self._upstream).reveal()

    def _target(self, exchange: Exchange | Question) -> str:
        """The request's target below ``base_url``, to the byte."""
        target = self._upstream.base_path + exchange.target[len(exchange.prefix) :]
        return target if target.startswith("/") else f"/{target}"

    def _handshake_headers(self, request: web.Request, exchange: Exchange) -> CIMultiDict[str]:
        """What goes up with a WebSocket's handshake, of which aiohttp writes the rest."""
        headers = CIMultiDict(
            (name.decode("ascii"), value.decode("latin-1"))
            for name, value in _passing(request, self._via[request.version])
            if not name.lower().startswith(b"sec-websocket-")
        )
        secret = self._secret(exchange)
        if secret is not None:
            name, _, value = self._upstream.credential_line(secret).decode("ascii").partition(": ")
            headers[name] = value
        return headers

    def _head(self, request: web.Request, exchange: Exchange, secret: str | None, length: int | None) -> bytes:
        """The request's head as it goes out: its own headers in their order, and the few that are ours."""
        lines = [
            f"{exchange.method} {self._target(exchange)} HTTP/1.1".encode(),
            b"Host: " + self._upstream.host_header,
        ]
        lines += [name + b": " + value for name, value in _passing(request, self._via[request.version])]
        if secret is not None:
            lines.append(self._upstream.credential_line(secret))
        if length is None:
            lines.append(b"Transfer-Encoding: chunked")
        elif length or exchange.method in _LENGTH_ALWAYS or exchange.body.declared is not None:
            lines.append(b"Content-Length: %d" % length)
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    # ── Down ──

    async def _relay(self, exchange: Exchange, answer: Answer, secret: str | None) -> Relay:
        if answer.status == HTTP_UNAUTHORIZED and secret is not None:
            # To an SDK a 401 says that *its* key is wrong, and the provider's words quote a part of ours.
            raise Refusal(502, "upstream_auth", "The provider did not accept the gateway's key.")
        headers = self._headers(answer)
        if answer.status >= HTTP_ERROR and secret is not None:
            return await self._error(answer, headers, secret)
        whole = answer.take_whole()
        relay = Relay(status=answer.status, headers=headers, body=answer, whole=whole)
        kind = headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            watch = self._dialect.watch(exchange.path)
            sse.subscribe(relay, watch.on_event)
            relay.verify_end = partial(_verify, watch)
            relay.is_over = partial(_is_over, watch)
            exchange.push(partial(_keep_stream_usage, exchange, watch))
        elif kind.startswith("application/json"):
            kept = _Kept()
            relay.tap(kept.feed)
            exchange.push(partial(_keep_usage, exchange, self._dialect, kept))
        return relay

    def _headers(self, answer: Answer) -> CIMultiDict[str]:
        """What of the upstream's headers may reach a client: an allow-list, because nobody knows what will be added."""
        allows, extra = self._dialect.allows_response_header, self._upstream.response_headers
        headers: CIMultiDict[str] = CIMultiDict()
        for raw_name, raw_value in answer.headers:
            name = raw_name.decode("ascii").lower()
            if name == "x-request-id":
                headers.add("x-upstream-request-id", raw_value.decode("latin-1"))
            elif name == "content-length" or allows(name) or _listed(name, extra):
                headers.add(raw_name.decode("ascii"), raw_value.decode("latin-1"))
        return headers

    async def _error(self, answer: Answer, headers: CIMultiDict[str], secret: str) -> Relay:
        """Relay an error as the provider words it, with our key masked where it echoes it.

        It is held until it is whole: a key may straddle two chunks. A body without our key passes as it came, coded or
        not; with it, masked and uncoded. One that cannot be searched is told without the provider's words.
        """
        body = await _read(answer)
        plain = undo(headers.get("content-encoding", ""), body, MAX_ERROR_BODY) if body is not None else None
        if body is None or plain is None:
            raise Refusal(answer.status, "upstream_error", "The provider refused the request in unreadable words.")
        for name in [name for name, value in headers.items() if secret in value]:
            del headers[name]
        if secret.encode() in plain:
            headers.popall("content-encoding", None)
            body = plain.replace(secret.encode(), b"*" * len(secret))
        return Relay(status=answer.status, headers=headers, whole=body)


MAX_ERROR_BODY = 1024 * 1024
"""Bytes of an upstream's error that are held to be searched for our key."""

HTTP_ERROR = 400
HTTP_UNAUTHORIZED = 401

# RFC 9110, 8.6: a method that anticipates content says Content-Length: 0 where there is none.
_LENGTH_ALWAYS = frozenset({"POST", "PUT", "PATCH"})


class _Kept:
    """A JSON answer for as long as it is small, then its end: where large answers (embeddings) carry their usage."""

    __slots__ = ("_bytes", "_cut")

    LIMIT = 64 * 1024

    def __init__(self) -> None:
        self._bytes = b""
        self._cut = False

    def feed(self, chunk: bytes) -> None:
        """Keep the last ``LIMIT`` bytes of what came so far."""
        kept = self._bytes + chunk if self._bytes else chunk
        self._cut = self._cut or len(kept) > self.LIMIT
        self._bytes = kept[-self.LIMIT :]

    def take(self) -> bytes:
        """The answer, or an object of what its end says from ``usage`` on; once."""
        kept, self._bytes = self._bytes, b""
        return b"{" + kept[kept.rfind(b'"usage"') :] if self._cut else kept


def _length(exchange: Exchange, body: bytes | AsyncIterator[bytes] | None) -> int:
    return len(body) if isinstance(body, bytes) else exchange.body.declared or 0


def _passing(request: web.Request, us: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The headers that go up, as they came, in their order; and who has passed them on, ``us`` last."""
    named = _named_by_connection(request)
    via = [us]
    for name, value in request.raw_headers:
        lower = name.lower()
        if lower == b"via":
            via.insert(-1, value)
        elif lower not in _DROPPED and lower not in named and not lower.startswith(b"x-forwarded-"):
            yield name, value
    yield b"Via", b", ".join(via)


def _subprotocols(request: web.Request) -> list[str]:
    """The subprotocols that the client offers, without the one that is its key."""
    offered = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())).split(",")
    return [name for name in map(str.strip, offered) if name and not name.startswith(KEY_SUBPROTOCOL)]


def _named_by_connection(request: web.Request) -> frozenset[bytes]:
    """Headers that `Connection` names are for one hop only (RFC 9110, 7.6.1)."""
    values = request.headers.getall("connection", ())
    if not values:
        return frozenset()
    # Decoded as aiohttp has it, back to the bytes that came: whatever a client writes here, it names at most a header.
    raw = b",".join(value.encode("utf-8", "surrogateescape") for value in values)
    return frozenset(name.strip(b" \t").lower() for name in raw.split(b","))


def _listed(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether the operator lets this header pass: by name, or by a prefix that ends with ``*``."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


async def _read(answer: Answer) -> bytes | None:
    """The whole body of an error; None where it is too large to be one. What breaks it is the client's 502."""
    body = bytearray()
    try:
        async for chunk in answer:
            body += chunk
            if len(body) > MAX_ERROR_BODY:
                return None
    except UpstreamError as error:
        raise upstream_refusal(error) from error
    return bytes(body)


def _verify(watch: StreamWatch) -> None:
    """The end of a stream is an end only with the dialect's own last event."""
    if not watch.complete:
        raise UpstreamBroken("the stream ended without the event that ends it")


def _is_over(watch: StreamWatch) -> bool:
    return watch.over


def _add_usage(exchange: Exchange, dialect: ProviderDialect, message: bytes) -> None:
    """Add what a message of the provider reports: one session has many answers."""
    more = dialect.usage_in(message)
    if more is None:
        return
    so_far = exchange.usage or Usage()
    exchange.usage = Usage(
        input=so_far.input + more.input,
        output=so_far.output + more.output,
        cached=so_far.cached + more.cached,
        reasoning=so_far.reasoning + more.reasoning,
        model=more.model or so_far.model,
    )


def _keep_stream_usage(exchange: Exchange, watch: StreamWatch) -> None:
    exchange.usage = watch.usage


def _keep_usage(exchange: Exchange, dialect: ProviderDialect, kept: _Kept) -> None:
    exchange.usage = dialect.usage_of(kept.take())
