"""The list of models that a client may call, answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import hdrs, web
from pydantic import Field

from gateway.contract import EXCHANGE, PRINCIPAL, Plugin, PluginConfig, Refusal

if TYPE_CHECKING:
    from gateway.contract import Handler, Requirement, Services


class Models(Plugin):
    """Answers ``GET …/models`` and ``GET …/models/ID`` from a list, as far as the caller's key may use it.

    ``…`` is the route's path. Everything else passes. A model that the caller may not use is not there for it.
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

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what is asked of models, pass everything else."""
        exchange = request[EXCHANGE]
        below = exchange.path[len(exchange.prefix) :]
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or not below.startswith("/models"):
            return await handler(request)
        allowed = exchange[PRINCIPAL].models
        visible = {name: model for name, model in self._models.items() if allowed is None or name in allowed}
        if below in ("/models", "/models/"):
            return web.json_response(_page(list(visible.values())))
        if below.startswith("/models/"):
            return web.json_response(_one(visible, unquote(below.removeprefix("/models/"))))
        return await handler(request)


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
