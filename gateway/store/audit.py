"""The audit log: who did what, in a chain that shows tampering.

Each entry carries HMAC-SHA256, under a key derived from the vault's, over itself and the entry before it. Whoever can
write to the database but has not the master key can therefore neither change nor remove nor insert an entry unseen.
Cutting entries off the end leaves a chain that is whole: that is found against a head kept elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from gateway.security.framing import framed
from gateway.store.records import AuditEntry, AuditVerdict
from gateway.store.tables import as_kept, audit, changes, to_milliseconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock
    from gateway.store.database import Database

PURPOSE = b"audit"
"""What :meth:`gateway.security.vault.KeyVault.derive` makes this log's key for."""

_START = bytes(32)
_PAGE = 1000


class AuditLog:
    """Appends, shows and checks entries. ``key`` is the vault's, derived for :data:`PURPOSE`."""

    def __init__(self, database: Database, clock: Clock, key: bytes) -> None:
        self._database = database
        self._clock = clock
        self._key = key

    async def append(
        self, actor: str, action: str, target: str, detail: Mapping[str, object] | None = None
    ) -> AuditEntry:
        """Add an entry at the end. ``detail`` is anything that JSON can say, and holds no secret."""

        async def work(connection: AsyncConnection) -> AuditEntry:
            return await self.append_within(connection, actor, action, target, detail)

        return await self._database.write(work)

    async def append_within(
        self,
        connection: AsyncConnection,
        actor: str,
        action: str,
        target: str,
        detail: Mapping[str, object] | None = None,
    ) -> AuditEntry:
        """Add an entry in the transaction of the act that it tells of: neither is ever there without the other."""
        now = as_kept(self._clock.time())
        text = json.dumps(detail or {}, sort_keys=True, separators=(",", ":"))
        # SQLite has one writer anyhow. Elsewhere this row's lock makes appending one at a time.
        await connection.execute(sa.select(changes.c.number).with_for_update())
        last = (await connection.execute(_newest_first().limit(1))).one_or_none()
        number, before = (1, _START) if last is None else (last.number + 1, last.mac)
        bare = AuditEntry(number, now, actor, action, target, text, b"")
        entry = AuditEntry(number, now, actor, action, target, text, self._mac(bare, before))
        await connection.execute(sa.insert(audit).values(_values(entry)))
        return entry

    async def list(self, limit: int = 100, *, before: int | None = None) -> Sequence[AuditEntry]:
        """Up to ``limit`` entries, newest first, from below the number ``before``."""
        query = _newest_first().limit(limit)
        if before is not None:
            query = query.where(audit.c.number < before)
        return await self._fetch(query)

    async def verify(self, head: bytes | None = None) -> AuditVerdict:
        """Check the whole chain, a page at a time, and that ``head``, once its last mac, is still in it."""
        number, mac = 0, _START
        head_seen = head is None
        while page := await self._fetch(_oldest_first().where(audit.c.number > number).limit(_PAGE)):
            for entry in page:
                if entry.number != number + 1 or not hmac.compare_digest(entry.mac, self._mac(entry, mac)):
                    fault = f"entry {entry.number} or what stood before it was changed, added or removed"
                    return AuditVerdict(number, mac if number else None, fault)
                number, mac = entry.number, entry.mac
                head_seen = head_seen or mac == head
        cut = None if head_seen else "the given head is not in the log: its end was cut off, or it is another log's"
        return AuditVerdict(number, mac if number else None, cut)

    async def _fetch(self, query: sa.Select[tuple[object, ...]]) -> Sequence[AuditEntry]:
        async def work(connection: AsyncConnection) -> Sequence[AuditEntry]:
            rows = await connection.execute(query)
            return [AuditEntry(**row._mapping) for row in rows]  # noqa: SLF001 - the public name of a row as a mapping

        return await self._database.read(work)

    def _mac(self, entry: AuditEntry, before: bytes) -> bytes:
        words = (entry.actor, entry.action, entry.target, entry.detail)
        message = framed(
            before,
            entry.number.to_bytes(8),
            to_milliseconds(entry.at).to_bytes(8),
            *(word.encode() for word in words),
        )
        return hmac.digest(self._key, message, hashlib.sha256)


def _newest_first() -> sa.Select[tuple[object, ...]]:
    return sa.select(audit).order_by(audit.c.number.desc())


def _oldest_first() -> sa.Select[tuple[object, ...]]:
    return sa.select(audit).order_by(audit.c.number)


def _values(entry: AuditEntry) -> dict[str, object]:
    return {column.name: getattr(entry, column.name) for column in audit.c}
