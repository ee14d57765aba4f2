"""From a file to a :class:`GatewayConfig`, or to everything that is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.document import read
from gateway.config.layers import read_chain
from gateway.config.models import Address, GatewayConfig, LoadContext
from gateway.config.near import near_miss
from gateway.config.problems import validate
from gateway.config.references import load_dotenv, resolve_references
from gateway.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from gateway.config.document import Document, Node, Steps
    from gateway.config.layers import Resolve


def load(path: Path, resolve: Resolve, environ: Mapping[str, str]) -> GatewayConfig:
    """The configuration in ``path``, whose chains name plugins that ``resolve`` knows.

    References are looked up in ``environ``, then in a ``.env`` beside the file. Raises ConfigError with all faults at
    once, in the order of the file; a file that cannot be read or is not YAML has just that one.
    """
    document = read(path)
    document = resolve_references(document, {**load_dotenv(path.parent / ".env"), **environ}, path.parent)
    if not isinstance(document.root.value, dict):
        raise ConfigError([document.fault((), "write a mapping with listeners, vault, upstreams and routes")])
    faults = [*document.faults, *_disagreements(document)]
    data = document.root.plain()
    for steps in _chains(document):
        layers, found = read_chain(document, steps, resolve)
        faults += found
        data["routes"][steps[1]]["chain"] = layers
    config, found = validate(GatewayConfig, data, document, (), LoadContext(path, document.outline()))
    faults += found
    if config is None or faults:
        raise ConfigError(_in_order(faults))
    return config


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    """By line, and of several faults of one place only the first: the others follow from it."""
    first: dict[str, Fault] = {}
    for fault in faults:
        first.setdefault(fault.path or fault.problem, fault)
    return sorted(first.values(), key=lambda fault: int(fault.where.rpartition(":")[2]))


def _routes(document: Document) -> Iterator[tuple[Steps, Node]]:
    """The routes as far as they have the form of one."""
    routes = document.find(("routes",))
    entries = routes.value if routes is not None and isinstance(routes.value, list) else []
    for index, route in enumerate(entries):
        if isinstance(route.value, dict):
            yield ("routes", index), route


def _chains(document: Document) -> Iterator[Steps]:
    for steps, route in _routes(document):
        if route.child("chain") is not None:
            yield (*steps, "chain")


def _disagreements(document: Document) -> Iterator[Fault]:
    """What is wrong between places that are each right by themselves."""
    yield from _repeated(document, _addresses(document), "the listener in line {} has this address already")
    yield from _repeated(document, _route_names(document), "the route in line {} has this name already")
    yield from _unknown_listeners(document)
    yield from _repeated(document, _paths(document), "line {} has this path already, on the same listener")


def _repeated(document: Document, places: Iterable[tuple[object, Steps]], problem: str) -> Iterator[Fault]:
    """A fault for each place whose value an earlier place has."""
    first_lines: dict[object, int] = {}
    for value, steps in places:
        line = document.at(steps).line
        if value in first_lines:
            yield document.fault(steps, problem.format(first_lines[value]))
        first_lines.setdefault(value, line)


def _listeners(document: Document) -> dict[str, Node]:
    listeners = document.find(("listeners",))
    return listeners.value if listeners is not None and isinstance(listeners.value, dict) else {}


def _addresses(document: Document) -> Iterator[tuple[Address, Steps]]:
    for name in _listeners(document):
        steps = ("listeners", name, "bind")
        bind = document.find(steps)
        try:
            address = Address.parse(bind.value if bind is not None else None)
        except ValueError:
            continue  # reported where listeners are validated
        if address.port:
            yield address, steps


def _route_names(document: Document) -> Iterator[tuple[str, Steps]]:
    for steps, route in _routes(document):
        name = _text(route.child("name"))
        if name is not None:
            yield name, (*steps, "name")


def _unknown_listeners(document: Document) -> Iterator[Fault]:
    known = _listeners(document)
    for steps, route in _routes(document):
        listener = _text(route.child("listener"))
        if known and listener is not None and listener not in known:
            hint = near_miss(listener, known) or f"; known here: {', '.join(known)}"
            yield document.fault((*steps, "listener"), f"there is no such listener{hint}")


def _paths(document: Document) -> Iterator[tuple[tuple[str | None, str], Steps]]:
    """Each path of each route, with its listener; ``/v1`` and ``/v1/`` are one."""
    for steps, route in _routes(document):
        listener = _text(route.child("listener"))
        paths = route.child("paths")
        places: list[Steps] = [("path",)]
        if paths is not None and isinstance(paths.value, list):
            places += [("paths", index) for index in range(len(paths.value))]
        for place in places:
            path = _text(document.find((*steps, *place)))
            if path is not None:
                yield (listener, path.rstrip("/")), (*steps, *place)


def _text(node: Node | None) -> str | None:
    return node.value if node is not None and isinstance(node.value, str) else None
