"""On which event loops tests run: what touches sockets runs on both that the gateway serves on.

uvloop's transports are no subclass of asyncio's, it reports closing in another order, and ``gateway serve`` uses it
wherever it is installed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

_ON_BOTH = frozenset(
    {
        "test_chain",
        "test_client_faults",
        "test_deadlines",
        "test_default_chain",
        "test_edge",
        "test_tls",
        "test_upstream",
        "test_websockets",
    }
)


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop, or both."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in _ON_BOTH:
        factories["uvloop"] = uvloop.new_event_loop
    return factories
