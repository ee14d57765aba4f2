"""The end of the process: what SIGTERM does to what is running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from tests.worlds.fronts import serving
from tests.worlds.wire import dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.worlds.fronts import Front, Made
    from tests.worlds.raw_upstream import RawUpstream
    from tests.worlds.wire import Wire

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'f\r\ndata: {"a":1}\n\n\r\n'


async def begin(front: Front, upstream: RawUpstream, client: Wire) -> Wire:
    """Open a stream up to its first event; return the provider's side of it."""
    number = len(upstream.connections)
    fields = f"Host: g\r\nAuthorization: Bearer {front.key}\r\nContent-Length: 0\r\n\r\n"
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + fields.encode())
    provider = await upstream.connection(number)
    await provider.message()
    await provider.send(SSE + EVENT)
    await client.holds(b"data:")
    return provider


async def refuses(front: Front) -> None:
    """Wait until nothing new is accepted."""
    with contextlib.suppress(ConnectionError):
        while True:
            async with dial(front.origin):
                await asyncio.sleep(0.01)


async def test_sigterm_lets_streams_finish(made: Made, upstream: RawUpstream, tmp_path: Path) -> None:
    """After SIGTERM nothing new is accepted, the running stream comes to its own end, and the exit code is 0. F57."""
    with serving(made, tmp_path) as front:
        assert front.program is not None
        async with dial(front.origin) as client:
            provider = await begin(front, upstream, client)
            front.program.process.send_signal(signal.SIGTERM)
            await refuses(front)
            await provider.send(EVENT + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            assert (await client.message()).complete
        assert await asyncio.to_thread(front.program.process.wait, 10) == 0


async def test_a_second_sigterm_ends_at_once(made: Made, upstream: RawUpstream, tmp_path: Path) -> None:
    """Whoever asks twice does not wait for the stream that is still open. F57."""
    with serving(made, tmp_path) as front:
        assert front.program is not None
        async with dial(front.origin) as client:
            await begin(front, upstream, client)
            front.program.process.send_signal(signal.SIGTERM)
            await refuses(front)
            assert front.program.process.poll() is None
            front.program.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(front.program.process.wait, 10) != 0
            assert not (await client.message()).complete
