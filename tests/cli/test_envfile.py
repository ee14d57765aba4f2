"""gateway.cli.envfile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from gateway.cli.envfile import EnvFile
from gateway.contract import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> EnvFile:
    """A file with one variable, that others could read."""
    path = tmp_path / ".env"
    path.write_text("KEY=old\n")
    path.chmod(0o644)
    return EnvFile(path, "KEY")


def test_a_draft_changes_nothing_until_it_is_published(file: EnvFile) -> None:
    """Then it does in one step, and is for its owner's eyes only."""
    file.draft(Secret("new"))
    assert file.path.read_text() == "KEY=old\n"
    assert [path.stat().st_mode & 0o777 for path in file.path.parent.glob(".env.*")] == [0o600]
    file.publish()
    assert file.path.read_text() == "KEY=new\n"
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_draft_is_found_by_another_run(file: EnvFile) -> None:
    """With its value, until it is published or discarded; a second one takes its place."""
    other = EnvFile(file.path, file.name)
    assert other.drafted() is None
    file.draft(Secret("first"))
    file.draft(Secret('it\'s "second" \\ $X # y'))
    drafted = other.drafted()
    assert drafted is not None
    assert drafted.reveal() == 'it\'s "second" \\ $X # y'
    other.discard()
    other.discard()
    assert other.drafted() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_the_file_stays_its_owners(file: EnvFile) -> None:
    """An administrator who runs this as root does not lock the gateway out of its own file."""
    os.chown(file.path, NOBODY, NOBODY)
    file.draft(Secret("new"))
    file.publish()
    assert (file.path.stat().st_uid, file.path.stat().st_gid) == (NOBODY, NOBODY)


@pytest.fixture
def closed() -> Iterator[EnvFile]:
    """A file in a folder that takes no other, for a user whom file modes hold back, unlike root."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        path.write_text("KEY=old\n")
        Path(folder).chmod(0o555)
        if os.geteuid() != 0:
            yield EnvFile(path, "KEY")
            return
        os.seteuid(NOBODY)
        try:
            yield EnvFile(path, "KEY")
        finally:
            os.seteuid(0)


def test_a_draft_that_cannot_be_written_is_one_line(closed: EnvFile) -> None:
    """With the file that is in the way; nothing was changed."""
    with pytest.raises(click.ClickException, match=r"\.env\.new: .*: nothing was changed"):
        closed.draft(Secret("new"))
    assert closed.path.read_text() == "KEY=old\n"


def test_a_value_that_the_file_cannot_hold_is_one_line(file: EnvFile) -> None:
    """Not repeated, and nothing was changed."""
    with pytest.raises(click.ClickException, match="cannot hold this value of OTHER: nothing was changed"):
        EnvFile(file.path, "OTHER").draft(Secret("planted"))
