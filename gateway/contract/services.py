"""What the gateway lends to its layers: protocols here, backends elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.contract.facts import Principal, Secret
    from gateway.units import Rate


class Clock(Protocol):
    """Time, injected so that tests can hold it."""

    def monotonic(self) -> float:
        """Seconds that never jump, for deadlines and refills."""

    def time(self) -> float:
        """Seconds since the epoch, for expiry dates."""


class KeyDirectory(Protocol):
    """API keys by the SHA-256 of their text, through the bounded cache."""

    async def find(self, digest: bytes) -> Principal | None:
        """Whose key this is; None for unknown, revoked and expired ones alike.

        Raises StoreUnavailable where the store is away and the cache cannot say.
        """


class Vault(Protocol):
    """Provider keys, sealed at rest and opened per use."""

    def credential(self, upstream: str, origin: str) -> Secret:
        """The key of ``upstream``, if it was stored for this origin.

        Raises VaultError otherwise, with words for the log.
        """

    def unhealthy(self) -> Mapping[str, str]:
        """The upstreams whose stored key cannot be opened, each with the reason, in words for the log."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One token bucket: ``burst`` tokens at most, refilled at ``rate``. ``key`` names it across the whole gateway."""

    key: str
    rate: Rate
    burst: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether tokens were taken. ``remaining`` tokens per bucket after it, in the order asked.

    ``retry_after_s`` is how long until the same request would be admitted (0 when it was).
    """

    allowed: bool
    remaining: tuple[float, ...]
    retry_after_s: float


class State(Protocol):
    """Short-lived data that all workers share."""

    async def take(self, buckets: Sequence[Bucket]) -> Decision:
        """Take one token from every bucket, or from none of them."""


class Upstream(Protocol):
    """A provider as ``upstreams.NAME`` configures it."""

    @property
    def name(self) -> str:
        """What the operator calls it."""

    @property
    def origin(self) -> str:
        """``scheme://host[:port]``: what its credential is bound to."""

    @property
    def dialect(self) -> str:
        """Whose bytes it speaks."""

    @property
    def needs_credential(self) -> bool:
        """Whether requests carry a provider's key."""


class StoreHealth(Protocol):
    """What a health layer may ask of the store."""

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""


class Log(Protocol):
    """structlog's shape. The call only queues; secrets are masked by value when the line is written."""

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""

    def info(self, event: str, **fields: object) -> None:
        """What happened."""

    def warning(self, event: str, **fields: object) -> None:
        """What an operator should know of."""

    def error(self, event: str, **fields: object) -> None:
        """What an operator must look at."""


class Metrics(Protocol):
    """Counters and their text. Label values must come from a bounded set: route, layer, code; never a path or a key."""

    def count(self, name: str, **labels: str) -> None:
        """Add one to a counter that ``gateway/metrics.py`` declares."""

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""


PRODUCT = "llm-gateway-"
"""What every instance's pseudonym begins with."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the gateway lends to its layers. There are no globals."""

    clock: Clock
    keys: KeyDirectory
    store: StoreHealth
    state: State
    vault: Vault
    upstreams: Mapping[str, Upstream]
    log: Log
    metrics: Metrics
    is_draining: Callable[[], bool] = lambda: False
    pseudonym: str = field(default_factory=lambda: PRODUCT + token_hex(4))
    """What this instance calls itself in ``Via``: it knows by it what it has sent itself."""
