"""API keys in the store: known by their digest, never by their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.contract import Principal, Rate
from gateway.security.keys import digest, last_four
from gateway.store.changes import announce, announce_if
from gateway.store.records import ApiKey, Grant
from gateway.store.tables import api_keys, as_kept, users
from gateway.ulid import ulid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock, Secret
    from gateway.store.database import Database


class ApiKeys:
    """The keys that clients call with."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        key: Secret,
        *,
        name: str,
        owner: str,
        expires: float | None = None,
        rate: Rate | None = None,
        models: frozenset[str] | None = None,
    ) -> ApiKey:
        """Add a key for the user with the id ``owner``. Its text is not kept: whoever made it shows it once.

        Raises StoreConflict where the key is there already or the owner is not.
        """
        now = as_kept(self._clock.time())
        made = ApiKey(
            id=ulid(now),
            last_four=last_four(key),
            name=name,
            owner=owner,
            created=now,
            expires=None if expires is None else as_kept(expires),
            revoked=None,
            last_used=None,
            rate=rate,
            models=models,
        )

        async def work(connection: AsyncConnection) -> None:
            await _insert(connection, made, key)
            await announce(connection)

        await self._database.write(work)
        return made

    async def by_digest(self, sha256: bytes) -> Grant | None:
        """Whom the key with this digest stands for.

        None for unknown, revoked and expired keys and for those of a disabled owner.
        """
        return await self._grant(api_keys.c.sha256 == sha256)

    async def by_id(self, key_id: str) -> Grant | None:
        """Whom the key with this id stands for; None as for :meth:`by_digest`."""
        return await self._grant(api_keys.c.id == key_id)

    async def _grant(self, is_the_key: sa.ColumnElement[bool]) -> Grant | None:
        query = (
            sa.select(api_keys, users.c.role)
            .join(users, api_keys.c.owner == users.c.id)
            .where(is_the_key, api_keys.c.revoked.is_(None), users.c.disabled.is_(False))
        )

        async def work(connection: AsyncConnection) -> Grant | None:
            row = (await connection.execute(query)).one_or_none()
            if row is None or _has_expired(row.expires, self._clock.time()):
                return None
            return _grant(_api_key(row), row.role)

        return await self._database.read(work)

    async def list(self, owner: str | None = None) -> list[ApiKey]:
        """All keys, or those of one owner, oldest first, those that no longer work included."""
        query = sa.select(api_keys).order_by(api_keys.c.id)
        if owner is not None:
            query = query.where(api_keys.c.owner == owner)

        async def work(connection: AsyncConnection) -> list[ApiKey]:
            return [_api_key(row) for row in await connection.execute(query)]

        return await self._database.read(work)

    async def revoke(self, key_id: str) -> bool:
        """End a key for good; False where there is none that could be ended."""
        ending = (
            sa.update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.revoked.is_(None))
            .values(revoked=self._clock.time())
        )

        async def work(connection: AsyncConnection) -> bool:
            result = await connection.execute(ending)
            return await announce_if(connection, result)

        return await self._database.write(work)

    async def rotate(self, key_id: str, key: Secret, *, overlap_s: float) -> ApiKey | None:
        """Put ``key`` in the place of another: same owner, name and limits. The old one works for ``overlap_s`` more.

        The new key expires when the old one would have. None where there is no such key or it no longer works.
        """
        now = as_kept(self._clock.time())

        async def work(connection: AsyncConnection) -> ApiKey | None:
            row = (await connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id))).one_or_none()
            if row is None or row.revoked is not None or _has_expired(row.expires, now):
                return None
            old = _api_key(row)
            new = ApiKey(
                id=ulid(now),
                last_four=last_four(key),
                name=old.name,
                owner=old.owner,
                created=now,
                expires=old.expires,
                revoked=None,
                last_used=None,
                rate=old.rate,
                models=old.models,
            )
            end = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
            await connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(expires=end))
            await _insert(connection, new, key)
            await announce(connection)
            return new

        return await self._database.write(work)

    async def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys were last used: many at once, by id. Never goes back in time, and is no change to announce."""
        if not used:
            return
        at = sa.bindparam("at", type_=api_keys.c.last_used.type)
        noting = (
            sa.update(api_keys)
            .where(
                api_keys.c.id == sa.bindparam("key_id"),
                sa.or_(api_keys.c.last_used.is_(None), api_keys.c.last_used < at),
            )
            .values(last_used=at)
        )
        rows = [{"key_id": key_id, "at": last_used} for key_id, last_used in used.items()]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(noting, rows)

        await self._database.write(work)


async def _insert(connection: AsyncConnection, made: ApiKey, key: Secret) -> None:
    values = {name: getattr(made, name) for name in _COLUMNS_AS_FIELDS}
    await connection.execute(
        sa.insert(api_keys).values(
            **values,
            sha256=digest(key.reveal()),
            rate_amount=made.rate.amount if made.rate else None,
            rate_period_s=made.rate.period_s if made.rate else None,
            models=sorted(made.models) if made.models is not None else None,
        )
    )


_COLUMNS_AS_FIELDS = ("id", "last_four", "name", "owner", "created", "expires", "revoked", "last_used")


def _api_key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    fields = row._mapping  # noqa: SLF001 - the public name of a row as a mapping
    return ApiKey(
        **{name: fields[name] for name in _COLUMNS_AS_FIELDS},
        rate=Rate(fields["rate_amount"], fields["rate_period_s"]) if fields["rate_amount"] is not None else None,
        models=frozenset(fields["models"]) if fields["models"] is not None else None,
    )


def _grant(key: ApiKey, role: str) -> Grant:
    principal = Principal(
        kind="key", id=key.id, name=key.name, owner=key.owner, role=role, models=key.models, rate=key.rate
    )
    return Grant(principal, key.expires)


def _has_expired(expires: float | None, now: float) -> bool:
    return expires is not None and now >= expires
