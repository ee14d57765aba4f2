"""``gateway check``: ok, or everything that is wrong; nothing is opened either way."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Gateway


def edit(place: Path, old: str, new: str) -> None:
    """Change gateway.yaml in one place."""
    file = place / "gateway.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.usefixtures("place")
def test_a_good_file_is_ok_with_its_chains(gateway: Gateway) -> None:
    """The first line is ``ok``; then each route, in the order in which a request meets the layers."""
    result = gateway("check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "ok"
    assert re.search(r"^public /v1/?: security_headers → cors → rate_limit → ", result.stdout, re.MULTILINE)


@pytest.mark.usefixtures("place")
def test_a_program_gets_the_chains_as_json(gateway: Gateway) -> None:
    """The names of the layers, in order."""
    said = json.loads(gateway("check", "--json").stdout)
    assert said["ok"] is True
    assert said["routes"][0]["chain"][-2:] == ["vault", "forward"]


def test_every_fault_is_a_line_with_its_place(place: Path, gateway: Gateway) -> None:
    """F60: all faults at once, each with file, line and path, on stderr; exit 1."""
    edit(place, "by: ip", "bi: ip")
    edit(place, "- demo ", "- demmo ")
    result = gateway("check")
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) >= 2
    assert all(re.match(r"gateway\.yaml:\d+ routes\[0\]\.chain\[\d\]", line) for line in lines)


def test_an_order_that_cannot_work_is_located(place: Path, gateway: Gateway) -> None:
    """F60: a vault in front of the authentication is a fault of the file, found before anything serves."""
    edit(place, "      - api_key_auth ", "      - demo ")
    result = gateway("check")
    assert result.exit_code == 1
    assert "PRINCIPAL" in result.stderr


def test_checking_opens_nothing(place: Path, gateway: Gateway) -> None:
    """It needs no store, and makes none."""
    (place / "data" / "gateway.db").unlink()
    assert gateway("check").exit_code == 0
    assert not (place / "data" / "gateway.db").exists()


@pytest.mark.usefixtures("here")
def test_a_missing_file_is_one_line(gateway: Gateway) -> None:
    """It is named, with exit 1 and no traceback."""
    result = gateway("check", "-c", "other.yaml")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "other.yaml" in result.stderr
