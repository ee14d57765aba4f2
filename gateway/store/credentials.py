"""Provider keys in use: sealed in memory, opened for one attempt, for one origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import CannotOpen, VaultError
from gateway.security.keys import last_four
from gateway.store.records import SealedKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.contract import Secret
    from gateway.security.masking import Masker
    from gateway.security.vault import KeyVault
    from gateway.store.store import Store

TABLE = "provider_keys"


def seal(vault: KeyVault, key: Secret, *, upstream: str, origin: str, added_by: str, added: float) -> SealedKey:
    """The key as it may be stored: bound to this upstream at this origin (``scheme://host[:port]``) by its cipher."""
    return SealedKey(
        upstream=upstream,
        origin=origin,
        ciphertext=vault.seal(key, TABLE, _row(upstream, origin)),
        key_version=vault.version,
        last_four=last_four(key),
        added_by=added_by,
        added=added,
    )


class ProviderKeys:
    """Implements ``contract.Vault``. Knows nothing until the first :meth:`reload`.

    A key whose row cannot be opened, because it is damaged or swapped with another's, fails for its upstream alone and
    is listed as :meth:`unhealthy`.
    """

    def __init__(self, vault: KeyVault, masker: Masker) -> None:
        self._vault = vault
        self._masker = masker
        self._sealed: Mapping[str, SealedKey] = {}
        self._unhealthy: Mapping[str, str] = {}

    async def reload(self, store: Store) -> None:
        """Take the keys as they are in the store now, see which can be opened, and mask their values from now on.

        Raises StoreError, and then keeps what it had.
        """
        sealed = {key.upstream: key for key in await store.provider_keys.list()}
        unhealthy = {}
        for key in sealed.values():
            try:
                self._masker.register(self._open(key))
            except CannotOpen as error:
                unhealthy[key.upstream] = str(error)
        self._sealed, self._unhealthy = sealed, unhealthy

    def credential(self, upstream: str, origin: str) -> Secret:
        """The key of ``upstream``, if it was stored for this origin.

        Raises VaultError otherwise: CannotOpen where there is a key that is of no use.
        """
        key = self._sealed.get(upstream)
        if key is None:
            raise VaultError(f"no key is stored for {upstream}: run `gateway provider-key set {upstream}`")
        if key.origin != origin:
            raise CannotOpen(
                f"the key of {upstream} was stored for {key.origin} and is not sent to {origin}: "
                f"run `gateway provider-key set {upstream}` again"
            )
        return self._open(key)

    def unhealthy(self) -> Mapping[str, str]:
        """The upstreams whose stored key cannot be opened, each with the reason."""
        return self._unhealthy

    def _open(self, key: SealedKey) -> Secret:
        return self._vault.open(key.ciphertext, TABLE, _row(key.upstream, key.origin))


def _row(upstream: str, origin: str) -> str:
    """What a key is sealed for. The origin is part of it: no edit of the database or of base_url moves a key."""
    return f"{upstream}@{origin}"
