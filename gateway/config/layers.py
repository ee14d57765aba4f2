"""The entries of a chain: a plugin's name, ``name: {config}``, or ``{use: …, with: {config}, on_error: …}``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from gateway.config.models import LayerConfig
from gateway.config.near import near_miss
from gateway.config.problems import validate
from gateway.contract import OnError, Plugin

if TYPE_CHECKING:
    from gateway.config.document import Document, Node, Steps
    from gateway.errors import Fault

Resolve = Callable[[str], type[Plugin]]
"""Finds the plugin of a name, or raises a LookupError that says what may have been meant."""

_LONG_FORM = ("use", "with", "on_error")
_LATER = frozenset({"mode", "timeout", "transform", "when"})
_FORMS = "write a plugin's name, NAME: {its configuration}, or {use: NAME, with: {its configuration}, on_error: open}"


def read_chain(document: Document, steps: Steps, resolve: Resolve) -> tuple[tuple[LayerConfig, ...], list[Fault]]:
    """The layers of the list at ``steps``, those that are right, and what is wrong with the others."""
    reader = _ChainReader(document, resolve)
    entries = document.at(steps).value
    if not isinstance(entries, list) or not entries:
        return (), [document.fault(steps, "write a list of at least one layer")]
    layers = [reader.layer((*steps, index), entry) for index, entry in enumerate(entries)]
    return tuple(layer for layer in layers if layer is not None), reader.faults


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry in whichever form. ``named``, ``inside``: where its plugin and its configuration stand."""

    use: str
    config: Node | None
    on_error: Node | None
    named: Steps
    inside: Steps


class _ChainReader:
    """Reads entries; what is wrong with them gathers in ``faults``."""

    def __init__(self, document: Document, resolve: Resolve) -> None:
        self.faults: list[Fault] = []
        self._document = document
        self._outline = document.outline()
        self._resolve = resolve

    def layer(self, steps: Steps, node: Node) -> LayerConfig | None:
        entry = self._entry(steps, node)
        if entry is None:
            return None
        on_error = self._on_error(entry, steps)
        plugin = self._plugin(entry)
        if plugin is None:
            return None
        data = self._data(entry)
        if data is None:
            return None
        config, faults = validate(plugin.Config, data, self._document, entry.inside)
        self.faults += faults
        if config is None:
            return None
        return LayerConfig(entry.use, plugin, config, on_error, self._outline, entry.named, entry.inside)

    def _entry(self, steps: Steps, node: Node) -> _Entry | None:
        match node.value:
            case str() as name if not node.referenced:
                return _Entry(name, None, None, (*steps, name), (*steps, name))
            case dict() as keys if "use" in keys:
                return self._long_entry(steps, keys)
            case dict() as keys if len(keys) == 1:
                ((name, config),) = keys.items()
                return _Entry(name, config, None, (*steps, name), (*steps, name))
            case dict() as keys if keys:
                self._fault(steps, "an entry has one key, the plugin's name; its configuration is indented below that")
            case str():
                self._fault(steps, "write a plugin's name; a reference cannot choose it")
            case _:
                self._fault(steps, _FORMS)
        return None

    def _long_entry(self, steps: Steps, keys: dict[str, Node]) -> _Entry | None:
        for key in keys:
            if key in _LONG_FORM:
                continue
            hint = near_miss(key, _LONG_FORM) or f"; known here: {', '.join(_LONG_FORM)}"
            self._fault((*steps, key), "is not supported yet" if key in _LATER else f"unknown key{hint}")
        use = keys["use"]
        if not isinstance(use.value, str) or use.referenced:
            self._fault((*steps, "use"), "write a plugin's name; a reference cannot choose it")
            return None
        return _Entry(use.value, keys.get("with"), keys.get("on_error"), steps, (*steps, "with"))

    def _plugin(self, entry: _Entry) -> type[Plugin] | None:
        try:
            return self._resolve(entry.use)
        except LookupError as error:
            self._fault(entry.named, str(error.args[0] if error.args else "no such plugin"))
        except Exception as error:  # noqa: BLE001 - importing somebody's module may fail in any way
            self._fault(entry.named, f"the plugin cannot be loaded ({type(error).__name__})")
        return None

    def _on_error(self, entry: _Entry, steps: Steps) -> OnError | None:
        if entry.on_error is None:
            return None
        for choice in get_args(OnError):
            if entry.on_error.value == choice:
                return choice  # type: ignore[no-any-return]
        self._fault((*steps, "on_error"), "write closed or open")
        return None

    def _data(self, entry: _Entry) -> object:
        """The configuration as parsed; one that is left out, or left empty, is ``{}``."""
        if entry.config is None or entry.config.value is None:
            return {}
        if isinstance(entry.config.value, dict):
            return entry.config.plain()
        self._fault(entry.inside, "write a mapping of keys to values")
        return None

    def _fault(self, steps: Steps, problem: str) -> None:
        self.faults.append(self._document.fault(steps, problem))
