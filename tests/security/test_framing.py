"""gateway.security.framing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.security.framing import framed

PARTS = st.lists(st.binary(max_size=6), max_size=5)


@given(PARTS, PARTS)
def test_different_lists_give_different_bytes(left: list[bytes], right: list[bytes]) -> None:
    """Two lists of parts frame to the same bytes only where they are the same list."""
    assert (framed(*left) == framed(*right)) == (left == right)


def test_a_border_between_parts_cannot_be_moved() -> None:
    """("ab", "c") and ("a", "bc") are different messages."""
    assert framed(b"ab", b"c") != framed(b"a", b"bc")
