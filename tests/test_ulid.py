"""gateway.ulid."""

from __future__ import annotations

import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from gateway.ulid import ulid

TIMES = st.floats(0, 2**48 / 1000 - 1)


def test_time_is_encoded_as_the_specification_says() -> None:
    """The example of the specification: 1469918176385 ms is written 01ARYZ6S41."""
    assert ulid(1469918176.385)[:10] == "01ARYZ6S41"


@given(TIMES, TIMES)
def test_later_ones_sort_behind(left: float, right: float) -> None:
    """Ids of different milliseconds sort as their times do, as 26 characters of Crockford's alphabet."""
    first, second = sorted((left, right))
    assert ulid(first)[:10] <= ulid(second)[:10]
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", ulid(first))


def test_times_out_of_range_are_held_to_it() -> None:
    """A clock before 1970 or past the format's end gives an id, not an exception."""
    assert ulid(-5.0).startswith("0" * 10)
    assert ulid(1e18).startswith("7ZZZZZZZZZ")


def test_no_two_are_alike() -> None:
    """Ten thousand of the same instant differ."""
    assert len({ulid(1.0) for _ in range(10_000)}) == 10_000


def test_forked_workers_never_make_the_same() -> None:
    """F64: ids, keys and nonces come from the kernel, so a child that was forked after import repeats none."""
    program = """
import os
from gateway.contract import Secret
from gateway.security.keys import new_api_key
from gateway.security.vault import KeyRing, KeyVault
from gateway.ulid import ulid
vault = KeyVault(KeyRing.new())
child = os.fork()
made = [ulid(1.0), new_api_key().reveal(), vault.seal(Secret("x"), "t", "r").hex()]
os.write(1, (" ".join(made) + "\\n").encode())
if child: os.wait()
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    made = output.split()
    assert len(made) == len(set(made)) == 6
