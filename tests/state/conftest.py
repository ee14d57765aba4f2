"""Every backend of the state seam, each with a clock that the test holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gateway.state import open_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.contract import State


@dataclass
class HeldClock:
    """A clock that stands until it is moved."""

    now: float = 1_000_000.0

    def monotonic(self) -> float:
        """The held time."""
        return self.now

    def time(self) -> float:
        """Some day in 2027."""
        return 1_800_000_000.0


@dataclass
class Backend:
    """A backend under test, and its time."""

    state: State
    clock: HeldClock


@pytest.fixture(scope="session")
def held_clock() -> type[HeldClock]:
    """The clock's class, for tests that make many."""
    return HeldClock


@pytest.fixture
def clock() -> HeldClock:
    """One clock."""
    return HeldClock()


@pytest.fixture(params=["memory://"])
async def backend(request: pytest.FixtureRequest, clock: HeldClock) -> AsyncIterator[Backend]:
    """Each backend in turn, open."""
    async with open_state(request.param, clock) as state:
        yield Backend(state, clock)
