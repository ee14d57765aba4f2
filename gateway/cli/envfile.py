"""The ``.env`` beside gateway.yaml, and changing one variable in it so that no moment is without the old or the new."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gateway.config.references import load_dotenv, with_variable
from gateway.contract import Secret

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class EnvFile:
    """One variable of the file at ``path``, which is there and sets it.

    A new value is first drafted in a file beside it (``.env.new``) and then published by putting that in the place of
    the old one. Both are of mode 600, belong to whom the old one belongs, and are on the disk when the call returns.
    """

    path: Path
    name: str

    @property
    def _draft(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")

    def draft(self, value: Secret) -> None:
        """Write all that the file will be. Raises click.ClickException where that cannot be done."""
        try:
            text = with_variable(self.path.read_text(encoding="utf-8"), self.name, value.reveal())
            if text is None:
                raise click.ClickException(f"{self.path} cannot hold this value of {self.name}: nothing was changed")
            self._write_draft(text)
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}: nothing was changed") from error

    def drafted(self) -> Secret | None:
        """The value that an interrupted run drafted and did not publish."""
        value = load_dotenv(self._draft).get(self.name)
        return Secret(value) if value else None

    def publish(self) -> None:
        """Put the draft in the place of the file, in one step."""
        self._draft.replace(self.path)
        self._sync_folder()

    def discard(self) -> None:
        """Forget the draft, if there is one."""
        with suppress(FileNotFoundError):
            self._draft.unlink()

    def _write_draft(self, text: str) -> None:
        self.discard()
        owner = self.path.stat()
        descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
