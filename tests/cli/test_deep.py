"""``gateway check --deep``: everything that the file names is opened, found right or wrong by itself, and closed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.cli.deep import look
from gateway.config import load
from gateway.registry import resolve
from tests.worlds.certificates import Authority

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cli.conftest import Gateway

CANARY = "sk-provider-canary-51d0c2aa"
NOBODY = "http://127.0.0.1:9"
"""An origin at which nothing listens: what the fresh gateway forwards to here."""

Found = dict[str, tuple[bool | None, str]]


@pytest.fixture
def place(place: Path) -> Path:
    """The fresh gateway, which asks nobody on the internet."""
    edit(place, ("https://api.openai.com", NOBODY))
    return place


async def found(place: Path) -> Found:
    """What is found, by what was looked at."""
    findings = await look(load(place / "gateway.yaml", resolve, os.environ))
    return {finding.what: (finding.ok, finding.detail) for finding in findings}


def edit(place: Path, *changes: tuple[str, str]) -> None:
    """Change gateway.yaml."""
    file = place / "gateway.yaml"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


@dataclass(frozen=True)
class Upstream:
    """Where it listens, what came over each connection, and whether one has come and gone."""

    port: int
    received: list[bytes]
    closed: asyncio.Event


@asynccontextmanager
async def upstream(context: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A port that takes connections."""
    received: list[bytes] = []
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.append(await reader.read())
        except OSError:
            received.append(b"")
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Upstream(server.sockets[0].getsockname()[1], received, closed)


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def listening(place: Path) -> socket.socket:
    """An upstream that is there, in gateway.yaml, and ports that are free."""
    server = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{server.getsockname()[1]}"
    edit(place, (NOBODY, origin), ("127.0.0.1:8080}", "127.0.0.1:0}"), (":8081}", ":0}"))
    return server


def test_all_is_well(place: Path, gateway: Gateway) -> None:
    """`ok` and exit 0, one line for each thing; no secret is shown."""
    with listening(place):
        gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
        result = gateway("check", "--deep")
    lines = result.stdout.partition("\n\n")[2].splitlines()[1:]
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "ok")
    assert [line.split("  ")[0] for line in lines] == [
        "store",
        "vault",
        "provider key openai",
        "listener public",
        "listener admin",
        "upstream openai",
    ]
    assert CANARY not in result.stdout


def test_one_no_is_no(place: Path, gateway: Gateway) -> None:
    """Exit 1, and JSON says which: here the provider's key is not there yet."""
    with listening(place):
        result = gateway("check", "--deep", "--json")
        assert gateway("check", "--deep").stdout.splitlines()[0] == "not ok"
    said = json.loads(result.stdout)
    assert (result.exit_code, said["ok"]) == (1, False)
    assert [finding["what"] for finding in said["findings"] if not finding["ok"]] == ["provider key openai"]
    assert "run `gateway provider-key set openai`" in said["findings"][2]["detail"]


def test_a_wrong_file_is_not_looked_into(place: Path, gateway: Gateway) -> None:
    """F60: its faults come first, as without --deep."""
    edit(place, ("by: ip", "bi: ip"))
    result = gateway("check", "--deep")
    assert (result.exit_code, result.stdout) == (1, "")


# ── The store ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_store_that_is_not_there(place: Path) -> None:
    """F49: it is not made; what is sealed in it could not be looked at, which is no further no."""
    (place / "data" / "gateway.db").unlink()
    seen = await found(place)
    assert seen["store"][0] is False
    assert "run `gateway init`" in seen["store"][1]
    assert (seen["vault"][0], seen["provider key openai"][0]) == (None, None)
    assert not (place / "data" / "gateway.db").exists()


async def test_a_store_of_an_older_version_is_not_migrated(place: Path) -> None:
    """F71: the gateway that still runs would lose its store under its feet."""
    file = place / "data" / "gateway.db"
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("VACUUM")
    connection.close()
    seen = await found(place)
    assert seen["store"] == (True, "has schema none; the next start brings it to 0001")
    assert seen["vault"][0] is None
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE gateway_schema SET version_num = '9999'", "made by a newer gateway"),
        ("DROP TABLE gateway_schema", "tables of something else"),
    ],
)
async def test_a_store_that_is_not_ours_to_use(place: Path, statement: str, words: str) -> None:
    """F71: a newer one's, or somebody else's."""
    with sqlite3.connect(place / "data" / "gateway.db") as connection:
        connection.execute(statement)
    connection.close()
    ok, detail = (await found(place))["store"]
    assert ok is False
    assert words in detail


async def test_a_damaged_store(place: Path) -> None:
    """F49: what is no database is said to be none."""
    (place / "data" / "gateway.db").write_bytes(b"not a database" * 1000)
    ok, detail = (await found(place))["store"]
    assert ok is False
    assert "no SQLite database" in detail


async def test_a_master_key_that_is_another_vaults(place: Path) -> None:
    """F65: the store is right and the vault is not; the keys in it could not be looked at."""
    (place / ".env").write_text("GATEWAY_MASTER_KEY=t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E\n")
    seen = await found(place)
    assert (seen["store"][0], seen["vault"][0], seen["provider key openai"][0]) == (True, False, None)
    assert "is not the one that this vault was made with" in seen["vault"][1]


# ── Provider keys ────────────────────────────────────────────────────────────────────────────────────────────────────


async def change_key(place: Path, statement: str) -> tuple[bool | None, str]:
    """What is said of the key of openai once its row is changed."""
    with sqlite3.connect(place / "data" / "gateway.db") as connection:
        connection.execute(statement)
    connection.close()
    return (await found(place))["provider key openai"]


def test_keys_that_cannot_be_used(place: Path, gateway: Gateway) -> None:
    """F68: one that is damaged, and one that was stored for another origin."""
    gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    assert asyncio.run(found(place))["provider key openai"] == (True, f"opens, for {NOBODY}")
    ok, detail = asyncio.run(change_key(place, "UPDATE provider_keys SET ciphertext = zeroblob(64)"))
    assert (ok, CANARY in detail) == (False, False)
    gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    edit(place, (NOBODY, "http://127.0.0.1:10"))
    ok, detail = asyncio.run(found(place))["provider key openai"]
    assert ok is False
    assert f"was stored for {NOBODY} and is not sent to http://127.0.0.1:10" in detail


def test_a_key_that_nobody_uses(place: Path, gateway: Gateway) -> None:
    """It is mentioned, and is not wrong."""
    gateway("provider-key", "set", "openai", stdin=f"{CANARY}\n")
    edit(place, ("  openai:\n", "  renamed:\n"), ("upstream: openai", "upstream: renamed"))
    seen = asyncio.run(found(place))
    assert seen["provider key openai"] == (True, "is stored, and no upstream uses it")
    assert seen["provider key renamed"][0] is False


# ── Listeners and certificates ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_port_that_is_taken(place: Path) -> None:
    """F70: by whomever; the other one is free, and is free again afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        other.close()
        edit(place, ("127.0.0.1:8080}", f"127.0.0.1:{taken.getsockname()[1]}}}"), (":8081}", f":{free}}}"))
        seen = await found(place)
    assert seen["listener public"][0] is False
    assert seen["listener public"][1].endswith("Address already in use")
    assert seen["listener admin"][0] is True
    with socket.create_server(("127.0.0.1", free)):
        pass


async def test_an_address_that_is_not_ours(place: Path) -> None:
    """F70: a name that nobody knows has words too."""
    edit(place, ("127.0.0.1:8080}", "192.0.2.1:8080}"), ("127.0.0.1:8081}", "no-such-host.invalid:8081}"))
    seen = await found(place)
    assert "Cannot assign requested address" in seen["listener public"][1]
    assert seen["listener admin"][0] is False
    assert "Unknown error" not in seen["listener admin"][1]


@pytest.mark.parametrize(
    ("days", "ok", "words"),
    [(80, True, "valid from"), (-1, False, "which now is not"), (None, False, "cannot be read")],
)
async def test_a_listeners_certificate(place: Path, days: int | None, ok: bool, words: str) -> None:
    """F69: it is read with its key, and its dates are looked at."""
    if days is not None:
        Authority(place).issue("server", start=timedelta(days=-9), end=timedelta(days=days))
    edit(place, ("127.0.0.1:8080}", "127.0.0.1:0, tls: {certificate: server.pem, key: server.key}}"))
    seen = (await found(place))["certificate public"]
    assert seen[0] is ok
    assert words in seen[1]


# ── Upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_upstream_is_connected_to_and_sent_nothing(place: Path) -> None:
    """Not a byte arrives."""
    async with upstream() as there:
        edit(place, (NOBODY, f"http://127.0.0.1:{there.port}"))
        seen = await found(place)
        await there.closed.wait()
    assert seen["upstream openai"] == (True, f"http://127.0.0.1:{there.port} can be reached")
    assert there.received == [b""]


async def test_an_upstream_of_a_private_authority(place: Path) -> None:
    """F04: TLS is spoken, and the certificate verified; the authority's file is read."""
    authority = Authority(place)
    async with upstream(authority.issue("server").server()) as there:
        origin = f"https://localhost:{there.port}"
        edit(place, (f"{NOBODY}/v1", f"{origin}/v1\n    tls: {{ca: authority.pem}}"))
        seen = await found(place)
        await there.closed.wait()
    assert seen["authorities openai"][1].endswith("authority.pem has 1")
    assert seen["upstream openai"] == (True, f"{origin} can be reached and shows a certificate that is right")
    assert there.received == [b""]


@pytest.mark.parametrize("fault", ["unknown authority", "other host", "expired"])
async def test_an_upstream_whose_certificate_is_wrong(place: Path, fault: str) -> None:
    """F04: whatever is wrong with it."""
    authority = Authority(place)
    trusted = Authority(place, "other") if fault == "unknown authority" else authority
    hosts = ("elsewhere.example",) if fault == "other host" else ()
    end = timedelta(hours=-1) if fault == "expired" else timedelta(days=80)
    async with upstream(authority.issue("server", *hosts, end=end).server()) as there:
        base = f"https://localhost:{there.port}/v1\n    tls: {{ca: {trusted.file.name}}}"
        edit(place, (f"{NOBODY}/v1", base))
        seen = await found(place)
    assert seen["upstream openai"][0] is False
    assert "TLS failed" in seen["upstream openai"][1]


async def test_an_upstream_that_is_not_there(place: Path) -> None:
    """F01, F03: refused, and not known by name; each in words, within the time for connecting."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        edit(place, (NOBODY, f"http://127.0.0.1:{closed.getsockname()[1]}"))
        refused = (await found(place))["upstream openai"]
    assert refused[0] is False
    assert "cannot connect" in refused[1]


async def test_an_upstream_that_never_answers(place: Path) -> None:
    """F02: a port that takes a connection and no handshake is given up at `timeouts.connect`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        edit(
            place,
            (NOBODY, f"https://127.0.0.1:{silent.getsockname()[1]}"),
            ("connect: 5s", "connect: 200ms"),
        )
        seen = (await found(place))["upstream openai"]
    assert seen[0] is False
    assert "no connection within 0.2 s" in seen[1]
