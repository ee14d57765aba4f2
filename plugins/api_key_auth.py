"""Clients authenticate with a key that this gateway issued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from gateway.contract import EXCHANGE, PRINCIPAL, Plugin, Refusal, Verdict
from gateway.dialects import KEY_SUBPROTOCOL
from gateway.errors import StoreUnavailable
from gateway.security.keys import digest, is_api_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from gateway.contract import Handler, PluginConfig, Principal, Question, Requirement, Services

_BEARER = "bearer "


class ApiKeyAuth(Plugin):
    """Provides the principal whose key the request carries; refuses every request without exactly one good key.

    The key may stand in ``Authorization: Bearer``, ``x-api-key``, ``api-key``, or behind ``openai-insecure-api-key.``
    in ``Sec-WebSocket-Protocol``; in several of them if it is the same. Keys are known by their digest, so the
    comparison tells nothing by its timing. Unknown, revoked, expired and misshapen keys get the same answer.
    """

    def __init__(self, config: PluginConfig, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._keys = services.keys

    def provides(self) -> frozenset[Requirement]:
        """Who is calling."""
        return frozenset({PRINCIPAL})

    async def explain(self, question: Question) -> Verdict:
        """Whether the key is one that works."""
        if not question.has_key:
            raise _missing()
        if question.caller is None:
            raise _invalid()
        question.facts[PRINCIPAL] = question.caller
        return Verdict(f"knows the key {question.caller.id}, of the role {question.caller.role}")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, or say who is calling."""
        request[EXCHANGE][PRINCIPAL] = await self._principal(_the_one(set(_credentials(request))))
        return await handler(request)

    async def _principal(self, key: str) -> Principal:
        if not is_api_key(key):
            raise _invalid()
        try:
            principal = await self._keys.find(digest(key))
        except StoreUnavailable as error:
            message = "We cannot check API keys right now. Please try again in a moment."
            raise Refusal(503, "auth_unavailable", message, headers={"retry-after": "1"}) from error
        if principal is None:
            raise _invalid()
        return principal


def _credentials(request: web.Request) -> Iterator[str]:
    """Whatever stands in a slot for keys, repeated headers included; an empty one is no credential."""
    headers = request.headers
    # 1. Authorization. Another scheme than Bearer is a credential too: one that is no key of ours.
    for value in headers.getall(hdrs.AUTHORIZATION, ()):
        credential = value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else value.strip()
        if credential and credential.lower() != _BEARER.strip():
            yield credential
    # 2. The headers of Anthropic's and Azure's clients.
    for name in ("x-api-key", "api-key"):
        for value in headers.getall(name, ()):
            if value.strip():
                yield value.strip()
    # 3. Browsers' WebSockets, which can set no other header.
    for value in headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ()):
        for protocol in value.split(","):
            credential = protocol.strip()
            if credential.startswith(KEY_SUBPROTOCOL):
                yield credential[len(KEY_SUBPROTOCOL) :]


def _the_one(credentials: set[str]) -> str:
    if not credentials:
        raise _missing()
    if len(credentials) > 1:
        raise Refusal(400, "bad_request", "The request carries two different credentials. Send exactly one API key.")
    return credentials.pop()


def _missing() -> Refusal:
    message = "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."
    return Refusal(401, "missing_api_key", message, headers={"www-authenticate": "Bearer"})


def _invalid() -> Refusal:
    """One body for all, so that nobody learns which keys exist or once did."""
    challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
    return Refusal(401, "invalid_api_key", "Incorrect API key provided.", headers=challenge)
