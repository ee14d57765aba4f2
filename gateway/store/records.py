"""The values that go into the store and come out of it.

Points in time are seconds since the epoch, kept to the millisecond. Nothing here is a secret in clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.contract import Principal, Rate


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in and own keys. ``email`` is in lower case."""

    id: str
    email: str
    password_hash: str = field(repr=False)
    role: str
    disabled: bool
    created: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown. ``owner`` is a user's id; ``models`` and ``rate`` are limits, None where there is none.

    The key works until ``expires`` or ``revoked``, whichever comes first.
    """

    id: str
    last_four: str
    name: str
    owner: str
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None
    rate: Rate | None
    models: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key's digest was found to mean: who calls, and until when (None: for good)."""

    principal: Principal
    expires: float | None


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A provider's key as it lies in the store: sealed for this upstream at this origin (``scheme://host[:port]``)."""

    upstream: str
    origin: str
    ciphertext: bytes = field(repr=False)
    key_version: int
    last_four: str
    added_by: str
    added: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one exchange used. ``id`` is the exchange's; the same row written twice is there once."""

    id: str
    at: float
    route: str | None
    key_id: str | None
    upstream: str | None
    model: str | None
    status: int
    code: str | None
    layer: str | None
    ended: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    tokens_source: str | None
    cost_nanousd: int | None
    duration_ms: int
    first_byte_ms: int | None
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that somebody did. ``mac`` seals it together with all entries before it."""

    number: int
    at: float
    actor: str
    action: str
    target: str
    detail: str
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """Whether the audit log is as it was written: ``fault`` says in words where it is not.

    ``head`` is the last entry's mac: kept elsewhere, it lets a later check find that the end was cut off.
    """

    entries: int
    head: bytes | None
    fault: str | None

    @property
    def intact(self) -> bool:
        """Nothing was changed, removed or added by other hands."""
        return self.fault is None
