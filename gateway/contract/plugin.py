"""The plugin and its configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from gateway.contract.facts import Fact, Principal, Requirement
    from gateway.contract.services import Services


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""The rest of the chain."""

OnError = Literal["closed", "open"]
"""What a fault of a layer does to the exchange: refuses it (500), or goes on as if the layer were not there."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is only thought of: what ``gateway explain`` asks the layers about.

    ``target``, ``path``, ``prefix`` and ``secure`` are as in an Exchange. ``caller`` is whose key it carries: None
    where it carries none (``has_key`` is False) or one that does not work. ``facts`` is what the layers before would
    have established; a layer adds what it would establish itself.
    """

    method: str
    target: str
    path: str
    prefix: str
    secure: bool
    model: str | None
    has_key: bool
    caller: Principal | None
    facts: dict[Fact[Any], Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a layer would do with a request, in ``words`` for the operator. ``answers``: the chain would end there."""

    words: str
    answers: bool = False


class PluginConfig(BaseModel):
    """The configuration of a layer: frozen, unknown keys refused. Document each field with its unit and bound."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Plugin:
    """One layer of a chain. An instance belongs to one place in one chain of one generation of the configuration."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    """The class of this layer's part of gateway.yaml."""

    terminal: ClassVar[bool] = False
    """Whether the layer never calls its handler. A chain ends with exactly one such layer."""

    may_end: ClassVar[bool] = False
    """Whether a chain may also end with this layer, though it calls its handler for some requests: they get a 404."""

    on_error: ClassVar[OnError] = "closed"
    """What a fault of this layer does unless the operator says otherwise. Observers may say ``open``; deciders
    never."""

    def __init__(self, config: Any, services: Services) -> None:  # noqa: ANN401 - each layer names its own Config
        """Keep what is needed. Cheap and without I/O: ``gateway check`` does it too.

        Raise ValueError for what is wrong: it becomes an error with the layer's place in gateway.yaml.
        """

    def needs(self) -> frozenset[Requirement]:
        """Facts that must be established before this layer runs."""
        return frozenset()

    def provides(self) -> frozenset[Requirement]:
        """Facts that are established whenever this layer calls its handler."""
        return frozenset()

    def endpoints(self, prefix: str) -> Sequence[str]:  # noqa: ARG002 - for those that look
        """What a terminal layer answers on a route at ``prefix``: ``METHOD /whole/path``, ``*`` for one segment.

        Empty: anything, as a forwarder does. GET stands for HEAD too. A layer that authorises is checked against it at
        load, so that a matrix which forgets an endpoint does not start.
        """
        return ()

    def uncovered(self, endpoints: Sequence[str]) -> Sequence[str]:  # noqa: ARG002 - for those that look
        """Those of ``endpoints`` that a layer which authorises would refuse to everybody."""
        return ()

    async def explain(self, question: Question) -> Verdict:  # noqa: ARG002 - for those that look
        """What this layer would do with such a request.

        Raise the Refusal that it would raise. Take nothing, count nothing, send nothing. The services may be those of
        ``gateway explain``: store, vault and upstreams are there, log and state are not.
        """
        return Verdict("does not say what it would do; taken to pass it on")

    async def __aenter__(self) -> Self:
        """Open what the layer keeps open. Failing here keeps the running generation."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, after the last exchange of this generation."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer, refuse, or ask ``handler``."""
        return await handler(request)
