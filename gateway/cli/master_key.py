"""Replacing the master key: in the store, and where the gateway reads it from.

Between the two a kill must lose nothing. So the new ``.env`` is drafted first, then the store's record is rewritten,
then the draft takes the place of the old file; and a run that finds a draft whose master key opens the vault knows what
is left to do.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gateway.cli.desk import DEADLINE_S, actor
from gateway.cli.envfile import EnvFile
from gateway.clock import SystemClock
from gateway.config import load
from gateway.config.document import read
from gateway.config.references import load_dotenv, variable_of
from gateway.errors import GatewayError, StoreUnavailable
from gateway.registry import resolve
from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.config import GatewayConfig
    from gateway.contract import Secret
    from gateway.store.rotation import Rotation


@dataclass(frozen=True, slots=True)
class MasterKeySource:
    """Where ``vault.master_key`` comes from: the variable that it refers to, if it does, and the ``.env`` beside it."""

    variable: str | None
    env_path: Path

    @classmethod
    def of(cls, config_path: Path) -> MasterKeySource:
        """Read it from the file. Raises ConfigError where that is no YAML."""
        node = read(config_path).find(("vault", "master_key"))
        variable = variable_of(node.value) if node is not None and isinstance(node.value, str) else None
        return cls(variable, (config_path.parent / ".env").resolve())

    def env_file(self) -> EnvFile:
        """The ``.env`` that the master key is read from. Raises click.ClickException where that is elsewhere."""
        if self.variable is None:
            raise click.ClickException("vault.master_key does not refer to a variable that .env could set")
        if self.variable in os.environ:
            raise click.ClickException(f"{self.variable} is set in the environment, which .env cannot change")
        if self.variable not in load_dotenv(self.env_path):
            raise click.ClickException(f"{self.env_path} does not set {self.variable}")
        return EnvFile(self.env_path, self.variable)

    def __str__(self) -> str:
        if self.variable is None:
            return "what vault.master_key refers to"
        if self.variable in os.environ:
            return f"{self.variable} in the environment"
        return f"{self.variable} in {self.env_path}"


async def change_master_key(config_path: Path, new: Secret, env_file: EnvFile | None) -> bool:
    """Put the vault under ``new``, then the file; False where the vault was already."""
    async with _rotation(config_path) as (rotation, config):
        if env_file is not None:
            env_file.draft(new)
        try:
            changed = await rotation.change_master_key(config.vault.master_key, new)
        except GatewayError as error:
            # After StoreUnavailable the vault may be under the new key, and the draft may be the only copy of it.
            if env_file is not None and not isinstance(error, StoreUnavailable):
                env_file.discard()
            raise
        if env_file is not None:
            env_file.publish()
        return changed


async def finish_interrupted(config_path: Path, env_file: EnvFile) -> bool:
    """Publish the draft of a run that was interrupted after it had changed the vault; False where there is none."""
    drafted = env_file.drafted()
    if drafted is None:
        return False
    async with _rotation(config_path) as (rotation, _):
        finished = await rotation.is_under(drafted)
        if finished:
            env_file.publish()
        return finished


@asynccontextmanager
async def _rotation(config_path: Path) -> AsyncIterator[tuple[Rotation, GatewayConfig]]:
    """Not the desk: opening that takes the configured master key, which may be the old one already."""
    config = load(config_path, resolve, os.environ)
    async with (
        Store.open(config.store, clock=SystemClock(), deadline_s=DEADLINE_S) as store,
        store.rotation(actor=actor(), cipher=config.vault.cipher) as rotation,
    ):
        yield rotation, config
