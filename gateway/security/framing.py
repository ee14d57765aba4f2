"""Joining byte strings so that no two different lists of parts give the same bytes."""

from __future__ import annotations


def framed(*parts: bytes) -> bytes:
    """The parts, each behind its length in four bytes: what an authentication code may safely be computed over.

    Plain concatenation would not do: ``("ab", "c")`` and ``("a", "bc")`` would be the same message.
    """
    return b"".join([len(part).to_bytes(4) + part for part in parts])
