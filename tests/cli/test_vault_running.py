"""``gateway vault rotate`` beside a gateway that serves: no request is without the provider's key."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from gateway.security.vault import KeyVault, new_master_key
from gateway.testing import running_gateway
from gateway.testing.upstream import RawUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.testing import Live
    from gateway.testing.wire import Wire
    from tests.cli.conftest import Gateway

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  openai: {{base_url: "{origin}/v1", dialect: passthrough, credential: bearer}}
log_level: error
routes:
  - name: api
    listener: public
    path: /v1
    chain: [{{use: "gateway.testing:Identify"}}, vault, forward: {{upstream: openai}}]
  - {{name: health, listener: public, path: /readyz, chain: [health]}}
"""


async def say_the_key(wire: Wire) -> None:
    """Answer with the credential that came."""
    while True:
        key = (await wire.message()).value(b"authorization") or b""
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(key), key))


@dataclass
class Serving:
    """A gateway that serves in this process, and the command beside it."""

    live: Live
    client: ClientSession
    gateway: Gateway
    folder: Path

    async def run(self, *arguments: str, stdin: str = "") -> None:
        """Run the command; every request meanwhile, and one at least, must go up with the provider's key."""
        config = ("-c", str(self.folder / "gateway.yaml"))
        task = asyncio.ensure_future(asyncio.to_thread(lambda: self.gateway(*arguments, *config, stdin=stdin)))
        while not task.done():
            assert await self.lent() == self.live.provider_keys["openai"]
        assert task.result().exit_code == 0, task.result().stderr
        assert await self.lent() == self.live.provider_keys["openai"]

    async def lent(self) -> str:
        """The key that one request goes up with."""
        async with self.client.get(self.live.url("/v1/x")) as answer:
            assert answer.status == 200
            return (await answer.text()).removeprefix("Bearer ")

    async def ready(self) -> Any:
        """What a probe reads."""
        async with self.client.get(self.live.url("/readyz")) as answer:
            return await answer.json()


@pytest.fixture
async def serving(tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    """A gateway with one upstream, whose store and master key the command knows too."""
    monkeypatch.setitem(KeyVault.wrap.__kwdefaults__, "iterations", 1000)
    async with served(tmp_path, gateway) as serving:
        monkeypatch.setenv("GATEWAY_MASTER_KEY", serving.live.master_key)
        monkeypatch.setenv("STORE", f"sqlite:///{tmp_path}/gateway.db")
        yield serving


@asynccontextmanager
async def served(folder: Path, gateway: Gateway) -> AsyncIterator[Serving]:
    """The parts, opened."""
    async with (
        RawUpstream(say_the_key) as upstream,
        running_gateway(YAML.format(origin=upstream.origin), folder) as live,
        ClientSession() as client,
    ):
        yield Serving(live, client, gateway, folder)


async def test_it_goes_on_through_rotations_of_either_key(serving: Serving) -> None:
    """F66: it learns new data keys by itself, and a new master key concerns its next start only."""
    await serving.run("vault", "rotate", "data-key")
    await serving.run("vault", "rotate", "data-key")
    await serving.run("vault", "rotate", "master-key", stdin=new_master_key().reveal())
    assert await serving.ready() == {"status": "ok"}


async def test_a_key_that_is_stored_after_a_rotation_is_lent(serving: Serving) -> None:
    """F67: it is sealed with a data key that the gateway had to learn while it ran."""
    await serving.run("vault", "rotate", "data-key")
    config = ("-c", str(serving.folder / "gateway.yaml"))
    await asyncio.to_thread(lambda: serving.gateway("provider-key", "set", "openai", *config, stdin="sk-planted-new"))
    async with asyncio.timeout(10):
        while await serving.lent() != "sk-planted-new":
            pass
    assert await serving.ready() == {"status": "ok"}


async def test_what_it_cannot_learn_it_shows(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data key that came after a new master key: known credentials go on, and a probe names them until a restart."""
    new = new_master_key().reveal()
    await serving.run("vault", "rotate", "master-key", stdin=new)
    monkeypatch.setenv("GATEWAY_MASTER_KEY", new)
    await serving.run("vault", "rotate", "data-key")
    async with asyncio.timeout(10):
        while await serving.ready() != {"status": "degraded", "unhealthy_credentials": ["openai"]}:
            pass
    assert await serving.lent() == serving.live.provider_keys["openai"]
