"""Clients that ask for too much, for what is not offered, or for themselves."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.testing import running_gateway
from gateway.testing.upstream import RawUpstream, Script
from gateway.testing.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.testing import Live
    from gateway.testing.wire import Wire

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}", dialect: passthrough, credential: none}}
log_level: debug
limits: {{{limits}}}
routes:
  - name: api
    listener: public
    path: /
    chain: [{{forward: {{upstream: u}}}}]
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def before(script: Script, folder: Path, limits: str = "") -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway with these limits in front of a scripted upstream."""
    async with RawUpstream(script) as raw, running_gateway(YAML.format(origin=raw.origin, limits=limits), folder) as it:
        yield it, raw


# ── Loops ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_upstream_that_is_the_gateway_itself(tmp_path: Path) -> None:
    """F85: a request that comes back to the instance that sent it is 508, at the second sight and not at the fd limit.

    RFC 9110, 7.6: an intermediary must not forward a message to itself.
    """
    gateways: list[Live] = []

    async def balancer(wire: Wire) -> None:
        host, port = gateways[0].address
        async with dial(f"http://{host}:{port}") as back:
            await back.send(await wire.head())
            answer = await back.message()
            await wire.send(answer.head + answer.framed)

    async with before(balancer, tmp_path) as (live, raw), dial(live.url("")) as client:
        gateways.append(live)
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        got = await client.message()
        assert (got.status, json.loads(got.body)["error"]["code"]) == (508, "loop_detected")
        assert len(raw.connections) == 1


@pytest.mark.parametrize(("gateways", "status"), [(10, 200), (11, 508)])
async def test_a_chain_of_gateways_has_an_end(tmp_path: Path, gateways: int, status: int) -> None:
    """F85: a loop that no member sees twice, behind a balancer of many instances, ends at a count of hops."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(OK)

    via = ", ".join(f"1.1 llm-gateway-{number:08x}" for number in range(gateways))
    async with before(script, tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(f"GET /x HTTP/1.1\r\nHost: g\r\nVia: 1.1 cdn\r\nVia: {via}\r\n\r\n".encode())
        got = await client.message()
        assert got.status == status
        assert bool(raw.connections) == (status == 200)
        if status == 508:
            assert json.loads(got.body)["error"]["code"] == "loop_detected"
            assert got.value(b"x-should-retry") == b"false"
            assert got.value(b"x-gateway-error") == b"edge"


async def test_each_gateway_has_a_name_of_its_own(tmp_path: Path) -> None:
    """F85: two gateways in a row are no loop, though they are one program in one process."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(wire: Wire) -> None:
        seen.put_nowait((await wire.message()).value(b"via") or b"")
        await wire.send(OK)

    (tmp_path / "inner").mkdir()
    async with before(script, tmp_path) as (outer, _):
        inner = running_gateway(YAML.format(origin=outer.url(""), limits=""), tmp_path / "inner")
        async with inner as live, dial(live.url("")) as client:
            await client.send(b"GET /x HTTP/1.0\r\n\r\n")
            assert (await client.message()).status == 200
        names = re.fullmatch(rb"1\.0 (llm-gateway-[0-9a-f]{8}), 1\.1 (llm-gateway-[0-9a-f]{8})", await seen.get())
        assert names is not None
        assert names[1] != names[2]
