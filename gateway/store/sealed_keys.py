"""Provider keys and the vault's record in the store: sealed bytes, opened elsewhere.

How the record and the keys change together when the vault's own keys are replaced is in :mod:`gateway.store.rotation`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from gateway.errors import StoreConflict
from gateway.security.vault import VaultRecord
from gateway.store.changes import announce, announce_if
from gateway.store.records import SealedKey
from gateway.store.tables import provider_keys, vault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.store.database import Database


class SealedKeys:
    """One sealed key for each upstream."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, *keys: SealedKey) -> None:
        """Keep each key for its upstream, in place of the one that was there: all of them or none.

        Raises StoreConflict for a key that is not sealed with the vault's newest data key: an older one may be gone in
        the next moment, and the secret with it. Unlock the vault again, seal again, put again.
        """

        async def work(connection: AsyncConnection) -> None:
            # Where writers are not one at a time, this keeps the data key as it is until the keys are there.
            newest = (await connection.execute(sa.select(vault.c.version).with_for_update(read=True))).scalar()
            for key in keys:
                if newest not in (None, key.key_version):
                    raise StoreConflict(
                        f"the key of {key.upstream} was sealed with data key {key.key_version}, and the vault has "
                        f"data key {newest} now: store it again"
                    )
                await connection.execute(sa.delete(provider_keys).where(provider_keys.c.upstream == key.upstream))
                await connection.execute(sa.insert(provider_keys).values(asdict(key)))
            await announce(connection)

        await self._database.write(work)

    async def list(self) -> list[SealedKey]:
        """All keys, by upstream."""

        async def work(connection: AsyncConnection) -> list[SealedKey]:
            return await sealed_keys(connection)

        return await self._database.read(work)

    async def list_with_vault(self) -> tuple[VaultRecord | None, Sequence[SealedKey]]:
        """All keys and the vault's record, as they were at one moment; without a key, without the record."""

        async def work(connection: AsyncConnection) -> tuple[VaultRecord | None, Sequence[SealedKey]]:
            # One statement sees one moment. Two could see a key that was sealed anew under a record from before that.
            both = sa.select(provider_keys, vault).select_from(provider_keys.outerjoin(vault, sa.true()))
            rows = [row._mapping for row in await connection.execute(both)]  # noqa: SLF001 - a row's public mapping
            keys = [SealedKey(**{column.name: row[column] for column in provider_keys.c}) for row in rows]
            if not rows or rows[0][vault.c.version] is None:
                return None, keys
            return _record({column.name: rows[0][column] for column in vault.c}), keys

        return await self._database.read(work)

    async def remove(self, upstream: str) -> bool:
        """Forget the key of this upstream; False where there is none."""

        async def work(connection: AsyncConnection) -> bool:
            result = await connection.execute(sa.delete(provider_keys).where(provider_keys.c.upstream == upstream))
            return await announce_if(connection, result)

        return await self._database.write(work)


class VaultRecords:
    """The record that unlocks the vault: one row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> VaultRecord | None:
        """The record; None before the vault was made."""

        async def work(connection: AsyncConnection) -> VaultRecord | None:
            row = (await connection.execute(sa.select(vault))).one_or_none()
            return None if row is None else _record(row._mapping)  # noqa: SLF001 - the public name of a row as a mapping

        return await self._database.read(work)

    async def create(self, record: VaultRecord) -> None:
        """Keep the record of a new vault. Raises StoreConflict where there is a vault: it is never replaced."""

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(sa.select(vault.c.version))).first() is not None:
                raise StoreConflict("the store has a vault already")
            await connection.execute(sa.insert(vault).values(_values(record)))

        await self._database.write(work)


async def sealed_keys(connection: AsyncConnection) -> list[SealedKey]:
    """All provider keys, by upstream."""
    rows = await connection.execute(sa.select(provider_keys).order_by(provider_keys.c.upstream))
    return [SealedKey(**row._mapping) for row in rows]  # noqa: SLF001 - the public name of a row as a mapping


async def replace_record(connection: AsyncConnection, old: VaultRecord, new: VaultRecord) -> None:
    """Put ``new`` in the one row in which ``old`` is. Raises StoreConflict where ``old`` is no longer there."""
    found = (vault.c.version == old.version) & (vault.c.wrapped_key == old.wrapped_key)
    result = await connection.execute(sa.update(vault).where(found).values(_values(new)))
    if result.rowcount != 1:
        raise StoreConflict("the vault's record was changed by somebody else in this moment: run it again")


def _record(row: Mapping[Any, Any]) -> VaultRecord:
    fields = {str(name): value for name, value in row.items()}
    return VaultRecord(check=fields.pop("check_value"), **fields)


def _values(record: VaultRecord) -> dict[str, object]:
    fields = asdict(record)
    return {"check_value": fields.pop("check"), **fields}
