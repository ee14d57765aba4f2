"""gateway.store.cache: over a real store, whose absence is a real lock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from gateway.contract import Principal
from gateway.errors import StoreUnavailable
from gateway.security.keys import digest, new_api_key
from gateway.store.cache import KeyCache
from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import HeldClock, SqliteFile

DEADLINE_S = 0.2


@dataclass
class World:
    """A store with one owner and one key, a cache over it, and a count of what the cache asks."""

    store: Store
    cache: KeyCache
    file: SqliteFile
    owner: str
    key: bytes
    key_id: str
    asked: list[str] = field(default_factory=list)
    asking: asyncio.Event = field(default_factory=asyncio.Event)

    async def another_key(self, **limits: Any) -> bytes:
        """The digest of one more key."""
        key = new_api_key()
        await self.store.api_keys.create(key, name="n", owner=self.owner, **limits)
        return digest(key.reveal())

    @contextmanager
    def away(self) -> Iterator[None]:
        """Another program keeps readers out of the file."""
        with self.file.locked():
            yield

    def lookups(self) -> int:
        """How many keys were looked up in the store since this was last asked."""
        count, self.asked = len(self.asked), []
        return count


@asynccontextmanager
async def world_of(file: SqliteFile, clock: HeldClock, **settings: Any) -> AsyncIterator[World]:
    """A cache with these settings. The store does without the write-ahead log, so that it can be taken away."""
    key = new_api_key()
    async with Store.open(file.url, clock=clock, create=True) as store:
        user = await store.users.create("a@example.com", "hash", "member")
        made = await store.api_keys.create(key, name="n", owner=user.id)
    async with Store.open(file.url, clock=clock, deadline_s=DEADLINE_S) as store:
        file.without_write_ahead_log()
        world = World(store, KeyCache(store, clock=clock, **settings), file, user.id, digest(key.reveal()), made.id)

        def note(*call: Any) -> None:
            if "api_keys.sha256 =" in call[2]:
                world.asked.append(call[2])
                world.asking.set()

        sa.event.listen(store._database._engine.sync_engine, "before_cursor_execute", note)
        yield world


@pytest.fixture
async def world(file: SqliteFile, clock: HeldClock) -> AsyncIterator[World]:
    """A cache as gateway.yaml has it by default."""
    async with world_of(file, clock) as made:
        yield made


def resolve_at_once(cache: KeyCache, key: bytes) -> Principal | None:
    """The answer of a lookup that does not give up the event loop. Fails where it does."""
    lookup = cache.find(key)
    with pytest.raises(StopIteration) as stopped:
        lookup.send(None)
    principal: Principal | None = stopped.value.value
    return principal


async def test_a_known_key_is_found_without_leaving_the_loop(world: World) -> None:
    """The first lookup asks the store; those after it answer from memory, in one step."""
    first = await world.cache.find(world.key)
    assert first is not None
    assert first.id == world.key_id
    assert resolve_at_once(world.cache, world.key) is first
    assert world.lookups() == 1


async def test_a_key_is_read_again_when_its_time_is_over(world: World, clock: HeldClock) -> None:
    """After `ttl` the store is asked again, though nobody told of a change."""
    await world.cache.find(world.key)
    await world.store.api_keys.revoke(world.key_id)
    clock.now += 59.9
    assert await world.cache.find(world.key) is not None
    clock.now += 0.1
    assert await world.cache.find(world.key) is None
    assert world.lookups() == 2


async def test_an_unknown_key_is_remembered_for_a_second(world: World, clock: HeldClock) -> None:
    """A flood of one wrong key asks the store once a second, and a key that is made meanwhile works soon."""
    wrong = digest("gw_nothing")
    for _ in range(5):
        assert await world.cache.find(wrong) is None
    assert world.lookups() == 1
    clock.now += 1.0
    assert await world.cache.find(wrong) is None
    assert world.lookups() == 1


async def test_one_asks_and_the_others_wait(world: World) -> None:
    """Fifty callers at once with one key that is not in memory are one query, and so with one that is not there."""
    for key, known in ((world.key, True), (digest("gw_nothing"), False)):
        found = await asyncio.gather(*(world.cache.find(key) for _ in range(50)))
        assert all((principal is not None) == known for principal in found)
        assert world.lookups() == 1
    assert not world.cache._asking


async def test_the_first_caller_may_leave(world: World) -> None:
    """The caller who asks is cancelled: the others get their answer from the next one who asks."""
    callers = [asyncio.ensure_future(world.cache.find(world.key)) for _ in range(3)]
    await world.asking.wait()
    callers[0].cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert [type(principal) for principal in found[1:]] == [Principal, Principal]
    assert world.lookups() == 2


async def test_an_expiry_date_is_kept_from_memory(world: World, clock: HeldClock) -> None:
    """F75: a key that expires within its `ttl` stops in its instant, by the wall clock, without a query."""
    key = await world.another_key(expires=clock.now + 10)
    assert await world.cache.find(key) is not None
    clock.now += 9.9
    assert resolve_at_once(world.cache, key) is not None
    clock.now += 0.1
    assert resolve_at_once(world.cache, key) is None
    assert await world.cache.find(key) is None


async def test_clear_makes_a_revocation_heard(world: World) -> None:
    """F75: once the watcher has cleared the cache, a revoked key is refused, and a new one is no longer unknown."""
    await world.cache.find(world.key)
    await world.store.api_keys.revoke(world.key_id)
    world.cache.clear()
    assert await world.cache.find(world.key) is None


async def test_clear_forgets_what_is_unknown(world: World) -> None:
    """A key that was tried a moment before it was made works as soon as the change is heard."""
    key = new_api_key()
    assert await world.cache.find(digest(key.reveal())) is None
    await world.store.api_keys.create(key, name="n", owner=world.owner)
    world.cache.clear()
    assert await world.cache.find(digest(key.reveal())) is not None


async def test_what_was_read_before_a_change_is_not_kept_after_it(world: World) -> None:
    """F75: an answer that was on its way when the cache was cleared does not bring a revoked key back."""
    lookup = asyncio.ensure_future(world.cache.find(world.key))
    await world.asking.wait()
    world.cache.clear()
    await lookup
    await world.store.api_keys.revoke(world.key_id)
    assert await world.cache.find(world.key) is None


async def test_the_number_of_keys_is_bounded(file: SqliteFile, clock: HeldClock) -> None:
    """The keys used last stay, of known and of unknown ones as many as configured."""
    async with world_of(file, clock, size=2) as world:
        second, third = await world.another_key(), await world.another_key()
        for key in (world.key, second, world.key, third):
            await world.cache.find(key)
        assert world.lookups() == 3
        assert resolve_at_once(world.cache, world.key) is not None
        assert resolve_at_once(world.cache, third) is not None
        for number in range(10):
            await world.cache.find(digest(str(number)))
        assert len(world.cache._known) == len(world.cache._unknown) == 2


# ------------------------------------------------------------------------------------------------- the store is away


async def test_known_keys_go_on_while_the_store_is_away(world: World, clock: HeldClock) -> None:
    """F44: past `ttl` a known key still works, up to `stale_while_down` since it was read, and not a moment longer."""
    await world.cache.find(world.key)
    with world.away():
        clock.now += 60
        assert await world.cache.find(world.key) is not None
        clock.now += 839.9
        assert await world.cache.find(world.key) is not None
        clock.now += 0.1
        with pytest.raises(StoreUnavailable):
            await world.cache.find(world.key)


async def test_an_unknown_key_is_neither_good_nor_bad_while_the_store_is_away(world: World, clock: HeldClock) -> None:
    """F44: a key that is not in memory is StoreUnavailable, never None; once the store is back it is found."""
    with world.away():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await world.cache.find(world.key)
    clock.now += 1.0
    assert await world.cache.find(world.key) is not None


async def test_an_expired_key_is_refused_while_the_store_is_away(world: World, clock: HeldClock) -> None:
    """F44: being away lengthens no key's life."""
    key = await world.another_key(expires=clock.now + 100)
    await world.cache.find(key)
    with world.away():
        clock.now += 100
        assert await world.cache.find(key) is None


async def test_a_store_that_is_away_is_asked_by_one_a_second(world: World, clock: HeldClock) -> None:
    """F45: while the store is away nobody waits for its deadline but one probe a second."""
    others = [await world.another_key() for _ in range(20)]
    for key in others:
        await world.cache.find(key)
    clock.now += 60
    with world.away():
        assert await world.cache.find(others[0]) is not None
        world.lookups()
        found = await asyncio.gather(*(world.cache.find(key) for key in others))
        assert all(found)
        assert world.lookups() == 0
        clock.now += 1.0
        assert all(await asyncio.gather(*(world.cache.find(key) for key in others)))
        assert world.lookups() == 1


async def test_back_to_normal_by_itself(world: World, clock: HeldClock) -> None:
    """F44: once the store answers a probe, keys are read from it again, all of them and at once."""
    second = await world.another_key()
    with world.away(), pytest.raises(StoreUnavailable):
        await world.cache.find(world.key)
    clock.now += 1.0
    world.lookups()
    assert await world.cache.find(world.key) is not None
    assert await world.cache.find(second) is not None
    assert world.lookups() == 2


async def test_a_damaged_store_counts_as_away(world: World) -> None:
    """F44: whatever the store's trouble is, an unknown key gets StoreUnavailable and a known one goes on."""
    world.file.path.write_bytes(bytes(8192))
    with pytest.raises(StoreUnavailable):
        await world.cache.find(world.key)
