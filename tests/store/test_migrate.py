"""gateway.store.migrate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from gateway.errors import StoreMismatch
from gateway.store.store import Store
from gateway.store.tables import metadata

if TYPE_CHECKING:
    from conftest import HeldClock, SqliteFile

TABLES = {"users", "sessions", "api_keys", "provider_keys", "vault", "usage", "audit", "changes", "gateway_schema"}


def tables(file: SqliteFile) -> set[str]:
    """What is in the file."""
    return {str(name) for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


async def test_the_steps_lead_to_the_schema_that_the_queries_use(file: SqliteFile, clock: HeldClock) -> None:
    """Walking all steps gives exactly ``tables.py``: no table, column, type, index or constraint more or less."""
    async with Store.open(file.url, clock=clock, create=True):
        pass
    engine = sa.create_engine(f"sqlite:///{file.path}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        ours = {"version_table": "gateway_schema", "target_metadata": metadata, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), metadata) == []


async def test_a_newer_schema_is_refused_and_left_alone(file: SqliteFile, clock: HeldClock) -> None:
    """F71: an older gateway does not touch what a newer one made, and says which of the two to run."""
    async with Store.open(file.url, clock=clock, create=True):
        pass
    file.execute("UPDATE gateway_schema SET version_num = '9999'")
    before = file.path.read_bytes()
    for create in (False, True):
        with pytest.raises(StoreMismatch, match="9999, made by a newer gateway"):
            async with Store.open(file.url, clock=clock, create=create):
                pass
    assert file.path.read_bytes() == before


async def test_an_interrupted_migration_leaves_nothing_and_is_done_again(
    file: SqliteFile, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F71: a step that dies half way is undone whole; the next start completes it."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(op, "bulk_insert", die)
        with pytest.raises(KeyboardInterrupt):
            async with Store.open(file.url, clock=clock, create=True):
                pass
    assert tables(file) == set()
    async with Store.open(file.url, clock=clock, create=True) as store:
        assert await store.changes() == 0
    assert tables(file) == TABLES


KILLED = """
import asyncio, os, sys
from alembic import op
from gateway.clock import SystemClock
from gateway.store.store import Store

op.create_index = lambda *_, **__: os.kill(os.getpid(), 9)

async def main():
    async with Store.open(sys.argv[1], clock=SystemClock(), create=True):
        pass

asyncio.run(main())
"""


def end_of(program: str, url: str) -> int:
    """How a program ended that was given this store."""
    return subprocess.run([sys.executable, "-c", program, url], check=False, capture_output=True).returncode


async def test_a_killed_migration_is_done_again(file: SqliteFile, clock: HeldClock) -> None:
    """F71: kill -9 in the middle of a step, and the next start finds a store that it can complete."""
    assert await asyncio.to_thread(end_of, KILLED, file.url) == -9
    async with Store.open(file.url, clock=clock, create=True) as store:
        assert await store.users.list() == []
    assert tables(file) == TABLES


OPENING = """
import asyncio, sys
from gateway.clock import SystemClock
from gateway.store.store import Store

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with Store.open(sys.argv[1], clock=SystemClock(), create=True) as store:
        await store.users.create(sys.argv[2] + "@example.com", "hash", "member")

asyncio.run(main())
"""


def start_three_at_once(url: str) -> None:
    """Three processes, held until all have imported what they need, then let go; each must end well and silently."""
    starting = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPENING, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for process in starting:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in starting:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in starting:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")


async def test_several_that_start_at_once_migrate_once(file: SqliteFile, clock: HeldClock) -> None:
    """F71: of three processes that make and migrate the same new store at once each finds it whole and can write."""
    await asyncio.to_thread(start_three_at_once, file.url)
    async with Store.open(file.url, clock=clock) as store:
        assert len(await store.users.list()) == 3
    assert file.execute("SELECT count(*) FROM gateway_schema") == [(1,)]


async def test_a_current_store_is_opened_without_a_change(file: SqliteFile, clock: HeldClock) -> None:
    """Opening what is up to date writes nothing."""
    async with Store.open(file.url, clock=clock, create=True):
        pass
    before = file.path.read_bytes()
    async with Store.open(file.url, clock=clock):
        pass
    assert file.path.read_bytes() == before
