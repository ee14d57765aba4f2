"""The number by which other workers hear of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from gateway.store.tables import changes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def announce(connection: AsyncConnection) -> None:
    """Raise the number, in the transaction that makes the change: who sees the one sees the other."""
    await connection.execute(sa.update(changes).values(number=changes.c.number + 1))


async def announce_if(connection: AsyncConnection, result: sa.CursorResult[Any]) -> bool:
    """Announce where the statement changed a row; whether it did."""
    changed = result.rowcount > 0
    if changed:
        await announce(connection)
    return changed


async def change_number(connection: AsyncConnection) -> int:
    """The number as it stands."""
    number: int = (await connection.execute(sa.select(changes.c.number))).scalar_one()
    return number
