"""From a list of layers to one handler, and the proof that the list makes sense.

A chain is an onion: each layer is called with the request and a handler that is the rest of the onion. Around each
layer stands a rim, and only there

1. a :class:`Refusal` becomes an answer, so that the outer layers still see and dress it;
2. any other exception becomes what the layer's ``on_error`` says: 500 without a word of it, or going on without it;
3. the facts that the layer promised are checked before the next layer runs;
4. the headers that the layer set are checked: CR, LF and NUL never reach the wire.

The order of the layers is the operator's; :func:`prove` says at load whether it can work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aiohttp import web
from multidict import getversion

from gateway.contract import EXCHANGE, AnyOf, Exchange, Handler, OnError, Plugin, Refusal, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multidict import MultiDict

    from gateway.contract import Log, Metrics


@dataclass(frozen=True, slots=True)
class Layer:
    """A plugin at its place in a chain. ``name`` is what the operator calls it."""

    name: str
    plugin: Plugin
    on_error: OnError


# ── The proof ────────────────────────────────────────────────────────────────────────────────────────────────────────


def prove(layers: Sequence[Layer], prefixes: Sequence[str] = ("",)) -> Iterator[tuple[int, str]]:
    """What is wrong with these layers on a route at ``prefixes``: the layer's index, and the words for the operator."""
    yield from _prove_order(layers)
    answered = [endpoint for prefix in prefixes for endpoint in layers[-1].plugin.endpoints(prefix)]
    for index, layer in enumerate(layers[:-1]):
        for endpoint in layer.plugin.uncovered(answered):
            yield (
                index,
                f"{layer.name} lets nobody call {endpoint}, which {layers[-1].name} answers; name it for a role",
            )


def _prove_order(layers: Sequence[Layer]) -> Iterator[tuple[int, str]]:
    known: set[Requirement] = set()
    providers: dict[Requirement, str] = {}
    for index, layer in enumerate(layers):
        last = index == len(layers) - 1
        if layer.plugin.terminal and not last:
            yield index, f"{layer.name} answers every request: no layer after it would ever run; move it to the end"
        if last and not (layer.plugin.terminal or layer.plugin.may_end):
            yield (
                index,
                f"the chain ends here, but {layer.name} passes requests on; end the chain with a terminal layer",
            )
        for need in sorted(layer.plugin.needs() - known, key=repr):
            if not _met(need, known):
                yield index, f"{layer.name} needs {need!r}, and no layer before it provides that"
        for fact in sorted(layer.plugin.provides(), key=repr):
            if fact in providers:
                yield index, f"{layer.name} provides {fact!r}, which {providers[fact]} has provided already"
            providers.setdefault(fact, layer.name)
            if layer.on_error == "closed":
                known.add(fact)


def _met(need: Requirement, known: set[Requirement]) -> bool:
    """Whether what is known implies ``need``: `A` implies `A | B`, and `A | B` implies `A | B | C`."""
    if not isinstance(need, AnyOf):
        return need in known
    return any((fact.facts if isinstance(fact, AnyOf) else {fact}) <= need.facts for fact in known)


# ── The onion ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rim:
    """What stands around every layer of every chain: it renders, reports and checks."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    def refuse(self, exchange: Exchange, refusal: Refusal, layer: str) -> web.Response:
        """The answer that a refusal is, in the caller's dialect."""
        exchange.layer = layer
        exchange.code = refusal.code
        self._metrics.count("refusals", layer=layer, code=refusal.code)
        if refusal.__cause__ is not None:
            self._log.warning(
                "refused", request=exchange.id, layer=layer, code=refusal.code, cause=describe(refusal.__cause__)
            )
        response = web.Response(
            status=refusal.status,
            body=exchange.dialect.error_body(refusal, exchange.id),
            content_type="application/json",
            headers=refusal.headers,
        )
        response.headers["x-gateway-error"] = layer
        if refusal.close:
            response.force_close()
        return response

    def fault(self, exchange: Exchange, error: Exception, layer: str) -> web.Response:
        """The answer to a layer's own failure: 500 with an id and no text of it."""
        self.report(exchange, error, layer)
        refusal = Refusal(500, "gateway_plugin_error", f"A layer of the gateway failed. Request id: {exchange.id}")
        return self.refuse(exchange, refusal, layer)

    def report(self, exchange: Exchange, error: Exception, layer: str) -> None:
        """Tell the operator of a layer's failure."""
        self._metrics.count("layer_faults", layer=layer)
        self._log.error("layer failed", request=exchange.id, layer=layer, error=error)

    def check(self, exchange: Exchange, response: web.StreamResponse, layer: str) -> web.StreamResponse:
        """The response if it can be sent as it is, else a fault of the layer that returned it."""
        try:
            _check_answer(response)
        except (TypeError, ValueError) as error:
            response = self.fault(exchange, error, layer)
        exchange.headers_version = _version(response)
        return response

    def bind(self, layer: Layer, inner: Handler) -> Handler:
        """One layer around the rest of the chain."""
        call = _checked(layer, inner)
        return self._open(layer, call, inner) if layer.on_error == "open" else self._closed(layer, call)

    def _closed(self, layer: Layer, call: Handler) -> Handler:
        plugin, name = layer.plugin, layer.name

        async def closed(request: web.Request) -> web.StreamResponse:
            exchange = request[EXCHANGE]
            response: web.StreamResponse
            try:
                response = await plugin(request, call)
            except Refusal as refusal:
                response = self.refuse(exchange, refusal, name)
            except web.HTTPException as answer:
                response = answer
            except Exception as error:  # noqa: BLE001 - the rim: a fault of the layer is an answer
                response = self.fault(exchange, error, name)
            # An untouched response is not checked twice.
            if isinstance(response, web.StreamResponse) and _version(response) == exchange.headers_version:
                return response
            return self.check(exchange, response, name)

        return closed

    def _open(self, layer: Layer, call: Handler, inner: Handler) -> Handler:
        plugin, name = layer.plugin, layer.name

        async def open_(request: web.Request) -> web.StreamResponse:
            exchange = request[EXCHANGE]
            answered: list[web.StreamResponse] = []

            async def observed(request: web.Request) -> web.StreamResponse:
                answered.append(await call(request))
                return answered[-1]

            try:
                return self.check(exchange, await plugin(request, observed), name)
            except Refusal as refusal:
                return self.check(exchange, self.refuse(exchange, refusal, name), name)
            except web.HTTPException as answer:
                return self.check(exchange, answer, name)
            except Exception as error:  # noqa: BLE001 - the rim: the operator chose to go on without the layer
                self.report(exchange, error, name)
                return answered[-1] if answered else await inner(request)

        return open_


def compose(layers: Sequence[Layer], rim: Rim) -> Handler:
    """The chain as one handler. It answers; it raises nothing but CancelledError."""

    async def nowhere(_: web.Request) -> web.StreamResponse:
        if layers[-1].plugin.may_end:
            raise Refusal(404, "unknown_url", "Nothing is routed at this path.")
        msg = f"{layers[-1].name} is terminal, but it called its handler"
        raise RuntimeError(msg)

    handler: Handler = nowhere
    for layer in reversed(layers):
        handler = rim.bind(layer, handler)
    return handler


def _checked(layer: Layer, inner: Handler) -> Handler:
    """The rest of the chain, guarded by what this layer promised; itself where it promised nothing."""
    promised = tuple(layer.plugin.provides())
    if not promised or layer.on_error == "open":
        return inner

    async def checked(request: web.Request) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        for requirement in promised:
            if not exchange.knows(requirement):
                msg = f"{layer.name} promised {requirement!r} and did not provide it"
                raise RuntimeError(msg)
        return await inner(request)

    return checked


def _version(response: web.StreamResponse) -> int:
    """Say which content the headers have: a number that no other multidict and no other content of this one has."""
    return getversion(cast("MultiDict[object]", response.headers))


def _check_answer(response: object) -> None:
    """Raise TypeError or ValueError for what must not be sent."""
    if not isinstance(response, web.StreamResponse):
        msg = f"a layer returned {type(response).__name__}, not a response"
        raise TypeError(msg)
    if response.prepared:
        msg = "a layer has written to the client by itself; return a Relay instead"
        raise ValueError(msg)
    for name, value in response.headers.items():
        if not (name.isascii() and name.isprintable() and " " not in name and ":" not in name and name):
            msg = "a header's name is not a token"
            raise ValueError(msg)
        if not (value.isascii() and value.isprintable()) and not _is_field_value(value):
            msg = f"the value of header {name} has characters that must not be sent"
            raise ValueError(msg)


def _is_field_value(value: str) -> bool:
    """RFC 9110, 5.5: visible characters, space, tab, and obs-text."""
    return all(char == "\t" or (" " <= char <= "\xff" and char != "\x7f") for char in value)


def describe(error: BaseException) -> str:
    """An exception for the log: its type and words, and those of what caused it."""
    text = f"{type(error).__name__}: {error}"
    return f"{text} (caused by {describe(error.__cause__)})" if error.__cause__ is not None else text
