"""gateway.security.keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Secret
from gateway.security.keys import digest, is_api_key, last_four, new_api_key

ALPHANUMERICS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def test_a_new_key_has_the_documented_shape() -> None:
    """``gw_`` and 32 letters and digits, of which every one is used."""
    keys = [new_api_key().reveal() for _ in range(300)]
    assert all(is_api_key(key) for key in keys)
    assert {character for key in keys for character in key[3:]} == set(ALPHANUMERICS)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gw_",
        "gw_" + "a" * 31,
        "gw_" + "a" * 33,
        "GW_" + "a" * 32,
        "sk_" + "a" * 32,
        "gw_" + "a" * 31 + "_",
        "gw_" + "a" * 31 + "\n",
        "gw_" + "a" * 31 + "é",
        "gw_" + "a" * 31 + "٣",
        " gw_" + "a" * 31,
        "gw_" + "a" * 31 + "\0",
    ],
)
def test_what_is_no_key_is_told_by_its_shape(text: str) -> None:
    """Anything else than the shape is refused before the store is asked, non-ASCII letters and digits included."""
    assert not is_api_key(text)


@given(st.text(ALPHANUMERICS, min_size=32, max_size=32))
def test_every_key_of_that_shape_is_one(text: str) -> None:
    """The shape is all that is asked of a key."""
    assert is_api_key("gw_" + text)


def test_the_digest_is_sha256() -> None:
    """FIPS 180-2, appendix B.1: "abc"."""
    assert digest("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_takes_what_a_header_may_hold() -> None:
    """Bytes that are not UTF-8 arrive as surrogates and are digested as the bytes that they were."""
    assert digest(b"caf\xe9".decode("utf-8", "surrogateescape")) != digest("cafe")


def test_the_end_is_shown_only_of_long_keys() -> None:
    """Four characters of a key may be shown where they are a small part of it."""
    assert last_four(Secret("sk-1234567890123456789wxyz")) == "wxyz"
    assert last_four(Secret("short-key")) == ""
