"""Clients that ask for too much, for what is not offered, or for themselves."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import resource
import socket
import time
import tracemalloc
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.contract import Plugin, json_body
from gateway.testing import running_gateway
from gateway.testing.upstream import RawUpstream, Script, answering, silence
from gateway.testing.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import web

    from gateway.contract import Handler
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
  - name: json
    listener: public
    path: /json
    chain: [{{use: "{module}:Reads"}}, {{forward: {{upstream: u}}}}]
"""

GET = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def before(
    script: Script, folder: Path, limits: str = "", level: str = "error"
) -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway with these limits in front of a scripted upstream."""
    async with RawUpstream(script) as raw:
        yaml = YAML.format(origin=raw.origin, limits=limits, level=level, module=__name__)
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
        inner = running_gateway(
            YAML.format(origin=outer.url(""), limits="", level="error", module=__name__), tmp_path / "inner"
        )
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


# ── What is not offered ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT api.example:443 HTTP/1.1", 501),
        (b"CONNECT /x HTTP/1.1", 501),
        (b"TRACE /x HTTP/1.1", 501),
        (b"OPTIONS * HTTP/1.1", 400),
        (b"PROPFIND /x HTTP/1.1", 501),
        (b"FROB /x HTTP/1.1", 501),
        (b"get /x HTTP/1.1", 501),
    ],
)
async def test_methods_that_are_not_offered(tmp_path: Path, line: bytes, status: int) -> None:
    """F39: refused and closed, without a tunnel and without an echo of what was sent; the provider hears nothing."""
    async with before(silence, tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(line + b"\r\nHost: g\r\nCookie: secret=12345\r\n\r\nGET /x HTTP/1.1\r\nHost: g\r\n\r\n")
        got = await client.message()
        assert got.status in {400, status}
        assert json.loads(got.body)["error"]["code"] == "bad_request"
        assert await client.ended()
        assert client.received.count(b"HTTP/1.") == 1
        assert b"12345" not in client.received
        assert not raw.connections


async def test_options_of_a_path_is_the_providers(tmp_path: Path) -> None:
    """F39: where no layer answers preflights, OPTIONS goes up like anything else."""
    async with before(answering(OK), tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(GET.replace(b"GET", b"OPTIONS"))
        assert (await client.message()).status == 200
        assert raw.connections[0].received.startswith(b"OPTIONS /x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        b"Upgrade: h2c\r\n",
    ],
)
async def test_upgrades_that_are_not_offered(tmp_path: Path, fields: bytes) -> None:
    """F40: another protocol than WebSocket is never switched to, and the provider is not asked whether it would.

    RFC 9110, 7.8: a server may ignore Upgrade. What follows on the connection is the next request.
    """
    async with before(answering(OK), tmp_path) as (live, raw), dial(live.url("")) as client:
        for _ in range(2):
            await client.send(GET.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n"))
            assert (await client.message()).status == 200
        assert b" 101 " not in client.received
        assert not re.search(rb"(?i)upgrade|h2c|http2-settings|tls/1", raw.connections[0].received)


async def test_an_upgrade_that_the_provider_makes_unasked(tmp_path: Path) -> None:
    """F40: a 101 of the provider's own accord is no answer: 502, and not a byte of what follows."""
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0"
    async with before(answering(switched), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"))
        assert (await client.message()).status == 502
        assert b"PRI" not in client.received


# ── Bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Reads(Plugin):
    """A layer that decides on the body."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Read it, and let it pass."""
        await json_body(request)
        return await handler(request)


@pytest.mark.parametrize("path", [b"/x", b"/json"])
async def test_a_compressed_bomb_stays_compressed(tmp_path: Path, path: bytes) -> None:
    """F41: it goes up as the bytes that came; a layer that would have to look inside refuses it instead."""
    bomb = gzip.compress(bytes(10 * 2**20))
    request = b"POST %b HTTP/1.1\r\nHost: g\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (path, len(bomb))
    async with before(answering(OK), tmp_path) as (live, raw), dial(live.url("")) as client:
        tracemalloc.start()
        try:
            await client.send(request + bomb)
            status = (await client.message()).status
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 * 2**20
        if path == b"/x":
            assert status == 200
            assert raw.connections[0].received.endswith(b"\r\n\r\n" + bomb)
        else:
            assert status == 400
            assert not raw.connections


A_MOMENT_S = 0.25
"""CPU time of one turn of the loop that no body may take: five times what is wanted, for slow machines."""

HOSTILE_JSON = {
    "malformed": (b'{"model": "m",}', 400),
    "empty": (b"", 400),
    "two documents": (b"{} {}", 400),
    "not UTF-8": (b'{"a": "\xff"}', 400),
    "UTF-16": ('{"model": "m"}'.encode("utf-16"), 400),
    "nested a million deep": (b"[" * 10**6 + b"]" * 10**6, 400),
    "nested deep with few tokens": (b"[" * 150_000 + b"]" * 150_000, 400),
    "a key given twice": (b'{"model": "mine", "model": "yours"}', 400),
    "a key given twice, once escaped": (b'{"model": "mine", "mod\\u0065l": "yours"}', 400),
    "NaN": (b'{"temperature": NaN}', 400),
    "Infinity": (b'{"temperature": -Infinity}', 400),
    "a lone surrogate": (b'{"model": "\\ud800"}', 400),
    "a string of 10 MB": (b'{"a": "' + b"x" * 10 * 2**20 + b'"}', 413),
    "15 MB of numbers": (b"[" + b"1," * (15 * 2**19) + b"1]", 413),
    "4 MB of numbers": (b"[" + b"1," * (2**21 - 2) + b"1]", 400),
    "4 MB of quotes": (b"[" + b'"",' * (4 * 2**20 // 3 - 2) + b'""]', 400),
    "4 MB of unbalanced quotes": (b'"' + b'\\"' * (2**21 - 2), 400),
    "a number of 4 MB": (b"[" + b"1" * (4 * 2**20 - 2) + b"]", 400),
}


@pytest.mark.parametrize(("body", "status"), HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
async def test_hostile_json(tmp_path: Path, body: bytes, status: int) -> None:
    """F42: refused, before it costs more than a moment of the loop, and the provider hears nothing."""
    async with before(answering(OK), tmp_path) as (live, raw), dial(live.url("")) as client:
        async with longest_turn() as turn:
            await client.send(b"POST /json HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            got = await client.message()
        assert got.status == status
        code = json.loads(got.body)["error"]["code"]
        assert code == ("invalid_json" if status == 400 else "request_too_large")
        assert not raw.connections
        assert turn[0] < A_MOMENT_S


async def test_json_that_passes_is_sent_as_it_came(tmp_path: Path) -> None:
    """F42: what was checked are the bytes that are sent: spaces, escapes, the order of keys and the last digit.

    Commas, brackets and quotes inside of strings are no values: prose may have a million of them.
    """
    prose = b'a, b, [c] {d} \\"e\\", \\\\' * 150_000
    body = b' {"b": 1.0e0 , "a": "\\u00e9\\ud83d\\ude00\\/", "n": 12345678901234567890123, "s": "' + prose + b'"}\n'
    async with before(answering(OK), tmp_path) as (live, raw), dial(live.url("")) as client:
        async with longest_turn() as turn:
            await client.send(b"POST /json HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await client.message()).status == 200
        assert raw.connections[0].received.endswith(b"\r\n\r\n" + body)
        assert turn[0] < A_MOMENT_S


@asynccontextmanager
async def longest_turn() -> AsyncIterator[list[float]]:
    """The most CPU seconds that this thread has spent between two turns of the loop: what everybody else waited."""
    longest = [0.0]

    async def watch() -> None:
        before_ = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest[0], before_ = max(longest[0], now - before_), now

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield longest
        watching.cancel()
