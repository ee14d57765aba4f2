"""gateway.store.sqlite and gateway.store.database: faults made with real files and real locks."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from gateway.errors import StoreError, StoreMismatch, StoreUnavailable
from gateway.security.keys import digest, new_api_key
from gateway.store import sqlite
from gateway.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from conftest import HeldClock, SqliteFile

SHORT_S = 0.2


async def made(file: SqliteFile, clock: HeldClock) -> None:
    """A store with one user, closed again."""
    async with Store.open(file.url, clock=clock, create=True) as store:
        await store.users.create("a@example.com", "hash", "member")


# ------------------------------------------------------------------------------------------------- the file


async def test_folder_and_file_are_the_owners_alone(file: SqliteFile, clock: HeldClock) -> None:
    """What `create` makes, nobody else on the machine can read, the write-ahead log included."""
    async with Store.open(file.url, clock=clock, create=True) as store:
        await store.users.create("a@example.com", "hash", "member")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()}
    assert modes == dict.fromkeys(("gateway.db", "gateway.db-wal", "gateway.db-shm"), 0o600)
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


async def test_creating_again_keeps_what_is_there(file: SqliteFile, clock: HeldClock) -> None:
    """`gateway init` on a store that exists changes nothing in it."""
    await made(file, clock)
    async with Store.open(file.url, clock=clock, create=True) as store:
        assert len(await store.users.list()) == 1


async def test_a_path_may_hold_any_character(tmp_path: Path, clock: HeldClock) -> None:
    """Spaces, percent signs, question marks of the folder's name are not taken for parts of a URL."""
    path = tmp_path / "a b%41#c" / "gateway.db"
    async with Store.open(f"sqlite:///{path}", clock=clock, create=True) as store:
        await store.ping()
    assert path.is_file()


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql://u:planted@h/db", "sqlite:///a?mode=ro"]
)
async def test_what_is_no_file_is_refused(url: str, clock: HeldClock) -> None:
    """Anything but a file is refused in words that show none of the URL."""
    with pytest.raises(StoreMismatch, match=r"sqlite:///data/gateway\.db") as caught:
        async with Store.open(url, clock=clock, create=True):
            pass
    assert "planted" not in str(caught.value)


async def test_pragmas_are_set(file: SqliteFile, clock: HeldClock) -> None:
    """Write-ahead log, foreign keys, a patience below the deadline, no fsync for every commit."""
    pragmas = ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
    async with Store.open(file.url, clock=clock, create=True) as store:

        async def work(connection: Any) -> list[object]:
            return [(await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one() for pragma in pragmas]

        assert await store._database.read(work) == ["wal", 1, 800, 1]


# ------------------------------------------------------------------------------------------------- at the start


async def test_a_missing_file_is_not_made(file: SqliteFile, clock: HeldClock) -> None:
    """F49: a store that is not there is refused with the remedy, and neither file nor folder appears."""
    with pytest.raises(StoreMismatch, match="gateway init"):
        async with Store.open(file.url, clock=clock):
            pass
    assert not file.path.parent.exists()


async def test_an_emptied_file_is_not_filled(file: SqliteFile, clock: HeldClock) -> None:
    """F49: a file that was truncated to nothing is refused; a gateway without keys must not come of it."""
    await made(file, clock)
    file.path.write_bytes(b"")
    with pytest.raises(StoreMismatch, match="backup"):
        async with Store.open(file.url, clock=clock):
            pass
    assert file.path.read_bytes() == b""


async def test_what_is_no_database_is_refused(file: SqliteFile, clock: HeldClock) -> None:
    """F49: garbage in place of the file stays as it is, `create` or not."""
    await made(file, clock)
    garbage = os.urandom(8192)
    file.path.write_bytes(garbage)
    for create in (False, True):
        with pytest.raises(StoreMismatch, match="backup"):
            async with Store.open(file.url, clock=clock, create=create):
                pass
    assert file.path.read_bytes() == garbage


async def test_a_corrupt_page_is_found_at_the_start(file: SqliteFile, clock: HeldClock) -> None:
    """F49: damage deep inside the tables that decide who may call is refused, and the file is left alone."""
    await made(file, clock)
    [(root,)] = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'api_keys'")
    [(page_size,)] = file.execute("PRAGMA page_size")
    damaged = bytearray(file.path.read_bytes())
    start = (int(str(root)) - 1) * int(str(page_size))
    damaged[start : start + 64] = os.urandom(64)
    file.path.write_bytes(damaged)
    with pytest.raises(StoreMismatch, match="damaged"):
        async with Store.open(file.url, clock=clock):
            pass
    assert file.path.read_bytes() == damaged


async def test_another_programs_database_is_left_alone(file: SqliteFile, clock: HeldClock) -> None:
    """F49: a database with tables of something else is not migrated."""
    file.path.parent.mkdir()
    file.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreMismatch, match="something else"):
        async with Store.open(file.url, clock=clock, create=True):
            pass
    assert file.execute("SELECT name FROM sqlite_master") == [("theirs",)]


@pytest.mark.parametrize("mode", [(0o400, 0o700), (0o600, 0o500), (0o000, 0o700), (0o600, 0o000)])
async def test_what_may_not_be_written_is_refused(
    unprivileged: SqliteFile, clock: HeldClock, mode: tuple[int, int]
) -> None:
    """F49: a file or a folder without the right to write is refused at the start, not at the first new key."""
    await made(unprivileged, clock)
    before = unprivileged.path.read_bytes()
    unprivileged.path.chmod(mode[0])
    unprivileged.path.parent.chmod(mode[1])
    try:
        with pytest.raises(StoreError) as caught:
            async with Store.open(unprivileged.url, clock=clock):
                pass
    finally:
        unprivileged.path.parent.chmod(0o700)
        unprivileged.path.chmod(0o600)
    assert str(unprivileged.path) in str(caught.value)
    assert unprivileged.path.read_bytes() == before


async def test_a_folder_in_the_files_place_is_refused(file: SqliteFile, clock: HeldClock) -> None:
    """A folder is not a store, and a file is not a folder: one line each, no traceback of the system's."""
    file.path.mkdir(parents=True)
    (file.path / "inner").write_text("x")
    for url in (file.url, f"{file.url}/inner/gateway.db"):
        with pytest.raises(StoreMismatch):
            async with Store.open(url, clock=clock, create=True):
                pass


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
async def test_a_lock_at_the_start_is_waited_for(file: SqliteFile, clock: HeldClock, how: str) -> None:
    """F47: a store that another program holds for a moment opens as soon as it is let go, whatever the lock."""
    await made(file, clock)
    file.without_write_ahead_log()
    with file.locked(how):
        opening = asyncio.ensure_future(opened_and_asked(file, clock))
        done, _ = await asyncio.wait((opening,), timeout=SHORT_S)
        assert not done
    assert await opening == 1


async def opened_and_asked(file: SqliteFile, clock: HeldClock) -> int:
    """Open the store and count its users."""
    async with Store.open(file.url, clock=clock) as store:
        return len(await store.users.list())


async def test_a_lock_that_stays_ends_the_start(
    file: SqliteFile, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F43: a store that cannot be had is one clear error within ten seconds (here: a patience of a moment)."""
    assert sqlite._PREPARING_S < 10
    monkeypatch.setattr(sqlite, "_PREPARING_S", SHORT_S)
    await made(file, clock)
    file.without_write_ahead_log()
    with file.locked(), pytest.raises(StoreUnavailable, match=r"gateway\.db: another process holds"):
        async with Store.open(file.url, clock=clock):
            pass


# ------------------------------------------------------------------------------------------------- in use


async def test_readers_go_on_while_another_program_writes(file: SqliteFile, clock: HeldClock) -> None:
    """F47: `BEGIN EXCLUSIVE` elsewhere delays no key lookup, and a write is refused within the deadline."""
    await made(file, clock)
    async with Store.open(file.url, clock=clock, deadline_s=SHORT_S) as store:
        with file.locked():
            assert len(await store.users.list()) == 1
            with pytest.raises(StoreUnavailable, match="lock"):
                await store.users.create("b@example.com", "hash", "member")
        await store.users.create("b@example.com", "hash", "member")


async def test_a_locked_store_is_away_and_comes_back(file: SqliteFile, clock: HeldClock) -> None:
    """F46, F47: many calls at once on a locked store all end in StoreUnavailable; once it is free, all is as before."""
    await made(file, clock)
    async with Store.open(file.url, clock=clock, deadline_s=SHORT_S) as store:
        file.without_write_ahead_log()
        with file.locked():
            outcomes = await asyncio.gather(*(store.users.list() for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert len(await store.users.list()) == 1


# SQLite counts to it for far longer than a deadline, and nothing but the end of the count stops it.
COUNT = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :many) SELECT max(i) FROM n")


async def test_a_call_that_hangs_ends_at_the_deadline(file: SqliteFile, clock: HeldClock) -> None:
    """F45: callers are answered at the deadline though the driver is stuck; the stuck connections are replaced."""
    await made(file, clock)

    async def hang(connection: Any) -> None:
        await connection.execute(COUNT, {"many": 1_500_000})

    async with Store.open(file.url, clock=clock, deadline_s=SHORT_S) as store:
        hanging = [store._database.read(hang) for _ in range(sqlite._CONNECTIONS)]
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert store._database._running
        while store._database._running:
            await asyncio.wait(store._database._running)
        assert len(await store.users.list()) == 1


async def test_a_write_that_was_given_up_is_undone(file: SqliteFile, clock: HeldClock) -> None:
    """F45: what ran out of its time holds no lock after it and is not committed behind its caller's back."""
    await made(file, clock)
    go_on = asyncio.Event()

    async def write_and_hang(connection: Any) -> None:
        await connection.execute(text("UPDATE changes SET number = 1000"))
        await go_on.wait()

    async with Store.open(file.url, clock=clock, deadline_s=SHORT_S) as store:
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await store._database.write(write_and_hang)
        await store.users.create("b@example.com", "hash", "member")
        go_on.set()
        assert await store.changes() == 2


async def test_a_cancelled_call_leaves_the_store_whole(file: SqliteFile, clock: HeldClock) -> None:
    """A caller that leaves in the middle of a write holds no lock and no connection for those who stay."""
    async with Store.open(file.url, clock=clock, create=True, deadline_s=5) as store:
        for number in range(12):
            writing = asyncio.ensure_future(store.users.create(f"{number}@example.com", "hash", "member"))
            for _ in range(number):
                await asyncio.sleep(0)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        user = await store.users.create("last@example.com", "hash", "member")
        assert user in await store.users.list()


async def test_a_vanished_file_is_not_made_again(file: SqliteFile, clock: HeldClock) -> None:
    """F49: a store whose disk was taken away answers StoreUnavailable, not with an empty database."""
    await made(file, clock)
    async with Store.open(file.url, clock=clock) as store:
        file.path.unlink()
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await store.users.list()
    assert not file.path.exists()


async def test_a_file_that_becomes_garbage_is_told(file: SqliteFile, clock: HeldClock) -> None:
    """F49: a file that is damaged while it is in use gives StoreMismatch with the remedy."""
    await made(file, clock)
    async with Store.open(file.url, clock=clock) as store:
        file.path.write_bytes(os.urandom(8192))
        with pytest.raises(StoreMismatch, match="backup"):
            await store.users.list()


async def test_a_full_disk_writes_nothing_by_halves(file: SqliteFile, clock: HeldClock) -> None:
    """F48: on a full disk a new key is refused and leaves no trace, lookups go on, and it all works again later."""
    async with Store.open(file.url, clock=clock, create=True) as store:
        user = await store.users.create("a@example.com", "hash", "member")
        key = new_api_key()
        await store.api_keys.create(key, name="n", owner=user.id)

        async def limit_pages(pages: int) -> None:
            async def work(connection: Any) -> None:
                await connection.execute(text(f"PRAGMA max_page_count = {pages}"))

            await store._database.read(work)

        await limit_pages(1)
        before = (await store.changes(), await store.api_keys.list())
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await store.api_keys.create(new_api_key(), name="long " * 2000, owner=user.id)
        assert (await store.changes(), await store.api_keys.list()) == before
        assert await store.api_keys.by_digest(digest(key.reveal())) is not None
        await limit_pages(1_000_000)
        await store.api_keys.create(new_api_key(), name="n", owner=user.id)


async def test_a_faulty_statement_is_not_called_a_fault_of_the_store(file: SqliteFile, clock: HeldClock) -> None:
    """A programming error stays what it is: nobody waits for it to pass."""
    async with Store.open(file.url, clock=clock, create=True) as store:

        async def work(connection: Any) -> None:
            await connection.execute(text("SELECT a FROM nowhere"))

        with pytest.raises(Exception, match="no such table") as caught:
            await store._database.read(work)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_connections_are_closed_with_the_store(file: SqliteFile, clock: HeldClock) -> None:
    """Leaving the context merges the write-ahead log: one file is left, which is what a backup copies."""
    async with Store.open(file.url, clock=clock, create=True) as store:
        await asyncio.gather(*(store.ping() for _ in range(8)))
    assert [path.name for path in file.path.parent.iterdir()] == ["gateway.db"]
