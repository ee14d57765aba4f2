"""API keys in memory: what the hot path asks instead of the store.

A key that was found is trusted for ``ttl_s`` and then read again. While the store is away it is trusted for ``stale_s``
since it was last read, so that callers at work go on; a key that is not known is then neither good nor bad, and the
answer is StoreUnavailable. A key that the store does not have is remembered for a second, against floods.

Once the store has failed a call, nobody asks it again for a second but one probe: a store that hangs would otherwise
hold every request for its deadline.

``clear`` is called on every change of keys or users, so a revoked key is heard of within the watcher's interval. It
forgets everything: after a change, a key that cannot be read again is not trusted, however young its entry was.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from gateway.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from gateway.contract import Clock, Principal
    from gateway.store.records import Grant
    from gateway.store.store import Store

T = TypeVar("T")

_UNKNOWN_FOR_S = 1.0
_PROBE_EVERY_S = 1.0


@dataclass(slots=True)
class _Entry:
    """A key that the store had at ``read``, in monotonic seconds."""

    principal: Principal
    expires: float | None
    read: float


class KeyCache:
    """Implements ``contract.KeyDirectory`` over a store.

    Holds ``size`` keys, those used last, and as many digests that stand for no key. A hit is a lookup and does not give
    up the event loop. Of several callers with one unknown key, one asks the store and the others wait for it.
    """

    def __init__(
        self, store: Store, *, clock: Clock, ttl_s: float = 60.0, stale_s: float = 900.0, size: int = 131_072
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._size = size
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._asking: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._generation = 0
        self._away = False
        self._next_probe = 0.0

    async def find(self, digest: bytes) -> Principal | None:
        """Whose key this is; None for unknown, revoked and expired ones alike.

        Raises StoreUnavailable where the store is away and the cache cannot say.
        """
        entry = self._known.get(digest)
        if entry is not None and self._clock.monotonic() - entry.read < self._ttl_s:
            self._known.move_to_end(digest)
            return self._unless_expired(digest, entry)
        return await self._find_again(digest)

    def clear(self) -> None:
        """Forget everything, and what is being read right now as well."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    async def _find_again(self, digest: bytes) -> Principal | None:
        # The lock lives while somebody holds it. A caller that is cancelled leaves it to the next one.
        lock = self._asking.setdefault(digest, asyncio.Lock())
        async with lock:
            now = self._clock.monotonic()
            # 1. Whoever held the lock before may have found it, or found that there is none.
            entry = self._known.get(digest)
            if entry is not None and now - entry.read < self._ttl_s:
                return self._unless_expired(digest, entry)
            if now < self._unknown.get(digest, now):
                return None
            # 2. Ask the store. 3. It is away: what was read not too long ago still holds.
            try:
                return await self._ask(digest)
            except StoreError as error:
                if entry is None or now - entry.read >= self._stale_s:
                    raise StoreUnavailable("the store is away and this key is not in memory") from error
            return self._unless_expired(digest, entry)

    async def _ask(self, digest: bytes) -> Principal | None:
        if not self._may_ask():
            raise StoreUnavailable("the store was away a moment ago")
        generation = self._generation
        try:
            grant = await self._store.api_keys.by_digest(digest)
        except StoreError:
            self._away, self._next_probe = True, self._clock.monotonic() + _PROBE_EVERY_S
            raise
        self._away = False
        # What was read before a change answers the caller who asked before it, and nobody after.
        if generation == self._generation:
            self._remember(digest, grant)
        return None if grant is None else grant.principal

    def _may_ask(self) -> bool:
        """Whether the store is there, as far as is known; where it is not, whether the next probe is due."""
        now = self._clock.monotonic()
        if self._away and now < self._next_probe:
            return False
        self._next_probe = now + _PROBE_EVERY_S
        return True

    def _remember(self, digest: bytes, grant: Grant | None) -> None:
        now = self._clock.monotonic()
        if grant is None:
            self._known.pop(digest, None)
            _put(self._unknown, digest, now + _UNKNOWN_FOR_S, self._size)
        else:
            _put(self._known, digest, _Entry(grant.principal, grant.expires, now), self._size)

    def _unless_expired(self, digest: bytes, entry: _Entry) -> Principal | None:
        if entry.expires is None or self._clock.time() < entry.expires:
            return entry.principal
        self._known.pop(digest, None)
        return None


def _put(map_: OrderedDict[bytes, T], digest: bytes, value: T, size: int) -> None:
    """Add at the young end, and let the oldest go where there are too many."""
    map_[digest] = value
    map_.move_to_end(digest)
    if len(map_) > size:
        map_.popitem(last=False)
