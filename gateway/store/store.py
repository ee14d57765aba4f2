"""The durable store: one object, its methods grouped by what they are about."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.store import sqlite
from gateway.store.api_keys import ApiKeys
from gateway.store.audit import AuditLog
from gateway.store.changes import change_number
from gateway.store.rotation import Rotation
from gateway.store.sealed_keys import SealedKeys, VaultRecords
from gateway.store.usage import UsageRows
from gateway.store.users import Users

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock
    from gateway.security.vault import Cipher
    from gateway.store.database import Database
    from gateway.store.migrate import Schema


class Store:
    """Users, keys, sealed provider keys, the vault's record, usage and the audit log.

    Every call ends within the deadline and raises nothing of the database's own: StoreUnavailable where the same call
    may succeed later, StoreMismatch where an operator has to act, StoreConflict where something is there already. All
    that a call writes is written, or none of it; after StoreUnavailable it may be either.
    """

    def __init__(
        self, database: Database, clock: Clock, alone: Callable[[str], AbstractAsyncContextManager[None]]
    ) -> None:
        self._database = database
        self._clock = clock
        self._alone = alone
        self.users = Users(database, clock)
        self.api_keys = ApiKeys(database, clock)
        self.provider_keys = SealedKeys(database)
        self.vault = VaultRecords(database)
        self.usage = UsageRows(database)

    @staticmethod
    async def look(url: str) -> Schema:
        """How far the schema of the store at ``url`` has got, without changing it. Raises what opening it would."""
        return await asyncio.to_thread(sqlite.look, sqlite.path_of(url))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, clock: Clock, create: bool = False, deadline_s: float = 1.0
    ) -> AsyncIterator[Store]:
        """The store at ``url`` (``sqlite:///FILE``), its schema brought up to date.

        With ``create`` what is missing is made. Without it a missing file is a StoreMismatch, as is one that is
        damaged, read-only, foreign, or of a newer version, always: nothing is ever made in the place of such a file.
        """
        path = sqlite.path_of(url)
        await asyncio.to_thread(sqlite.prepare, path, create=create)
        database = sqlite.connect(path, deadline_s=deadline_s)
        try:
            yield cls(database, clock, partial(sqlite.alone, path))
        finally:
            await database.close()

    def audit(self, key: bytes) -> AuditLog:
        """The audit log under the vault's key for it."""
        return AuditLog(self._database, self._clock, key)

    @asynccontextmanager
    async def rotation(self, *, actor: str, cipher: Cipher) -> AsyncIterator[Rotation]:
        """The right to replace the vault's keys, which one process has at a time, until it leaves or ends.

        ``actor`` is who does it, for the audit log. Raises StoreConflict where another process has the right.
        """
        async with self._alone("another process is replacing the vault's keys: let it finish"):
            yield Rotation(self._database, self._clock, actor=actor, cipher=cipher)

    async def changes(self) -> int:
        """The number that every change of keys, users, roles or provider keys raises."""
        return await self._database.read(change_number)

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.select(sa.literal(1)))

        await self._database.read(work)
