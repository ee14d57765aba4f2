"""Every act of an administrator leaves a row in the audit log, and no secret in it."""

from __future__ import annotations

import asyncio
import getpass
import json
from typing import TYPE_CHECKING

from gateway.clock import SystemClock
from gateway.contract import Secret
from gateway.security.vault import KeyVault
from gateway.store.audit import PURPOSE
from gateway.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store import AuditEntry, AuditVerdict
    from tests.cli.conftest import Gateway


def audit(place: Path) -> tuple[list[AuditEntry], AuditVerdict]:
    """The log, oldest first, and whether its chain holds."""
    master = Secret((place / ".env").read_text().strip().partition("=")[2])

    async def run() -> tuple[list[AuditEntry], AuditVerdict]:
        async with Store.open(f"sqlite:///{place}/data/gateway.db", clock=SystemClock()) as store:
            record = await store.vault.read()
            assert record is not None
            log = store.audit(KeyVault.unlock(master, record).derive(PURPOSE))
            return (await log.list())[::-1], await log.verify()

    return asyncio.run(run())


def test_each_act_is_a_row_in_a_chain_that_holds(place: Path, gateway: Gateway) -> None:
    """Who, what and on what; a refused act leaves none."""
    gateway("user", "create", "m@example.com", "--role", "member", stdin="correct horse\n")
    gateway("user", "set-password", "m@example.com", stdin="battery staple\n")
    key = json.loads(gateway("key", "create", "--name", "n", "--owner", "m@example.com", "--json").stdout)
    new = json.loads(gateway("key", "rotate", key["id"], "--json").stdout)
    gateway("key", "revoke", new["id"])
    gateway("key", "revoke", "01NOSUCHKEY")
    gateway("provider-key", "set", "openai", stdin="sk-canary-7Yw2Lq9ZxV4b\n")
    gateway("provider-key", "remove", "openai")
    gateway("user", "disable", "m@example.com")
    entries, verdict = audit(place)
    assert verdict.intact
    assert {entry.actor for entry in entries} == {f"cli:{getpass.getuser()}"}
    assert [(entry.action, entry.target) for entry in entries[2:]] == [
        ("user.create", "m@example.com"),
        ("user.set_password", "m@example.com"),
        ("key.create", key["id"]),
        ("key.rotate", key["id"]),
        ("key.revoke", new["id"]),
        ("provider_key.set", "openai"),
        ("provider_key.remove", "openai"),
        ("user.disable", "m@example.com"),
    ]


def test_init_itself_is_on_record(place: Path) -> None:
    """The first administrator and the first key are rows too."""
    entries, _ = audit(place)
    assert [entry.action for entry in entries] == ["user.create", "key.create"]


def test_no_secret_is_on_record(place: Path, gateway: Gateway) -> None:
    """F73: neither keys nor passwords stand in a row."""
    key = json.loads(gateway("key", "create", "--name", "n", "--json").stdout)
    gateway("provider-key", "set", "openai", stdin="sk-canary-7Yw2Lq9ZxV4b\n")
    gateway("user", "create", "m@example.com", "--role", "member", stdin="correct horse\n")
    text = "".join(entry.detail + entry.target for entry in audit(place)[0])
    assert not any(secret in text for secret in (key["key"], "sk-canary", "correct horse"))
