"""The schema, once for every engine: SQLite now, PostgreSQL with the same words.

A change here needs a migration beside the others in ``migrations/versions``: a test compares the two. Instants are
whole milliseconds in the database and seconds in Python. Keys are ULIDs, so that rows sort by time and two writers
never choose the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


def to_milliseconds(instant: float) -> int:
    """Seconds since the epoch as the database keeps them."""
    return round(instant * 1000)


def as_kept(instant: float) -> float:
    """Seconds since the epoch, as precise as the database gives them back."""
    return to_milliseconds(instant) / 1000


class Instant(sa.TypeDecorator[float]):
    """Seconds since the epoch in Python; whole milliseconds in the database, where they compare and add up exactly."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's hook
        """Seconds become milliseconds."""
        return None if value is None else to_milliseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> float | None:  # noqa: ARG002 - SQLAlchemy's hook
        """Milliseconds become seconds."""
        return None if value is None else value / 1000


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created", Instant, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("jti", sa.Text, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("created", Instant, nullable=False),
    sa.Column("expires", Instant, nullable=False),
    sa.Column("revoked", Instant),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("last_four", sa.String(4), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("owner", sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("created", Instant, nullable=False),
    sa.Column("expires", Instant),
    sa.Column("revoked", Instant),
    sa.Column("last_used", Instant),
    sa.Column("rate_amount", sa.Integer),
    sa.Column("rate_period_s", sa.Double),
    sa.Column("models", sa.JSON(none_as_null=True)),
)

provider_keys = sa.Table(
    "provider_keys",
    metadata,
    sa.Column("upstream", sa.Text, primary_key=True),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("last_four", sa.String(4), nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
    sa.Column("added", Instant, nullable=False),
)

vault = sa.Table(
    "vault",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kdf", sa.Text, nullable=False),
    sa.Column("iterations", sa.Integer, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
    sa.Column("check_value", sa.LargeBinary, nullable=False),
)

# No foreign keys: what was used stays on record whatever becomes of the key, and one odd row must not stop a batch.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("at", Instant, nullable=False, index=True),
    sa.Column("route", sa.Text),
    sa.Column("key_id", sa.Text),
    sa.Column("upstream", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("layer", sa.Text),
    sa.Column("ended", sa.Text, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("tokens_source", sa.Text),
    sa.Column("cost_nanousd", sa.BigInteger),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("first_byte_ms", sa.BigInteger),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("bytes_out", sa.BigInteger, nullable=False),
    sa.Index(None, "key_id", "at"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("mac", sa.LargeBinary(32), nullable=False),
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""One row. Its number rises with every change of keys, users or roles, in the transaction that makes the change."""
