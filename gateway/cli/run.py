"""How a verb gets to the desk: a loop, the open store, one act."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.cli.desk import Desk

T = TypeVar("T")


def at_desk(config_path: Path, act: Callable[[Desk], Awaitable[T]]) -> T:
    """What ``act`` answers."""
    from gateway.cli.desk import open_desk

    async def run() -> T:
        async with open_desk(config_path) as desk:
            return await act(desk)

    return asyncio.run(run())
