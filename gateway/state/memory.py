"""Token buckets in this process's memory: exact, free of I/O, and gone with the process.

Nothing here awaits, so a call is atomic without a lock.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gateway.contract import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.contract import Bucket, Clock

# A millionth of a token less than one is one: sums of floats may not cost a caller a token.
_ONE_TOKEN = 1 - 1e-6

# How many buckets are looked at for each new one: with four, at most about a quarter of the table is full buckets.
_LOOKED_AT_PER_NEW = 4
_LOOKED_AT_WHEN_CROWDED = 16


class MemoryState:
    """Token buckets of one process, at most ``max_buckets`` (about 300 bytes each).

    A full bucket holds no information and is forgotten at no loss: some are looked at whenever a new one comes. Where
    all places are taken by buckets that are not full, the one that lacks the fewest tokens, of sixteen picked at
    random, is forgotten, which gives its owner back what it lacked. Whoever rotates addresses therefore has his own
    nearly full buckets forgotten; to have an *empty* one forgotten he must first empty most of the table. (Least
    recently used, the common choice, would forget it after one request from each of so many addresses.)
    """

    def __init__(self, clock: Clock, *, max_buckets: int = 131_072) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._random = Random()  # noqa: S311 - what it picks guards memory, no secret
        # A table that can be sampled: a bucket's place in two parallel lists, packed by moving the last one.
        self._places: dict[_Name, int] = {}
        self._names: list[_Name] = []
        self._full_at: list[float] = []

    async def take(self, buckets: Sequence[Bucket]) -> Decision:
        """Take one token from every bucket, or from none of them."""
        now = self._clock.monotonic()
        found: list[tuple[_Name, float]] = []
        left: list[float] = []
        wait_s = 0.0
        for bucket in buckets:
            name = (bucket.key, bucket.rate.amount, bucket.rate.period_s, bucket.burst)
            place = self._places.get(name)
            full_at = now if place is None else max(now, self._full_at[place])
            tokens = bucket.burst - (full_at - now) / _interval_s(name)
            if tokens < _ONE_TOKEN:
                wait_s = max(wait_s, (1 - tokens) * _interval_s(name))
            found.append((name, full_at))
            left.append(tokens)
        if wait_s:
            return Decision(allowed=False, remaining=tuple([max(0.0, tokens) for tokens in left]), retry_after_s=wait_s)
        for name, full_at in found:
            self._write(name, full_at + _interval_s(name), now)
        return Decision(allowed=True, remaining=tuple([max(0.0, tokens - 1) for tokens in left]), retry_after_s=0.0)

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._names)

    def _write(self, name: _Name, full_at: float, now: float) -> None:
        place = self._places.get(name)
        if place is not None:
            self._full_at[place] = full_at
            return
        for _ in range(min(_LOOKED_AT_PER_NEW, len(self._names))):
            place = self._random.randrange(len(self._names))
            if self._full_at[place] <= now:
                self._forget(place)
        if len(self._names) >= self._max_buckets:
            self._forget(self._nearly_full(now))
        self._places[name] = len(self._names)
        self._names.append(name)
        self._full_at.append(full_at)

    def _nearly_full(self, now: float) -> int:
        count = len(self._names)
        places = {self._random.randrange(count) for _ in range(_LOOKED_AT_WHEN_CROWDED)}
        return min(places, key=lambda place: (self._full_at[place] - now) / _interval_s(self._names[place]))

    def _forget(self, place: int) -> None:
        del self._places[self._names[place]]
        last, full_at = self._names.pop(), self._full_at.pop()
        if place < len(self._names):
            self._names[place], self._full_at[place] = last, full_at
            self._places[last] = place


_Name = tuple[str, int, float, int]
"""Key, amount and period of the rate, burst: flat, because a tuple of numbers hashes five times as fast as a Rate."""


def _interval_s(name: _Name) -> float:
    """How long one token takes to come back."""
    return name[2] / name[1]
