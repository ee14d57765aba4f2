"""gateway.security.masking."""

from __future__ import annotations

import base64
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.contract import Secret
from gateway.security.keys import new_api_key
from gateway.security.masking import Masker

# The mask's own character is left out: a value made of it would stand in what was masked.
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=8, max_size=40)
SURROUNDINGS = st.text(st.characters(codec="utf-8"), max_size=20)

SPELLINGS = {
    "clear": lambda value: value,
    "percent": lambda value: quote(value, safe=""),
    "path": quote,
    "form": quote_plus,
    "lower-case percent": lambda value: re.sub("%..", lambda match: match[0].lower(), quote(value, safe="")),
    "json": lambda value: json.dumps(value)[1:-1],
    "json, not ASCII": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "json, slashes escaped": lambda value: json.dumps(value)[1:-1].replace("/", "\\/"),
    "base 64": lambda value: base64.b64encode(value.encode()).decode(),
    "base 64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "Basic user:": lambda value: base64.b64encode(b"user:" + value.encode() + b"!").decode(),
    "Basic u:": lambda value: base64.b64encode(b"u:" + value.encode() + b"\xff\xff").decode(),
}


def masker_of(*values: str) -> Masker:
    """A masker to which these values are known."""
    masker = Masker()
    masker.register(*map(Secret, values))
    return masker


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("value", ['sk-live/a+b=c?d&e f"g\\hé', "plainvalue0123456789", ">>>???value>>>???~~~"])
def test_a_value_is_found_however_it_is_spelled(spelling: str, value: str) -> None:
    """F73: a registered value is masked as text, in a URL, in JSON and in base 64 at any place of a group."""
    spelled = SPELLINGS[spelling](value)
    masked = masker_of(value).mask(f"before {spelled} after")
    # "dXNl" is "use": whole groups of digits that belong to the neighbours may stay.
    assert masked.replace("dXNl", "") == "before *** after"


@given(VALUES, SURROUNDINGS, SURROUNDINGS, st.sampled_from(sorted(SPELLINGS)))
def test_no_value_survives(value: str, before: str, after: str, spelling: str) -> None:
    """Whatever stands around it, and whatever it is made of, a registered value is not in what comes out."""
    spelled = SPELLINGS[spelling](value)
    assume(spelled not in before + after)
    masked = masker_of(value).mask(before + spelled + after)
    assert spelled not in masked


@given(VALUES, st.lists(VALUES, min_size=1, max_size=3))
def test_of_values_that_contain_each_other_no_end_stays(value: str, ends: list[str]) -> None:
    """The longest is masked first: a value inside another one does not leave the other's ends standing."""
    nested = [value, *(value + end for end in ends)]
    masker = masker_of(*nested)
    assert [masker.mask(f"\n{text}\n") for text in nested] == ["\n***\n"] * len(nested)


@given(st.binary(), VALUES)
def test_bytes_that_are_not_secret_keep_every_bit(data: bytes, value: str) -> None:
    """Bytes need not be UTF-8, and what is masked in them leaves the rest as it was."""
    masker = masker_of(value)
    assume(masker.mask_bytes(data) == data)
    assert masker.mask_bytes(b"\xff" + value.encode() + b"\xff" + data) == b"\xff***\xff" + data


def test_keys_of_the_gateway_are_found_by_shape() -> None:
    """F74: a client's key is masked in a malformed request, though nobody registered it."""
    key = new_api_key().reveal()
    assert Masker().mask(f"b'GET /?key={key} HTTP/1.1'") == "b'GET /?key=gw_*** HTTP/1.1'"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("authorization: bearer  abcdefghijkl,next", "authorization: bearer  ***,next"),
        ('{"a": "BEARER abcdefghijkl"}', '{"a": "BEARER ***"}'),
        ("?auth=Bearer%20abcdefghijkl", "?auth=Bearer%20***"),
        ("t=eyJhbGciOi.eyJzdWIiOi.c2ln_-x", "t=eyJ***"),
        ("wrong key: sk-proj-abcdefghijklmnopqrstuvwx.", "wrong key: sk-***."),
        ("a task-list-of-many-words-in-a-row stays", "a task-list-of-many-words-in-a-row stays"),
        ("the bearer of news", "the bearer of news"),
        ("gw_short", "gw_short"),
    ],
)
def test_credentials_are_found_by_shape_and_words_are_not(text: str, masked: str) -> None:
    """Tokens and Bearer credentials are masked, with what says their kind kept; ordinary words are not."""
    assert Masker().mask(text) == masked


def test_masking_twice_changes_nothing() -> None:
    """A line that passes two sinks is masked once."""
    masker = masker_of("a-registered-value")
    once = masker.mask("a-registered-value, Bearer abcdefghijkl, " + new_api_key().reveal())
    assert masker.mask(once) == once


def test_short_values_are_not_kept() -> None:
    """A value under eight characters would mask ordinary words, and give itself away by that."""
    assert masker_of("admin", "").mask("the admin page") == "the admin page"


def test_the_number_of_values_is_bounded() -> None:
    """The values registered last are kept; registering one again makes it young."""
    masker = Masker(max_values=2)
    for value in ("value-number-1", "value-number-2", "value-number-1", "value-number-3"):
        masker.register(Secret(value))
    assert masker.mask("value-number-1 value-number-2 value-number-3") == "*** value-number-2 ***"


def test_repr_shows_no_value() -> None:
    """F73: neither the masker nor anything in it shows what it hides."""
    masker = masker_of("a-registered-value")
    assert "registered" not in repr(masker)


@pytest.mark.parametrize(
    "unit", ["eyJ", "eyJaaaaaa.", "bearer ", "Bearer  ", "sk-", "gw_", "sk-" + "a" * 19 + ".", "eyJ-", "%20", "a"]
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    """Eight times the text takes about eight times the time, whatever the text: no backtracking."""
    masker = masker_of("a-registered-value")

    def best_of_three(text: str) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            masker.mask(text)
            times.append(time.process_time() - start)
        return min(times)

    small = best_of_three(unit * 5_000)
    # Quadratic time would be 64-fold; the floor keeps the clock's grain out of the comparison.
    assert best_of_three(unit * 40_000) < 30 * max(small, 0.001)
