"""SQLite: the file, its pragmas, and what its errors mean.

A store file is made only by whoever asks for it (``gateway init``). Everybody else opens what is there and refuses what
is missing, damaged, read-only or foreign: an empty database in place of a lost one would look like a gateway from which
all keys were deleted.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.errors import StoreConflict, StoreError, StoreMismatch, StoreUnavailable
from gateway.store.database import DURABLE, IMMEDIATE, Database
from gateway.store.migrate import migrate, schema_of
from gateway.store.tables import changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import ConnectionPoolEntry

    from gateway.store.migrate import Schema

_PREPARING_S = 8.0
_RETRY_S = 0.02
_CONNECTIONS = 4
# SQLite gives up a little before the deadline does: its own error keeps the connection, a cut call loses it.
_PATIENCE = 0.8

# What a corrupt page in them would break is who may call. `usage` and `audit` may be large: their faults show in use.
_CHECKED_TABLES = ("users", "sessions", "api_keys", "provider_keys", "vault", "changes")

_MEANINGS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailable, "another process holds the store's lock"),
    sqlite3.SQLITE_LOCKED: (StoreUnavailable, "another process holds the store's lock"),
    sqlite3.SQLITE_FULL: (StoreUnavailable, "the store's disk is full"),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, "the store's disk cannot be read or written"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "the store's file cannot be opened: it must be there, and its folder writable for the gateway's user",
    ),
    sqlite3.SQLITE_READONLY: (StoreMismatch, "the store is read-only: make file and folder writable for the gateway"),
    sqlite3.SQLITE_PERM: (StoreMismatch, "the store's file may not be used: give it to the gateway's user"),
    sqlite3.SQLITE_CORRUPT: (StoreMismatch, "the store's file is damaged: restore it from a backup"),
    sqlite3.SQLITE_NOTADB: (StoreMismatch, "the store's file is no SQLite database: restore it from a backup"),
    sqlite3.SQLITE_CONSTRAINT: (StoreConflict, "it is there already, or what it belongs to is not"),
}
_PRIMARY_CODE = 0xFF


def path_of(url: str) -> Path:
    """The file that ``sqlite:///FILE`` names. Raises StoreMismatch for anything else, never showing the URL."""
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator or not path or path.startswith((":memory:", "file:")) or "?" in path:
        raise StoreMismatch("`store` must name a file, such as sqlite:///data/gateway.db")
    return Path(path)


def prepare(path: Path, *, create: bool) -> None:
    """Make the file usable by this version: present, whole, writable, its schema current.

    Blocks for up to eight seconds while another process prepares the same file: call it in a thread. With ``create``, a
    missing file is made, readable by its owner only, as is the folder around it. Raises StoreMismatch with the remedy,
    and StoreUnavailable where the file stayed locked.
    """
    with _named(path):
        if create:
            _create(path)
        _require_file(path, may_be_empty=create)
        deadline = time.monotonic() + _PREPARING_S
        while True:
            try:
                _bring_up_to_date(path)
            except sa.exc.DBAPIError as error:
                # Changing to the write-ahead log does not wait for a lock as other statements do.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return


def look(path: Path) -> Schema:
    """How far the file's schema has got, without changing it. Blocks; raises what :func:`prepare` does."""
    with _named(path):
        _require_file(path, may_be_empty=False)
        engine = sa.create_engine(_url(path, "sqlite"), poolclass=sa.NullPool, hide_parameters=True)
        with engine.connect() as connection:
            return schema_of(connection)


def connect(path: Path, *, deadline_s: float) -> Database:
    """The prepared file, ready for use. It is not made again should it vanish."""
    engine = create_async_engine(
        _url(path, "sqlite+aiosqlite"),
        hide_parameters=True,
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=deadline_s * _PATIENCE,
    )
    _configure(engine.sync_engine, busy_s=deadline_s * _PATIENCE)
    return Database(engine, deadline_s=deadline_s, translate=translate)


@asynccontextmanager
async def alone(path: Path, refusal: str) -> AsyncIterator[None]:
    """Be the only process that is in this context for this store. Raises StoreConflict(refusal) where another is.

    The lock is the kernel's (``flock``), so it ends with the process, however that ends: after ``kill -9`` the next one
    gets it at once, and no heartbeat has to tell the living from the dead. It is on the folder. A lock file of our own
    would belong to whichever user came first, and closing another descriptor of the store's file would drop the locks
    that SQLite has on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    descriptor = await asyncio.to_thread(_lock, path, refusal)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, refusal: str) -> int:
    """A descriptor of the folder that holds its lock until it is closed."""
    folder = path.absolute().parent
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise StoreConflict(refusal) from error
        raise StoreMismatch(f"{folder} cannot be locked: {error.strerror}") from error
    return descriptor


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise the gateway's errors, with the file's name, for the system's and the driver's."""
    try:
        yield
    except OSError as error:
        raise StoreMismatch(f"{path} cannot be used: {error.strerror}") from error
    except sa.exc.DBAPIError as error:
        refusal = translate(error)
        if refusal is None:
            raise
        raise type(refusal)(f"{path}: {refusal}") from error


def translate(error: DBAPIError) -> StoreError | None:
    """The gateway's error for the driver's; None where the statement is to blame."""
    known = _MEANINGS.get(_primary_code(error))
    return known[0](known[1]) if known is not None else None


def _primary_code(error: DBAPIError) -> int:
    """SQLite's result code without its refinement; -1 where the error is not SQLite's own."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code & _PRIMARY_CODE if isinstance(code, int) else -1


def _url(path: Path, driver: str) -> sa.URL:
    """``mode=rw``: a file that has vanished is an error, not a new empty database."""
    return sa.URL.create(driver, database=f"file:{quote(str(path.absolute()))}", query={"mode": "rw", "uri": "true"})


def _configure(engine: sa.Engine, *, busy_s: float) -> None:
    """Set up each new connection, and let transactions begin as they are meant to.

    The driver's own handling of transactions is switched off: it would begin one for some statements and not for
    schema changes. A reader begins none. A writer takes the write lock at once: a transaction that reads first and
    then finds another writer has to fail, however long it may wait.
    """

    def configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {busy_s * 1000:.0f}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get(DURABLE):
            # Can be said between transactions only. The connection keeps it, at the price of an fsync for each commit.
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
        if options.get(IMMEDIATE):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", configure)
    sa.event.listen(engine, "begin", begin)


def _create(path: Path) -> None:
    """Make folder and file; whoever else makes them at the same moment makes the same ones."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its write-ahead log the mode of the file.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _require_file(path: Path, *, may_be_empty: bool) -> None:
    if not path.exists() or (path.stat().st_size == 0 and not may_be_empty):
        raise StoreMismatch(f"there is no store at {path}: run `gateway init`, or restore the file from a backup")
    if not path.is_file():
        raise StoreMismatch(f"{path} is not a file: name one in `store`")


def _bring_up_to_date(path: Path) -> None:
    """Check and migrate under the write lock: of several that start at once, the others find it done."""
    engine = sa.create_engine(_url(path, "sqlite"), poolclass=sa.NullPool, hide_parameters=True)
    _configure(engine, busy_s=_PREPARING_S)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    with engine.execution_options(**{IMMEDIATE: True}).begin() as connection:
        migrate(connection)
        _refuse_read_only(connection)
        _refuse_damaged(connection)


def _refuse_read_only(connection: sa.Connection) -> None:
    """Write, and take it back: with the write-ahead log even a file that may only be read grants the write lock."""
    attempt = connection.begin_nested()
    connection.execute(sa.update(changes).values(number=changes.c.number))
    attempt.rollback()


def _refuse_damaged(connection: sa.Connection) -> None:
    for table in _CHECKED_TABLES:
        verdict = connection.exec_driver_sql(f"PRAGMA quick_check({table})").scalars().first()
        if verdict != "ok":
            raise StoreMismatch(f"the store's table {table} is damaged: restore the file from a backup")
