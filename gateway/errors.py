"""Every error that the gateway raises on purpose.

::

    GatewayError
    ├── Refusal                 an answer to the client: status, stable code, a message that may be shown
    ├── ConfigError             gateway.yaml is wrong; carries every fault with its place
    ├── ListenError             a listener's address cannot be had: in use, privileged, not ours
    ├── CertificateError        a file of certificates or of a key cannot be used; says which and why
    ├── StoreError
    │   ├── StoreUnavailable    cannot be reached now; may be again in a moment
    │   ├── StoreMismatch       reached, but not ours to use: newer schema, corrupt, read-only
    │   └── StoreConflict       what was to be added is there already
    ├── VaultError
    │   ├── MasterKeyError      missing, too short, or not the one that this vault was made with
    │   └── CannotOpen          one sealed value cannot be opened; the others can
    └── UpstreamError
        ├── UpstreamUnreachable nothing was sent: DNS, connect, TLS
        ├── UpstreamTimeout     a deadline of ours passed
        ├── UpstreamInvalid     the answer is not HTTP that may be relayed
        └── UpstreamBroken      the answer began and did not end as it should

Only a :class:`Refusal` has words for the client. The others' words, and every ``__cause__``, are for the log.
A foreign exception becomes one of these in the one module that imports the foreign library. Programming errors
(``TypeError``, ``AssertionError``, …) are not in the tree: the chain answers them with 500 and no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The `type` field that the OpenAI SDKs show beside a code. A code that is not listed has its type by status.
_TYPE_BY_CODE = {
    "endpoint_not_allowed": "permission_error",
    "rate_limit_exceeded": "rate_limit_error",
    "insufficient_quota": "insufficient_quota",
}

# An SDK that retries these only repeats the same refusal (traps.md: 403 once, 5xx three times).
_FINAL_CODES = frozenset(
    {
        "insecure_transport",
        "endpoint_not_allowed",
        "insufficient_quota",
        "gateway_plugin_error",
        "loop_detected",
        "upstream_auth",
    }
)


class GatewayError(Exception):
    """Whatever the gateway raises on purpose."""


class Refusal(GatewayError):
    """An answer instead of the provider's: raised by a layer, rendered once at that layer's boundary.

    ``code`` is one of the stable codes in ``docs/errors.md``; ``message`` is shown to the client and therefore holds
    no secret, no exception text and no internal name. ``param`` names the offending field of the request's body.
    ``headers`` are added to the answer. ``close`` ends the client's connection after the answer: set it where the
    request's framing cannot be trusted. ``layer`` is filled by the chain.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        self.close = close
        self.layer: str | None = None
        if code in _FINAL_CODES:
            self.headers.setdefault("x-should-retry", "false")

    @property
    def type(self) -> str:
        """The coarse class of the error, in the field's words (``invalid_request_error``, ``server_error``, …)."""
        known = _TYPE_BY_CODE.get(self.code)
        if known is not None:
            return known
        return "server_error" if self.status >= 500 else "invalid_request_error"  # noqa: PLR2004 - RFC 9110, 15.6

    def __repr__(self) -> str:
        return f"Refusal({self.status}, {self.code!r}, {self.message!r})"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration file.

    ``where`` is ``file:line``, ``path`` the place inside the document (``routes[0].chain[4].rate_limit.burst``),
    ``problem`` what is wrong and what to do about it. The text never contains a configured value that may be secret.
    """

    where: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where} {self.path}: {self.problem}" if self.path else f"{self.where}: {self.problem}"


class ConfigError(GatewayError):
    """The configuration is not usable. ``faults`` holds all of them, in the order of the file."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class ListenError(GatewayError):
    """A listener cannot bind its address."""


class CertificateError(GatewayError):
    """A file of TLS cannot be used: ``field`` is the key of gateway.yaml's ``tls`` that names it."""

    def __init__(self, field: Literal["certificate", "key", "ca"], problem: str) -> None:
        super().__init__(problem)
        self.field = field


class StoreError(GatewayError):
    """The durable store cannot do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or is too slow right now; the same call may succeed later."""


class StoreMismatch(StoreError):
    """The store was reached but must not be used: a newer schema, a corrupt or read-only file. Says the remedy."""


class StoreConflict(StoreError):
    """What was to be added is there already (a user with this email, a vault), or what it belongs to is not."""


class VaultError(GatewayError):
    """The vault cannot do what was asked."""


class MasterKeyError(VaultError):
    """The master key is missing, too short, or not the one that this vault was sealed with. Says the remedy."""


class CannotOpen(VaultError):
    """One sealed value cannot be opened: corrupted, swapped with another row's, or sealed by another vault."""


class UpstreamError(GatewayError):
    """The upstream did not give an answer that can be relayed."""


class UpstreamUnreachable(UpstreamError):
    """No request byte was sent: name resolution, connecting or TLS failed."""


class UpstreamTimeout(UpstreamError):
    """One of the upstream's deadlines (connect, first byte, idle) passed."""


class UpstreamInvalid(UpstreamError):
    """The upstream's answer is not HTTP that may be relayed."""


class UpstreamBroken(UpstreamError):
    """The answer began, and its framing or its dialect says that it did not end as it should."""
