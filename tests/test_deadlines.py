"""Clients that are slow, silent, or too many."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.testing import running_gateway
from tests.worlds.raw_upstream import RawUpstream, Script, answering, silence
from tests.worlds.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.testing import Live
    from tests.worlds.wire import Wire

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}", dialect: passthrough, credential: none}}
log_level: error
limits: {{{limits}}}
routes:
  - name: api
    listener: public
    path: /
    chain: [{{forward: {{upstream: u}}}}]
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 200000\r\n\r\n"


@asynccontextmanager
async def before(script: Script, folder: Path, limits: str) -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway with these limits in front of a scripted upstream."""
    async with (
        RawUpstream(script) as raw,
        running_gateway(YAML.format(origin=raw.origin, limits=limits), folder) as live,
    ):
        yield live, raw


async def drip(client: Wire, data: bytes) -> None:
    """Send byte by byte until the peer has had enough."""
    for byte in data:
        if client.ending is not None:
            return
        await client.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def test_a_head_that_drips(tmp_path: Path) -> None:
    """F31: the head is given up at its deadline, whatever still drips in."""
    async with before(silence, tmp_path, "header_timeout: 200ms") as (live, raw), dial(live.url("")) as client:
        await drip(client, b"GET /x HTTP/1.1\r\nHost: g\r\n" + b"X-A: b\r\n" * 100)
        assert await client.ended()
        assert not raw.connections


async def test_a_connection_that_says_nothing(tmp_path: Path) -> None:
    """F31: so is one that never begins."""
    async with before(silence, tmp_path, "header_timeout: 100ms") as (live, _), dial(live.url("")) as client:
        assert await client.ended()


async def test_a_second_head_that_drips(tmp_path: Path) -> None:
    """F31: keep-alive buys no time."""
    async with before(answering(OK), tmp_path, "header_timeout: 200ms") as (live, _), dial(live.url("")) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await client.message()).status == 200
        await drip(client, b"GET /x HTTP/1.1\r\nHost: g\r\n" + b"X-A: b\r\n" * 100)
        assert await client.ended()


async def test_an_idle_connection(tmp_path: Path) -> None:
    """F31: one without a request is kept for ``idle_timeout``, not longer and not shorter than its next head's time."""
    limits = "header_timeout: 50ms, idle_timeout: 400ms"
    async with before(answering(OK), tmp_path, limits) as (live, _), dial(live.url("")) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await client.message()).status == 200
        await asyncio.sleep(0.2)  # what is tested is time: four times the head's deadline, half of the idle one
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await client.message()).status == 200
        assert await client.ended()


async def test_a_body_that_drips(tmp_path: Path) -> None:
    """F32: 408 once all the waiting together is too much; the upstream's request is aborted, never completed."""
    limits = "body_timeout: 200ms, min_body_rate: 1MiB"
    async with before(silence, tmp_path, limits) as (live, raw), dial(live.url("")) as client:
        await client.send(UPLOAD + b"x" * 100_000)
        await drip(client, b"y" * 1000)
        got = await client.message()
        assert got.status == 408
        assert json.loads(got.body)["error"]["code"] == "request_timeout"
        upstream = await raw.connection()
        assert await upstream.ended()
        assert len(upstream.received) < 200_000


async def test_a_body_that_stops_before_anybody_asked_the_upstream(tmp_path: Path) -> None:
    """F32: the same for a small body, of which the upstream never hears."""
    async with before(silence, tmp_path, "body_timeout: 100ms") as (live, raw), dial(live.url("")) as client:
        await client.send(b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nabc")
        assert (await client.message()).status == 408
        assert not raw.connections


async def test_a_slow_upstream_is_not_a_slow_client(tmp_path: Path) -> None:
    """Time in which we do not read the client's body does not count against the client."""
    release = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.reading(False)
        await release.wait()
        wire.reading(True)
        await wire.message()
        await wire.send(OK)

    size = 32 * 2**20
    async with before(script, tmp_path, "body_timeout: 100ms") as (live, _), dial(live.url("")) as client:
        head = b"POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % size
        async with asyncio.TaskGroup() as group:
            group.create_task(client.send(head + bytes(size)))
            await asyncio.sleep(0.5)  # five times what a client would be allowed
            release.set()
        assert (await client.message()).status == 200


async def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """F30: after ``write_timeout`` without a byte taken it counts as gone, and the upstream is let go."""

    async def flood(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        while wire.ending is None:
            await wire.send(chunk)

    async with before(flood, tmp_path, "write_timeout: 300ms") as (live, raw), dial(live.url("")) as client:
        client.reading(False)
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        assert await (await raw.connection()).ended()


async def test_a_client_that_reads_slowly_is_served(tmp_path: Path) -> None:
    """F30: slow is not gone: whoever takes something from time to time gets everything."""
    size = 16 * 2**20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with before(answering(answer), tmp_path, "write_timeout: 500ms") as (live, _), dial(live.url("")) as client:
        client.reading(False)
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.15)
            client.reading(True)
            await asyncio.sleep(0.005)
            client.reading(False)
        client.reading(True)
        assert len((await client.message()).body) == size


async def test_too_many_connections(tmp_path: Path) -> None:
    """F33: one more than ``max_connections`` is told so and closed; it never waits unanswered."""
    async with before(answering(OK), tmp_path, "max_connections: 2") as (live, _):
        async with dial(live.url("")) as first, dial(live.url("")) as second:
            for client in (first, second):
                await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
                assert (await client.message()).status == 200
            async with dial(live.url("")) as third:
                assert (await third.message()).status == 503
                assert await third.ended()
        async with dial(live.url("")) as later:
            await later.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
            assert (await later.message()).status == 200


async def test_a_client_that_sends_fin_has_left(tmp_path: Path) -> None:
    """F29: a FIN cannot be told from a closed socket: consistently, the upstream is let go."""
    asked = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        asked.set()

    async with before(script, tmp_path, "") as (live, raw), dial(live.url("")) as client:
        await client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        await asked.wait()
        client.finish()
        assert await (await raw.connection()).ended()
