"""Layers that stand around the one under test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web

from gateway.contract import EXCHANGE, PRINCIPAL, Handler, Plugin, PluginConfig, Principal, Requirement, Verdict

if TYPE_CHECKING:
    from gateway.contract import Question, Services


class Identify(Plugin):
    """Says who is calling without asking: stands in for an authenticating layer."""

    class Config(PluginConfig):
        """Who."""

        id: str = "key_test"
        """The principal's id."""
        role: str = "member"
        """Its role."""
        models: frozenset[str] | None = None
        """The models that it may call; null: all."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._principal = Principal("key", config.id, "test", "user_test", config.role, config.models)

    def provides(self) -> frozenset[Requirement]:
        """Who is calling."""
        return frozenset({PRINCIPAL})

    async def explain(self, question: Question) -> Verdict:
        """Everybody is the same to it."""
        question.facts[PRINCIPAL] = self._principal
        return Verdict(f"takes everybody for {self._principal.id}")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Set the principal, go on."""
        request[EXCHANGE][PRINCIPAL] = self._principal
        return await handler(request)


class Echo(Plugin):
    """Ends a chain: answers with what arrived, as JSON ``{"method", "target", "headers", "body"}``."""

    terminal: ClassVar[bool] = True

    async def explain(self, question: Question) -> Verdict:  # noqa: ARG002 - everything
        """It answers everything."""
        return Verdict("answers with what arrived", answers=True)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG002 - terminal
        """Answer."""
        body = await request[EXCHANGE].body.read(2**24)
        seen = {
            "method": request.method,
            "target": request[EXCHANGE].target,
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
        }
        return web.Response(body=json.dumps(seen).encode(), content_type="application/json")
