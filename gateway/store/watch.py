"""Hearing of changes that other workers made: one number, polled."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.contract import Log
    from gateway.store.store import Store


@asynccontextmanager
async def watch(
    store: Store, *on_change: Callable[[], Awaitable[None] | None], log: Log, interval_s: float = 0.5
) -> AsyncIterator[None]:
    """While the context is open, call every ``on_change``, in this order, within ``interval_s`` after a change.

    A callback may be a coroutine function. One that fails is called again with the next poll, as are the others; they
    must bear being called without a change. While the store is away nothing is heard; what changed meanwhile is heard
    when it is back.
    """
    # What was read before this moment may be older than the number: so the callbacks run once at the start.
    watcher = _Watcher(store, on_change, log)
    await watcher.poll()
    task = asyncio.create_task(watcher.run(interval_s))  # noqa: TID251 - owned: ended and awaited below
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


class _Watcher:
    def __init__(self, store: Store, on_change: tuple[Callable[[], Awaitable[None] | None], ...], log: Log) -> None:
        self._store = store
        self._on_change = on_change
        self._log = log
        self._heard: int | None = None
        self._failing = False

    async def run(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.poll()

    async def poll(self) -> None:
        try:
            number = await self._store.changes()
            if number != self._heard:
                await self._tell()
                self._heard = number
        except StoreError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - the rim: deaf to one change must not mean deaf to all
            self._failed(type(error).__name__)
        else:
            self._failing = False

    async def _tell(self) -> None:
        for callback in self._on_change:
            pending = callback()
            if pending is not None:
                await pending

    def _failed(self, why: str) -> None:
        """Once per absence."""
        if not self._failing:
            self._failing = True
            self._log.warning("store_not_heard", error=why)
