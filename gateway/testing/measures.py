"""What the conformance suites send, and what they measure with."""

from __future__ import annotations

import gc
import hashlib
import json
import tracemalloc
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from gateway.contract import Exchange

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator

    from gateway.testing.upstream import Script
    from gateway.testing.wire import Message, Wire

MIB = 2**20
LARGE = 10 * MIB
PIECE = 64 * 1024

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok": true}'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"data: [DONE]\n\n"

EXCHANGES = 30
"""How many are looked at, where one might be left behind."""

FEW = 3
"""How many a connection may still have in its hands."""

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; of nothing, its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces(size: int) -> Iterator[bytes]:
    """So many bytes of JSON in pieces, no two alike."""
    first, last = b'{"model": "conformance", "messages": [], "filler": "', b'"}'
    yield first
    size -= len(first) + len(last)
    for number in range(-(-size // PIECE)):
        piece = hashlib.sha256(b"%d" % number).hexdigest().encode() * (PIECE // 64)
        yield piece[: size - number * PIECE]
    yield last


def digest_of(parts: Iterator[bytes]) -> bytes:
    """What all of it is known by."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


async def digest(wire: Wire, size: int) -> bytes:
    """The same of the next bytes of a connection."""
    digest = hashlib.sha256()
    async for part in wire.take(size):
        digest.update(part)
    return digest.digest()


def streaming(event: bytes, *, breaks: bool = False) -> Script:
    """Begin a stream; then wait, or break it once the event is out."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(STREAM + chunk(event))
        if breaks:
            wire.finish()

    return script


@asynccontextmanager
async def speaking_websocket(closed: asyncio.Queue[int | None]) -> AsyncIterator[str]:
    """An upstream that echoes messages, and tells with which code each connection was closed."""

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_frame(message.data.encode() if message.type is text else message.data, message.type)
        closed.put_nowait(socket.close_code)
        return socket

    text = aiohttp.WSMsgType.TEXT
    runner = web.ServerRunner(web.Server(echo))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def let_go(upstream: Wire) -> None:
    """See that the gateway has closed a connection whose answer nobody waits for."""
    try:
        await upstream.ended()
    except TimeoutError:
        raise AssertionError("the upstream's connection is still open though the client has left") from None


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """See that no more than so many bytes are taken at any time, by whoever runs in this process."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = peak - before
    assert held < most, f"{held / MIB:.1f} MiB were held while a large body passed"


@contextmanager
def nothing_left() -> Iterator[None]:
    """See that exchanges go without the collector."""
    gc.collect()
    before = _alive()
    gc.disable()
    try:
        yield
        left = _alive() - before
    finally:
        gc.enable()
    assert left <= FEW, f"{left} exchanges of {EXCHANGES} are left to the garbage collector: something holds a cycle"


def _alive() -> int:
    return sum(type(it) is Exchange for it in gc.get_objects())


ENGINES = frozenset(
    {"connection", "content-length", "content-type", "date", "transfer-encoding", "x-gateway-error", "x-request-id"}
)
"""Headers that are no layer's."""


def names(message: Message) -> frozenset[str]:
    """The names of its headers, in lower case."""
    return frozenset(name.decode().lower() for name, _ in message.headers)


def error_of(message: Message) -> dict[str, str]:
    """The error that an answer tells of, in OpenAI's words."""
    try:
        error: dict[str, str] = json.loads(message.body)["error"]
    except (ValueError, KeyError, TypeError):
        raise AssertionError(f"no error that a client could read: {shown(message)}") from None
    return error


def closes(message: Message) -> bool:
    """Whether the connection ends with this answer."""
    return b"close" in message.values(b"connection")


def shown(message: Message) -> str:
    """An answer, short enough for a line."""
    return f"{message.start_line.decode()}, {message.body[:200]!r}"
