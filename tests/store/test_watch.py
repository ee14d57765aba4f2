"""gateway.store.watch."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.store import Store
from gateway.store.watch import watch

if TYPE_CHECKING:
    from conftest import Backend, HeldClock, KeptLog, SqliteFile

OFTEN_S = 0.01


class Heard:
    """A callback that can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Note one more change."""
        self.times += 1
        self._event.set()

    async def once_more(self) -> None:
        """Return when it is called again."""
        self._event.clear()
        await asyncio.wait_for(self._event.wait(), timeout=10)


async def test_another_processes_change_is_heard(store: Store, backend: Backend, log: KeptLog) -> None:
    """F75: what one store changes is told to whoever watches another over the same database."""
    heard = Heard()
    async with backend.open() as other, watch(store, heard, log=log, interval_s=OFTEN_S):
        before = heard.times
        await other.users.create("a@example.com", "hash", "member")
        await heard.once_more()
        assert heard.times == before + 1


def test_the_default_pace_keeps_the_promise_of_a_second() -> None:
    """F75: a change is polled for every half second."""
    assert inspect.signature(watch).parameters["interval_s"].default == 0.5


async def test_the_callbacks_run_at_the_start(store: Store, log: KeptLog) -> None:
    """What was read before the watch began may be old: it is told to look once, before the context is entered."""
    heard = Heard()
    async with watch(store, heard, log=log):
        assert heard.times == 1


async def test_callbacks_run_in_their_order_and_are_awaited(store: Store, log: KeptLog) -> None:
    """Plain functions and coroutine functions alike, each done before the next begins."""
    order: list[str] = []

    async def slow() -> None:
        order.append("slow begins")
        await asyncio.sleep(0)
        order.append("slow ends")

    async with watch(store, slow, lambda: order.append("next"), log=log):
        pass
    assert order == ["slow begins", "slow ends", "next"]


async def test_a_callback_that_fails_is_called_again(store: Store, log: KeptLog) -> None:
    """A change that could not be taken in is not forgotten: the next poll tells of it again. One line is logged."""
    heard = Heard()
    failures = [RuntimeError("planted-secret"), StoreUnavailable("away"), StoreUnavailable("away")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    async with watch(store, fail, heard, log=log, interval_s=OFTEN_S):
        assert heard.times == 0
        await heard.once_more()
    assert not failures
    assert [event for event in log.events if "store_not_heard" in event] == log.events
    assert len(log.events) == 1
    assert "planted-secret" not in str(log.events)


async def test_a_change_while_the_store_was_away_is_heard_when_it_is_back(
    file: SqliteFile, clock: HeldClock, log: KeptLog
) -> None:
    """F44: the watch outlives an absence, and misses nothing that another process changed."""
    heard = Heard()
    async with Store.open(file.url, clock=clock, create=True):
        pass
    async with Store.open(file.url, clock=clock, deadline_s=0.1) as store:
        file.without_write_ahead_log()
        async with watch(store, heard, log=log, interval_s=OFTEN_S):
            with file.locked():
                await asyncio.wait_for(log.told.wait(), timeout=10)
            before = heard.times
            file.execute("UPDATE changes SET number = number + 1")
            await heard.once_more()
            assert heard.times == before + 1
    assert log.events == ["store_not_heard {'error': \"another process holds the store's lock\"}"]


async def test_a_store_that_is_away_at_the_start_is_heard_later(
    file: SqliteFile, clock: HeldClock, log: KeptLog
) -> None:
    """F44: the watch begins without the store, and tells as soon as it can look."""
    heard = Heard()
    async with Store.open(file.url, clock=clock, create=True):
        pass
    async with Store.open(file.url, clock=clock, deadline_s=0.1) as store:
        file.without_write_ahead_log()
        lock = file.locked()
        lock.__enter__()
        async with watch(store, heard, log=log, interval_s=OFTEN_S):
            assert heard.times == 0
            lock.__exit__(None, None, None)
            await heard.once_more()


async def test_leaving_ends_the_watch(store: Store, log: KeptLog) -> None:
    """No task is left behind, and the body's own exception passes as it is."""
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        async with watch(store, Heard(), log=log):
            raise ZeroDivisionError
    assert asyncio.all_tasks() == before
