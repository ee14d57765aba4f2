"""Bringing a database to the schema that this version was written for.

Alembic walks the steps, configured from here: no ini file, no templates, no environment script. The caller opens the
transaction and takes whatever lock its engine has, so that of several gateways that start at once one migrates and the
others find it done, and so that a step which is interrupted leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.errors import StoreMismatch
from gateway.store.tables import metadata

_STEPS = Path(__file__).with_name("migrations")
_VERSION_TABLE = "gateway_schema"


@dataclass(frozen=True, slots=True)
class Schema:
    """The step that a database has ``reached`` (None: not the first), and the ``newest`` that this version knows."""

    reached: str | None
    newest: str | None

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to migrate."""
        return self.reached == self.newest


def migrate(connection: sa.Connection) -> None:
    """Walk the steps that are missing, in the transaction that ``connection`` is in.

    Raises StoreMismatch, having changed nothing, for a schema that a newer gateway made and for a database that
    belongs to something else.
    """
    config, steps = _known_steps()
    if _schema(connection, steps).is_current:
        return

    def missing(revision: Any, _: MigrationContext) -> Any:  # noqa: ANN401 - alembic's callback
        return steps._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic's own documentation passes here

    with EnvironmentContext(config, steps, fn=missing) as environment:
        environment.configure(connection=connection, target_metadata=metadata, version_table=_VERSION_TABLE)
        environment.run_migrations()


def schema_of(connection: sa.Connection) -> Schema:
    """How far the database has got. Changes nothing. Raises StoreMismatch where :func:`migrate` would."""
    return _schema(connection, _known_steps()[1])


def _schema(connection: sa.Connection, steps: ScriptDirectory) -> Schema:
    current = schema_version(connection)
    _refuse_foreign(connection, current, steps)
    return Schema(current, steps.get_current_head())


def _known_steps() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def schema_version(connection: sa.Connection) -> str | None:
    """The step that the database has reached; None for one that has no steps yet."""
    return MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE}).get_current_revision()


def _refuse_foreign(connection: sa.Connection, current: str | None, steps: ScriptDirectory) -> None:
    """Leave alone what this version did not make and does not know."""
    if current is None:
        if sa.inspect(connection).get_table_names():
            raise StoreMismatch(
                "the database holds tables of something else: give the gateway a database of its own in `store`"
            )
        return
    known: set[str] = {step.revision for step in steps.walk_revisions()}
    if current not in known:
        raise StoreMismatch(
            f"the store has schema {current}, made by a newer gateway (this one knows up to "
            f"{steps.get_current_head()}): run the newer gateway, or restore the backup from before its first start"
        )
