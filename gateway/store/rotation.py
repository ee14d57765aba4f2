"""Replacing the keys of the vault, so that whoever is killed on the way has lost nothing.

The master key: one row, the vault's record, is written anew in one transaction. Before it the old master key opens
everything, after it the new one does, and there is no time between.

A data key, in transactions of which each leaves a store that the same master key opens::

    begin       the record's key ring gets one more data key; from now on every secret is sealed with it
    per secret  opened with the old data key, sealed with the new one, written if nobody has replaced it meanwhile
    finish      no secret is left under an older data key: the ring is written without them

What is left to do is read from the store: a ring of several data keys has a rotation to finish, and each sealed value
says in its own header which data key it is under. So a run that was killed is finished by the next one, and nothing is
sealed twice. Other processes may write keys meanwhile: :meth:`gateway.store.sealed_keys.SealedKeys.put` refuses what is
not sealed with the newest data key, so that none is left behind when the older ones are forgotten.

Each act stands in the audit log, in the transaction that does it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.errors import MasterKeyError, StoreConflict, StoreMismatch
from gateway.security.vault import KeyVault, data_key_version, require_strong
from gateway.store.audit import PURPOSE, AuditLog
from gateway.store.changes import announce
from gateway.store.credentials import open_sealed, reseal
from gateway.store.sealed_keys import SealedKeys, VaultRecords, replace_record, sealed_keys
from gateway.store.tables import provider_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock, Secret
    from gateway.security.vault import Cipher, VaultRecord
    from gateway.store.database import Database
    from gateway.store.records import SealedKey

    Progress = Callable[[int, int], None]
    """Called after each secret: how many are done, and how many there are."""

_TARGET = "vault"


@dataclass(frozen=True, slots=True)
class DataKeyChange:
    """What came of it.

    ``version`` is the data key that seals now, ``sealed`` how many secrets this run sealed with it, and ``resumed``
    whether an earlier run had begun.
    """

    version: int
    sealed: int
    resumed: bool


class Rotation:
    """Given by :meth:`gateway.store.store.Store.rotation`, which sees to it that there is one at a time.

    Both methods raise MasterKeyError for a master key that is not the vault's, and may be called again after whatever
    error and whatever end: they do what is left to do.
    """

    def __init__(self, database: Database, clock: Clock, *, actor: str, cipher: Cipher) -> None:
        self._database = database
        self._clock = clock
        self._actor = actor
        self._cipher: Cipher = cipher
        self._keys = SealedKeys(database)
        self._records = VaultRecords(database)

    async def change_master_key(self, old: Secret, new: Secret) -> bool:
        """Put the vault under ``new``; False, and nothing written, where it was already.

        When this returns it is on the disk, whatever becomes of the machine: the old master key may be thrown away.
        """
        require_strong(new)
        record = await self._record()
        if await self._fits(new, record):
            return False
        vault = await self._unlock(old, record)
        anew = await asyncio.to_thread(vault.wrap, new)

        async def work(connection: AsyncConnection) -> None:
            await replace_record(connection, record, anew)
            await self._note(connection, vault, "vault.change_master_key")

        await self._database.write(work, durable=True)
        return True

    async def is_under(self, master: Secret) -> bool:
        """Whether this is the vault's master key."""
        return await self._fits(master, await self._record())

    async def change_data_key(self, master: Secret, progress: Progress) -> DataKeyChange:
        """Seal every secret with a new data key, or finish what an earlier run began.

        Raises CannotOpen where a secret cannot be opened: before the beginning, if it is so then, with nothing written.
        The older data keys are kept for as long as something is sealed with them.
        """
        record = await self._record()
        vault = await self._unlock(master, record)
        resumed = len(vault.versions) > 1
        if not resumed:
            vault, record = await self._begin(vault, record, master)
        sealed = await self._seal_anew(vault, progress)
        await self._finish(vault, record, master)
        return DataKeyChange(vault.version, sealed, resumed)

    async def _begin(self, old: KeyVault, record: VaultRecord, master: Secret) -> tuple[KeyVault, VaultRecord]:
        for key in await self._keys.list():
            open_sealed(old, key)
        vault = old.with_new_data_key()
        begun = await asyncio.to_thread(vault.wrap, master)

        async def work(connection: AsyncConnection) -> None:
            await replace_record(connection, record, begun)
            await announce(connection)
            await self._note(connection, vault, "vault.begin_data_key", data_key=vault.version)

        await self._database.write(work, durable=True)
        return vault, begun

    async def _seal_anew(self, vault: KeyVault, progress: Progress) -> int:
        older = _not_under(vault.version, await self._keys.list())
        for done, key in enumerate(older, start=1):
            await self._replace(key, reseal(vault, key))
            progress(done, len(older))
        return len(older)

    async def _replace(self, old: SealedKey, new: SealedKey) -> None:
        """Write ``new`` unless somebody has put or removed the upstream's key since ``old`` was read."""

        async def work(connection: AsyncConnection) -> None:
            same = (provider_keys.c.upstream == old.upstream) & (provider_keys.c.ciphertext == old.ciphertext)
            await connection.execute(
                sa.update(provider_keys).where(same).values(ciphertext=new.ciphertext, key_version=new.key_version)
            )

        await self._database.write(work)

    async def _finish(self, vault: KeyVault, record: VaultRecord, master: Secret) -> None:
        finished = await asyncio.to_thread(vault.with_newest_data_key_only().wrap, master)

        async def work(connection: AsyncConnection) -> None:
            # Looked at once more, in the transaction that forgets the older data keys.
            if _not_under(vault.version, await sealed_keys(connection)):
                raise StoreConflict("a provider key was written with an older data key meanwhile: run it again")
            await replace_record(connection, record, finished)
            await announce(connection)
            await self._note(connection, vault, "vault.finish_data_key", data_key=vault.version)

        await self._database.write(work, durable=True)

    async def _record(self) -> VaultRecord:
        record = await self._records.read()
        if record is None:
            raise StoreMismatch("the store has no vault yet: run `gateway init`")
        return record

    async def _fits(self, master: Secret, record: VaultRecord) -> bool:
        try:
            await self._unlock(master, record)
        except MasterKeyError:
            return False
        return True

    async def _unlock(self, master: Secret, record: VaultRecord) -> KeyVault:
        return await asyncio.to_thread(KeyVault.unlock, master, record, self._cipher)

    async def _note(self, connection: AsyncConnection, vault: KeyVault, action: str, **detail: object) -> None:
        log = AuditLog(self._database, self._clock, vault.derive(PURPOSE))
        await log.append_within(connection, self._actor, action, _TARGET, detail)


def _not_under(version: int, keys: Iterable[SealedKey]) -> list[SealedKey]:
    """The keys that are sealed with another data key, by what they themselves say: a column could say anything."""
    return [key for key in keys if data_key_version(key.ciphertext) != version]
