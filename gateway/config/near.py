"""What the operator may have meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def near_miss(written: str, known: Iterable[str]) -> str:
    """``"; did you mean burst?"``, or nothing. Only known words are ever repeated."""
    words = {word.lower(): word for word in known}
    matches = get_close_matches(written[:64].lower(), words, n=1)
    return f"; did you mean {words[matches[0]]}?" if matches else ""
