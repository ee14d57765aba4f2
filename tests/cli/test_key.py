"""``gateway key``: made, shown once, listed by their end, ended."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Gateway

pytestmark = pytest.mark.usefixtures("place")


def create(gateway: Gateway, *options: str) -> dict[str, str]:
    """A new key, as a program gets it."""
    result = gateway("key", "create", "--name", "n", "--json", *options)
    assert result.exit_code == 0
    made: dict[str, str] = json.loads(result.stdout)
    return made


def listed(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """All keys by id."""
    return {row["id"]: row for row in json.loads(gateway("key", "list", "--json").stdout)}


def test_a_program_gets_id_and_key_and_nothing_else(gateway: Gateway) -> None:
    """``--json`` prints one document with exactly two fields on stdout, and nothing on stderr."""
    result = gateway("key", "create", "--name", "ci", "--json")
    made = json.loads(result.stdout)
    assert sorted(made) == ["id", "key"]
    assert re.fullmatch(r"gw_[A-Za-z0-9]{32}", made["key"])
    assert result.stderr == ""


def test_a_key_is_shown_once(gateway: Gateway) -> None:
    """Lists show the last four characters; the text is nowhere to be had again."""
    made = create(gateway)
    text = gateway("key", "list").stdout
    assert made["key"] not in text
    assert listed(gateway)[made["id"]]["last_four"] == made["key"][-4:]


def test_limits_are_kept_with_the_key(gateway: Gateway) -> None:
    """Expiry, rate and models are what was asked for."""
    made = create(gateway, "--expires", "30d", "--rate", "5/min", "--model", "gpt-b", "--model", "gpt-a")
    row = listed(gateway)[made["id"]]
    assert row["rate"] == "5/60s"
    assert row["models"] == ["gpt-a", "gpt-b"]
    assert row["expires"] > row["created"]


def test_a_key_has_the_owner_that_was_named(gateway: Gateway) -> None:
    """And so that user's role. Without one it is the first administrator's."""
    gateway("user", "create", "m@example.com", "--role", "member", stdin="a long password\n")
    theirs, ours = create(gateway, "--owner", "m@example.com"), create(gateway)
    rows = listed(gateway)
    assert rows[theirs["id"]]["owner"] == "m@example.com"
    assert rows[ours["id"]]["owner"] == "admin@localhost"


def test_a_revoked_key_is_listed_as_such(gateway: Gateway) -> None:
    """Revoking is for good: a second time there is nothing to revoke, exit 1."""
    made = create(gateway)
    assert gateway("key", "revoke", made["id"]).exit_code == 0
    assert listed(gateway)[made["id"]]["revoked"] is not None
    again = gateway("key", "revoke", made["id"])
    assert (again.exit_code, again.stdout) == (1, "")
    assert len(again.stderr.splitlines()) == 1


def test_rotating_leaves_time_to_change_over(gateway: Gateway) -> None:
    """The new key has the old one's name; the old one gets an end."""
    made = create(gateway, "--rate", "5/min")
    new = json.loads(gateway("key", "rotate", made["id"], "--overlap", "1h", "--json").stdout)
    rows = listed(gateway)
    assert new["key"] != made["key"]
    assert (rows[new["id"]]["name"], rows[new["id"]]["rate"]) == ("n", "5/60s")
    assert rows[made["id"]]["expires"] is not None
    assert rows[new["id"]]["expires"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("revoke", "01NOSUCHKEY"),
        ("rotate", "01NOSUCHKEY"),
        ("create", "--name", "n", "--owner", "nobody@example.com"),
    ],
)
def test_what_is_not_there_is_answered_no(arguments: tuple[str, ...], gateway: Gateway) -> None:
    """Exit 1, one line on stderr that names it, nothing on stdout."""
    result = gateway("key", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert arguments[-1] in result.stderr


@pytest.mark.parametrize(
    "arguments", [("create",), ("create", "--name", "n", "--expires", "30"), ("create", "--name", "n", "--rate", "x")]
)
def test_a_command_that_is_not_understood_is_a_usage_error(arguments: tuple[str, ...], gateway: Gateway) -> None:
    """Exit 2, and no key is made."""
    before = listed(gateway)
    assert gateway("key", *arguments).exit_code == 2
    assert listed(gateway) == before


def test_a_name_cannot_drive_the_terminal(gateway: Gateway) -> None:
    """F82: a table shows a name's control characters escaped; a program gets them as JSON."""
    hostile = "\x1b[2Jx\ny\u2028"
    gateway("key", "create", "--name", hostile)
    table = gateway("key", "list").stdout
    assert "\\x1b[2Jx\\ny\\u2028" in table
    assert "\x1b" not in table
    assert hostile in [row["name"] for row in listed(gateway).values()]


def test_a_store_that_is_gone_is_not_made_anew(place: Path, gateway: Gateway) -> None:
    """F49: an empty store in the place of a lost one would look like a gateway whose keys were all deleted."""
    (place / "data" / "gateway.db").unlink()
    result = gateway("key", "create", "--name", "n")
    assert result.exit_code == 1
    assert "gateway init" in result.stderr
    assert not (place / "data" / "gateway.db").exists()
