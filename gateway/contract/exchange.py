"""One request and its answer, from the parsed head to the end, whatever that end is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from gateway.contract.facts import AnyOf

if TYPE_CHECKING:
    from gateway.contract.answers import Dialect
    from gateway.contract.body import RequestBody
    from gateway.contract.facts import Fact, Requirement, T


class Ended(Enum):
    """How an exchange ended."""

    COMPLETE = "complete"
    """The answer (the provider's or a refusal) was handed over whole."""
    CLIENT_GONE = "client_gone"
    """The client left before the answer's last byte."""
    UPSTREAM_BROKEN = "upstream_broken"
    """The answer began and the provider did not finish it."""
    FAILED = "failed"
    """A fault of ours after the answer had begun."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one exchange. ``input`` includes ``cached``; ``source`` says who counted."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    model: str | None = None
    source: Literal["reported", "estimated"] = "reported"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an exchange.

    Times in seconds, sizes in bytes of body; ``status`` is 499 where the client left first.
    """

    ended: Ended
    status: int
    code: str | None
    layer: str | None
    bytes_in: int
    bytes_out: int
    duration_s: float
    first_byte_s: float | None
    usage: Usage | None


DoneCallback = Callable[["Exchange", Outcome], None]


class Exchange:
    """All that is known of one request and its answer. One mutable object: it survives ``request.clone()``.

    ``path`` is the validated raw path and ``target`` the raw path with its query: both exactly as they were received,
    and exactly what is sent on. ``client`` is the caller's address as far as ``trusted_proxies`` says so. ``started``
    is monotonic seconds. ``prefix`` is the part of the path that named the route, without a slash at its end.
    """

    __slots__ = (
        "_closers",
        "_done",
        "_facts",
        "body",
        "client",
        "code",
        "dialect",
        "first_byte",
        "headers_version",
        "id",
        "layer",
        "listener",
        "method",
        "path",
        "prefix",
        "route",
        "secure",
        "started",
        "target",
        "upstream",
        "usage",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the field's word
        listener: str,
        method: str,
        target: str,
        path: str,
        client: str,
        secure: bool,
        dialect: Dialect,
        body: RequestBody,
        started: float,
    ) -> None:
        self.id = id
        self.listener = listener
        self.method = method
        self.target = target
        self.path = path
        self.client = client
        self.secure = secure
        self.dialect = dialect
        self.body = body
        self.started = started
        self.route: str | None = None
        self.prefix = ""
        self.upstream: str | None = None
        self.usage: Usage | None = None
        self.first_byte: float | None = None
        self.layer: str | None = None
        self.code: str | None = None
        self.headers_version = -1
        self._facts: dict[Fact[Any], Any] = {}
        self._done: list[DoneCallback] = []
        self._closers: list[Callable[[], None]] = []

    def __setitem__(self, fact: Fact[T], value: T) -> None:
        if fact in self._facts:
            msg = f"{fact} is already known of this exchange"
            raise RuntimeError(msg)
        self._facts[fact] = value

    def __getitem__(self, fact: Fact[T]) -> T:
        value: T = self._facts[fact]
        return value

    def get(self, fact: Fact[T]) -> T | None:
        """The fact's value, or None while nobody has established it."""
        return self._facts.get(fact)

    def knows(self, requirement: Requirement) -> bool:
        """Whether the fact, or one of the alternatives, is established."""
        if isinstance(requirement, AnyOf):
            return not requirement.facts.isdisjoint(self._facts)
        return requirement in self._facts

    def on_done(self, callback: DoneCallback) -> None:
        """Call ``callback(exchange, outcome)`` once, after the last byte or the abort.

        It must neither block nor await.
        """
        self._done.append(callback)

    def push(self, closer: Callable[[], None]) -> None:
        """Run ``closer`` when the exchange ends, last pushed first. It must neither block nor await."""
        self._closers.append(closer)

    def close(self, failed: Callable[[Exception], None]) -> None:
        """Run the closers. For the edge; a closer's exception is handed to ``failed`` and stops no other closer."""
        closers, self._closers = self._closers, []
        while closers:
            try:
                closers.pop()()
            except Exception as error:  # noqa: BLE001 - the rim: the next closer must run
                failed(error)

    def finish(self, outcome: Outcome, failed: Callable[[Exception], None]) -> None:
        """Run the ``on_done`` callbacks. For the edge, exactly once.

        The list is emptied first: a callback that holds the request would otherwise close a reference cycle and leave
        every request to the garbage collector.
        """
        callbacks, self._done = self._done, []
        for callback in callbacks:
            try:
                callback(self, outcome)
            except Exception as error:  # noqa: BLE001 - the rim: the next callback must run
                failed(error)


EXCHANGE = web.RequestKey("EXCHANGE", Exchange)
"""``request[EXCHANGE]``."""
