"""What layers find out about an exchange, and the values that these findings have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol, TypeVar

from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    from gateway.contract.services import Upstream
    from gateway.units import Rate

T = TypeVar("T")


class Fact(Generic[T]):
    """One thing that a layer finds out about an exchange and others build on. Compared by identity."""

    __slots__ = ("meaning", "name")

    def __init__(self, name: str, meaning: str) -> None:
        self.name = name
        self.meaning = meaning

    def __repr__(self) -> str:
        return self.name

    def __or__(self, other: Fact[Any]) -> AnyOf:
        return AnyOf(frozenset((self, other)))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these facts: ``PRINCIPAL | ANONYMOUS``."""

    facts: frozenset[Fact[Any]]

    def __repr__(self) -> str:
        return " | ".join(sorted(fact.name for fact in self.facts))


Requirement = Fact[Any] | AnyOf
"""What a layer ``needs`` or ``provides``."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, as an authenticating layer established it.

    ``id`` is stable and not secret (an API key's or a user's id). ``models`` limits the models that may be called;
    None means no limit. ``rate`` replaces the configured rate of limits by key; None means no change.
    """

    kind: Literal["key", "user"]
    id: str
    name: str
    owner: str
    role: str
    models: frozenset[str] | None = None
    rate: Rate | None = None


class Secret:
    """A value that must not be seen: masked wherever it is shown, opened only by an explicit :meth:`reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Never put the result into an error, a log call or an attribute."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __format__(self, spec: str) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not pickled"
        raise TypeError(msg)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How a layer's Config reads one: from text, and without the text in the error."""
        return core_schema.no_info_plain_validator_function(cls._from_text)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """How an editor checks one."""
        return {"type": "string"}

    @classmethod
    def _from_text(cls, value: object) -> Secret:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            msg = "write text, in quotes"
            raise ValueError(msg)  # noqa: TRY004 - pydantic wants ValueError
        return cls(value)


class CredentialSource(Protocol):
    """Gives the provider's key for the upstream that is about to be used, and for no other origin."""

    def credential_for(self, upstream: Upstream) -> Secret:
        """Raise a 503 Refusal ``credential_unavailable`` where there is none that can be opened."""


PRINCIPAL: Fact[Principal] = Fact("PRINCIPAL", "who is calling")
ANONYMOUS: Fact[bool] = Fact("ANONYMOUS", "the caller is known to be nobody, on a path where that is allowed")
CREDENTIAL: Fact[CredentialSource] = Fact("CREDENTIAL", "where the provider's key comes from")
MODEL: Fact[str] = Fact("MODEL", "the model that the request names")
MAY_USE: Fact[Callable[[str], bool]] = Fact("MAY_USE", "whether the caller may use a model of this name")
