"""gateway.store.usage: the writer between the edge and the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import sqlalchemy as sa

from gateway.contract import MODEL, PRINCIPAL, Ended, Exchange, Outcome, Principal, Usage
from gateway.security.keys import new_api_key
from gateway.store.store import Store
from gateway.store.tables import usage
from gateway.store.usage import UsageWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import HeldClock, KeptLog, SqliteFile

OFTEN_S = 0.01
PRINCIPAL_OF_A_KEY = Principal(kind="key", id="key-1", name="ci", owner="ada", role="member")
OUTCOME = Outcome(
    ended=Ended.COMPLETE,
    status=200,
    code=None,
    layer=None,
    bytes_in=10,
    bytes_out=20,
    duration_s=1.2345,
    first_byte_s=0.5,
    usage=Usage(input=1, output=2, cached=3, reasoning=4, model="m-2026", source="reported"),
)


def exchange(number: int, principal: Principal | None = PRINCIPAL_OF_A_KEY, model: str = "m") -> Exchange:
    """An exchange as the edge has it at the end."""
    ended = Exchange(
        id=f"id-{number:05}",
        listener="public",
        method="POST",
        target="/v1/chat/completions?q",
        path="/v1/chat/completions",
        client="127.0.0.1",
        secure=False,
        dialect=cast("Any", None),
        body=cast("Any", None),
        started=0.0,
    )
    ended.route, ended.upstream = "api", "openai"
    ended[MODEL] = model
    if principal is not None:
        ended[PRINCIPAL] = principal
    return ended


async def kept(store: Store) -> Sequence[sa.Row[Any]]:
    """The rows of usage, oldest first."""

    async def work(connection: Any) -> Sequence[sa.Row[Any]]:
        return (await connection.execute(sa.select(usage).order_by(usage.c.id))).all()

    return await store._database.read(work)


async def until_kept(store: Store, number: int) -> Sequence[sa.Row[Any]]:
    """Return when so many rows are there."""
    async with asyncio.timeout(10):
        while len(rows := await kept(store)) < number:
            pass
    return rows


async def test_an_exchange_becomes_a_row(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """Every field of the outcome is where it belongs; the row's id is the exchange's."""
    async with UsageWriter(store, clock=clock, log=log) as writer:
        writer.record(exchange(1), OUTCOME)
    [row] = await kept(store)
    assert row._asdict() == {
        "id": "id-00001",
        "at": clock.now,
        "route": "api",
        "key_id": "key-1",
        "upstream": "openai",
        "model": "m-2026",
        "status": 200,
        "code": None,
        "layer": None,
        "ended": "complete",
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_tokens": 3,
        "reasoning_tokens": 4,
        "tokens_source": "reported",
        "cost_nanousd": None,
        "duration_ms": 1234,
        "first_byte_ms": 500,
        "bytes_in": 10,
        "bytes_out": 20,
    }


async def test_an_exchange_without_usage_is_a_row_too(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """No tokens, no first byte and no key are told apart from zero; a dashboard's user is no key."""
    person = replace(PRINCIPAL_OF_A_KEY, kind="user")
    async with UsageWriter(store, clock=clock, log=log) as writer:
        writer.record(exchange(1, None), replace(OUTCOME, usage=None, first_byte_s=None, code="x", layer="rbac"))
        writer.record(exchange(2, person), OUTCOME)
    first, second = await kept(store)
    assert (first.model, first.tokens_source, first.first_byte_ms, first.key_id) == ("m", None, None, None)
    assert (first.code, first.layer) == ("x", "rbac")
    assert second.key_id is None


async def test_rows_are_written_while_it_runs(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """What was recorded is in the store soon, without anybody leaving the context, again and again."""
    async with UsageWriter(store, clock=clock, log=log, interval_s=OFTEN_S) as writer:
        for number in range(3):
            writer.record(exchange(number), OUTCOME)
            await until_kept(store, number + 1)


async def test_recording_neither_waits_nor_blocks(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """A callback of the edge: rows are taken in a plain call, and written in batches of at most so many."""
    batches: list[int] = []

    def note(*call: Any) -> None:
        if "INSERT INTO usage" in call[2]:
            batches.append(len(call[3]))

    sa.event.listen(store._database._engine.sync_engine, "before_cursor_execute", note)
    async with UsageWriter(store, clock=clock, log=log, batch=40) as writer:
        for number in range(100):
            writer.record(exchange(number), OUTCOME)
        assert batches == []
    assert batches == [40, 40, 20]
    assert len(await kept(store)) == 100


async def test_the_last_use_of_keys_is_noted(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """A batch of a key's exchanges notes the time of the last one."""
    user = await store.users.create("a@example.com", "hash", "member")
    key = await store.api_keys.create(new_api_key(), name="n", owner=user.id)
    async with UsageWriter(store, clock=clock, log=log) as writer:
        for number in range(3):
            clock.now += 1.0
            writer.record(exchange(number, replace(PRINCIPAL_OF_A_KEY, id=key.id)), OUTCOME)
    assert [kept_key.last_used for kept_key in await store.api_keys.list()] == [clock.now]


@pytest.mark.parametrize("model", ["\ud800", "a\0b", "m" * 100_000, "\U0001f600" * 300])
async def test_no_word_of_a_client_spoils_a_batch(store: Store, clock: HeldClock, log: KeptLog, model: str) -> None:
    """Lone surrogates, NUL and any length in a model's name are stored in some form, and the others with them."""
    async with UsageWriter(store, clock=clock, log=log) as writer:
        writer.record(exchange(1, model=model), replace(OUTCOME, usage=None))
        writer.record(exchange(2), OUTCOME)
    first, _ = await kept(store)
    assert 0 < len(first.model) <= 200
    assert "\0" not in first.model
    assert log.events == []


async def test_a_row_that_cannot_be_stored_takes_only_its_batch_along(
    store: Store, clock: HeldClock, log: KeptLog
) -> None:
    """A fault of the program in one batch is counted and logged, and the writing goes on."""
    async with UsageWriter(store, clock=clock, log=log, batch=1) as writer:
        writer.record(exchange(1), replace(OUTCOME, status=cast("int", object())))
        writer.record(exchange(2), OUTCOME)
    assert [row.id for row in await kept(store)] == ["id-00002"]
    assert writer.dropped == 1
    assert any("usage_refused" in event for event in log.events)


async def test_rows_wait_while_the_store_is_away(file: SqliteFile, clock: HeldClock, log: KeptLog) -> None:
    """F44, F48: nothing is lost while the store is away for a while; the absence is one line in the log."""
    async with (
        Store.open(file.url, clock=clock, create=True, deadline_s=0.1) as store,
        UsageWriter(store, clock=clock, log=log, interval_s=OFTEN_S) as writer,
    ):
        with file.locked():
            writer.record(exchange(1), OUTCOME)
            writer.record(exchange(2), OUTCOME)
            await asyncio.wait_for(log.told.wait(), timeout=10)
        assert len(await until_kept(store, 2)) == 2
    assert writer.dropped == 0
    assert len(log.events) == 1


async def test_what_is_too_much_is_dropped_and_counted(file: SqliteFile, clock: HeldClock, log: KeptLog) -> None:
    """F48: at the bound the newest rows are dropped, counted and told; leaving a store that is away ends in time."""
    async with Store.open(file.url, clock=clock, create=True, deadline_s=0.1) as store:
        with file.locked():
            async with UsageWriter(store, clock=clock, log=log, interval_s=OFTEN_S, max_rows=3) as writer:
                for number in range(5):
                    writer.record(exchange(number), OUTCOME)
                assert writer.dropped == 2
        assert writer.dropped == 5
        assert "usage_lost {'rows': 5}" in log.events


async def test_leaving_in_an_error_writes_what_waits(store: Store, clock: HeldClock, log: KeptLog) -> None:
    """A gateway that ends by an exception still writes its last rows, and the exception passes as it is."""

    async def record_and_fail() -> None:
        async with UsageWriter(store, clock=clock, log=log) as writer:
            writer.record(exchange(1), OUTCOME)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await record_and_fail()
    assert len(await kept(store)) == 1
