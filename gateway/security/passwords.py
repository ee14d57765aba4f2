"""Passwords of the dashboard's users: bcrypt, off the event loop, bounded in number.

At cost 12 one hash takes a quarter of a second of a core. So a small pool of threads does it, and a queue in front of
the pool is bounded: a flood of logins is refused rather than kept. Whoever is unknown is checked against a hash that
nothing matches, so that an answer's timing does not tell who has an account.
"""

from __future__ import annotations

import asyncio
import secrets
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import bcrypt

from gateway.contract import Refusal, Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TypeVar

    T = TypeVar("T")

MAX_PASSWORD_BYTES = 72
"""bcrypt reads no further than this."""

_COST = 12
_ALPHABET = string.ascii_letters + string.digits
_RANDOM_LENGTH = 24
_DIGEST_LENGTH = 31


class Passwords:
    """Hashes and checks passwords in a pool of its own. ``async with``: leaving waits for the work that is running.

    ``threads`` hashes run at once and ``waiting`` more may wait; the next caller gets a 503 Refusal ``overloaded``.
    ``cost`` is bcrypt's: every step doubles the time.
    """

    def __init__(self, *, threads: int = 2, waiting: int = 64, cost: int = _COST) -> None:
        self._cost = cost
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="gateway-bcrypt")
        self._places = threading.BoundedSemaphore(threads + waiting)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    async def hash(self, password: Secret) -> str:
        """The bcrypt hash to be stored. Raises ValueError for an empty password and for one over 72 bytes."""
        data = _as_bytes(password)
        if not data:
            raise ValueError("a password may not be empty")
        if len(data) > MAX_PASSWORD_BYTES:
            raise ValueError(
                f"a password may have {MAX_PASSWORD_BYTES} bytes of UTF-8 (bcrypt reads no further); "
                f"this one has {len(data)}"
            )
        return (await self._run(lambda: bcrypt.hashpw(data, bcrypt.gensalt(self._cost)))).decode()

    async def verify(self, password: Secret, stored: str | None) -> bool:
        """Whether ``password`` is the one that ``stored`` was made of.

        ``stored`` is None for a user who does not exist: that takes as long as a wrong password. A stored hash that is
        malformed matches nothing.
        """
        return await self._run(lambda: self._matches(_as_bytes(password), stored))

    def _matches(self, password: bytes, stored: str | None) -> bool:
        # bcrypt 5 raises over 72 bytes. No stored password has so many: only the time must be the same.
        possible = stored is not None and len(password) <= MAX_PASSWORD_BYTES
        try:
            matches = bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], (stored or self._dummy()).encode())
        except ValueError:
            bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], self._dummy().encode())
            return False
        return matches and possible

    def _dummy(self) -> str:
        """A well-formed hash of this cost that was made of no password."""
        return bcrypt.gensalt(self._cost).decode() + "." * _DIGEST_LENGTH

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "overloaded", "Too many passwords are being checked.", headers={"retry-after": "1"})
        job = self._executor.submit(work)
        # The place is free when the work has ended, not when its caller has gone: a thread cannot be cancelled.
        job.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(job)


def random_password() -> Secret:
    """A password that nobody can guess: 24 random letters and digits."""
    return Secret("".join([secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH)]))


def _as_bytes(password: Secret) -> bytes:
    """UTF-8, also of the lone surrogates that a JSON body may carry."""
    return password.reveal().encode("utf-8", "surrogatepass")
