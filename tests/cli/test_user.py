"""``gateway user``: who may log in and own keys."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.clock import SystemClock
from gateway.contract import Secret
from gateway.security.passwords import Passwords
from gateway.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Gateway


def create(gateway: Gateway) -> None:
    """A member."""
    assert gateway("user", "create", "m@example.com", "--role", "member", stdin="correct horse\n").exit_code == 0


def listed(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """All users by email."""
    return {row["email"]: row for row in json.loads(gateway("user", "list", "--json").stdout)}


def fits(place: Path, email: str, password: str) -> bool:
    """Whether the user could log in with it."""

    async def run() -> bool:
        async with Store.open(f"sqlite:///{place}/data/gateway.db", clock=SystemClock()) as store:
            user = await store.users.by_email(email)
            assert user is not None
            async with Passwords() as passwords:
                return await passwords.verify(Secret(password), user.password_hash)

    return asyncio.run(run())


def test_a_user_has_role_and_password(place: Path, gateway: Gateway) -> None:
    """The password comes from stdin; the list shows the role and no hash."""
    create(gateway)
    assert listed(gateway)["m@example.com"]["role"] == "member"
    assert fits(place, "m@example.com", "correct horse")
    assert "$2b$" not in gateway("user", "list", "--json").stdout


def test_a_new_password_replaces_the_old_one(place: Path, gateway: Gateway) -> None:
    """The old one no longer fits."""
    create(gateway)
    assert gateway("user", "set-password", "m@example.com", stdin="battery staple\n").exit_code == 0
    assert fits(place, "m@example.com", "battery staple")
    assert not fits(place, "m@example.com", "correct horse")


@pytest.mark.usefixtures("place")
def test_a_disabled_user_is_listed_as_such(gateway: Gateway) -> None:
    """Disabling keeps the user's row."""
    create(gateway)
    assert gateway("user", "disable", "m@example.com").exit_code == 0
    assert listed(gateway)["m@example.com"]["disabled"] is True


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "admin@localhost", "--role", "viewer"),
        ("set-password", "nobody@example.com"),
        ("disable", "nobody@example.com"),
    ],
)
def test_what_cannot_be_is_answered_no(arguments: tuple[str, ...], gateway: Gateway) -> None:
    """Exit 1 and one line that names the user."""
    result = gateway("user", *arguments, stdin="correct horse\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert arguments[1] in result.stderr


@pytest.mark.usefixtures("place")
def test_a_password_that_bcrypt_would_cut_is_refused(gateway: Gateway) -> None:
    """Over 72 bytes it says so; nobody gets a password of which only the beginning counts."""
    result = gateway("user", "create", "m@example.com", "--role", "member", stdin="x" * 73 + "\n")
    assert result.exit_code == 1
    assert "72" in result.stderr
    assert "m@example.com" not in listed(gateway)
