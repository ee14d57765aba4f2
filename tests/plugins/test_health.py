"""The layer ``health``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.conftest import World


async def test_alive_touches_nothing(world: World) -> None:
    """F43, F44: a process whose store is away and which drains is still alive: nobody must restart it."""
    world.keys.away = world.draining = True
    async with world.serve("health") as get:
        answer = await get("GET", "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("away", "draining", "status", "word"),
    [(False, False, 200, "ok"), (True, False, 200, "degraded"), (False, True, 503, "draining"),
     (True, True, 503, "draining")],
)  # fmt: skip
async def test_ready(world: World, away: bool, draining: bool, status: int, word: str) -> None:
    """F44, F57: a store that is away degrades and does not stop; only draining sends requests elsewhere."""
    world.keys.away, world.draining = away, draining
    async with world.serve("health") as get:
        answer = await get("GET", "/readyz")
    assert (answer.status, answer.json) == (status, {"status": word})


async def test_a_credential_that_cannot_be_opened_is_named(world: World) -> None:
    """F68: the gateway is ready, for the other providers' keys work, and says whose does not, not why."""
    world.sealed.broken = {"openai": "the seal of the row is broken"}
    async with world.serve("health") as get:
        answer = await get("GET", "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "degraded", "unhealthy_credentials": ["openai"]})


async def test_metrics(world: World) -> None:
    """What was counted can be scraped."""
    world.metrics.follow("log_lines_dropped", "Lost.", lambda: 1)
    async with world.serve("health") as get:
        answer = await get("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"gateway_log_lines_dropped_total 1.0" in answer.body


async def test_head(world: World) -> None:
    """Probes that ask for the head get the status."""
    async with world.serve("health") as get:
        answer = await get("HEAD", "/readyz")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_nothing_else_is_done_here(world: World, method: str) -> None:
    """Health is only asked for."""
    async with world.serve("health") as get:
        answer = await get(method, "/healthz")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/health", "/healthz/", "/metrics/x"])
async def test_other_paths(world: World, path: str) -> None:
    """There are three paths here."""
    async with world.serve("health") as get:
        answer = await get("GET", path)
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
