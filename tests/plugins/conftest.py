"""A chain on a real socket, between the real edge and the end of a test, over services that the test holds."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, TCPConnector, web

from gateway.config import load
from gateway.contract import Principal, Secret, Services
from gateway.edge import Edge
from gateway.errors import CannotOpen, StoreUnavailable
from gateway.generation import Generation
from gateway.metrics import PrometheusMetrics
from gateway.registry import resolve
from gateway.security.keys import digest, new_api_key
from gateway.server import GatewayServer
from gateway.state.memory import MemoryState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from multidict import CIMultiDictProxy

Entry = str | dict[str, dict[str, Any]]


@dataclass
class HeldClock:
    """A clock that stands until it is moved."""

    now: float = 5000.0

    def monotonic(self) -> float:
        """The held time."""
        return self.now

    def time(self) -> float:
        """Some day in 2027."""
        return 1_800_000_000.0


@dataclass
class Keys:
    """Keys by digest. ``away`` is a store that cannot be reached; ``asked`` counts look-ups."""

    known: dict[bytes, Principal] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def find(self, key: bytes) -> Principal | None:
        """What the directory of the contract promises."""
        self.asked += 1
        if self.away:
            raise StoreUnavailable("no route to host db.internal")
        return self.known.get(key)

    async def ping(self) -> None:
        """The store's pulse."""
        if self.away:
            raise StoreUnavailable("no route to host db.internal")


@dataclass
class SealedKeys:
    """Provider keys by upstream and origin, and what is wrong with others."""

    known: dict[tuple[str, str], str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def credential(self, upstream: str, origin: str) -> Secret:
        """What the vault of the contract promises."""
        if (upstream, origin) not in self.known:
            raise CannotOpen(f"row of {upstream}: the seal is broken")
        return Secret(self.known[upstream, origin])

    def unhealthy(self) -> Mapping[str, str]:
        """What the vault of the contract promises."""
        return self.broken


@dataclass
class Lines:
    """The log, kept as text."""

    lines: list[str] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        """Keep a line; so do the others."""
        self.lines.append(f"{event} {fields}")

    info = warning = error = debug


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """OpenAI's error object."""
        return self.json["error"]


@dataclass
class Client:
    """Talks to a served chain. What is given as ``headers`` may repeat names."""

    url: str
    session: ClientSession
    edge: Edge

    async def __call__(self, method: str = "GET", path: str = "/x", *headers: tuple[str, str], **more: Any) -> Answer:
        """One request."""
        async with self.session.request(method, self.url + path, headers=list(headers), **more) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@dataclass
class World:
    """All that layers are lent, in the hands of the test."""

    folder: Path
    clock: HeldClock = field(default_factory=HeldClock)
    keys: Keys = field(default_factory=Keys)
    sealed: SealedKeys = field(default_factory=SealedKeys)
    log: Lines = field(default_factory=Lines)
    metrics: PrometheusMetrics = field(default_factory=PrometheusMetrics)
    draining: bool = False

    def __post_init__(self) -> None:
        self.state = MemoryState(self.clock)

    def new_key(self, **principal: Any) -> str:
        """Issue a key."""
        key = new_api_key().reveal()
        about = {"kind": "key", "id": f"key_{len(self.keys.known)}", "name": "n", "owner": "o", "role": "member"}
        self.keys.known[digest(key)] = Principal(**{**about, **principal})
        return key

    def services(self) -> Services:
        """The lot."""
        return Services(
            clock=self.clock,
            keys=self.keys,
            store=self.keys,
            state=self.state,
            vault=self.sealed,
            upstreams={},
            log=self.log,
            metrics=self.metrics,
            is_draining=lambda: self.draining,
        )

    @asynccontextmanager
    async def serve(
        self,
        *entries: Entry,
        path: str = "/",
        listener: str = "public",
        secure: bool = False,
        trusted: tuple[str, ...] = (),
    ) -> AsyncIterator[Client]:
        """A gateway whose one route has these layers: names, or ``{name: config}``."""
        chain = [{"use": one} if isinstance(one, str) else _long_form(one) for one in entries]
        config = {
            "listeners": {listener: {"bind": "127.0.0.1:0"}},
            "store": "sqlite:///never-opened.db",
            "vault": {"master_key": "${MASTER}"},
            "trusted_proxies": trusted,
            "routes": [{"name": "test", "listener": listener, "path": path, "chain": chain}],
        }
        file = self.folder / "gateway.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        services = self.services()
        loaded = load(file, resolve, {"MASTER": "m" * 40})
        async with Generation(loaded, services) as generation:
            edge = Edge(listener, services, lambda: generation, secure=secure)
            server = GatewayServer(edge, services.clock, loaded.limits)
            runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                # No connection is kept: a test that moves the clock would let the server close it as idle.
                async with ClientSession(connector=TCPConnector(force_close=True)) as session:
                    yield Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session, edge)
            finally:
                await runner.cleanup()


def _long_form(entry: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ((use, options),) = entry.items()
    return {"use": use, "with": options}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world with nothing in it."""
    return World(tmp_path)


@pytest.fixture
def plugin_config() -> Any:
    """Read one layer's configuration, as the loader does: ``plugin_config(name, {…})``."""

    def read(name: str, options: Mapping[str, Any]) -> Any:
        return resolve(name).Config.model_validate(options)

    return read
