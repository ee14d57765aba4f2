"""What a body and an open stream cost, measured from outside the gateway's own process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

from tests.worlds.raw_upstream import RawUpstream, answering
from tests.worlds.wire import Wire, dial

if TYPE_CHECKING:
    import socket

    from tests.worlds.fronts import Front

LARGE = 50 * 2**20
PIECE = 64 * 2**10
STREAMS = 1_000
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": []}\n\n'


def request(front: Front, length: int) -> bytes:
    """The head of an upload."""
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {front.key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def send_large(wire: Wire, size: int) -> bytes:
    """Send that many bytes of noise and return their digest."""
    noise, digest = Random(1).randbytes(PIECE), sha256()  # noqa: S311 - content, no secret
    for _ in range(size // PIECE):
        await wire.send(noise)
        digest.update(noise)
    return digest.digest()


async def upload(front: Front, upstream: RawUpstream, size: int) -> None:
    """Upload so many bytes, and see that they arrived."""
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    number = len(upstream.connections)
    async with dial(front.origin, deadline_s=30) as client:
        await client.send(request(front, size))
        digest = await send_large(client, size)
        assert (await client.message()).status == 200
    received = b"".join(bytes(wire.received) for wire in upstream.connections[max(0, number - 1) :])
    assert sha256(received[-size:]).digest() == digest


async def download(front: Front, upstream: RawUpstream, size: int) -> None:
    """Download so many bytes, and see that they are those that were sent."""
    digests: list[bytes] = []

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n" % size)
        digests.append(await send_large(wire, size))

    upstream.script = script
    async with dial(front.origin, deadline_s=30) as client:
        await client.send(request(front, 0))
        body = (await client.message()).body
    assert [sha256(body).digest()] == digests


async def test_large_bodies_stream_in_bounded_memory(served: Front, address: socket.socket) -> None:
    """50 MB up and 50 MB down grow the gateway's process by less than 8 MB at its peak. F14, F15."""
    assert served.program is not None
    for direction in (upload, download):
        async with RawUpstream(sock=address, deadline_s=30) as upstream:
            await direction(served, upstream, 2 * 2**20)  # what is loaded and allocated once is no growth
        served.program.forget_peak()
        before = served.program.resident_bytes()
        async with RawUpstream(sock=address, deadline_s=30) as upstream:
            await direction(served, upstream, LARGE)
        grown = served.program.resident_bytes(peak=True) - before
        print(f"{direction.__name__} of 50 MB: {grown / 2**20:.1f} MB")  # noqa: T201 - the measurement, for -rP
        assert grown < 8 * 2**20, f"{direction.__name__}: {grown / 2**20:.1f} MB"


async def test_open_streams_cost_little(served: Front, upstream: RawUpstream) -> None:
    """A thousand open streams, each in mid-answer, cost less than 30 KB each; all of them end whole."""
    assert served.program is not None
    end = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(SSE + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        await end.wait()
        await wire.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    upstream.script = script
    async with AsyncExitStack() as stack:

        async def open_streams(count: int) -> list[Wire]:
            clients = [await stack.enter_async_context(dial(served.origin, deadline_s=30)) for _ in range(count)]
            for client in clients:
                await client.send(request(served, 0).replace(b"/v1/files", b"/v1/chat/completions"))
            for client in clients:
                await client.holds(EVENT)
            return clients

        clients = await open_streams(50)  # what is loaded and allocated once is no stream's cost
        before = served.program.resident_bytes()
        clients += await open_streams(STREAMS)
        each = (served.program.resident_bytes() - before) / STREAMS
        print(f"one open stream: {each / 1024:.1f} KB")  # noqa: T201 - the measurement, for -rP
        end.set()
        assert all([(await client.message()).complete for client in clients])
    assert each < 30 * 2**10, f"{each / 1024:.1f} KB"
