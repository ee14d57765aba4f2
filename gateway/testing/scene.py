"""Where the conformance suites play: a client, a gateway around the layers, an upstream, and a witness of every end.

What holds for every scene is checked when it ends: each exchange has run its closers once, then its callbacks once, and
of what ran for it nothing runs any more.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from gateway.contract import EXCHANGE, Handler, Plugin, PluginConfig, Refusal
from gateway.testing.live import running_gateway
from gateway.testing.upstream import RawUpstream
from gateway.testing.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from gateway.contract import Exchange, Outcome, Services
    from gateway.testing.live import Live
    from gateway.testing.upstream import Script
    from gateway.testing.wire import Wire

Entry = str | dict[str, Any]
"""An entry of a chain as in ``gateway.yaml``: ``"cors"``, ``{"cors": {…}}``, ``{"use": "module:Class", …}``."""

PATIENCE_S = 10.0
"""How long anything is waited for; what has not happened by then never does."""


class End:
    """What became of one exchange. It does not hold the exchange: that one leaks is not to be the witness' doing."""

    def __init__(self) -> None:
        self.closed = 0
        self.finished = 0
        self.outcome: Outcome | None = None
        self.over = asyncio.Event()

    def close(self) -> None:
        """Count a run of the closers."""
        self.closed += 1

    def finish(self, _: Exchange, outcome: Outcome) -> None:
        """Count a run of the callbacks."""
        assert self.closed, "on_done ran before the closers"
        self.finished += 1
        self.outcome = outcome
        self.over.set()


class Ends:
    """The ends of a scene's exchanges, in the order of their beginning."""

    def __init__(self) -> None:
        self.all: list[End] = []
        self._begun = asyncio.Condition()

    async def begin(self) -> End:
        """One more exchange."""
        async with self._begun:
            self.all.append(End())
            self._begun.notify_all()
            return self.all[-1]

    async def get(self, number: int) -> End:
        """That of the exchange of that number; waits until it has begun."""
        async with asyncio.timeout(PATIENCE_S), self._begun:
            await self._begun.wait_for(lambda: len(self.all) > number)
        return self.all[number]


_WITNESSED: dict[str, Ends] = {}
"""What the witnesses of the open scenes have seen: a layer gets nothing but its configuration."""


class Witness(Plugin):
    """The outermost layer of a scene."""

    class Config(PluginConfig):
        """Whose witness it is."""

        scene: str
        """The scene's name."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._ends = _WITNESSED[config.scene]

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Be told of the end."""
        end, exchange = await self._ends.begin(), request[EXCHANGE]
        exchange.push(end.close)
        exchange.on_done(end.finish)
        return await handler(request)


STUMBLE = "x-stumble"


class Stumble(Plugin):
    """The innermost layer but the last: refuses, or fails, where the request says so."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, fail, or pass it on."""
        match request.headers.get(STUMBLE):
            case "refuse":
                raise Refusal(429, "insufficient_quota", "Refused by a layer further in.", headers={"retry-after": "7"})
            case "fail":
                raise RuntimeError("said to nobody")
        return await handler(request)


@dataclass
class Scene:
    """A running gateway, the upstream behind it, and the ends of its exchanges in the order of their beginning."""

    live: Live
    upstream: RawUpstream
    ends: Ends
    before: frozenset[asyncio.Task[Any]]
    """What ran before the first exchange."""

    def client(self) -> AbstractAsyncContextManager[Wire]:
        """A raw connection to the gateway."""
        return dial(self.live.url(""), deadline_s=PATIENCE_S)

    async def outcome(self, number: int = 0) -> Outcome:
        """How the exchange of that number ended; waits for it."""
        end = await self.ends.get(number)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await end.over.wait()
        except TimeoutError:
            raise AssertionError("the exchange never ended: on_done was not called") from None
        assert end.outcome is not None
        return end.outcome

    async def settle(self) -> None:
        """Wait until nothing runs any more that ran for an exchange."""
        for number in range(len(self.ends.all)):
            await self.outcome(number)
        await _ended(asyncio.all_tasks() - self.before - self.upstream.scripts)

    def check(self) -> None:
        """What holds at the end of every scene."""
        for end in self.ends.all:
            assert end.closed == 1, f"the exchange's closers ran {end.closed} times"
            assert end.finished == 1, f"on_done ran {end.finished} times"


@asynccontextmanager
async def scene(
    folder: Path,
    script: Script,
    *,
    chain: Sequence[Entry],
    route: str,
    credential: str,
    settings: Mapping[str, object],
    origin: str | None = None,
) -> AsyncIterator[Scene]:
    """Play: a gateway with one route at ``route`` through ``chain``, to the upstream ``provider``.

    The upstream runs ``script``, or is somebody else's at ``origin``.
    """
    name, ends = token_hex(8), Ends()
    _WITNESSED[name] = ends
    tasks = frozenset(asyncio.all_tasks())
    try:
        async with RawUpstream(script, deadline_s=PATIENCE_S) as upstream:
            witness = {"use": f"{__name__}:Witness", "with": {"scene": name}}
            provider = {"base_url": f"{origin or upstream.origin}/v1", "dialect": "openai", "credential": credential}
            config = {
                "listeners": {"public": {"bind": "127.0.0.1:0"}},
                "store": "${STORE}",
                "vault": {"master_key": "${GATEWAY_MASTER_KEY}"},
                "upstreams": {"provider": provider},
                "routes": [{"name": "scene", "listener": "public", "path": route, "chain": [witness, *chain]}],
                "drain_timeout": "0s",
                "log_level": "error",
                **settings,
            }
            async with running_gateway(json.dumps(config), folder) as live:
                it = Scene(live, upstream, ends, frozenset(asyncio.all_tasks()))
                yield it
                await it.settle()
            for wire in upstream.connections:
                await wire.ended()  # what the gateway has opened it has closed
        it.check()
        await _ended(asyncio.all_tasks() - tasks)
    finally:
        del _WITNESSED[name]


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait for tasks to end by themselves."""
    others = tasks - {asyncio.current_task()}
    if others:
        _, running = await asyncio.wait(others, timeout=PATIENCE_S)
        assert not running, f"still running: {', '.join(repr(task.get_coro()) for task in running)}"
