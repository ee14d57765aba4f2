"""How pydantic's findings are told: strictness, unions, near misses, and silence about values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.config.conftest import Load, Refused

LAYER = "      - limit: {by: ip, requests: 60/min, "
PLACE = "12 routes[0].chain[1].limit."


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("burst: '5'", "burst: write a whole number"),
        ("burst: 5.0", "burst: write a whole number"),
        ("burst: true", "burst: write a whole number"),
        ("burst: many", "burst: write a whole number"),
        ("enabled: 1", "enabled: write true or false"),
        ("enabled: yes", "enabled: write true or false"),
        ("enabled: 'true'", "enabled: write true or false"),
        ("mode: '7'", "mode: write a whole number"),
        ("names: one", "names: write a list"),
        ("names: [1]", "names[0]: write text; a number that is meant as text stands in quotes"),
        ("burst: 0", "burst: must be greater than or equal to 1"),
    ],
)
def test_a_literal_value_has_the_type_of_its_field(written: str, problem: str, refused: Refused, working: str) -> None:
    """F60: what stands in the file is not converted: ``"5"`` is no number and ``yes`` no truth value."""
    assert refused(f"{working}{LAYER}{written}}}\n") == [PLACE + problem]


@pytest.mark.parametrize(
    ("field", "value", "becomes"),
    [("burst", "5", 5), ("enabled", "false", False), ("mode", "7", 7), ("mode", "hard", "hard")],
)
def test_a_reference_is_converted(field: str, value: str, becomes: object, loaded: Load, working: str) -> None:
    """The environment has only text."""
    config = loaded(f"{working}{LAYER}{field}: '${{VALUE}}'}}\n", {"VALUE": value})
    assert config.routes[0].chain[1].config.model_dump()[field] == becomes


def test_a_reference_to_what_does_not_fit_is_refused(refused: Refused, working: str) -> None:
    """And not shown."""
    assert refused(f"{working}{LAYER}burst: '${{VALUE}}'}}\n", {"VALUE": "canary"}) == [
        f"{PLACE}burst: write a whole number"
    ]


@pytest.mark.parametrize("written", ["names: [a, b, a]", "mode: 7", "burst: null", "enabled: False"])
def test_what_yaml_and_the_model_call_differently_is_no_fault(written: str, loaded: Load, working: str) -> None:
    """A list for a set, one member of a union, null where the field allows it."""
    loaded(f"{working}{LAYER}{written}}}\n")


def test_a_union_complains_of_the_member_that_was_meant(refused: Refused, working: str) -> None:
    """A mapping is compared with the mapping, a word with the words."""
    upstream = "credential: bearer"
    assert refused(working.replace(upstream, "credential: {header: 5}")) == [
        "5 upstreams.house.credential.header: write text; a number that is meant as text stands in quotes"
    ]
    assert refused(working.replace(upstream, "credential: Bearer")) == [
        "5 upstreams.house.credential: write bearer or none or a mapping of keys to values; did you mean bearer?"
    ]


def test_a_number_that_is_meant_as_text_wants_quotes(refused: Refused, working: str) -> None:
    """YAML reads ``1.3`` as a number, whoever knows versions reads it as text."""
    tls = "8080, tls: {certificate: c, key: k, minimum: 1.2}}"
    assert refused(working.replace("8080}", tls)) == ["2 listeners.public.tls.minimum: write 1.3 or 1.2, in quotes"]


def test_an_unknown_key_comes_with_those_that_are_known(refused: Refused, working: str) -> None:
    """The nearest one, or all where none is near."""
    assert refused(f"{working}{LAYER}brust: 5, xyz: 6, 'a:5': null}}\n") == [
        f"{PLACE}brust: unknown key; did you mean burst?",
        f"{PLACE}xyz: unknown key; known here: burst, by, enabled, mode, names, requests",
        f"{PLACE}<…>: unknown key; a space follows the colon after a key",
    ]


def test_a_validators_words_are_kept_without_values(refused: Refused, working: str) -> None:
    """F73: what a reference brought in is masked in a plugin's own message, also where the plugin shows it."""
    layer = "      - strict: {token: x, region: '${REGION}'}\n"
    assert refused(working + layer, {"REGION": "canary"}) == [
        "12 routes[0].chain[1].strict.region: *** is not a region"
    ]
    assert refused(working + layer.replace("${REGION}", "there")) == [
        "12 routes[0].chain[1].strict.region: there is not a region"
    ]


def test_a_validator_that_fails_is_a_fault_of_its_layer(refused: Refused, working: str) -> None:
    """Not a traceback: it is the plugin's author's mistake, and the operator learns which layer and nothing secret."""
    assert refused(f"{working}      - strict: {{token: x, region: nowhere}}\n") == [
        "12 routes[0].chain[1].strict: the plugin could not check its configuration (KeyError)"
    ]


def test_what_follows_from_another_fault_is_not_said(refused: Refused, working: str) -> None:
    """A route that is wrong is still a route: the list is not called too short."""
    assert refused(working.replace("path: /v1/", "path: v1")) == ["9 routes[0].path: a path begins with /"]
