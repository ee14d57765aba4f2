"""gateway.security.passwords. Cost 4, bcrypt's least, except where the cost itself is meant."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING
from unittest import mock

import bcrypt
import pytest

from gateway.contract import Refusal, Secret
from gateway.security.passwords import Passwords, random_password

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    """A pool with the cheapest bcrypt there is."""
    async with Passwords(cost=4) as opened:
        yield opened


async def test_the_right_password_matches_and_a_wrong_one_does_not(passwords: Passwords) -> None:
    """What was hashed is recognised, and nothing else is."""
    stored = await passwords.hash(Secret("correct horse"))
    assert await passwords.verify(Secret("correct horse"), stored)
    assert not await passwords.verify(Secret("correct Horse"), stored)


async def test_the_default_cost_is_twelve() -> None:
    """A stored hash says so itself."""
    async with Passwords() as passwords:
        assert (await passwords.hash(Secret("x"))).startswith("$2b$12$")


async def test_an_over_long_password_is_refused_in_words(passwords: Passwords) -> None:
    """72 bytes of UTF-8 are taken, 73 are not, and the message tells the rule but not the password."""
    await passwords.hash(Secret("é" * 36))
    with pytest.raises(ValueError, match="72 bytes") as caught:
        await passwords.hash(Secret("é" * 36 + "x"))
    assert "éx" not in str(caught.value)


async def test_an_empty_password_is_refused(passwords: Passwords) -> None:
    """Nobody can have an empty password."""
    with pytest.raises(ValueError, match="empty"):
        await passwords.hash(Secret(""))


async def test_a_longer_password_does_not_match_its_first_72_bytes(passwords: Passwords) -> None:
    """What bcrypt does not read must not let a longer password in."""
    stored = await passwords.hash(Secret("x" * 72))
    assert await passwords.verify(Secret("x" * 72), stored)
    assert not await passwords.verify(Secret("x" * 73), stored)


@pytest.mark.parametrize("stored", ["", "plain", "$2b$12$short", "$2b$99$" + "." * 53, "$2b$04$" + "!" * 53, "é" * 60])
async def test_a_malformed_hash_matches_nothing(passwords: Passwords, stored: str) -> None:
    """A damaged row is a wrong password, not a fault."""
    assert not await passwords.verify(Secret("plain"), stored)


@pytest.mark.parametrize("password", ["x", "x" * 100, "", "\ud800", "\0"])
async def test_an_unknown_user_costs_one_hash_like_any_other(passwords: Passwords, password: str) -> None:
    """F78: one bcrypt of the same cost is computed for a user who does not exist, whatever the password."""
    with mock.patch.object(bcrypt, "checkpw", wraps=bcrypt.checkpw) as checkpw:
        assert not await passwords.verify(Secret(password), None)
    (_, against), _ = checkpw.call_args
    assert checkpw.call_count == 1
    assert against.startswith(b"$2b$04$")


async def test_the_loop_runs_while_a_password_is_hashed(passwords: Passwords) -> None:
    """The hash is computed in a thread of the pool, not in the loop's."""
    seen: list[int] = []

    def hashpw(password: bytes, salt: bytes) -> bytes:
        seen.append(threading.get_ident())
        return password + salt

    with mock.patch.object(bcrypt, "hashpw", hashpw):
        await passwords.hash(Secret("x"))
    assert seen
    assert seen != [threading.get_ident()]


async def test_a_flood_is_refused_and_places_come_back() -> None:
    """F77: beyond the threads and the queue in front of them a caller gets 503, until work has ended.

    A caller who has left keeps the place until then: a thread cannot be cancelled.
    """
    release = threading.Event()

    async with Passwords(threads=1, waiting=1, cost=4) as passwords:
        with mock.patch.object(bcrypt, "checkpw", side_effect=lambda *_: release.wait()):
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(passwords.verify(Secret("x"), "$2b$")) for _ in range(2)]
                await asyncio.sleep(0)
                with pytest.raises(Refusal) as caught:
                    await passwords.verify(Secret("x"), "$2b$")
                running[0].cancel()
                with pytest.raises(Refusal):
                    await passwords.verify(Secret("x"), "$2b$")
                release.set()
            assert await passwords.verify(Secret("x"), "$2b$")
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_random_passwords_differ_and_can_be_hashed() -> None:
    """24 letters and digits: no quoting, within bcrypt's 72 bytes."""
    made = {random_password().reveal() for _ in range(100)}
    assert len(made) == 100
    assert all(len(text) == 24 and text.isalnum() for text in made)
