"""Plain HTTP leads browsers to HTTPS, and refuses whatever should never have come in clear."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from pydantic import AfterValidator, WithJsonSchema

from gateway.contract import EXCHANGE, Plugin, PluginConfig, Refusal, Verdict
from gateway.dialects import CREDENTIAL_HEADERS, KEY_SUBPROTOCOL
from gateway.security.exposure import keys_in, tell_exposed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.contract import Exchange, Handler, Question, Services

_ORIGIN = r"^https://(?:[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?$"

_REDIRECTED = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})

# How clients spell a key in a query. Google's have no other place for theirs.
_KEY_PARAMETERS = frozenset({"access_token", "api-key", "api_key", "apikey", "key", "token"})

_EXPOSED = "The key that you sent could be read on the way: have it replaced."
_NOTHING_ELSE = "Nothing but GET and HEAD is answered here."


def _origin(value: str) -> str:
    if not re.fullmatch(_ORIGIN, value):
        raise ValueError("write where HTTPS is served, without a path: https://gateway.example.com")
    return value.lower()


Origin = Annotated[str, AfterValidator(_origin), WithJsonSchema({"type": "string", "pattern": _ORIGIN})]


class TlsRedirect(Plugin):
    """Redirects a browser's plain GET or HEAD to ``to``; answers 403 to whatever carries a key or a body.

    A redirected key is sent in clear again and again, and nobody notices; a refused one is replaced. What came over TLS
    passes: over a TLS listener, or where a proxy of ``trusted_proxies`` says so. On a listener of its own, the layer
    stands alone in its chain, and such a request finds nothing there: 404.
    """

    class Config(PluginConfig):
        """Where to."""

        to: Origin
        """Where HTTPS is served: ``https://gateway.example.com``. Path and query stay, the request's Host does not."""

    may_end: ClassVar[bool] = True

    def __init__(self, config: Config, services: Services) -> None:
        self._to = config.to
        self._services = services

    async def explain(self, question: Question) -> Verdict:
        """Whether it would be led to HTTPS. A body, and a proxy that speaks TLS, are not thought of."""
        if question.secure:
            return Verdict("comes over TLS")
        if question.has_key:
            raise self._refusal(_EXPOSED)
        if question.method not in _REDIRECTED:
            raise self._refusal(_NOTHING_ELSE)
        return Verdict(f"redirects it to {self._to}{question.target}", answers=True)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pass what came over TLS; redirect or refuse the rest."""
        exchange = request[EXCHANGE]
        if exchange.secure:
            return await handler(request)
        exposed = tuple(_credentials(request, exchange))
        if exposed:
            await tell_exposed(self._services, exchange, exposed)
            raise self._refusal(_EXPOSED)
        if request.method not in _REDIRECTED or not exchange.body.empty:
            raise self._refusal(_NOTHING_ELSE)
        return web.Response(status=308, headers={hdrs.LOCATION: self._to + exchange.target})

    def _refusal(self, why: str) -> Refusal:
        message = f"This API is served over HTTPS only, at {self._to}. {why}"
        return Refusal(403, "insecure_transport", message, close=True)


def _credentials(request: web.Request, exchange: Exchange) -> Iterator[tuple[str, str]]:
    """Where a credential stands, and its text. More places than keys are accepted from: in clear, all are read."""
    headers = request.headers
    # 1. The headers that carry nothing else. A scheme is no part of the key.
    for name in sorted(CREDENTIAL_HEADERS - {"cookie"}):
        for value in headers.getall(name, ()):
            if value.strip():
                yield name, value.split()[-1]
    # 2. Browsers send cookies of other sites' making along: only a key of ours makes one a credential.
    for value in headers.getall(hdrs.COOKIE, ()):
        yield from (("cookie", key) for key in keys_in(value))
    # 3. Browsers' WebSockets.
    for value in headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ()):
        for protocol in value.split(","):
            if protocol.strip().startswith(KEY_SUBPROTOCOL):
                yield "sec-websocket-protocol", protocol.strip().removeprefix(KEY_SUBPROTOCOL)
    # 4. The URL.
    for name, value in parse_qsl(exchange.target.partition("?")[2]):
        if name.lower() in _KEY_PARAMETERS:
            yield "url", value
    yield from (("url", key) for key in keys_in(exchange.target))
