"""What every backend of shared state promises (``gateway/state/base.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.contract import Bucket, Rate
from gateway.state import open_state

if TYPE_CHECKING:
    from tests.state.conftest import Backend

MINUTE = Rate(60, 60.0)


def bucket(key: str = "k", rate: Rate = MINUTE, burst: int = 3) -> Bucket:
    """Three tokens, one more each second, unless said otherwise."""
    return Bucket(key, rate, burst)


async def test_a_new_bucket_is_full(backend: Backend) -> None:
    """A bucket that nobody used admits exactly its burst at once."""
    admitted = [(await backend.state.take([bucket()])).allowed for _ in range(4)]
    assert admitted == [True, True, True, False]


async def test_remaining_counts_down(backend: Backend) -> None:
    """An admitted request says how many tokens are left after it, a refused one that there is none."""
    left = [(await backend.state.take([bucket()])).remaining[0] for _ in range(4)]
    assert left == pytest.approx([2, 1, 0, 0], abs=1e-6)


async def test_retry_after_is_exact(backend: Backend) -> None:
    """A refused request is admitted after precisely the wait it was told, and not 1 % earlier."""
    for _ in range(3):
        await backend.state.take([bucket()])
    refused = await backend.state.take([bucket()])
    backend.clock.now += refused.retry_after_s * 0.99
    assert not (await backend.state.take([bucket()])).allowed
    backend.clock.now += refused.retry_after_s * 0.01
    assert (await backend.state.take([bucket()])).allowed


async def test_a_refused_request_takes_nothing(backend: Backend) -> None:
    """However often somebody knocks while refused, the next token comes no later."""
    for _ in range(3):
        await backend.state.take([bucket()])
    waits = [(await backend.state.take([bucket()])).retry_after_s for _ in range(50)]
    assert waits == pytest.approx([1.0] * 50, abs=1e-6)


async def test_all_or_nothing(backend: Backend) -> None:
    """Where one of several buckets is empty, none of the others loses a token, and the longest wait is told."""
    wide, narrow = bucket("wide", burst=10), bucket("narrow", Rate(1, 60.0), burst=1)
    assert (await backend.state.take([wide, narrow])).allowed
    refused = await backend.state.take([wide, narrow])
    assert (refused.allowed, refused.retry_after_s) == (False, pytest.approx(60.0))
    assert refused.remaining == pytest.approx((9, 0), abs=1e-6)
    assert (await backend.state.take([wide])).remaining == pytest.approx((8,), abs=1e-6)


async def test_buckets_are_apart(backend: Backend) -> None:
    """Another key, and the same key under another rate or burst, is another bucket."""
    first = bucket(burst=1)
    others = [bucket("other", burst=1), bucket(rate=Rate(61, 60.0), burst=1), bucket(burst=2)]
    assert (await backend.state.take([first])).allowed
    assert not (await backend.state.take([first])).allowed
    assert [(await backend.state.take([other])).allowed for other in others] == [True, True, True]


async def test_refill_stops_at_the_burst(backend: Backend) -> None:
    """A bucket that rested for a day admits its burst and no more."""
    await backend.state.take([bucket()])
    backend.clock.now += 86_400
    admitted = [(await backend.state.take([bucket()])).allowed for _ in range(4)]
    assert admitted == [True, True, True, False]


async def test_nothing_asked_is_admitted(backend: Backend) -> None:
    """No bucket, no limit."""
    decision = await backend.state.take([])
    assert (decision.allowed, decision.remaining) == (True, ())


async def test_a_clock_that_steps_back_is_never_a_negative_wait(backend: Backend) -> None:
    """F62: not even a faulty monotonic clock makes a negative wait or more tokens than the burst."""
    await backend.state.take([bucket()])
    backend.clock.now -= 7200
    decision = await backend.state.take([bucket()])
    assert decision.retry_after_s >= 0
    assert 0 <= decision.remaining[0] <= 3


@pytest.mark.parametrize("url", ["", "memory:", "redis://host", "memory://elsewhere"])
def test_an_unknown_backend_is_refused_at_once(url: str, backend: Backend) -> None:
    """A state URL that names no backend fails when it is read, with the remedy and without the URL's text."""
    with pytest.raises(ValueError, match="memory://") as caught:
        open_state(url, backend.clock)
    assert "host" not in str(caught.value)
