"""gateway.store.rotation, in one process. What kill -9 leaves is in tests/cli/test_vault_killed.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from gateway.contract import Secret
from gateway.errors import CannotOpen, MasterKeyError, StoreConflict
from gateway.security.masking import Masker
from gateway.security.vault import KeyVault, data_key_version, new_master_key
from gateway.store.audit import PURPOSE
from gateway.store.credentials import ProviderKeys, open_sealed, reseal, seal
from gateway.store.watch import watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from conftest import Backend, KeptLog, SqliteFile

    from gateway.security.vault import Cipher
    from gateway.store import AuditEntry, SealedKey
    from gateway.store.rotation import DataKeyChange, Rotation
    from gateway.store.store import Store

OLD, NEW = new_master_key(), new_master_key()
SECRETS = {name: f"sk-planted-key-of-{name}" for name in ("a", "b", "c")}
UPSTREAMS = sorted(SECRETS)
ROUNDS = 1000
VAULT, RECORD = KeyVault.create(OLD, iterations=ROUNDS)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record says how many rounds of PBKDF2 its master key takes. Many would prove nothing here."""
    monkeypatch.setitem(KeyVault.wrap.__kwdefaults__, "iterations", ROUNDS)


def origin(upstream: str) -> str:
    """Where an upstream is."""
    return f"https://{upstream}.example.com"


def no_progress(_done: int, _total: int) -> None:
    """Nobody watches."""


@dataclass
class World:
    """A store with a vault and three provider keys, and what is usually done with them."""

    store: Store
    log: KeptLog

    def rotation(self, cipher: Cipher = "aes-256-gcm") -> AbstractAsyncContextManager[Rotation]:
        """The right to replace keys."""
        return self.store.rotation(actor="ada", cipher=cipher)

    async def change_master_key(self, old: Secret = OLD, new: Secret = NEW) -> bool:
        """From one to the other."""
        async with self.rotation() as rotation:
            return await rotation.change_master_key(old, new)

    async def change_data_key(
        self, master: Secret = OLD, progress: Callable[[int, int], None] = no_progress
    ) -> DataKeyChange:
        """One whole rotation."""
        async with self.rotation() as rotation:
            return await rotation.change_data_key(master, progress)

    async def vault(self, master: Secret = OLD) -> KeyVault:
        """What the store's record unlocks to."""
        record = await self.store.vault.read()
        assert record is not None
        return KeyVault.unlock(master, record)

    async def secrets(self, master: Secret = OLD) -> dict[str, str]:
        """All provider keys in clear."""
        opened = await self.vault(master)
        return {key.upstream: open_sealed(opened, key).reveal() for key in await self.store.provider_keys.list()}

    async def versions(self) -> list[int | None]:
        """The data keys that the provider keys are under, by their own headers."""
        return [data_key_version(key.ciphertext) for key in await self.store.provider_keys.list()]

    async def acts(self) -> list[AuditEntry]:
        """The audit log, oldest first; it must be whole."""
        log = self.store.audit(VAULT.derive(PURPOSE))
        assert (await log.verify()).intact
        return list(await log.list())[::-1]

    def credentials(self, master: Secret = OLD) -> ProviderKeys:
        """What a running gateway has, before it is told of anything."""
        return ProviderKeys(VAULT, Masker(), unlock=partial(KeyVault.unlock, master), log=self.log)


@pytest.fixture
async def world(store: Store, log: KeptLog) -> World:
    """Furnished."""
    await store.vault.create(RECORD)
    for upstream in UPSTREAMS:
        await store.provider_keys.put(sealed(VAULT, upstream, SECRETS[upstream]))
    return World(store, log)


def sealed(under: KeyVault, upstream: str, secret: str, added: float = 1.5) -> SealedKey:
    """A provider key as the command stores it."""
    return seal(under, Secret(secret), upstream=upstream, origin=origin(upstream), added_by="ada", added=added)


def overwrite(file: SqliteFile, key: SealedKey) -> None:
    """Change a row's seal as another program would, which asks nobody."""
    with closing(sqlite3.connect(file.path)) as connection, connection:
        change = "UPDATE provider_keys SET ciphertext = ? WHERE upstream = ?"
        assert connection.execute(change, (key.ciphertext, key.upstream)).rowcount == 1


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What the store says to its database, as it is said."""
    said: list[str] = []
    engine = store._database._engine.sync_engine

    def hear(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    sa.event.listen(engine, "before_cursor_execute", hear)
    yield said
    sa.event.remove(engine, "before_cursor_execute", hear)


# ------------------------------------------------------------------------------------------------- the master key


async def test_a_changed_master_key_writes_one_row(world: World, file: SqliteFile) -> None:
    """F66: the vault's record is rewritten, with its act on record, and no other row of the store is touched."""
    others = ("SELECT * FROM provider_keys", "SELECT * FROM changes", "SELECT * FROM users", "SELECT * FROM api_keys")
    before = [file.execute(query) for query in others]
    assert await world.change_master_key()
    assert [file.execute(query) for query in others] == before
    record = await world.store.vault.read()
    assert record is not None
    assert not {record.salt, record.check, record.wrapped_key} & {RECORD.salt, RECORD.check, RECORD.wrapped_key}
    assert [(act.actor, act.action, act.target) for act in await world.acts()] == [
        ("ada", "vault.change_master_key", "vault")
    ]


async def test_the_new_master_key_opens_everything_and_the_old_one_nothing(world: World) -> None:
    """F66: from the change on."""
    await world.change_master_key()
    assert await world.secrets(NEW) == SECRETS
    with pytest.raises(MasterKeyError):
        await world.vault(OLD)


async def test_a_master_key_that_is_there_already_is_told(world: World) -> None:
    """F66: a run after one that was killed too late to know finds it done, and writes nothing."""
    await world.change_master_key()
    before = await world.store.vault.read()
    assert not await world.change_master_key()
    assert await world.store.vault.read() == before
    assert len(await world.acts()) == 1


@pytest.mark.parametrize(("old", "new"), [(new_master_key(), NEW), (OLD, Secret("short")), (Secret(""), NEW)])
async def test_a_wrong_old_or_a_weak_new_master_key_changes_nothing(world: World, old: Secret, new: Secret) -> None:
    """F65: neither who has not the old one nor who offers one that can be guessed."""
    with pytest.raises(MasterKeyError):
        await world.change_master_key(old, new)
    assert await world.store.vault.read() == RECORD
    assert await world.acts() == []


async def test_a_changed_master_key_is_on_the_disk(world: World) -> None:
    """F66: a power cut after it brings no old record back, though nobody may have the old master key any more."""
    with statements(world.store) as said:
        await world.change_master_key()
    writing = next(number for number, statement in enumerate(said) if statement.startswith("UPDATE vault"))
    begun = max(number for number in range(writing) if said[number] == "BEGIN IMMEDIATE")
    assert said[begun - 1] == "PRAGMA synchronous = FULL"


async def test_in_the_middle_of_a_data_keys_rotation_the_master_key_may_change(world: World) -> None:
    """F66: the record holds both data keys, so it is still one row; the rotation is finished under the new one."""
    await interrupted(world, after=1)
    await world.change_master_key()
    assert await world.secrets(NEW) == SECRETS
    assert (await world.change_data_key(NEW)).resumed
    assert await world.secrets(NEW) == SECRETS
    assert await world.versions() == [2, 2, 2]


# ------------------------------------------------------------------------------------------------- the data key


class Interrupted(Exception):
    """Stands for whatever ends a run."""


async def interrupted(world: World, *, after: int) -> None:
    """A rotation that ends after so many secrets."""

    def progress(done: int, _total: int) -> None:
        if done == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        await world.change_data_key(OLD, progress)


async def test_every_secret_is_sealed_with_the_new_data_key(world: World) -> None:
    """The secrets are the same, under another key, and the old one is forgotten."""
    change = await world.change_data_key()
    assert (change.version, change.sealed, change.resumed) == (2, 3, False)
    assert await world.versions() == [2, 2, 2]
    assert await world.secrets() == SECRETS
    assert (await world.vault()).versions == {2}


async def test_nothing_else_of_a_key_changes(world: World) -> None:
    """Who added it and when is as before: it is the same key."""
    before = await world.store.provider_keys.list()
    await world.change_data_key()
    after = await world.store.provider_keys.list()
    assert [replace(key, ciphertext=b"", key_version=0) for key in after] == [
        replace(key, ciphertext=b"", key_version=0) for key in before
    ]
    assert [key.key_version for key in after] == [2, 2, 2]


async def test_progress_is_told_after_each_secret(world: World) -> None:
    """How many are done, of how many."""
    told: list[tuple[int, int]] = []
    await world.change_data_key(OLD, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


async def test_a_rotation_seals_with_the_configured_cipher(world: World) -> None:
    """Who changes `vault.cipher` brings every secret to it by a rotation."""
    async with world.rotation("fernet") as rotation:
        await rotation.change_data_key(OLD, no_progress)
    assert {key.ciphertext[0] for key in await world.store.provider_keys.list()} == {2}
    assert await world.secrets() == SECRETS


async def test_beginning_and_finishing_are_on_record_and_the_chain_holds(world: World) -> None:
    """The audit log's key is derived from what no rotation replaces: entries from before still verify."""
    await world.store.audit(VAULT.derive(PURPOSE)).append("ada", "key.create", "k")
    await world.change_data_key()
    await world.change_master_key()
    await world.change_data_key(NEW)
    log = world.store.audit((await world.vault(NEW)).derive(PURPOSE))
    assert (await log.verify()).intact
    assert [(act.action, act.detail) for act in await world.acts()] == [
        ("key.create", "{}"),
        ("vault.begin_data_key", '{"data_key":2}'),
        ("vault.finish_data_key", '{"data_key":2}'),
        ("vault.change_master_key", "{}"),
        ("vault.begin_data_key", '{"data_key":3}'),
        ("vault.finish_data_key", '{"data_key":3}'),
    ]


async def test_a_wrong_master_key_rotates_nothing(world: World) -> None:
    """F65: recognised before anything is written."""
    with pytest.raises(MasterKeyError):
        await world.change_data_key(NEW)
    assert await world.store.vault.read() == RECORD


async def test_without_secrets_there_is_still_a_new_data_key(world: World) -> None:
    """An empty vault is rotated like any other."""
    for upstream in UPSTREAMS:
        await world.store.provider_keys.remove(upstream)
    assert (await world.change_data_key()).sealed == 0
    assert (await world.vault()).versions == {2}


async def test_a_secret_that_cannot_be_opened_stops_it_before_it_begins(world: World, file: SqliteFile) -> None:
    """F68: swapped rows can be swapped back as long as their data key is there; so nothing begins without all."""
    file.execute("UPDATE provider_keys SET ciphertext = (SELECT ciphertext FROM provider_keys WHERE upstream = 'b')")
    with pytest.raises(CannotOpen, match=r"a@.*store the secret again"):
        await world.change_data_key()
    assert await world.store.vault.read() == RECORD
    assert await world.acts() == []


async def test_a_secret_that_broke_on_the_way_keeps_its_data_key(world: World, file: SqliteFile) -> None:
    """F68: the rotation stays unfinished and says why; with the row repaired it finishes."""
    await interrupted(world, after=1)
    [*_, good] = await world.store.provider_keys.list()
    overwrite(file, replace(good, ciphertext=bytes(40)))
    with pytest.raises(CannotOpen, match="c@"):
        await world.change_data_key()
    assert (await world.vault()).versions == {1, 2}
    overwrite(file, good)
    assert (await world.change_data_key()).resumed
    assert await world.secrets() == SECRETS


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_an_interrupted_rotation_is_finished_by_the_next(world: World, after: int) -> None:
    """F66: both data keys are kept until then, what is done is not done again, and no third key is made."""
    await interrupted(world, after=after)
    assert await world.secrets() == SECRETS
    assert await world.versions() == [2] * after + [1] * (3 - after)
    done = (await world.store.provider_keys.list())[:after]
    change = await world.change_data_key()
    assert (change.version, change.sealed, change.resumed) == (2, 3 - after, True)
    assert (await world.store.provider_keys.list())[:after] == done
    assert await world.secrets() == SECRETS
    assert [act.action for act in await world.acts()] == ["vault.begin_data_key", "vault.finish_data_key"]


# ------------------------------------------------------------------------------------------------- others meanwhile


async def test_a_second_rotation_at_the_same_time_is_refused(world: World, backend: Backend) -> None:
    """F67: in another process as in this one, and it may begin when the first has left."""
    async with world.rotation(), backend.open() as other:
        with pytest.raises(StoreConflict, match="let it finish"):
            async with other.rotation(actor="eve", cipher="aes-256-gcm"):
                pass
    async with world.rotation():
        pass


HOLDING = """
import asyncio, sys
from gateway.clock import SystemClock
from gateway.store.store import Store

async def main():
    async with Store.open(sys.argv[1], clock=SystemClock()) as store:
        async with store.rotation(actor="x", cipher="aes-256-gcm"):
            print("holding", flush=True)
            sys.stdin.readline()

asyncio.run(main())
"""


async def test_the_right_of_a_killed_process_is_free_at_once(world: World, backend: Backend) -> None:
    """F67: kill -9 leaves no lock behind, and no time has to pass until that is known."""
    process = await asyncio.to_thread(started, HOLDING, backend.url)
    with pytest.raises(StoreConflict):
        async with world.rotation():
            pass
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    async with world.rotation():
        pass


def started(program: str, url: str) -> subprocess.Popen[bytes]:
    """A process that has said its first word."""
    command = [sys.executable, "-c", program, url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


async def test_a_key_written_meanwhile_is_not_lost(world: World) -> None:
    """F67: what was put since the rotation read the row is what stays, and what was removed stays removed."""
    await interrupted(world, after=1)
    both = await world.vault()
    _, b, c = await world.store.provider_keys.list()
    await world.store.provider_keys.put(sealed(both, "b", "sk-planted-new-key-of-b"))
    await world.store.provider_keys.remove("c")
    async with world.rotation() as rotation:
        for as_it_was_read in (b, c):
            await rotation._replace(as_it_was_read, reseal(both, as_it_was_read))
    assert await world.secrets() == {"a": SECRETS["a"], "b": "sk-planted-new-key-of-b"}


async def test_a_key_written_meanwhile_is_sealed_with_the_new_data_key(world: World) -> None:
    """F67: what was sealed with the old one by a process that did not know better is refused, before it can be lost."""
    stale = sealed(VAULT, "d", "sk-planted-key-of-d")
    await interrupted(world, after=1)
    with pytest.raises(StoreConflict, match="data key 2 now"):
        await world.store.provider_keys.put(stale)
    await world.store.provider_keys.put(sealed(await world.vault(), "d", "sk-planted-key-of-d"))
    await world.change_data_key()
    assert (await world.secrets())["d"] == "sk-planted-key-of-d"
    with pytest.raises(StoreConflict):
        await world.store.provider_keys.put(stale)


async def test_the_old_data_key_is_not_forgotten_while_something_is_under_it(world: World, file: SqliteFile) -> None:
    """F67: it is looked again in the transaction that forgets it, at the seals, whatever the columns say."""
    [*_, old] = await world.store.provider_keys.list()
    await interrupted(world, after=3)
    overwrite(file, old)
    record = await world.store.vault.read()
    assert record is not None
    async with world.rotation() as rotation:
        with pytest.raises(StoreConflict, match="run it again"):
            await rotation._finish(await world.vault(), record, OLD)
    assert (await world.change_data_key()).sealed == 1
    assert await world.secrets() == SECRETS


async def test_a_rotated_vault_is_not_made_again(world: World) -> None:
    """A record of another data key is no free place: `gateway init` does not put a second one beside it."""
    await world.change_data_key()
    with pytest.raises(StoreConflict):
        await world.store.vault.create(RECORD)


# ------------------------------------------------------------------------------------------------- a running gateway


@pytest.fixture
async def running(world: World) -> AsyncIterator[ProviderKeys]:
    """The provider keys of a process that hears of changes."""
    credentials = world.credentials()
    async with watch(world.store, lambda: credentials.reload(world.store), log=world.log, interval_s=0.005):
        yield credentials


async def test_a_running_gateway_opens_keys_before_during_and_after(world: World, running: ProviderKeys) -> None:
    """It learns the new data key on the way, and at no moment is a key missing or unhealthy."""

    def check(*_: int) -> None:
        assert {name: running.credential(name, origin(name)).reveal() for name in UPSTREAMS} == SECRETS
        assert running.unhealthy() == {}

    for version in (2, 3, 4):
        await world.change_data_key(OLD, check)
        while version not in running._vault.versions:
            check()
            await asyncio.sleep(0)
        check()
    assert world.log.events == []


async def test_after_a_change_of_the_master_key_it_goes_on(world: World) -> None:
    """What it has unlocked opens every key, and those that are stored from now on."""
    credentials = world.credentials()
    await credentials.reload(world.store)
    await world.change_master_key()
    await world.store.provider_keys.put(sealed(await world.vault(NEW), "d", "sk-planted-key-of-d"))
    await credentials.reload(world.store)
    assert credentials.credential("a", origin("a")).reveal() == SECRETS["a"]
    assert credentials.credential("d", origin("d")).reveal() == "sk-planted-key-of-d"
    assert credentials.unhealthy() == {}


async def test_behind_both_changes_it_serves_what_it_knew_and_says_what_it_needs(world: World) -> None:
    """The same keys go on working; a new one does not; all are shown as unhealthy, with the one remedy."""
    credentials = world.credentials()
    await credentials.reload(world.store)
    await world.change_master_key()
    await world.change_data_key(NEW)
    await world.store.provider_keys.put(sealed(await world.vault(NEW), "b", "sk-planted-new-key-of-b", added=2.5))
    await world.store.provider_keys.remove("c")
    for _ in range(2):
        await credentials.reload(world.store)
        assert credentials.credential("a", origin("a")).reveal() == SECRETS["a"]
        with pytest.raises(CannotOpen):
            credentials.credential("b", origin("b"))
        with pytest.raises(Exception, match="no key is stored for c"):
            credentials.credential("c", origin("c"))
        assert set(credentials.unhealthy()) == {"a", "b"}
        assert all("restart the gateway with the new master key" in why for why in credentials.unhealthy().values())
    assert len(world.log.events) == 2


async def test_behind_both_changes_a_damaged_row_is_not_served_from_memory(world: World, file: SqliteFile) -> None:
    """F68: only a key that another data key sealed is taken from memory; a row that is broken is broken."""
    credentials = world.credentials()
    await credentials.reload(world.store)
    await world.change_master_key()
    file.execute("UPDATE provider_keys SET ciphertext = substr(ciphertext, 1, 30) WHERE upstream = 'a'")
    file.execute("UPDATE vault SET version = 2")
    await credentials.reload(world.store)
    with pytest.raises(CannotOpen):
        credentials.credential("a", origin("a"))
    assert "damaged" in credentials.unhealthy()["a"]


async def test_a_restart_with_the_new_master_key_is_the_remedy(world: World) -> None:
    """What was unhealthy opens again."""
    await world.change_master_key()
    await world.change_data_key(NEW)
    credentials = ProviderKeys(await world.vault(NEW), Masker(), unlock=partial(KeyVault.unlock, NEW), log=world.log)
    await credentials.reload(world.store)
    assert credentials.unhealthy() == {}
    assert credentials.credential("a", origin("a")).reveal() == SECRETS["a"]
