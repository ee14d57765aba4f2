"""Clients that ask for too much, for what is not offered, or for themselves."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.testing import running_gateway
from gateway.testing.upstream import RawUpstream, Script, answering, silence
from gateway.testing.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.testing import Live
    from gateway.testing.wire import Wire

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}", dialect: passthrough, credential: none}}
log_level: {level}
limits: {{{limits}}}
routes:
  - name: api
    listener: public
    path: /
    chain: [{{forward: {{upstream: u}}}}]
  - name: echo
    listener: public
    path: /echo
    chain: [{{use: "gateway.testing:Echo"}}]
"""

GET = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def before(
    script: Script, folder: Path, limits: str = "", level: str = "error"
) -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway with these limits in front of a scripted upstream."""
    async with RawUpstream(script) as raw:
        yaml = YAML.format(origin=raw.origin, limits=limits, level=level)
        async with running_gateway(yaml, folder) as live:
            yield live, raw


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
        inner = running_gateway(YAML.format(origin=outer.url(""), limits="", level="error"), tmp_path / "inner")
        async with inner as live, dial(live.url("")) as client:
            await client.send(b"GET /x HTTP/1.0\r\n\r\n")
            assert (await client.message()).status == 200
        names = re.fullmatch(rb"1\.0 (llm-gateway-[0-9a-f]{8}), 1\.1 (llm-gateway-[0-9a-f]{8})", await seen.get())
        assert names is not None
        assert names[1] != names[2]


# ── Too much of a head ───────────────────────────────────────────────────────────────────────────────────────────────

BOMBS = {
    "10k headers": (b"GET /x HTTP/1.1\r\nHost: g\r\n", b"X-Bomb: bombastic\r\n" * 10_000),
    "a header of 100 KB": (b"GET /x HTTP/1.1\r\nHost: g\r\nX-Bomb: ", b"bombastic" * 11_000 + b"\r\n"),
    "1 MB in all": (b"GET /x HTTP/1.1\r\nHost: g\r\n", (b"X-Bomb: " + b"bombastic" * 1_000 + b"\r\n") * 115),
    "a URL of 100 KB": (b"GET /", b"bombastic" * 11_000 + b" HTTP/1.1\r\nHost: g\r\n"),
    "a method of 100 KB": (b"", b"BOMBASTIC" * 11_000 + b" / HTTP/1.1\r\nHost: g\r\n"),
    "a line without an end": (b"GET /x HTTP/1.1\r\nHost: g\r\nX-Bomb: ", b"bombastic" * 120_000),
}


@pytest.mark.parametrize(("start", "bomb"), BOMBS.values(), ids=BOMBS.keys())
async def test_header_bombs(tmp_path: Path, start: bytes, bomb: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """F34: told 400, 414 or 431, in an answer that arrives, then closed; neither answer nor log has more than a bit."""
    async with before(silence, tmp_path, level="debug") as (live, raw):
        async with dial(live.url("")) as client:
            await client.send(start + bomb + b"\r\n")
            got = await client.message()
            assert got.status in {400, 414, 431}
            assert json.loads(got.body)["error"]["code"] in {"bad_request", "request_too_large"}
            assert await client.ended()
            assert b"bombastic" not in client.received.lower()
        assert not raw.connections
    assert "bombastic" not in "".join(capfd.readouterr()).lower()


# ── Too many of them ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """F33: without descriptors new connections wait or are closed; whoever is connected is served, and the log lives.

    Trying again and again would hold the loop; so would a line for every client that waits (asyncio: up to a thousand
    at once).
    """
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    async with before(answering(OK), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(GET)
        assert (await client.message()).status == 200
        with ExitStack() as stack:
            # The kernel connects them; that the gateway accepts them needs another turn of the loop.
            waiting = [stack.enter_context(socket.create_connection(live.address)) for _ in range(200)]
            with descriptors_left(10):
                for _ in range(50):
                    await client.send(GET)
                    assert (await client.message()).status == 200
            assert len(complaints) <= 50
            served = [await is_served(sock) for sock in waiting]
            assert sum(served) > 5


async def is_served(sock: socket.socket) -> bool:
    """Whether a connection gets an answer, now that there are descriptors again; False where it was closed."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(10):
            await loop.sock_sendall(sock, GET)
            return (await loop.sock_recv(sock, 1000)).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """Let this process open no more than so many files beside those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_pipelining_20k_requests(tmp_path: Path) -> None:
    """F37: they are answered one by one and in order; what is not its turn yet waits in the client, not in us."""
    sent, looked_at, queued, received = 20_000, 2_000, [0], bytearray()
    async with before(silence, tmp_path) as (live, _):
        reader, writer = await asyncio.open_connection(*live.address)
        with closing(writer):
            writer.write(b"".join(b"GET /echo/%d HTTP/1.1\r\nHost: g\r\n\r\n" % n for n in range(sent)))
            while b'/echo/%d"' % looked_at not in received[-100_000:]:
                received += await reader.read(65536)
                queued += [len(connection._messages) for connection in live.gateway._servers[0]._open]
        await writer.wait_closed()
    answered = re.findall(rb'"/echo/(\d+)"', received)
    assert answered == [b"%d" % n for n in range(len(answered))]
    assert 0 < max(queued) <= 64
