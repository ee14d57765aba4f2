"""The seam of shared short-lived state: what every backend promises, and how one is opened from its URL.

The protocol itself is :class:`gateway.contract.State`. What its words do not say, and ``tests/state`` holds every
backend to:

1. A bucket that nobody has used is full. A bucket is named by its key *and* its rate and burst: the same key under
   another limit is another bucket, so a changed limit starts afresh and two limits never spend each other's tokens.
2. In any span of ``t`` seconds a bucket admits at most ``burst + rate * t`` requests. The buckets of one
   call are distinct.
3. A refused request takes nothing, from no bucket. ``retry_after_s`` is the wait of the bucket that waits longest:
   exactly then, and not before, the same call is admitted if nobody else takes a token meanwhile.
4. Time is monotonic. A clock that jumps moves no limit (faults.md F62).
5. Memory is bounded; what happens at the bound is said by the backend.

The arithmetic is GCRA (ITU-T I.371, the virtual scheduling form of the leaky bucket): one number per bucket, the time
at which it will be full again. It equals a token bucket that is refilled continuously, needs no timer, and a bucket
whose time has come holds no information and may be forgotten.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.state.memory import MemoryState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from gateway.contract import Clock, State


def open_state(url: str, clock: Clock) -> AbstractAsyncContextManager[State]:
    """The backend that ``state:`` in gateway.yaml names, open inside the context.

    Raises ValueError at once, with the remedy, for a URL that names none.
    """
    if url != "memory://":
        msg = "the state must be memory://"
        raise ValueError(msg)
    return _memory(clock)


@asynccontextmanager
async def _memory(clock: Clock) -> AsyncIterator[State]:
    yield MemoryState(clock)
