"""Properties of the token buckets, on traces that nobody thought of."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Bucket, Decision, Rate
from gateway.state.memory import MemoryState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.state.conftest import HeldClock

RATES = st.builds(Rate, st.integers(1, 500), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))
BUCKETS = st.builds(Bucket, st.sampled_from("ab"), RATES, st.integers(1, 20))
# Waits in milliseconds: often none, often around a token's time.
WAITS = st.one_of(st.just(0), st.integers(0, 5_000), st.integers(0, 10_000_000))


def run(state: MemoryState, buckets: Sequence[Bucket]) -> Decision:
    """Drive the coroutine that never awaits."""
    try:
        state.take(buckets).send(None)
    except StopIteration as done:
        decision: Decision = done.value
        return decision
    raise AssertionError


@dataclass
class Model:
    """The textbook token bucket, in exact fractions: tokens, refilled by elapsed time, capped at the burst."""

    bucket: Bucket
    tokens: Fraction = field(init=False)
    at: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        self.tokens = Fraction(self.bucket.burst)

    def refill(self, now: Fraction) -> None:
        """Add what came since the last time."""
        rate = Fraction(self.bucket.rate.amount) / Fraction(self.bucket.rate.period_s)
        self.tokens = min(Fraction(self.bucket.burst), self.tokens + (now - self.at) * rate)
        self.at = now


@given(bucket=BUCKETS, waits=st.lists(WAITS, max_size=80))
def test_no_window_admits_more_than_burst_and_refill(
    held_clock: type[HeldClock], bucket: Bucket, waits: list[int]
) -> None:
    """In every span of t seconds at most burst + rate * t requests are admitted."""
    clock = held_clock(now=0.0)
    state = MemoryState(clock)
    elapsed_ms, admitted = 0, []
    for wait in waits:
        elapsed_ms += wait
        clock.now = elapsed_ms / 1000
        if run(state, [bucket]).allowed:
            admitted.append(clock.now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            allowance = bucket.burst + (admitted[last] - admitted[first]) * bucket.rate.per_second
            assert last - first + 1 <= math.floor(allowance + 1e-3)


@given(
    buckets=st.lists(BUCKETS, min_size=1, max_size=3, unique=True),
    steps=st.lists(st.tuples(WAITS, st.sets(st.integers(0, 2), min_size=1)), max_size=60),
)
def test_it_is_the_textbook_token_bucket(
    held_clock: type[HeldClock], buckets: list[Bucket], steps: list[tuple[int, set[int]]]
) -> None:
    """On any trace over several buckets, decisions and remaining tokens equal those of an exact token bucket."""
    clock = held_clock(now=0.0)
    state = MemoryState(clock)
    models = [Model(bucket) for bucket in buckets]
    elapsed_ms = 0
    for wait, picks in steps:
        elapsed_ms += wait
        clock.now = elapsed_ms / 1000
        asked = [models[index] for index in sorted({pick % len(models) for pick in picks})]
        for model in asked:
            model.refill(Fraction(elapsed_ms, 1000))
        decision = run(state, [model.bucket for model in asked])
        if min(abs(model.tokens - 1) for model in asked) > Fraction(1, 10**4):
            assert decision.allowed == all(model.tokens >= 1 for model in asked)
        if decision.allowed:
            for model in asked:
                model.tokens -= 1
        for left, model in zip(decision.remaining, asked, strict=True):
            assert abs(left - max(0, model.tokens)) < 1e-3
        assert (decision.retry_after_s == 0) == decision.allowed


@given(bucket=BUCKETS, waits=st.lists(WAITS, max_size=30))
def test_a_refused_caller_who_waits_as_told_is_admitted(
    held_clock: type[HeldClock], bucket: Bucket, waits: list[int]
) -> None:
    """Whatever happened before, retry_after_s later the same request is admitted."""
    clock = held_clock(now=0.0)
    state = MemoryState(clock)
    for wait in waits:
        clock.now += wait / 1000
        decision = run(state, [bucket])
        clock.now += decision.retry_after_s
        if not decision.allowed:
            assert run(state, [bucket]).allowed


async def test_concurrent_takers_share_one_bucket(clock: HeldClock) -> None:
    """A hundred callers at the same instant get the burst between them."""
    state = MemoryState(clock)
    bucket = Bucket("k", Rate(60, 60.0), 7)
    decisions = await asyncio.gather(*(state.take([bucket]) for _ in range(100)))
    assert sum(decision.allowed for decision in decisions) == 7
