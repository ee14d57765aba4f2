"""Provider keys in use: sealed in memory, opened for one attempt, for one origin."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.errors import CannotOpen, MasterKeyError, VaultError
from gateway.security.keys import last_four
from gateway.security.vault import data_key_version
from gateway.store.records import SealedKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.contract import Log, Secret
    from gateway.security.masking import Masker
    from gateway.security.vault import KeyVault, VaultRecord
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


def open_sealed(vault: KeyVault, key: SealedKey) -> Secret:
    """The key in clear. Raises CannotOpen."""
    return vault.open(key.ciphertext, TABLE, _row(key.upstream, key.origin))


def reseal(vault: KeyVault, key: SealedKey) -> SealedKey:
    """The same key under the vault's newest data key. Raises CannotOpen."""
    ciphertext = vault.seal(open_sealed(vault, key), TABLE, _row(key.upstream, key.origin))
    return replace(key, ciphertext=ciphertext, key_version=vault.version)


class ProviderKeys:
    """Implements ``contract.Vault``. Knows nothing until the first :meth:`reload`.

    A key whose row cannot be opened, because it is damaged or swapped with another's, fails for its upstream alone and
    is listed as :meth:`unhealthy`.

    It follows a data key that is replaced while it runs by ``unlock``, which may hold a thread for a moment. Where that
    fails because the master key was replaced before, what it knew goes on working: it uses a key as it was sealed
    before, if it is the same one, and lists it as unhealthy, because only a restart with the new master key helps.
    """

    def __init__(self, vault: KeyVault, masker: Masker, *, unlock: Callable[[VaultRecord], KeyVault], log: Log) -> None:
        self._vault = vault
        self._masker = masker
        self._unlock = unlock
        self._log = log
        self._sealed: Mapping[str, SealedKey] = {}
        self._unhealthy: Mapping[str, str] = {}

    async def reload(self, store: Store) -> None:
        """Take the keys as they are in the store now, see which can be opened, and mask their values from now on.

        Raises StoreError, and then keeps what it had.
        """
        record, keys = await store.provider_keys.list_with_vault()
        locked_out = await self._follow(record)
        sealed, unhealthy = {key.upstream: key for key in keys}, {}
        for key in keys:
            try:
                self._masker.register(self._open(key))
            except CannotOpen as error:
                unhealthy[key.upstream] = str(error)
                if locked_out and data_key_version(key.ciphertext) not in self._vault.versions:
                    unhealthy[key.upstream] = locked_out
                    sealed[key.upstream] = self._as_known(key)
        self._tell(unhealthy)
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

    async def _follow(self, record: VaultRecord | None) -> str | None:
        """Learn the data key that the vault has now; the words for it where that cannot be done."""
        if record is None or record.version in self._vault.versions:
            return None
        try:
            self._vault = await asyncio.to_thread(self._unlock, record)
        except MasterKeyError:
            return (
                f"it is sealed with data key {record.version}, and the master key was changed before that: "
                "restart the gateway with the new master key"
            )
        except CannotOpen as error:
            return str(error)
        return None

    def _as_known(self, key: SealedKey) -> SealedKey:
        """The key as it was sealed when it could be opened, if nothing but its seal has changed since."""
        known = self._sealed.get(key.upstream, key)
        same = replace(known, ciphertext=key.ciphertext, key_version=key.key_version) == key
        return known if same else key

    def _tell(self, unhealthy: Mapping[str, str]) -> None:
        """Log what is unhealthy for a reason that was not told yet."""
        for upstream, reason in unhealthy.items():
            if self._unhealthy.get(upstream) != reason:
                self._log.warning("credential_unhealthy", upstream=upstream, reason=reason)

    def _open(self, key: SealedKey) -> Secret:
        return open_sealed(self._vault, key)


def _row(upstream: str, origin: str) -> str:
    """What a key is sealed for. The origin is part of it: no edit of the database or of base_url moves a key."""
    return f"{upstream}@{origin}"
