"""Finds the class behind what ``gateway.yaml`` calls a layer.

Three ways to be found, for our own layers as for anybody's:

* by name, from the ``gateway.plugins`` entry points of the installed packages;
* ``package.module:Class``, a :class:`~gateway.contract.Plugin`;
* ``package.module:middleware``, an aiohttp middleware as it is; it becomes a layer that needs and provides nothing.
"""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from gateway.contract import Plugin, PluginConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from gateway.contract import Handler, Services

GROUP = "gateway.plugins"


@cache
def available() -> Mapping[str, EntryPoint]:
    """The installed layers by name, none of them imported yet. Two packages with one name: LookupError.

    Read once per process: it costs 10 ms, and what is installed does not change under a running one.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            msg = f"two installed packages call a layer {entry.name!r}: {known.value} and {entry.value}"
            raise LookupError(msg)
    return dict(sorted(found.items()))


def builtins() -> Mapping[str, type[Plugin]]:
    """The installed layers by name, imported."""
    return {name: resolve(name) for name in available()}


def resolve(use: str) -> type[Plugin]:
    """The class that ``use`` names. LookupError, with words for the operator, where there is none."""
    if ":" in use:
        return _as_plugin(use, _load(use))
    names = available()
    if use not in names:
        near = get_close_matches(use, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"installed are {', '.join(names)}"
        msg = f"there is no layer {use!r}; {hint}"
        raise LookupError(msg)
    return _as_plugin(use, _load(names[use].value))


def _load(reference: str) -> object:
    module, _, attribute = reference.partition(":")
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"cannot load {reference!r}: {error}"
        raise LookupError(msg) from error
    return found


def _as_plugin(use: str, found: object) -> type[Plugin]:
    if isinstance(found, type):
        if issubclass(found, Plugin):
            return found
        msg = f"{use} is a class, but not a gateway.contract.Plugin"
        raise LookupError(msg)
    if callable(found) and len(inspect.signature(found).parameters) == 2:  # noqa: PLR2004 - (request, handler)
        return _foreign(use, found)
    msg = f"{use} is neither a gateway.contract.Plugin nor an aiohttp middleware `async (request, handler)`"
    raise LookupError(msg)


def _foreign(use: str, middleware: Any) -> type[Plugin]:  # noqa: ANN401 - anybody's callable
    class Foreign(Plugin):
        """An aiohttp middleware from elsewhere, as a layer."""

        def __init__(self, config: PluginConfig, services: Services) -> None:
            """Neither is known to a plain middleware."""

        async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
            response: web.StreamResponse = await middleware(request, handler)
            return response

    Foreign.__name__ = Foreign.__qualname__ = use.partition(":")[2]
    return Foreign
