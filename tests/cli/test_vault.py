"""``gateway vault``: what it asks, says and refuses. What kill -9 leaves is in test_vault_killed.py."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from gateway.cli.desk import open_desk
from gateway.clock import SystemClock
from gateway.contract import Secret
from gateway.security.vault import KeyVault, new_master_key
from gateway.store.audit import PURPOSE
from gateway.store.credentials import open_sealed
from gateway.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Gateway

CANARY = "sk-canary-7Yw2Lq9ZxV4b"
NEW = new_master_key().reveal()
UPSTREAMS = """
  anthropic: {base_url: https://api.anthropic.com, dialect: anthropic, credential: {header: x-api-key}}
"""


def in_env(place: Path) -> str:
    """The master key in .env."""
    return (place / ".env").read_text().strip().partition("=")[2]


def opened(place: Path, master: str | None = None) -> dict[str, str]:
    """Every provider key in clear."""

    async def run() -> dict[str, str]:
        async with Store.open(f"sqlite:///{place}/data/gateway.db", clock=SystemClock()) as store:
            record = await store.vault.read()
            assert record is not None
            vault = KeyVault.unlock(Secret(master or in_env(place)), record)
            assert (await store.audit(vault.derive(PURPOSE)).verify()).intact
            return {key.upstream: open_sealed(vault, key).reveal() for key in await store.provider_keys.list()}

    return asyncio.run(run())


def acts(place: Path) -> list[tuple[str, str, str]]:
    """The newest entries of the audit log, oldest first, without those of `gateway init`."""

    async def run() -> list[tuple[str, str, str]]:
        async with Store.open(f"sqlite:///{place}/data/gateway.db", clock=SystemClock()) as store:
            entries = (await store.audit(b"").list())[::-1]
            return [(entry.action, entry.target, entry.detail) for entry in entries[2:]]

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record says how many rounds of PBKDF2 its master key takes. Many would prove nothing here."""
    monkeypatch.setitem(KeyVault.wrap.__kwdefaults__, "iterations", 1000)


@pytest.fixture
def furnished(place: Path, gateway: Gateway) -> Path:
    """A gateway of two upstreams, one of which has a key."""
    config = place / "gateway.yaml"
    config.write_text(config.read_text().replace("\nroutes:", UPSTREAMS + "\nroutes:"))
    assert gateway("provider-key", "set", "openai", stdin=CANARY).exit_code == 0
    return place


# ------------------------------------------------------------------------------------------------- rotate master-key


def test_a_new_master_key_from_stdin(furnished: Path, gateway: Gateway) -> None:
    """The vault is under it, .env is left alone, and the words say where to change it and what the old one is for."""
    old = in_env(furnished)
    result = gateway("vault", "rotate", "master-key", stdin=f"{NEW}\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"Now change GATEWAY_MASTER_KEY in {furnished}/.env" in result.stdout
    assert "Keep the old master key for as long as you keep older backups" in result.stdout
    assert opened(furnished, NEW) == {"openai": CANARY}
    assert in_env(furnished) == old
    assert acts(furnished)[1:] == [("vault.change_master_key", "vault", "{}")]


def test_until_it_is_changed_there_the_gateway_says_what_is_wrong(furnished: Path, gateway: Gateway) -> None:
    """F65: one line with the remedy, and nothing is written."""
    gateway("vault", "rotate", "master-key", stdin=NEW)
    result = gateway("provider-key", "list")
    assert result.exit_code == 1
    assert re.fullmatch(
        "the master key is not the one .* was last changed to: set vault.master_key .*\n", result.stderr
    )
    (furnished / ".env").write_text(f"GATEWAY_MASTER_KEY={NEW}\n")
    assert gateway("provider-key", "list").exit_code == 0


def test_a_new_master_key_from_the_environment(
    furnished: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the variable that is named; an unset or odd one is a usage error before anything is done."""
    for value in ("", " ", "two\nlines"):
        monkeypatch.setenv("NEXT", value)
        assert gateway("vault", "rotate", "master-key", "--new-key-env", "NEXT").exit_code == 2
    monkeypatch.setenv("NEXT", NEW)
    assert gateway("vault", "rotate", "master-key", "--new-key-env", "NEXT").exit_code == 0
    assert opened(furnished, NEW) == {"openai": CANARY}


def test_a_new_master_key_from_the_prompt_is_asked_for_twice_and_not_echoed(furnished: Path) -> None:
    """On a terminal: a slip of the finger must not lock everybody out."""
    shown = on_a_terminal(furnished, "vault", "rotate", "master-key", answers=[NEW, NEW])
    assert "Repeat for confirmation" in shown
    assert NEW not in shown
    assert opened(furnished, NEW) == {"openai": CANARY}


def on_a_terminal(place: Path, *arguments: str, answers: list[str]) -> str:
    """All that a terminal shows of a run that asks, and gets these answers."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", "from gateway.cli import main; main()", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=place, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        for number, answer in enumerate(answers, start=1):
            while shown.count(b": ") < number:
                shown += os.read(ours, 1024)
            os.write(ours, f"{answer}\n".encode())
        try:
            while more := os.read(ours, 1024):
                shown += more
        except OSError:  # Linux says so when the other side has closed
            pass
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


@pytest.mark.usefixtures("furnished")
def test_a_key_on_the_command_line_is_a_usage_error(gateway: Gateway) -> None:
    """There it would stay in the shell's history and in the list of processes."""
    assert gateway("vault", "rotate", "master-key", NEW).exit_code == 2


@pytest.mark.parametrize("weak", ["short", "x" * 64])
def test_a_weak_new_master_key_is_refused(furnished: Path, gateway: Gateway, weak: str) -> None:
    """F65: with words that help, nothing written, no draft left."""
    result = gateway("vault", "rotate", "master-key", "--write-env", stdin=weak)
    assert result.exit_code == 1
    assert "openssl rand" in result.stderr
    assert weak not in result.stderr
    assert opened(furnished) == {"openai": CANARY}
    assert sorted(path.name for path in furnished.iterdir()) == [".env", "data", "gateway.yaml"]


def test_the_env_file_is_changed_too(furnished: Path, gateway: Gateway) -> None:
    """The rest of it stays, it is for its owner's eyes only, and the gateway starts with it."""
    env = furnished / ".env"
    env.write_text(f"# ours\nexport GATEWAY_MASTER_KEY='{in_env(furnished)}'\nOTHER=1 # x\n")
    env.chmod(0o644)
    result = gateway("vault", "rotate", "master-key", "--write-env", stdin=NEW)
    assert (result.exit_code, result.stderr) == (0, "")
    assert env.read_text() == f"# ours\nexport GATEWAY_MASTER_KEY={NEW}\nOTHER=1 # x\n"
    assert env.stat().st_mode & 0o777 == 0o600
    assert gateway("provider-key", "list").exit_code == 0
    assert sorted(path.name for path in furnished.iterdir()) == [".env", "data", "gateway.yaml"]


def test_run_again_it_finds_it_done(furnished: Path, gateway: Gateway) -> None:
    """Exit 0, nothing changed, no second act on record; without --write-env, the file can be brought up afterwards."""
    gateway("vault", "rotate", "master-key", stdin=NEW)
    for _ in range(2):
        result = gateway("vault", "rotate", "master-key", "--write-env", stdin=NEW)
        assert result.exit_code == 0
        assert "was under this master key already" in result.stdout
        assert in_env(furnished) == NEW
    assert [action for action, _, _ in acts(furnished)].count("vault.change_master_key") == 1


@pytest.mark.parametrize(
    ("yaml", "env", "word"),
    [
        ("${file:master.key}", "", "does not refer to a variable"),
        ("<${GATEWAY_MASTER_KEY}>", "GATEWAY_MASTER_KEY=x", "does not refer to a variable"),
        ("${ELSEWHERE}", "ELSEWHERE=x", "set in the environment"),
        ("${GATEWAY_MASTER_KEY:-z}", "OTHER=x", "does not set GATEWAY_MASTER_KEY"),
    ],
)
def test_where_env_does_not_decide_it_is_not_written(
    place: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, *, yaml: str, env: str, word: str
) -> None:
    """A file that the gateway does not read its key from would be a lie. Told before anything is asked or done."""
    config = place / "gateway.yaml"
    config.write_text(config.read_text().replace("${GATEWAY_MASTER_KEY}", yaml))
    (place / ".env").write_text(env)
    monkeypatch.setenv("ELSEWHERE", "y")
    result = gateway("vault", "rotate", "master-key", "--write-env")
    assert result.exit_code == 1
    assert word in result.stderr
    assert (place / ".env").read_text() == env


def test_a_folder_that_takes_no_draft_changes_nothing(furnished: Path, gateway: Gateway) -> None:
    """Whatever keeps .env from being written is found before the vault is."""
    (furnished / ".env.new").mkdir()
    result = gateway("vault", "rotate", "master-key", "--write-env", stdin=NEW)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert opened(furnished) == {"openai": CANARY}


def test_a_draft_that_came_to_nothing_is_written_over(furnished: Path, gateway: Gateway) -> None:
    """F66: a run that was killed before it changed the vault leaves a draft that means nothing."""
    (furnished / ".env.new").write_text(f"GATEWAY_MASTER_KEY={new_master_key().reveal()}\n")
    assert gateway("vault", "rotate", "master-key", "--write-env", stdin=NEW).exit_code == 0
    assert in_env(furnished) == NEW
    assert opened(furnished) == {"openai": CANARY}


def test_a_failure_leaves_no_draft(furnished: Path, gateway: Gateway) -> None:
    """F65: who has not the old master key changes nothing, and the new one does not stay on the disk."""
    (furnished / ".env").write_text(f"GATEWAY_MASTER_KEY={new_master_key().reveal()}\n")
    result = gateway("vault", "rotate", "master-key", "--write-env", stdin=NEW)
    assert result.exit_code == 1
    assert "not the one" in result.stderr
    assert not (furnished / ".env.new").exists()


# ------------------------------------------------------------------------------------------------- rotate data-key


def test_every_provider_key_is_sealed_anew(furnished: Path, gateway: Gateway) -> None:
    """And what was done is said, with no bar where nobody watches."""
    result = gateway("vault", "rotate", "data-key")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Sealed 1 provider key with data key 2.\n", "")
    assert opened(furnished) == {"openai": CANARY}
    assert [action for action, _, _ in acts(furnished)][1:] == ["vault.begin_data_key", "vault.finish_data_key"]


def test_a_terminal_sees_progress(furnished: Path) -> None:
    """A bar, up to the end."""
    assert re.search(r"Sealing .*100%", on_a_terminal(furnished, "vault", "rotate", "data-key", answers=[]))


def test_a_desk_that_was_open_before_seals_with_the_new_data_key(furnished: Path) -> None:
    """F67: who unlocked the vault before a rotation and stores a key after it loses nothing."""

    async def run() -> None:
        async with open_desk(furnished / "gateway.yaml") as early:
            async with open_desk(furnished / "gateway.yaml") as other:
                await other.change_data_key(lambda *_: None)
            await early.set_provider_key("anthropic", Secret(CANARY[::-1]))

    asyncio.run(run())
    assert opened(furnished) == {"openai": CANARY, "anthropic": CANARY[::-1]}


def test_a_second_rotation_at_the_same_time_refuses(furnished: Path, gateway: Gateway) -> None:
    """F67: one line, exit 1, for both kinds."""

    async def run() -> list[tuple[int, str]]:
        async with open_desk(furnished / "gateway.yaml") as desk, desk.store.rotation(actor="x", cipher="fernet"):
            runs = [("data-key", ""), ("master-key", NEW)]
            results = [
                await asyncio.to_thread(lambda kind, key: gateway("vault", "rotate", kind, stdin=key), *run)
                for run in runs
            ]
            return [(result.exit_code, result.stderr) for result in results]

    assert asyncio.run(run()) == [(1, "another process is replacing the vault's keys: let it finish\n")] * 2


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["master-key", "data-key"])
def test_without_a_gateway_there_is_nothing_to_rotate(gateway: Gateway, kind: str) -> None:
    """Exit 1 and one line."""
    result = gateway("vault", "rotate", kind, stdin=NEW)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


# ------------------------------------------------------------------------------------------------- import-fernet

PASSWORD, SALT = "the old master password", b"a salt of the old scheme"


def token(secret: str, *, password: str = PASSWORD, salt: bytes = SALT, iterations: int = 100_000) -> str:
    """A provider key as the scheme before this vault sealed it."""
    kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=salt, iterations=iterations)
    key = base64.urlsafe_b64encode(kdf.derive(password.encode()))
    return Fernet(key).encrypt(secret.encode()).decode()


IMPORT = ("vault", "import-fernet", "--salt", f"text:{SALT.decode()}")


def test_keys_of_the_old_scheme_are_taken_in(place: Path, gateway: Gateway) -> None:
    """Lines of an upstream, a tab and a token, by the old master password from stdin: sealed here, on record."""
    (place / "gateway.yaml").write_text(
        (place / "gateway.yaml").read_text().replace("\nroutes:", UPSTREAMS + "\nroutes:")
    )
    (place / "old.tsv").write_text(f"openai\t{token(CANARY)}\r\n\nanthropic\t{token(CANARY[::-1])}\n")
    result = gateway(*IMPORT, "--iterations", "100000", "old.tsv", stdin=f"{PASSWORD}\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Stored 2 provider keys.\n", "")
    assert opened(place) == {"openai": CANARY, "anthropic": CANARY[::-1]}
    assert acts(place) == [
        ("provider_key.import", "openai", '{"origin":"https://api.openai.com"}'),
        ("provider_key.import", "anthropic", '{"origin":"https://api.anthropic.com"}'),
    ]
    assert CANARY.encode() not in b"".join(path.read_bytes() for path in (place / "data").iterdir())


@pytest.mark.parametrize(
    "salt", [f"hex:{SALT.hex()}", f"base64:{base64.b64encode(SALT).decode()}", f"text:{SALT.decode()}"]
)
def test_a_json_object_from_stdin_does_too(
    place: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, salt: str
) -> None:
    """The password then comes from a variable; the salt is written in either of three ways."""
    monkeypatch.setenv("OLD_PASSWORD", PASSWORD)
    tokens = json.dumps({"openai": token(CANARY)})
    result = gateway("vault", "import-fernet", "--salt", salt, "--password-env", "OLD_PASSWORD", "-", stdin=tokens)
    assert (result.exit_code, result.stderr) == (0, "")
    assert opened(place) == {"openai": CANARY}


def test_every_wrong_line_is_told_and_nothing_is_stored(furnished: Path, gateway: Gateway) -> None:
    """By its number and the reason; nothing of what stands in it but the names of configured upstreams."""
    lines = [
        f"anthropic\t{token(CANARY)}",
        f"antropic\t{token(CANARY)}",
        f"anthropic\t{token(CANARY)}",
        f"openai\t{token(CANARY)}",
    ]
    (furnished / "old.tsv").write_text("\n".join(lines))
    result = gateway(*IMPORT, "old.tsv", stdin=PASSWORD)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: line 2: the configuration has no such upstream; did you mean anthropic?",
        "line 3: anthropic has a key in line 1 already",
        "line 4: openai has a key in the store already: add --replace to put this one in its place",
        "nothing was stored",
    ]
    assert opened(furnished) == {"openai": CANARY}


def test_a_token_that_cannot_be_opened_is_told(furnished: Path, gateway: Gateway) -> None:
    """By its line, and no key is stored, not even those that can."""
    good, wrong = token(CANARY[::-1]), token(CANARY, password="another")
    (furnished / "old.tsv").write_text(f"openai\t{good}\nanthropic\t{wrong}\n")
    result = gateway(*IMPORT, "--replace", "old.tsv", stdin=PASSWORD)
    assert result.exit_code == 1
    assert "line 2: the token of anthropic cannot be opened" in result.stderr
    assert not any(text in result.stderr for text in (wrong, good, PASSWORD, CANARY))
    assert opened(furnished) == {"openai": CANARY}


def test_a_key_that_is_there_is_replaced_when_asked(furnished: Path, gateway: Gateway) -> None:
    """By --replace, never by accident."""
    (furnished / "old.tsv").write_text(f"openai\t{token(CANARY[::-1])}")
    assert gateway(*IMPORT, "old.tsv", stdin=PASSWORD).exit_code == 1
    assert gateway(*IMPORT, "--replace", "old.tsv", stdin=PASSWORD).exit_code == 0
    assert opened(furnished) == {"openai": CANARY[::-1]}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"openai gAAAA-planted-secret", "line 1: write an upstream, a tab and a token"),
        (b"a\tb\tplanted-secret", "line 1: write an upstream, a tab and a token"),
        (b"\n \n", "there are no tokens"),
        (b"\xff\xfeplanted-secret", "not UTF-8"),
        (b"{planted-secret", "no JSON object"),
        (b'{"openai": {"planted-secret": 1}}', "entry 1: the token is no text"),
        (b'{"openai": "planted-secret", "openai": "x"}', "entry 2: openai has a key in entry 1 already"),
        (b'{"planted-secret": "\\ud800"}', "entry 1: the configuration has no such upstream"),
    ],
)
def test_what_is_no_list_of_tokens_is_refused_without_repeating_it(
    gateway: Gateway, place: Path, content: bytes, word: str
) -> None:
    """What stands in the wrong place may be a secret."""
    (place / "old").write_bytes(content)
    result = gateway(*IMPORT, "old", stdin=PASSWORD)
    assert result.exit_code == 1
    assert word in result.stderr
    assert "planted-secret" not in result.stderr + result.stdout


@pytest.mark.usefixtures("place")
def test_usage(gateway: Gateway, place: Path) -> None:
    """Exit 2: a salt that could be anything, tokens and password both from stdin, no file, no password."""
    (place / "old").write_text("openai\tx")
    for salt in ("cafe", "hex:zz", "base64:!", "text:", "other:x"):
        assert gateway("vault", "import-fernet", "--salt", salt, "old", stdin=PASSWORD).exit_code == 2
    assert gateway(*IMPORT, "-", stdin=PASSWORD).exit_code == 2
    assert gateway(*IMPORT, "missing", stdin=PASSWORD).exit_code == 2
    assert gateway(*IMPORT, "old", stdin="").exit_code == 2
    assert gateway(*IMPORT, "--iterations", "0", "old", stdin=PASSWORD).exit_code == 2
