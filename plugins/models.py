"""The list of models that a client may call, answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import hdrs, web
from pydantic import Field

from gateway.contract import EXCHANGE, MAY_USE, PRINCIPAL, Plugin, PluginConfig, Refusal, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.contract import Handler, Principal, Question, Requirement, Services


class Models(Plugin):
    """Answers ``GET …/models`` and ``GET …/models/ID`` from a list, as far as the caller may use it.

    ``…`` is the route's path. Everything else passes. A model that the caller's key, or a layer above this one, does
    not let it use is not there for it.
    """

    class Config(PluginConfig):
        """Which models there are."""

        models: tuple[str, ...] = Field(min_length=1)
        """Their names, in the order to list them."""
        owned_by: str = "gateway"
        """Who is said to own them."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._models = {name: _model(name, config.owned_by) for name in config.models}

    def needs(self) -> frozenset[Requirement]:
        """Who is calling."""
        return frozenset({PRINCIPAL})

    async def explain(self, question: Question) -> Verdict:
        """Whether it is asked of models, and whether the caller may see the one."""
        below = question.path[len(question.prefix) :]
        facts = question.facts
        if self._answer(question.method, below, facts[PRINCIPAL], facts.get(MAY_USE, _all)) is None:
            return Verdict("is not asked of models")
        return Verdict("answers from its list, as far as the caller may use it", answers=True)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what is asked of models, pass everything else."""
        exchange = request[EXCHANGE]
        below = exchange.path[len(exchange.prefix) :]
        answer = self._answer(exchange.method, below, exchange[PRINCIPAL], exchange.get(MAY_USE) or _all)
        return await handler(request) if answer is None else web.json_response(answer)

    def _answer(
        self, method: str, below: str, caller: Principal, may_use: Callable[[str], bool]
    ) -> dict[str, object] | None:
        """The list, or one model; None where neither is asked for."""
        if method not in (hdrs.METH_GET, hdrs.METH_HEAD) or not (below == "/models" or below.startswith("/models/")):
            return None
        visible = {
            name: model
            for name, model in self._models.items()
            if (caller.models is None or name in caller.models) and may_use(name)
        }
        asked = unquote(below.removeprefix("/models").removeprefix("/"))
        return _one(visible, asked) if asked else _page(list(visible.values()))


def _all(_: str) -> bool:
    return True


# One shape that OpenAI's and Anthropic's SDKs both read: each ignores the other's fields.


def _model(name: str, owner: str) -> dict[str, object]:
    openai = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    return openai | {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _page(models: list[dict[str, object]]) -> dict[str, object]:
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"object": "list", "data": models, "has_more": False, **ends}


def _one(visible: dict[str, dict[str, object]], name: str) -> dict[str, object]:
    if name not in visible:
        message = "The model does not exist or you do not have access to it."
        raise Refusal(404, "model_not_found", message, param="model")
    return visible[name]
