"""One gateway for all end-to-end tests that want no other configuration: starting one costs more than most tests.

It runs on the session's loop, in front of one address at which each test puts an upstream of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.worlds.fronts import Front, Made, gateway, make, serving
from tests.worlds.raw_upstream import RawUpstream, listening_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run every asynchronous test beside this file on the session's loop."""
    for item in items:
        if item.path.parent.name == "e2e" and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def address() -> Iterator[socket.socket]:
    """Where the upstreams of all tests listen, one after the other."""
    with listening_socket() as sock:
        yield sock


@pytest_asyncio.fixture(loop_scope="session")
async def upstream(address: socket.socket) -> AsyncIterator[RawUpstream]:
    """This test's own upstream: it says nothing until the test gives it a script, or drives its connections."""
    async with RawUpstream(sock=address) as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def front(address: socket.socket) -> AsyncIterator[Front]:
    """The shared gateway, with every layer in its chain."""
    async with gateway(f"http://127.0.0.1:{address.getsockname()[1]}") as front:
        yield front


@pytest.fixture(scope="session")
def made(address: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A gateway in front of the same address as an operator makes it, ready to be served."""
    origin = f"http://127.0.0.1:{address.getsockname()[1]}"
    return make(origin, tmp_path_factory.mktemp("made"), extra="log_level: debug")


@pytest.fixture(scope="session")
def served(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """That gateway in a process of its own, for all tests that do not end it."""
    with serving(made, tmp_path_factory.mktemp("served")) as front:
        yield front
