"""``gateway vault rotate`` under kill -9, at every moment in turn: nothing is lost, and the next run finishes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.clock import SystemClock
from gateway.config.references import load_dotenv
from gateway.contract import Secret
from gateway.errors import MasterKeyError
from gateway.security.masking import Masker
from gateway.security.vault import KeyVault, data_key_version, new_master_key
from gateway.store.audit import PURPOSE
from gateway.store.credentials import ProviderKeys, open_sealed
from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECRETS = {"openai": "sk-planted-openai-key", "anthropic": "sk-planted-anthropic-key", "spare": "sk-planted-spare-key"}
UPSTREAMS = """
  anthropic: {base_url: https://api.anthropic.com, dialect: anthropic, credential: {header: x-api-key}}
  spare: {base_url: https://spare.example.com/v1, dialect: openai, credential: bearer}
"""
NEW = new_master_key()
KILLED = -9


class Runner:
    """The command, each time in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, folder: Path, *arguments: str, stdin: str = "", kill_at: int = 0) -> int:
        """How it ended: its exit code, or -9."""
        request = {"folder": str(folder), "arguments": arguments, "stdin": stdin, "at": kill_at}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    """The parent of all runs."""
    command = [sys.executable, str(Path(__file__).with_name("killing.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Runner(process)


@pytest.fixture(scope="module")
def furnished(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway with three provider keys. Nobody writes into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GATEWAY_MASTER_KEY", raising=False)
        folder = tmp_path_factory.mktemp("furnished")
    assert run(folder, "init") == 0
    config = folder / "gateway.yaml"
    config.write_text(config.read_text().replace("\nroutes:", UPSTREAMS + "\nroutes:"))
    for upstream, secret in SECRETS.items():
        assert run(folder, "provider-key", "set", upstream, stdin=secret) == 0
    return folder


@dataclass(frozen=True)
class Found:
    """What a store was found to hold. ``under`` are the master keys that open every secret in it."""

    under: list[str]
    versions: frozenset[int]
    sealed_with: set[int | None]
    acts: list[str]


@dataclass(frozen=True)
class Place:
    """A copy of the furnished gateway."""

    folder: Path

    @property
    def in_env(self) -> str:
        """The master key that the gateway would start with."""
        return load_dotenv(self.folder / ".env")["GATEWAY_MASTER_KEY"] or ""

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """Its store."""
        async with Store.open(f"sqlite:///{self.folder}/data/gateway.db", clock=SystemClock()) as store:
            yield store

    async def running(self) -> ProviderKeys:
        """The credentials of a gateway that runs since before anything is changed."""
        async with self.store() as store:
            vault = await unlocked(store, self.in_env)
            assert vault is not None
            unlock = partial(KeyVault.unlock, Secret(self.in_env))
            credentials = ProviderKeys(vault, Masker(), unlock=unlock, log=Silent())
            await credentials.reload(store)
        return credentials

    async def look(self, running: ProviderKeys, *masters: str) -> Found:
        """All that matters, by whichever of these master keys fits.

        Whatever happened, the audit log is whole, and the gateway that runs goes on once it has heard of it.
        """
        async with self.store() as store:
            keys = await store.provider_keys.list()
            await running.reload(store)
            assert running.unhealthy() == {}
            assert {key.upstream: running.credential(key.upstream, key.origin).reveal() for key in keys} == SECRETS
            opened = {master: vault for master in masters if (vault := await unlocked(store, master)) is not None}
            for vault in opened.values():
                assert {key.upstream: open_sealed(vault, key).reveal() for key in keys} == SECRETS
            vault = next(iter(opened.values()))
            log = store.audit(vault.derive(PURPOSE))
            assert (await log.verify()).intact
            acts = [entry.action for entry in await log.list() if entry.target == "vault"][::-1]
            return Found(list(opened), vault.versions, {data_key_version(key.ciphertext) for key in keys}, acts)


async def unlocked(store: Store, master: str) -> KeyVault | None:
    """The vault, if this is its master key."""
    record = await store.vault.read()
    assert record is not None
    try:
        return KeyVault.unlock(Secret(master), record)
    except MasterKeyError:
        return None


class Silent:
    """A log that nobody reads. Implements ``contract.Log``."""

    def debug(self, event: str, **fields: object) -> None:
        """Not kept."""

    info = warning = error = debug


@pytest.fixture
def copies(furnished: Path, tmp_path: Path) -> Iterator[Place]:
    """Fresh copies without end, each gone when the next one is asked for."""

    def copy() -> Iterator[Place]:
        for number in count():
            folder = tmp_path / str(number)
            shutil.copytree(furnished, folder)
            yield Place(folder)
            shutil.rmtree(folder)

    return copy()


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master key is in .env and nowhere else."""
    monkeypatch.delenv("GATEWAY_MASTER_KEY", raising=False)


async def test_the_master_keys_rotation_survives_a_kill_at_every_moment(run: Runner, copies: Iterator[Place]) -> None:
    """F66: then exactly one of the two master keys opens every secret, a running gateway goes on, a re-run finishes it.

    Where the store has the new key and .env has not yet, the re-run need not even be told the key: the draft has it.
    """
    rotate = ("vault", "rotate", "master-key", "--write-env")
    moments, gaps = 0, 0
    for moment, place in enumerate(copies, start=1):
        old, new, running = place.in_env, NEW.reveal(), await place.running()
        ended = run(place.folder, *rotate, stdin=new, kill_at=moment)
        found = await place.look(running, old, new)
        assert len(found.under) == 1, moment
        assert found.acts == (["vault.change_master_key"] if found.under == [new] else []), moment
        in_gap = found.under == [new] and place.in_env == old
        gaps += in_gap
        assert run(place.folder, *rotate, stdin="" if in_gap else new) == 0, moment
        finished = Found([new], frozenset({1}), {1}, ["vault.change_master_key"])
        assert await place.look(running, old, new) == finished, moment
        assert place.in_env == new
        assert {path.name for path in place.folder.iterdir()} == {".env", "gateway.yaml", "data"}
        if ended != KILLED:
            assert ended == 0
            break
        moments = moment
    assert moments >= 10
    assert gaps >= 2


async def test_the_data_keys_rotation_survives_a_kill_at_every_moment(run: Runner, copies: Iterator[Place]) -> None:
    """F66: then the master key opens every secret, a running gateway goes on, and a re-run finishes what was begun.

    Nothing is sealed twice and no key too many is made: whoever is killed after the end begins anew, the others do not.
    """
    rotate = ("vault", "rotate", "data-key")
    moments, halves = 0, 0
    for moment, place in enumerate(copies, start=1):
        master, running = place.in_env, await place.running()
        ended = run(place.folder, *rotate, kill_at=moment)
        found = await place.look(running, master)
        assert found.under == [master], moment
        assert found.sealed_with <= found.versions, moment
        halves += len(found.sealed_with) > 1
        assert run(place.folder, *rotate) == 0, moment
        newest = 3 if found.versions == {2} else 2
        acts = ["vault.begin_data_key", "vault.finish_data_key"] * (newest - 1)
        finished = Found([master], frozenset({newest}), {newest}, acts)
        assert await place.look(running, master) == finished, moment
        if ended != KILLED:
            assert ended == 0
            break
        moments = moment
    assert moments >= 25
    assert halves >= 6


async def test_killed_again_and_again_it_comes_to_its_end(run: Runner, copies: Iterator[Place]) -> None:
    """F66: runs that each die a little later lose nothing between them."""
    place = next(copies)
    master, running = place.in_env, await place.running()
    for moment in count(10, 2):
        ended = run(place.folder, "vault", "rotate", "data-key", kill_at=moment)
        assert (await place.look(running, master)).under == [master]
        if ended != KILLED:
            break
    assert ended == 0
