"""Provider keys and the vault's record in the store: sealed bytes, opened elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.security.vault import VaultRecord
from gateway.store.changes import announce, announce_if
from gateway.store.records import SealedKey
from gateway.store.tables import provider_keys, vault

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.store.database import Database


class SealedKeys:
    """One sealed key for each upstream."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, key: SealedKey) -> None:
        """Keep this key for its upstream, in place of the one that was there."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.delete(provider_keys).where(provider_keys.c.upstream == key.upstream))
            await connection.execute(sa.insert(provider_keys).values(asdict(key)))
            await announce(connection)

        await self._database.write(work)

    async def list(self) -> list[SealedKey]:
        """All keys, by upstream."""

        async def work(connection: AsyncConnection) -> list[SealedKey]:
            rows = await connection.execute(sa.select(provider_keys).order_by(provider_keys.c.upstream))
            return [SealedKey(**row._mapping) for row in rows]  # noqa: SLF001 - the public name of a row as a mapping

        return await self._database.read(work)

    async def remove(self, upstream: str) -> bool:
        """Forget the key of this upstream; False where there is none."""

        async def work(connection: AsyncConnection) -> bool:
            result = await connection.execute(sa.delete(provider_keys).where(provider_keys.c.upstream == upstream))
            return await announce_if(connection, result)

        return await self._database.write(work)


class VaultRecords:
    """The record that unlocks the vault, written once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> VaultRecord | None:
        """The record; None before the vault was made."""

        async def work(connection: AsyncConnection) -> VaultRecord | None:
            row = (await connection.execute(sa.select(vault))).one_or_none()
            if row is None:
                return None
            fields = dict(row._mapping)  # noqa: SLF001 - the public name of a row as a mapping
            return VaultRecord(check=fields.pop("check_value"), **fields)

        return await self._database.read(work)

    async def create(self, record: VaultRecord) -> None:
        """Keep the record of a new vault. Raises StoreConflict where there is a vault: it is never replaced."""
        fields = asdict(record)
        fields["check_value"] = fields.pop("check")

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(vault).values(fields))

        await self._database.write(work)
