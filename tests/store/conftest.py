"""Real stores on real files, a clock that is held, and faults that are made, not imagined."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

NOBODY = 65534


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Any blocking call that gateway code makes in an event loop fails the test. Tests themselves may."""
    with blockbuster_ctx("gateway"):
        yield


@dataclass
class HeldClock:
    """A clock that moves when it is told to. Implements ``contract.Clock``."""

    now: float = 1_800_000_000.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same seconds, from elsewhere."""
        return self.now - 1_700_000_000.0


@dataclass
class KeptLog:
    """Keeps the events that were logged. Implements ``contract.Log``."""

    events: list[str] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def debug(self, event: str, **fields: object) -> None:
        """Keep it."""
        self.events.append(f"{event} {fields}")
        self.told.set()

    info = warning = error = debug


@pytest.fixture
def clock() -> HeldClock:
    """A clock that moves when it is told to."""
    return HeldClock()


@pytest.fixture
def log() -> KeptLog:
    """A log that can be read."""
    return KeptLog()


@dataclass
class Backend:
    """An engine that a conformance test runs on: gives stores over one and the same database."""

    url: str
    clock: HeldClock

    def open(self, *, create: bool = True, deadline_s: float = 5.0) -> AbstractAsyncContextManager[Store]:
        """A store over this database. The deadline is long: these tests are not about it."""
        return Store.open(self.url, clock=self.clock, create=create, deadline_s=deadline_s)


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: HeldClock) -> Backend:
    """Every engine that the store runs on: one more is one more name here and its URL."""
    urls = {"sqlite": f"sqlite:///{tmp_path}/data/gateway.db"}
    return Backend(urls[request.param], clock)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    """An empty store."""
    async with backend.open() as opened:
        yield opened


@dataclass
class SqliteFile:
    """The file under a SQLite store, and other programs' hands on it."""

    path: Path

    @property
    def url(self) -> str:
        """What gateway.yaml would say."""
        return f"sqlite:///{self.path}"

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements as another program would. The last one's rows."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return [connection.execute(statement).fetchall() for statement in statements][-1]
        finally:
            connection.close()

    def without_write_ahead_log(self) -> None:
        """From now on a writer keeps readers out. Nobody may have the file open.

        With the write-ahead log readers go on whoever writes, which is the point of it, so a store that cannot be read
        has to be made.
        """
        assert self.execute("PRAGMA journal_mode = DELETE") == [("delete",)]

    @contextmanager
    def locked(self, how: str = "EXCLUSIVE") -> Iterator[None]:
        """Another program is in a transaction that began so."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute(f"BEGIN {how}")
            yield
            connection.execute("ROLLBACK")
        finally:
            connection.close()


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    """Where a SQLite store may be made."""
    return SqliteFile(tmp_path / "data" / "gateway.db")


@pytest.fixture
def unprivileged() -> Iterator[SqliteFile]:
    """A file in a folder that others may enter, and for the test a user whom file modes hold back, unlike root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = SqliteFile(Path(folder) / "data" / "gateway.db")
        if os.geteuid() != 0:
            yield file
            return
        file.path.parent.mkdir()
        os.chown(folder, NOBODY, NOBODY)
        os.chown(file.path.parent, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield file
        finally:
            os.seteuid(0)
