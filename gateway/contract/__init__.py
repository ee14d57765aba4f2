"""All that a plugin author imports: the plugin, what it may raise and return, what it may know of an exchange.

A plugin is an aiohttp middleware with a typed configuration. It sits in a chain, sees the request on the way in, calls
``handler`` for the rest of the chain, and sees the answer on the way out::

    class Stamp(Plugin):
        class Config(PluginConfig):
            value: str

        def __init__(self, config: Config, services: Services) -> None:
            self._value = config.value

        async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            response.headers["x-stamp"] = self._value
            return response

Rules of the chain (``gateway/chain.py`` enforces them):

1. A refusal is *raised* (:class:`Refusal`). Any other exception is a fault of the layer: 500, unless ``on_error:
open``.
2. Only the edge writes to the client. A stream is *returned*, as a :class:`Relay`.
3. Facts about an exchange are set once, by the layer that declared to provide them.
4. ``on_done`` runs exactly once, whatever happened. A layer that opens something hands its closer to ``exchange.push``.

This package holds protocols and the values that pass through them, no backend.
"""

from __future__ import annotations

from gateway.contract.answers import Dialect, Relay, Tunnel
from gateway.contract.body import RequestBody, Scanner, json_body
from gateway.contract.exchange import EXCHANGE, Ended, Exchange, Outcome, Usage
from gateway.contract.facts import (
    ANONYMOUS,
    CREDENTIAL,
    MAY_USE,
    MODEL,
    PRINCIPAL,
    AnyOf,
    CredentialSource,
    Fact,
    Principal,
    Requirement,
    Secret,
)
from gateway.contract.plugin import Handler, OnError, Plugin, PluginConfig, Question, Verdict
from gateway.contract.services import (
    Bucket,
    Clock,
    Decision,
    KeyDirectory,
    Log,
    Metrics,
    Services,
    State,
    StoreHealth,
    Upstream,
    Vault,
)
from gateway.errors import Refusal
from gateway.units import Duration, Rate, Size

__all__ = [
    "ANONYMOUS",
    "CREDENTIAL",
    "EXCHANGE",
    "MAY_USE",
    "MODEL",
    "PRINCIPAL",
    "AnyOf",
    "Bucket",
    "Clock",
    "CredentialSource",
    "Decision",
    "Dialect",
    "Duration",
    "Ended",
    "Exchange",
    "Fact",
    "Handler",
    "KeyDirectory",
    "Log",
    "Metrics",
    "OnError",
    "Outcome",
    "Plugin",
    "PluginConfig",
    "Principal",
    "Question",
    "Rate",
    "Refusal",
    "Relay",
    "RequestBody",
    "Requirement",
    "Scanner",
    "Secret",
    "Services",
    "Size",
    "State",
    "StoreHealth",
    "Tunnel",
    "Upstream",
    "Usage",
    "Vault",
    "Verdict",
    "json_body",
]
