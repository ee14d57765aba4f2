"""Sessions that last, and many of them: WebSockets through the gateway's own process."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.worlds.fronts import gateway_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.worlds.fronts import Front

SECONDS = float(os.environ.get("REALTIME_SECONDS", "3"))
"""How long the session lasts; ``REALTIME_SECONDS=60`` for the long one."""

SESSIONS = 500
ABORTS = 20


class Provider:
    """Sends back what it gets, and tells when a connection of its was lost."""

    def __init__(self) -> None:
        self.lost: asyncio.Queue[float] = asyncio.Queue()
        self.sockets: list[web.WebSocketResponse] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one session."""
        socket = web.WebSocketResponse(autoclose=True, compress=False)
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        self.lost.put_nowait(asyncio.get_running_loop().time())
        return socket

    def abort(self, number: int) -> float:
        """Break a session without a goodbye, and say when."""
        request = self.sockets[number]._req
        assert request is not None
        assert request.transport is not None
        request.transport.abort()
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def providing() -> AsyncIterator[tuple[Provider, str]]:
    """A provider and its origin."""
    provider = Provider()
    runner = web.ServerRunner(web.Server(provider), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    try:
        yield provider, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def front_of(folder: Path) -> AsyncIterator[tuple[Provider, Front, aiohttp.ClientSession]]:
    """A provider, the gateway's process in front of it, and a client."""
    async with AsyncExitStack() as stack:
        provider, origin = await stack.enter_async_context(providing())
        front = await asyncio.to_thread(stack.enter_context, gateway_program(origin, folder, extra="log_level: error"))
        connector = aiohttp.TCPConnector(limit=0)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield provider, front, client


def opening(front: Front, client: aiohttp.ClientSession) -> Any:
    """A session through the gateway."""
    headers = {"Authorization": f"Bearer {front.key}"}
    return client.ws_connect(f"{front.origin}/v1/realtime", headers=headers, max_msg_size=2**22)


def messages() -> Iterator[str | bytes]:
    """What a voice session sends: small events, and audio."""
    number = 0
    while True:
        yield f'{{"type": "input_audio_buffer.append", "n": {number}}}'
        yield number.to_bytes(4, "big") * (8 * (1 + number % 600))
        number += 1


async def test_a_session_keeps_order_and_bytes(tmp_path: Path) -> None:
    """A realtime-like session: both ways at once, for as long as it lasts, nothing is lost, swapped or changed."""
    async with front_of(tmp_path) as (_, front, client), opening(front, client) as socket:
        loop = asyncio.get_running_loop()
        sent: asyncio.Queue[str | bytes | None] = asyncio.Queue(maxsize=64)

        async def talk() -> None:
            until = loop.time() + SECONDS
            for message in messages():
                await sent.put(message)
                await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
                if loop.time() > until:
                    break
            await sent.put(None)

        count = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(talk())
            while (expected := await sent.get()) is not None:
                assert (await socket.receive()).data == expected
                count += 1
        assert count > 100


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_an_abort_reaches_the_other_side(side: str, tmp_path: Path) -> None:
    """F28: within 100 ms in the middle of twenty; the bound here is two seconds, on a machine that may be busy."""
    took = []
    async with front_of(tmp_path) as (provider, front, client):
        loop = asyncio.get_running_loop()
        for number in range(ABORTS):
            async with opening(front, client) as socket:
                await socket.send_str("hi")
                await socket.receive()
                if side == "client":
                    began = loop.time()
                    socket._response.close()
                    took.append(await asyncio.wait_for(provider.lost.get(), 2) - began)
                else:
                    began = provider.abort(number)
                    message = await asyncio.wait_for(socket.receive(), 2)
                    took.append(loop.time() - began)
                    assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
    assert sorted(took)[ABORTS // 2] < 0.1, "the median of twenty"


async def test_many_sessions_cost_little(tmp_path: Path) -> None:
    """500 open sessions, each of which has said something, hold less than 60 KB of the gateway's memory each."""
    async with front_of(tmp_path) as (_, front, client), AsyncExitStack() as stack:
        assert front.program is not None
        sockets = [await stack.enter_async_context(opening(front, client)) for _ in range(50)]
        before = front.program.resident_bytes()
        sockets += [await stack.enter_async_context(opening(front, client)) for _ in range(SESSIONS)]
        for socket in sockets:
            await socket.send_str("hi")
            assert (await socket.receive()).data == "hi"
        assert (front.program.resident_bytes() - before) / SESSIONS < 60 * 1024
