"""The provider's key comes from the vault, for a request that somebody has authenticated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import CREDENTIAL, EXCHANGE, PRINCIPAL, Plugin, Refusal, Verdict
from gateway.errors import VaultError

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.contract import Handler, PluginConfig, Question, Requirement, Secret, Services, Upstream
    from gateway.contract import Vault as KeyVault


class Vault(Plugin):
    """Provides the source that ``forward`` asks, per attempt, for the key of the upstream it is about to use.

    It needs a principal and not merely a caller who is known to be anonymous: a chain that would spend the provider's
    key on nobody does not start.
    """

    def __init__(self, config: PluginConfig, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._source = _FromVault(services.vault)

    def needs(self) -> frozenset[Requirement]:
        """Somebody who authenticated."""
        return frozenset({PRINCIPAL})

    def provides(self) -> frozenset[Requirement]:
        """Where the provider's key comes from."""
        return frozenset({CREDENTIAL})

    async def explain(self, question: Question) -> Verdict:
        """Nothing is opened here: whoever forwards says whether its key can be."""
        question.facts[CREDENTIAL] = self._source
        return Verdict("lends the provider's key to whoever forwards")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Leave the source for whoever forwards. Nothing is opened yet."""
        request[EXCHANGE][CREDENTIAL] = self._source
        return await handler(request)


class _FromVault:
    """Opens the key of an upstream for that upstream's configured origin, and for no other."""

    def __init__(self, vault: KeyVault) -> None:
        self._vault = vault

    def credential_for(self, upstream: Upstream) -> Secret:
        """The key. Raises a 503 Refusal whose cause says more, for the log alone."""
        try:
            return self._vault.credential(upstream.name, upstream.origin)
        except VaultError as error:
            raise Refusal(503, "credential_unavailable", "The provider's credential cannot be used now.") from error

    def __repr__(self) -> str:
        return "<credentials from the vault>"
