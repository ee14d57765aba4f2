"""Usage: one row for each exchange, on its way from the edge to the store.

The edge must not wait for a database, and the database is better off with batches. So rows go through a bounded queue
in memory; what is in it when the process is killed is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Self

from sqlalchemy.dialects import postgresql, sqlite

from gateway.contract import MODEL, PRINCIPAL, Usage
from gateway.errors import StoreError
from gateway.store.records import UsageRow
from gateway.store.tables import usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.contract import Clock, Exchange, Log, Outcome
    from gateway.store.database import Database
    from gateway.store.store import Store

_INSERTS: Mapping[str, Callable[[sa.Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
_COLUMNS = tuple(field.name for field in fields(UsageRow))
_MAX_TEXT = 200


class UsageRows:
    """The table of usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, rows: Sequence[UsageRow]) -> None:
        """Add the rows that are not there yet: a batch whose fate is unknown may be sent again."""
        if not rows:
            return
        # Not asdict(), which copies deeply: on a busy gateway that was a tenth of all of its time (November 2026).
        values = [{name: getattr(row, name) for name in _COLUMNS} for row in rows]

        async def work(connection: AsyncConnection) -> None:
            adding = _INSERTS[connection.dialect.name](usage).on_conflict_do_nothing(index_elements=["id"])
            await connection.execute(adding, values)

        await self._database.write(work)


class UsageWriter:
    """Takes the outcome of exchanges and writes it in batches, about every ``interval_s``, from a task of its own.

    ``async with``: leaving writes what is waiting, for ``draining_s`` at most. At most ``max_rows`` wait while the
    store is away; of what comes on top nothing is kept but its number, in ``dropped``.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        log: Log,
        interval_s: float = 0.2,
        max_rows: int = 50_000,
        batch: int = 500,
        draining_s: float = 5.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._interval_s = interval_s
        self._max_rows = max_rows
        self._batch = batch
        self._draining_s = draining_s
        self._waiting: deque[UsageRow] = deque()
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._away = False
        self.dropped = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())  # noqa: TID251 - owned: awaited in __aexit__
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._arrived.set()
        await asyncio.wait((self._task,), timeout=self._draining_s)
        self._task.cancel()
        await asyncio.wait((self._task,))
        self.dropped += len(self._waiting)
        if self.dropped:
            self._log.warning("usage_lost", rows=self.dropped)

    def record(self, exchange: Exchange, outcome: Outcome) -> None:
        """Take an ended exchange: a callback for ``exchange.on_done``. Never blocks, never raises for a full queue."""
        if len(self._waiting) >= self._max_rows:
            self.dropped += 1
            return
        self._waiting.append(_row(exchange, outcome, self._clock.time()))
        self._arrived.set()

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._arrived.wait()
            self._arrived.clear()
            await self._let_a_batch_gather()
            await self._write_all()
            if self._waiting:
                self._arrived.set()
        await self._write_all()

    async def _let_a_batch_gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._closing.wait()

    async def _write_all(self) -> None:
        """Write batch after batch until none waits or the store is away."""
        while self._waiting:
            rows = list(islice(self._waiting, self._batch))
            try:
                await self._store.usage.insert(rows)
            except StoreError as error:
                self._say_away(error)
                return
            except Exception as error:  # noqa: BLE001 - the rim: one bad batch must not end the writing of all
                self.dropped += len(rows)
                self._log.error("usage_refused", rows=len(rows), error=type(error).__name__)
            self._away = False
            for _ in rows:
                self._waiting.popleft()
            await self._note_use(rows)

    async def _note_use(self, rows: Sequence[UsageRow]) -> None:
        """Rows are in the order of time, so a key's last one says when it was last used."""
        with suppress(StoreError):  # the next batch of the same key makes up for it
            await self._store.api_keys.touch({row.key_id: row.at for row in rows if row.key_id is not None})

    def _say_away(self, error: StoreError) -> None:
        """Once per absence: the rows wait, and every interval tries again."""
        if not self._away:
            self._away = True
            self._log.warning("usage_waits", error=str(error), rows=len(self._waiting))


def _row(exchange: Exchange, outcome: Outcome, now: float) -> UsageRow:
    principal = exchange.get(PRINCIPAL)
    usage = outcome.usage or Usage()
    return UsageRow(
        id=exchange.id,
        at=now,
        route=exchange.route,
        key_id=principal.id if principal is not None and principal.kind == "key" else None,
        upstream=exchange.upstream,
        model=_storable(usage.model or exchange.get(MODEL)),
        status=outcome.status,
        code=outcome.code,
        layer=outcome.layer,
        ended=outcome.ended.value,
        input_tokens=usage.input,
        output_tokens=usage.output,
        cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        tokens_source=usage.source if outcome.usage is not None else None,
        cost_nanousd=None,
        duration_ms=round(outcome.duration_s * 1000),
        first_byte_ms=None if outcome.first_byte_s is None else round(outcome.first_byte_s * 1000),
        bytes_in=outcome.bytes_in,
        bytes_out=outcome.bytes_out,
    )


def _storable(text: str | None) -> str | None:
    """A client's or a provider's word as a database takes it: bounded, no lone surrogates, no NUL."""
    if text is None:
        return None
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode().replace("\0", "")
