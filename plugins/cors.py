"""Which web pages of other origins may call, told to their browsers (Fetch standard, 3.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from aiohttp import hdrs, web
from pydantic import AfterValidator

from gateway.contract import Duration, Plugin, PluginConfig, Verdict

if TYPE_CHECKING:
    from gateway.contract import Handler, Question, Services

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# What an inner layer may have said about origins: this layer alone decides.
_DECIDED_HERE = (
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN,
    hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS,
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS,
    hdrs.ACCESS_CONTROL_ALLOW_METHODS,
    hdrs.ACCESS_CONTROL_EXPOSE_HEADERS,
    hdrs.ACCESS_CONTROL_MAX_AGE,
    "Access-Control-Allow-Private-Network",
)


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError("write an origin as a browser sends it: https://app.example.com, with no path and no *")
    return value


def _token(value: str) -> str:
    if not _TOKEN.fullmatch(value) or value == "*":
        raise ValueError("write one name, without spaces; leave the list out to allow what is asked for")
    return value


Origin = Annotated[str, AfterValidator(_origin)]
Token = Annotated[str, AfterValidator(_token)]


class Cors(Plugin):
    """Lets pages of the listed origins call and read the answers; every other page's browser keeps them from it.

    Preflights end here, so list it before what authenticates. Requests are never refused for their origin: a browser
    that gets no permission does not show the answer to the page, and whoever is no browser can write any origin.
    """

    class Config(PluginConfig):
        """Who may call from a browser, and what. By default nobody."""

        origins: frozenset[Origin] = frozenset()
        """Exact origins, such as ``https://app.example.com``."""
        credentials: bool = False
        """Whether pages may call with cookies. A key in a header needs no such permission."""
        methods: tuple[Token, ...] | None = None
        """The methods that a preflight is told of; null: the one it asks for."""
        headers: tuple[Token, ...] | None = None
        """The request headers that a preflight is told of; null: those it asks for."""
        expose: tuple[Token, ...] = (
            "x-request-id",
            "x-gateway-error",
            "x-should-retry",
            "retry-after",
            "retry-after-ms",
            "ratelimit",
            "ratelimit-policy",
        )
        """The response headers that a page may read beside the plain ones."""
        max_age: Duration = 600.0
        """How long a browser may remember a preflight's answer."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._origins = config.origins
        self._credentials = config.credentials
        self._methods = None if config.methods is None else ", ".join(config.methods)
        self._headers = None if config.headers is None else ", ".join(config.headers)
        self._expose = ", ".join(config.expose)
        self._max_age = str(int(config.max_age))

    async def explain(self, question: Question) -> Verdict:
        """What a browser would get."""
        allowed = f"pages of {', '.join(sorted(self._origins)) or 'no origin'} may read the answer"
        if question.method == hdrs.METH_OPTIONS:
            return Verdict(f"answers a browser's preflight, passes anything else on; {allowed}")
        return Verdict(allowed)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a preflight; say on any other answer who may read it."""
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = origin if origin in self._origins else None
        if (
            request.method == hdrs.METH_OPTIONS
            and origin is not None
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        ):
            return self._preflight(request, allowed)
        response = await handler(request)
        headers = response.headers
        for name in _DECIDED_HERE:
            headers.popall(name, None)
        # Also on answers that allow nobody: a cache must not show them to an origin that is allowed.
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        if allowed is not None:
            self._allow(response, allowed)
            if self._expose:
                headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = self._expose
        return response

    def _allow(self, response: web.StreamResponse, origin: str) -> None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        if self._credentials:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"

    def _preflight(self, request: web.Request, allowed: str | None) -> web.Response:
        response = web.Response(status=204)
        response.headers[hdrs.VARY] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        if allowed is None:
            return response
        self._allow(response, allowed)
        methods = self._methods or _echoed(request, hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        names = self._headers if self._headers is not None else _echoed(request, hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        if methods:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
        if names:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = names
        response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = self._max_age
        return response


def _echoed(request: web.Request, name: str) -> str:
    """The names that a preflight asks for, without anything that is none."""
    asked = (part.strip() for value in request.headers.getall(name, ()) for part in value.split(","))
    return ", ".join(part for part in asked if _TOKEN.fullmatch(part))
