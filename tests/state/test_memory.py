"""The bounds of the buckets in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Bucket, Rate
from gateway.state.memory import MemoryState

if TYPE_CHECKING:
    from tests.state.conftest import HeldClock

PER_KEY = Rate(60, 60.0)
PER_ADDRESS = Rate(1000, 86_400.0)


async def drain(state: MemoryState, bucket: Bucket) -> None:
    """Take until there is nothing left."""
    while (await state.take([bucket])).allowed:
        pass


async def test_the_table_never_exceeds_its_bound(clock: HeldClock) -> None:
    """F81: ten times as many callers as there are places leave no more buckets than places."""
    state = MemoryState(clock, max_buckets=100)
    for number in range(1000):
        assert (await state.take([Bucket(f"ip:{number}", PER_ADDRESS, 5)])).allowed
    assert len(state) == 100


async def test_full_buckets_are_forgotten(clock: HeldClock) -> None:
    """Callers who come once do not pile up: what has refilled makes way long before the bound."""
    state = MemoryState(clock)
    for number in range(5000):
        clock.now += 0.1
        await state.take([Bucket(f"ip:{number}", PER_KEY, 5)])
    # Ten callers in a second, each bucket full again after a second: ten that count, and some not yet looked at.
    assert len(state) < 40


async def test_rotating_addresses_does_not_reset_an_empty_bucket(clock: HeldClock) -> None:
    """F81: whoever used up his limit does not get it back by knocking from fifty times as many other addresses."""
    state = MemoryState(clock, max_buckets=200)
    mine = Bucket("key:mine", PER_KEY, 60)
    await drain(state, mine)
    for number in range(10_000):
        await state.take([Bucket(f"ip:{number}", PER_ADDRESS, 1000)])
    assert not (await state.take([mine])).allowed
