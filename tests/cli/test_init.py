"""``gateway init``: from nothing to a gateway that can serve, in one run or in several."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.clock import SystemClock
from gateway.contract import Secret
from gateway.security.keys import digest
from gateway.security.passwords import Passwords
from gateway.security.vault import KeyVault
from gateway.store.store import Store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from gateway.contract import Principal
    from tests.cli.conftest import Gateway, Made

ROOT = Path(__file__).parent.parent.parent


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it; the store's write-ahead log aside, which reading makes and removes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".db-wal", ".db-shm"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def master_key(folder: Path) -> str:
    """The value in ``.env``."""
    return (folder / ".env").read_text().strip().partition("=")[2]


def store_in(folder: Path) -> AbstractAsyncContextManager[Store]:
    """The store that ``init`` made there."""
    return Store.open(f"sqlite:///{folder}/data/gateway.db", clock=SystemClock())


async def principal_of(folder: Path, key: str) -> Principal | None:
    """Whom the store knows by this key."""
    async with store_in(folder) as store:
        grant = await store.api_keys.by_digest(digest(key))
        return None if grant is None else grant.principal


async def password_fits(folder: Path, email: str, password: str) -> bool:
    """Whether the user could log in."""
    async with (
        Store.open(f"sqlite:///{folder}/data/gateway.db", clock=SystemClock()) as store,
        Passwords() as passwords,
    ):
        user = await store.users.by_email(email)
        return user is not None and await passwords.verify(Secret(password), user.password_hash)


def test_an_empty_folder_becomes_a_gateway(here: Path, gateway: Gateway) -> None:
    """One run makes the configuration, a master key, the store, an administrator and a key that works."""
    result = gateway("init")
    assert (result.exit_code, result.stderr) == (0, "")
    key = re.search(r"gw_[A-Za-z0-9]{32}", result.stdout)
    password = re.search(r"^password +(\S+)", result.stdout, re.MULTILINE)
    assert key is not None
    assert password is not None
    principal = asyncio.run(principal_of(here, key[0]))
    assert principal is not None
    assert principal.role == "admin"
    assert asyncio.run(password_fits(here, "admin@localhost", password[1]))
    assert gateway("check").exit_code == 0


def test_it_says_lines_to_paste(here: Path, gateway: Gateway) -> None:
    """The base URL, a curl line and four lines of Python carry the key; the Python is at the margin and compiles."""
    said = gateway("init").stdout
    key = re.search(r"gw_[A-Za-z0-9]{32}", said)
    assert key is not None
    assert "base URL       http://127.0.0.1:8080/v1\n" in said
    assert f'curl -N http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer {key[0]}"' in said
    python = said[said.index("from openai import") :].strip()
    assert len(python.splitlines()) == 4
    assert f'base_url="http://127.0.0.1:8080/v1", api_key="{key[0]}"' in python
    compile(python, "pasted", "exec")
    assert (here / ".env").exists()


def test_the_master_key_is_its_owners_only(place: Path) -> None:
    """``.env`` can be read by nobody else, whatever the umask; the store and its folder neither."""
    assert stat.S_IMODE((place / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "data" / "gateway.db").stat().st_mode) == 0o600


def test_no_secret_is_in_the_stores_files(place: Path, made: Made) -> None:
    """F73: neither the key, nor the password, nor the master key lies in the store in clear."""
    data = b"".join(path.read_bytes() for path in (place / "data").iterdir())
    secrets = (made.said["key"]["key"], made.said["admin"]["password"], master_key(place))
    assert not any(secret.encode() in data for secret in secrets)


def test_each_gateway_has_its_own_secrets(here: Path, made: Made, gateway: Gateway) -> None:
    """F64: no two runs make the same master key, password or API key."""
    said = json.loads(gateway("init", "--json").stdout)
    assert said["key"]["key"] != made.said["key"]["key"]
    assert said["admin"]["password"] != made.said["admin"]["password"]
    assert master_key(here) != master_key(made.folder)


def test_the_shipped_template_is_the_repositorys_file() -> None:
    """What a newcomer reads in the repository is what ``init`` writes."""
    assert (ROOT / "gateway" / "cli" / "gateway.yaml").read_text() == (ROOT / "gateway.yaml").read_text()


def test_a_second_run_changes_nothing(place: Path, gateway: Gateway) -> None:
    """Everything is in place, it says, and shows no secret."""
    before = contents(place)
    result = gateway("init")
    assert result.exit_code == 0
    assert "Everything is in place." in result.stdout
    assert "gw_" not in result.stdout
    assert contents(place) == before


def test_a_configuration_of_ones_own_is_kept(here: Path, gateway: Gateway) -> None:
    """``init`` writes its template only where there is no file."""
    own = (ROOT / "gateway.yaml").read_text().replace("127.0.0.1:8080", "127.0.0.1:9090")
    (here / "gateway.yaml").write_text(own)
    result = gateway("init")
    assert "http://127.0.0.1:9090/v1" in result.stdout
    assert (here / "gateway.yaml").read_text() == own


def test_a_master_key_from_the_environment_is_used(
    here: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever brings a master key gets no ``.env``."""
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E")
    assert gateway("init").exit_code == 0
    assert not (here / ".env").exists()


# Interrupted


@pytest.mark.parametrize("reached", ["configuration", "master key", "store", "vault", "administrator"])
def test_an_interrupted_run_is_finished_by_the_next(reached: str, here: Path, made: Made, gateway: Gateway) -> None:
    """Killed after any step, ``init`` run again makes what is missing and keeps what is there."""
    key = master_key(made.folder)
    steps = ["configuration", "master key", "store", "vault", "administrator"]
    done = steps[: steps.index(reached) + 1]
    (here / "gateway.yaml").write_bytes((ROOT / "gateway.yaml").read_bytes())
    if "master key" in done:
        (here / ".env").write_text(f"GATEWAY_MASTER_KEY={key}\n")

    async def make() -> None:
        async with Store.open(f"sqlite:///{here}/data/gateway.db", clock=SystemClock(), create=True) as store:
            if "vault" in done:
                await store.vault.create(KeyVault.create(Secret(key))[1])
            if "administrator" in done:
                await store.users.create("first@example.com", "$2b$12$" + "." * 53, "admin")

    if "store" in done:
        asyncio.run(make())
    said = json.loads(gateway("init", "--json").stdout)
    assert said["complete"]
    assert (said["admin"] is None) == ("administrator" in done)
    assert asyncio.run(principal_of(here, said["key"]["key"])) is not None
    assert ("master key" not in done) == (master_key(here) != key)


def test_a_secret_that_was_made_is_shown_though_a_later_step_fails(
    here: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator was made, no administrator can own the key: the password is shown, the exit code is 1."""
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E")
    key = Secret("t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E")

    async def fill_up() -> None:
        async with Store.open(f"sqlite:///{here}/data/gateway.db", clock=SystemClock(), create=True) as store:
            await store.vault.create(KeyVault.create(key)[1])
            await store._database.write(_refuse_keys)

    async def _refuse_keys(connection: object) -> None:
        await connection.exec_driver_sql(  # type: ignore[attr-defined]
            "CREATE TRIGGER full BEFORE INSERT ON api_keys BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )

    asyncio.run(fill_up())
    result = gateway("init")
    assert result.exit_code == 1
    assert re.search(r"^password +\S{24} ", result.stdout, re.MULTILINE)
    assert "Everything is in place" not in result.stdout


# The master key that is not the vault's


def test_a_lost_master_key_is_not_replaced(place: Path, gateway: Gateway) -> None:
    """F65: with the store there and ``.env`` gone, no new key is made: it would hide that the old one is needed."""
    (place / ".env").unlink()
    before = contents(place)
    result = gateway("init")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "put it back into .env" in result.stderr
    assert contents(place) == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E", "is not the one that this vault was made with"),
        ("short", "has 5 characters and needs 32"),
    ],
)
@pytest.mark.parametrize("verb", ["init", "key list", "provider-key set openai"])
def test_a_wrong_master_key_changes_nothing(value: str, words: str, verb: str, place: Path, gateway: Gateway) -> None:
    """F65: every verb that opens the store says so in one line, without the key, and writes nothing."""
    (place / ".env").write_text(f"GATEWAY_MASTER_KEY={value}\n")
    before = contents(place)
    result = gateway(*verb.split(), stdin="sk-something-new\n")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr
    assert value not in result.stderr
    assert contents(place) == before


def test_an_env_file_of_ones_own_is_not_touched(here: Path, gateway: Gateway) -> None:
    """A ``.env`` without our variable stays as it is; the fault is located in gateway.yaml."""
    (here / ".env").write_text("OTHER=1\n")
    result = gateway("init")
    assert result.exit_code == 1
    assert re.match(r"gateway\.yaml:\d+ vault\.master_key: .*GATEWAY_MASTER_KEY", result.stderr)
    assert (here / ".env").read_text() == "OTHER=1\n"


def test_a_folder_that_cannot_be_written_is_one_line(here: Path, gateway: Gateway) -> None:
    """An error of the system is said with the file's name, without a traceback."""
    result = gateway("init", "-c", "missing/gateway.yaml")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert list(here.iterdir()) == []
