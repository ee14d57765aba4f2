"""The entries of a chain in their three forms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.config.conftest import Load, Refused


@pytest.mark.parametrize(
    "entry", ["plain", "plain: {}", "plain:", "{use: plain}", "{use: plain, with: {}}", "{use: plain, with: null}"]
)
def test_all_forms_of_a_layer_without_configuration_are_one(entry: str, loaded: Load, working: str) -> None:
    """Its name, with nothing behind the colon, or in full."""
    bare, layer = loaded(f"{working}      - {entry}\n").routes[0].chain
    assert layer == bare


@pytest.mark.parametrize(
    ("written", "means"), [("", None), (", on_error: open", "open"), (", on_error: closed", "closed")]
)
def test_the_long_form_chooses_what_a_fault_does(written: str, means: object, loaded: Load, working: str) -> None:
    """Left out, the plugin's own choice stands."""
    layer = loaded(f"{working}      - {{use: limit, with: {{by: ip, requests: 1/s}}{written}}}\n").routes[0].chain[1]
    assert layer.on_error == means


@pytest.mark.parametrize(
    ("entry", "faults"),
    [
        ("limit", ["12 routes[0].chain[1].limit.by: is required", "12 routes[0].chain[1].limit.requests: is required"]),
        ("{use: plain, on_error: [open]}", ["12 routes[0].chain[1].on_error: write closed or open"]),
        ("{use: plain, with: 5}", ["12 routes[0].chain[1].with: write a mapping of keys to values"]),
        ("{use: plian, with: {}}", ["12 routes[0].chain[1]: there is no layer 'plian'; did you mean plain?"]),
        ("{use: plain, wen: x}", ["12 routes[0].chain[1].wen: unknown key; known here: use, with, on_error"]),
        ("broken", ["12 routes[0].chain[1].broken: the plugin cannot be loaded (SyntaxError)"]),
    ],
)
def test_a_wrong_entry_is_told_where_it_is(entry: str, faults: list[str], refused: Refused, working: str) -> None:
    """In the words of its form."""
    faults = [re.sub("known here.*|did you mean with.*", "…", fault) for fault in faults]
    found = [re.sub("known here.*|did you mean with.*", "…", fault) for fault in refused(f"{working}      - {entry}\n")]
    assert found == faults


@pytest.mark.parametrize("key", ["mode", "timeout", "transform", "when"])
def test_what_is_promised_for_later_is_refused_today(key: str, refused: Refused, working: str) -> None:
    """A layer that ran although its ``when`` said no would be a hole."""
    assert refused(f"{working}      - {{use: plain, {key}: x}}\n") == [
        f"12 routes[0].chain[1].{key}: is not supported yet"
    ]


@pytest.mark.parametrize("entry", ['"${LAYER}"', '{use: "${LAYER}"}'])
def test_the_environment_cannot_choose_a_layer(entry: str, refused: Refused, working: str) -> None:
    """F60: which layers run is read in the file; nobody who sets a variable leaves one out."""
    (fault,) = refused(f"{working}      - {entry}\n", {"LAYER": "plain"})
    assert fault.endswith("write a plugin's name; a reference cannot choose it")
