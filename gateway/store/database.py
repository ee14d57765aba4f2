"""One engine, used within deadlines, whose errors are the gateway's own.

Every use of the store is a unit of work: a coroutine function that gets a connection. It runs in a task of its own, so
that its caller waits for the deadline at most, even where the driver cannot be interrupted: a connection whose call is
stuck is ended and replaced in the background. A write that ran out of time may have been committed or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any, TypeVar

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from gateway.errors import StoreError

    T = TypeVar("T")

IMMEDIATE = "gateway_immediate"
"""Execution option of a connection that will write: an engine that can takes its write lock at the start."""

DURABLE = "gateway_durable"
"""Execution option of a connection whose commits must outlive a power cut, and not only the end of this process."""

_CLOSING_S = 5.0


class Database:
    """An engine and the deadline of every call. ``translate`` knows the driver's errors; None means: not its fault."""

    def __init__(
        self, engine: AsyncEngine, *, deadline_s: float, translate: Callable[[DBAPIError], StoreError | None]
    ) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{IMMEDIATE: True})
        self._durable_writer = engine.execution_options(**{IMMEDIATE: True, DURABLE: True})
        self._deadline_s = deadline_s
        self._translate = translate
        self._running: set[asyncio.Task[Any]] = set()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What ``work`` answers. Each statement sees the data as it is when the statement begins."""
        return await self._within_deadline(self._read(work))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]], *, durable: bool = False) -> T:
        """What ``work`` answers, once everything that it did is committed; nothing of it where it raises.

        A ``durable`` commit is on the disk when this returns, as is everything that was committed before it.
        """
        return await self._within_deadline(self._write(work, self._durable_writer if durable else self._writer))

    async def close(self) -> None:
        """End every connection, after the calls that still run or after five seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSING_S)
        await self._engine.dispose()

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._engine.connect() as connection:
            return await work(connection)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]], writer: AsyncEngine) -> T:
        async with writer.begin() as connection:
            return await work(connection)

    async def _within_deadline(self, call: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(call)  # noqa: TID251 - owned: kept in _running, awaited by close
        self._running.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait((task,), timeout=self._deadline_s)
        finally:
            task.cancel()
        if not task.done():
            raise StoreUnavailable(f"the store did not answer within {self._deadline_s:g} s")
        return self._outcome(task)

    def _outcome(self, task: asyncio.Task[T]) -> T:
        try:
            return task.result()
        except PoolTimeout as error:
            raise StoreUnavailable("all connections to the store are busy") from error
        except DBAPIError as error:
            translated = self._translate(error)
            if translated is None:
                raise
            raise translated from error

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # An abandoned call has nobody left to tell: its caller was told that the store did not answer.
        if not task.cancelled():
            task.exception()
