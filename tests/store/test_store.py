"""gateway.store.store: what every engine promises. The suite runs once for each of them."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from gateway.contract import Principal, Rate, Secret
from gateway.errors import StoreConflict
from gateway.security.keys import digest, new_api_key
from gateway.security.vault import VaultRecord
from gateway.store import SealedKey, UsageRow
from gateway.store.tables import api_keys, audit, usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from conftest import Backend, HeldClock

    from gateway.store import User
    from gateway.store.store import Store


@pytest.fixture
async def owner(store: Store) -> User:
    """Somebody who may own keys."""
    return await store.users.create("Ada@Example.com", "$2b$12$hash", "member")


async def rows(store: Store, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    """What lies in the database, past the store's own methods."""

    async def work(connection: Any) -> Sequence[sa.Row[Any]]:
        return (await connection.execute(query)).all()

    return await store._database.read(work)


async def tamper(store: Store, statement: sa.Executable) -> None:
    """Change the database as somebody would who can write to it but has no key."""

    async def work(connection: Any) -> None:
        await connection.execute(statement)

    await store._database.write(work)


# ------------------------------------------------------------------------------------------------- users


async def test_a_user_is_found_by_email_in_any_case(store: Store, owner: User) -> None:
    """What was created is found and listed, its email in lower case."""
    assert owner.email == "ada@example.com"
    assert await store.users.by_email(" ADA@example.COM ") == owner
    assert await store.users.by_email("nobody@example.com") is None
    assert await store.users.list() == [owner]


async def test_an_email_is_taken_once(store: Store, owner: User) -> None:
    """A second user with the same email, in capitals or not, is a conflict, and nothing is written."""
    before = await store.changes()
    with pytest.raises(StoreConflict):
        await store.users.create(owner.email.upper(), "other", "admin")
    assert await store.users.list() == [owner]
    assert await store.changes() == before


async def test_a_password_is_replaced(store: Store, owner: User) -> None:
    """The new hash is what is found from then on; an unknown user is told."""
    assert await store.users.set_password(owner.id, "new")
    assert not await store.users.set_password("nobody", "new")
    found = await store.users.by_email(owner.email)
    assert found is not None
    assert found.password_hash == "new"


async def test_repr_of_a_user_shows_no_hash(owner: User) -> None:
    """F73: a user may be logged."""
    assert "hash" not in repr(owner)


# ------------------------------------------------------------------------------------------------- API keys


async def test_a_key_stands_for_its_owner_with_its_limits(store: Store, owner: User) -> None:
    """A key is found by its digest as the principal that it stands for, the role its owner's."""
    key = new_api_key()
    made = await store.api_keys.create(
        key, name="ci", owner=owner.id, expires=1_900_000_000.25, rate=Rate(60, 60.0), models=frozenset({"b", "a"})
    )
    grant = await store.api_keys.by_digest(digest(key.reveal()))
    assert grant is not None
    assert grant.expires == 1_900_000_000.25
    assert grant.principal == Principal(
        kind="key",
        id=made.id,
        name="ci",
        owner=owner.id,
        role="member",
        models=frozenset({"a", "b"}),
        rate=Rate(60, 60.0),
    )


async def test_a_key_without_limits_has_none(store: Store, owner: User) -> None:
    """No limit, no model list and no end are None, which is not the same as an empty list of models."""
    key, bare = new_api_key(), new_api_key()
    await store.api_keys.create(key, name="free", owner=owner.id)
    await store.api_keys.create(bare, name="nothing", owner=owner.id, models=frozenset())
    free, nothing = [await store.api_keys.by_digest(digest(one.reveal())) for one in (key, bare)]
    assert free is not None
    assert (free.expires, free.principal.models, free.principal.rate) == (None, None, None)
    assert nothing is not None
    assert nothing.principal.models == frozenset()


async def test_keys_are_listed_as_they_were_made(store: Store, owner: User, clock: HeldClock) -> None:
    """The list holds what create answered, oldest first, of all owners or of one; the text of no key is in it."""
    other = await store.users.create("b@example.com", "hash", "admin")
    made = []
    for user in (owner, other, owner):
        clock.now += 1.0006
        made.append(await store.api_keys.create(new_api_key(), name="n", owner=user.id))
    assert await store.api_keys.list() == made
    assert await store.api_keys.list(owner.id) == [made[0], made[2]]
    assert len({key.last_four for key in made}) == 3


async def test_a_key_needs_an_owner_and_is_there_once(store: Store, owner: User) -> None:
    """A key of nobody and the same key twice are conflicts, and nothing is written."""
    key = new_api_key()
    await store.api_keys.create(key, name="n", owner=owner.id)
    for text, user in ((key, owner.id), (new_api_key(), "nobody")):
        with pytest.raises(StoreConflict):
            await store.api_keys.create(text, name="again", owner=user)
    assert len(await store.api_keys.list()) == 1


async def test_a_revoked_key_stands_for_nobody(store: Store, owner: User, clock: HeldClock) -> None:
    """Revoking works once and for good, and is told of a key that there is not."""
    key = new_api_key()
    made = await store.api_keys.create(key, name="n", owner=owner.id)
    assert await store.api_keys.revoke(made.id)
    assert not await store.api_keys.revoke(made.id)
    assert not await store.api_keys.revoke("nothing")
    assert await store.api_keys.by_digest(digest(key.reveal())) is None
    assert [kept.revoked for kept in await store.api_keys.list()] == [clock.now]


async def test_an_expired_key_stands_for_nobody(store: Store, owner: User, clock: HeldClock) -> None:
    """A key works until its instant and not in it."""
    key = new_api_key()
    await store.api_keys.create(key, name="n", owner=owner.id, expires=clock.now + 10)
    clock.now += 9.9
    assert await store.api_keys.by_digest(digest(key.reveal())) is not None
    clock.now += 0.1
    assert await store.api_keys.by_digest(digest(key.reveal())) is None


async def test_a_disabled_owner_takes_all_keys_along(store: Store, owner: User) -> None:
    """F76: the keys of a user who is locked out stand for nobody."""
    key = new_api_key()
    await store.api_keys.create(key, name="n", owner=owner.id)
    assert await store.users.disable(owner.id)
    assert not await store.users.disable("nobody")
    assert await store.api_keys.by_digest(digest(key.reveal())) is None


async def test_rotation_overlaps(store: Store, owner: User, clock: HeldClock) -> None:
    """The new key has the old one's owner, name and limits; the old one works for the overlap and no longer."""
    old, new = new_api_key(), new_api_key()
    made = await store.api_keys.create(
        old, name="n", owner=owner.id, rate=Rate(5, 1.0), models=frozenset({"m"}), expires=clock.now + 1000
    )
    rotated = await store.api_keys.rotate(made.id, new, overlap_s=60)
    assert rotated is not None
    assert (rotated.name, rotated.owner, rotated.rate, rotated.models, rotated.expires) == (
        *(made.name, made.owner, made.rate, made.models, made.expires),
    )
    clock.now += 59
    assert all([await store.api_keys.by_digest(digest(key.reveal())) for key in (old, new)])
    clock.now += 1
    assert await store.api_keys.by_digest(digest(old.reveal())) is None
    assert await store.api_keys.by_digest(digest(new.reveal())) is not None


async def test_rotation_never_lengthens_the_old_key(store: Store, owner: User, clock: HeldClock) -> None:
    """A key that ends before the overlap does still ends when it was to end."""
    made = await store.api_keys.create(new_api_key(), name="n", owner=owner.id, expires=clock.now + 10)
    clock.now += 1
    await store.api_keys.rotate(made.id, new_api_key(), overlap_s=3600)
    assert [key.expires for key in await store.api_keys.list()] == [made.expires, made.expires]


async def test_a_key_that_no_longer_works_is_not_rotated(store: Store, owner: User, clock: HeldClock) -> None:
    """Rotation brings no revoked, expired or unknown key back to life."""
    revoked = await store.api_keys.create(new_api_key(), name="n", owner=owner.id)
    await store.api_keys.revoke(revoked.id)
    expired = await store.api_keys.create(new_api_key(), name="n", owner=owner.id, expires=clock.now)
    for key_id in (revoked.id, expired.id, "nothing"):
        assert await store.api_keys.rotate(key_id, new_api_key(), overlap_s=60) is None
    assert len(await store.api_keys.list()) == 2


async def test_last_use_is_noted_in_batches_and_never_goes_back(store: Store, owner: User, clock: HeldClock) -> None:
    """Many keys at once, unknown ones without harm; an older note does not undo a newer one; nobody is told."""
    made = []
    for _ in range(2):
        clock.now += 1
        made.append(await store.api_keys.create(new_api_key(), name="n", owner=owner.id))
    before = await store.changes()
    await store.api_keys.touch({made[0].id: 100.0, made[1].id: 200.0, "nothing": 1.0})
    await store.api_keys.touch({made[0].id: 300.5, made[1].id: 150.0})
    await store.api_keys.touch({})
    assert [key.last_used for key in await store.api_keys.list()] == [300.5, 200.0]
    assert await store.changes() == before


async def test_only_the_digest_of_a_key_is_kept(store: Store, owner: User) -> None:
    """The row holds SHA-256 and the last four characters, and the text nowhere."""
    key = new_api_key()
    await store.api_keys.create(key, name="n", owner=owner.id)
    [row] = await rows(store, sa.select(api_keys))
    assert row.sha256 == digest(key.reveal())
    assert key.reveal()[3:-4] not in str(row)


# ------------------------------------------------------------------------------------------------- sealed


def sealed(upstream: str, ciphertext: bytes = b"\x00\xff") -> SealedKey:
    """A provider key as a vault might have sealed it."""
    return SealedKey(upstream, "https://h", ciphertext, 1, "wxyz", "ada", 1_800_000_000.123)


async def test_a_provider_key_replaces_the_one_before(store: Store) -> None:
    """One key for each upstream, given back as it was put."""
    await store.provider_keys.put(sealed("b"))
    await store.provider_keys.put(sealed("a", b"old"))
    await store.provider_keys.put(sealed("a", b"new"))
    assert await store.provider_keys.list() == [sealed("a", b"new"), sealed("b")]


async def test_a_provider_key_is_removed(store: Store) -> None:
    """What was removed is gone; what was not there is told."""
    await store.provider_keys.put(sealed("a"))
    assert await store.provider_keys.remove("a")
    assert not await store.provider_keys.remove("a")
    assert await store.provider_keys.list() == []


async def test_the_vault_is_made_once(store: Store) -> None:
    """A vault's record is kept as it is and never replaced: the secrets sealed under it would be lost."""
    record = VaultRecord(1, "kdf", 600_000, b"salt\x00", b"wrapped\xff", b"check")
    assert await store.vault.read() is None
    await store.vault.create(record)
    with pytest.raises(StoreConflict):
        await store.vault.create(VaultRecord(1, "kdf", 1, b"", b"", b""))
    assert await store.vault.read() == record


# ------------------------------------------------------------------------------------------------- changes


async def test_every_change_of_identities_raises_the_number(store: Store, clock: HeldClock) -> None:
    """Whoever polls the number hears of users, keys and provider keys; what changed nothing is not told."""
    user = await store.users.create("a@example.com", "hash", "member")
    key = await store.api_keys.create(new_api_key(), name="n", owner=user.id)
    changing = [
        lambda: store.users.set_password(user.id, "new"),
        lambda: store.api_keys.create(new_api_key(), name="n", owner=user.id),
        lambda: store.api_keys.rotate(key.id, new_api_key(), overlap_s=60),
        lambda: store.api_keys.revoke(key.id),
        lambda: store.provider_keys.put(sealed("a")),
        lambda: store.provider_keys.remove("a"),
        lambda: store.users.disable(user.id),
        lambda: store.users.create("b@example.com", "hash", "member"),
    ]
    silent = [
        lambda: store.users.disable("nobody"),
        lambda: store.api_keys.revoke("nothing"),
        lambda: store.api_keys.rotate("nothing", new_api_key(), overlap_s=60),
        lambda: store.provider_keys.remove("nothing"),
        lambda: store.audit(b"k").append("a", "b", "c"),
    ]
    for change in changing:
        before = await store.changes()
        await change()
        assert await store.changes() == before + 1
    before = await store.changes()
    for call in silent:
        await call()
    assert await store.changes() == before


async def test_other_stores_on_the_same_database_see_changes(store: Store, backend: Backend) -> None:
    """What one process writes, another one reads."""
    async with backend.open(create=False) as other:
        before = await other.changes()
        user = await store.users.create("a@example.com", "hash", "member")
        assert await other.changes() == before + 1
        assert await other.users.list() == [user]


async def test_writers_in_two_processes_lose_nothing(store: Store, backend: Backend) -> None:
    """Forty changes from two stores at once raise the number by forty."""
    async with backend.open(create=False) as other:
        before = await store.changes()
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                writer = (store, other)[number % 2]
                group.create_task(writer.users.create(f"{number}@example.com", "hash", "member"))
        assert await store.changes() == before + 40


# ------------------------------------------------------------------------------------------------- usage


def used(number: int, **changed: object) -> UsageRow:
    """One exchange."""
    fields: dict[str, Any] = {
        "id": f"id-{number}",
        "at": 1.5,
        "route": "api",
        "key_id": "k",
        "upstream": "u",
        "model": "m",
        "status": 200,
        "code": None,
        "layer": None,
        "ended": "complete",
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_tokens": 3,
        "reasoning_tokens": 4,
        "tokens_source": "reported",
        "cost_nanousd": 2**40,
        "duration_ms": 5,
        "first_byte_ms": None,
        "bytes_in": 6,
        "bytes_out": 2**40,
    }
    return UsageRow(**(fields | changed))


async def test_usage_is_kept_once_however_often_it_is_sent(store: Store) -> None:
    """A batch whose fate was unknown is sent again: what is there stays as it is, what is not is added."""
    await store.usage.insert([used(1), used(2)])
    await store.usage.insert([used(2, status=500), used(3)])
    await store.usage.insert([])
    kept = await rows(store, sa.select(usage).order_by(usage.c.id))
    assert [UsageRow(**row._mapping) for row in kept] == [used(1), used(2), used(3)]


# ------------------------------------------------------------------------------------------------- audit

KEY = secrets.token_bytes(32)


async def five_entries(store: Store, clock: HeldClock) -> list[bytes]:
    """An audit log of five entries, and their macs."""
    macs = []
    for number in range(5):
        clock.now += 0.0007
        entry = await store.audit(KEY).append("ada", "key.create", f"key-{number}", {"b": 1, "a": "é"})
        macs.append(entry.mac)
    return macs


async def test_an_untouched_log_is_intact(store: Store, clock: HeldClock) -> None:
    """Entries come back as they were written, newest first and in pages; the chain verifies against any head it had."""
    log = store.audit(KEY)
    assert await log.verify() == (await log.verify(None))
    assert (await log.verify()).head is None
    macs = await five_entries(store, clock)
    entries = await log.list(limit=3)
    assert [entry.number for entry in entries] == [5, 4, 3]
    assert [entry.number for entry in await log.list(before=3)] == [2, 1]
    assert (entries[0].actor, entries[0].target, entries[0].detail) == ("ada", "key-4", '{"a":"\\u00e9","b":1}')
    for head in (None, macs[-1], macs[0]):
        verdict = await log.verify(head)
        assert (verdict.intact, verdict.entries, verdict.head) == (True, 5, macs[-1])


TAMPERINGS = {
    "a word changed": sa.update(audit).where(audit.c.number == 3).values(actor="eve"),
    "words moved between fields": sa.update(audit).where(audit.c.number == 3).values(actor="adak", action="ey.create"),
    "the time changed": sa.update(audit).where(audit.c.number == 3).values(at=1.0),
    "a mac changed": sa.update(audit).where(audit.c.number == 3).values(mac=bytes(32)),
    "one in the middle removed": sa.delete(audit).where(audit.c.number == 3),
    "the first removed": sa.delete(audit).where(audit.c.number == 1),
    "one added at the end": sa.insert(audit).values(
        number=6, at=1.0, actor="eve", action="a", target="t", detail="{}", mac=bytes(32)
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_tampering_is_found_without_a_head(store: Store, clock: HeldClock, tampering: str) -> None:
    """Who can write to the database but has no key cannot change, remove or add an entry unseen."""
    await five_entries(store, clock)
    await tamper(store, TAMPERINGS[tampering])
    verdict = await store.audit(KEY).verify()
    assert not verdict.intact


async def test_an_entry_of_another_history_is_found(store: Store, clock: HeldClock) -> None:
    """An entry that was once valid at its number, before a backup was restored, say, does not fit in another chain."""
    await five_entries(store, clock)
    [old] = await rows(store, sa.select(audit).where(audit.c.number == 3))
    await tamper(store, sa.delete(audit))
    await five_entries(store, clock)
    assert (await store.audit(KEY).verify()).intact
    await tamper(store, sa.update(audit).where(audit.c.number == 3).values(old._asdict()))
    assert (await store.audit(KEY).verify()).entries == 2


async def test_a_cut_end_is_found_against_a_head(store: Store, clock: HeldClock) -> None:
    """A log whose end was removed is whole in itself; a head kept elsewhere finds it out."""
    macs = await five_entries(store, clock)
    await tamper(store, sa.delete(audit).where(audit.c.number > 3))
    log = store.audit(KEY)
    assert (await log.verify()).intact
    assert not (await log.verify(macs[-1])).intact
    assert (await log.verify(macs[2])).intact


async def test_another_key_verifies_nothing(store: Store, clock: HeldClock) -> None:
    """A log that was rewritten by somebody with another key is found."""
    await five_entries(store, clock)
    assert not (await store.audit(bytes(32)).verify()).intact


async def test_entries_from_two_processes_make_one_chain(store: Store, backend: Backend) -> None:
    """Appending at once from two stores leaves one chain without a gap."""
    async with backend.open(create=False) as other, asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task((store, other)[number % 2].audit(KEY).append("a", "b", str(number)))
    verdict = await store.audit(KEY).verify()
    assert (verdict.intact, verdict.entries) == (True, 20)


async def test_long_logs_are_checked_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch, clock: HeldClock) -> None:
    """More entries than a page are all checked."""
    monkeypatch.setattr("gateway.store.audit._PAGE", 2)
    await five_entries(store, clock)
    assert (await store.audit(KEY).verify()).entries == 5
    await tamper(store, sa.update(audit).where(audit.c.number == 5).values(actor="eve"))
    assert (await store.audit(KEY).verify()).entries == 4


async def test_ping_answers(store: Store) -> None:
    """A store that can be asked says so by not raising."""
    await store.ping()


async def test_no_parameter_is_in_a_foreign_errors_text(store: Store) -> None:
    """F73: what SQLAlchemy says of a failed statement names no value that was sent with it."""
    secret = Secret("planted-value-in-a-parameter")
    user = await store.users.create("a@example.com", secret.reveal(), "member")
    with pytest.raises(StoreConflict) as caught:
        await store.users.create(user.email, secret.reveal(), "member")
    assert caught.value.__cause__ is not None
    assert secret.reveal() not in str(caught.value.__cause__)
