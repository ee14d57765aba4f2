"""A folder in which ``gateway init`` has run, and the command to use in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

if TYPE_CHECKING:
    from pathlib import Path


Gateway = Callable[..., Result]
"""Run the command with these arguments and ``stdin``; exceptions other than its own come through."""


@dataclass(frozen=True)
class Made:
    """What ``gateway init --json`` said, and where."""

    folder: Path
    said: dict[str, Any]


def invoke(*arguments: str, stdin: str = "") -> Result:
    """The command in this process: the same code as the script's, without its start."""
    return CliRunner(catch_exceptions=False).invoke(main, arguments, input=stdin)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fresh gateway. Made once, because bcrypt and PBKDF2 take their time; nobody writes into it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("GATEWAY_MASTER_KEY", raising=False)
        return Made(folder, json.loads(invoke("init", "--json").stdout))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_MASTER_KEY", raising=False)
    return tmp_path


@pytest.fixture
def place(made: Made, here: Path) -> Path:
    """A copy of the fresh gateway to work in."""
    shutil.copytree(made.folder, here, dirs_exist_ok=True)
    return here


@pytest.fixture
def gateway() -> Gateway:
    """The command."""
    return invoke
