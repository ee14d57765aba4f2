"""Users in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.store.changes import announce, announce_if
from gateway.store.records import User
from gateway.store.tables import as_kept, users
from gateway.ulid import ulid

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock
    from gateway.store.database import Database


class Users:
    """Who may log in and own keys. An email means the same in capitals."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, email: str, password_hash: str, role: str) -> User:
        """Add a user. Raises StoreConflict where the email is taken."""
        now = as_kept(self._clock.time())
        user = User(
            id=ulid(now), email=_plain(email), password_hash=password_hash, role=role, disabled=False, created=now
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sa.insert(users).values(_values(user)))
            await announce(connection)

        await self._database.write(work)
        return user

    async def by_email(self, email: str) -> User | None:
        """The user with this email, disabled or not."""
        query = sa.select(users).where(users.c.email == _plain(email))

        async def work(connection: AsyncConnection) -> User | None:
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _user(row)

        return await self._database.read(work)

    async def list(self) -> list[User]:
        """All users, oldest first."""

        async def work(connection: AsyncConnection) -> list[User]:
            return [_user(row) for row in await connection.execute(sa.select(users).order_by(users.c.id))]

        return await self._database.read(work)

    async def set_password(self, user_id: str, password_hash: str) -> bool:
        """Replace the password; False where there is no such user."""
        return await self._update(user_id, password_hash=password_hash)

    async def disable(self, user_id: str) -> bool:
        """Lock the user out, with all of the user's keys; False where there is no such user."""
        return await self._update(user_id, disabled=True)

    async def _update(self, user_id: str, **values: object) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            result = await connection.execute(sa.update(users).where(users.c.id == user_id).values(**values))
            return await announce_if(connection, result)

        return await self._database.write(work)


def _plain(email: str) -> str:
    return email.strip().lower()


def _values(user: User) -> dict[str, object]:
    return {column.name: getattr(user, column.name) for column in users.c}


def _user(row: sa.Row[tuple[object, ...]]) -> User:
    return User(**row._mapping)  # noqa: SLF001 - the public name of a row as a mapping
