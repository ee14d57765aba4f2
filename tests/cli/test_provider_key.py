"""``gateway provider-key``: in by stdin or a hidden prompt, sealed, never out again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.clock import SystemClock
from gateway.contract import Secret
from gateway.security.vault import KeyVault
from gateway.store.credentials import open_sealed
from gateway.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Gateway

CANARY = "sk-canary-7Yw2Lq9ZxV4b"


def opened(place: Path, upstream: str, origin: str) -> str:
    """What a gateway with this store would send to ``origin``."""
    master = Secret((place / ".env").read_text().strip().partition("=")[2])

    async def run() -> str:
        async with Store.open(f"sqlite:///{place}/data/gateway.db", clock=SystemClock()) as store:
            record = await store.vault.read()
            assert record is not None
            keys = {(key.upstream, key.origin): key for key in await store.provider_keys.list()}
            return open_sealed(KeyVault.unlock(master, record), keys[upstream, origin]).reveal()

    return asyncio.run(run())


def test_a_key_from_stdin_is_what_is_sent_to_the_provider(place: Path, gateway: Gateway) -> None:
    """One line of stdin, without its line end, sealed for the upstream's origin."""
    result = gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert opened(place, "openai", "https://api.openai.com") == CANARY


def test_a_key_from_the_prompt_is_not_echoed(place: Path) -> None:
    """On a terminal it is asked for, and what is typed does not appear."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "provider-key", "set", "openai"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=place, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        while b"Provider key:" not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, f"{CANARY}\n".encode())
        try:
            while more := os.read(ours, 1024):
                shown += more
        except OSError:  # Linux says so when the other side has closed
            pass
        assert process.wait(60) == 0
    os.close(ours)
    assert CANARY.encode() not in shown
    assert opened(place, "openai", "https://api.openai.com") == CANARY


def test_a_key_on_the_command_line_is_a_usage_error(place: Path, gateway: Gateway) -> None:
    """There it would stay in the shell's history and in the list of processes."""
    result = gateway("provider-key", "set", "openai", CANARY)
    assert result.exit_code == 2
    assert json.loads(gateway("provider-key", "list", "--json").stdout) == []
    assert (place / ".env").exists()


@pytest.mark.usefixtures("place")
def test_an_empty_stdin_is_a_usage_error(gateway: Gateway) -> None:
    """A script whose secret is missing must not store an empty key."""
    assert gateway("provider-key", "set", "openai", stdin="\n").exit_code == 2
    assert gateway("provider-key", "set", "openai").exit_code == 2
    assert json.loads(gateway("provider-key", "list", "--json").stdout) == []


@pytest.mark.usefixtures("place")
def test_an_unknown_upstream_is_one_line_with_the_near_miss(gateway: Gateway) -> None:
    """Exit 1, nothing stored."""
    result = gateway("provider-key", "set", "openia", stdin=f"{CANARY}\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "did you mean openai?" in result.stderr
    assert json.loads(gateway("provider-key", "list", "--json").stdout) == []


def test_the_key_is_nowhere_in_clear(place: Path, gateway: Gateway) -> None:
    """F73: not in the store's files, not in any list."""
    gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    said = gateway("provider-key", "list").stdout + gateway("provider-key", "list", "--json").stdout
    data = b"".join(path.read_bytes() for path in (place / "data").iterdir())
    assert CANARY not in said
    assert CANARY.encode() not in data
    assert CANARY[-4:] in said


@pytest.mark.usefixtures("place")
def test_removing_forgets_the_key(gateway: Gateway) -> None:
    """A second time there is none: exit 1."""
    gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    assert gateway("provider-key", "remove", "openai").exit_code == 0
    assert json.loads(gateway("provider-key", "list", "--json").stdout) == []
    assert gateway("provider-key", "remove", "openai").exit_code == 1
