"""WebSockets end to end: an upstream of aiohttp's, the whole chain in front of it, and clients of three kinds."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from openai import AsyncOpenAI
from yarl import URL

from gateway.contract import Ended
from gateway.testing import running_gateway
from tests.test_edge import Record
from tests.worlds.raw_upstream import RawUpstream
from tests.worlds.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gateway.testing import Live
    from tests.worlds.wire import Wire

    Talk = Callable[[web.WebSocketResponse, web.Request], Awaitable[None]]

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}/v1", dialect: openai, credential: bearer, timeouts: {{connect: 1s, first_byte: 1s}}}}
log_level: error
drain_timeout: 100ms
routes:
  - name: api
    listener: public
    path: /v1/
    chain:
      - {{use: "tests.test_edge:Record"}}
      - security_headers
      - api_key_auth
      - rate_limit: {{by: key, requests: 1/h, burst: {burst}}}
      - vault
      - forward: {{upstream: u, max_message: 64KiB}}
"""


class Provider:
    """An upstream that speaks WebSocket as its script says, and keeps what it was asked."""

    def __init__(self, talk: Talk, protocols: tuple[str, ...] = ()) -> None:
        self._talk = talk
        self._protocols = protocols
        self.requests: list[web.Request] = []
        self.closed: asyncio.Queue[int | None] = asyncio.Queue()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Handle one connection."""
        self.requests.append(request)
        socket = web.WebSocketResponse(autoping=False, autoclose=True, protocols=self._protocols, max_msg_size=2**20)
        await socket.prepare(request)
        try:
            await self._talk(socket, request)
        finally:
            self.closed.put_nowait(socket.close_code)
        return socket


async def echo(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Send everything back."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.PING:
            await socket.pong(message.data)


@asynccontextmanager
async def behind(provider: Provider, folder: Path, *, burst: int = 1000) -> AsyncIterator[Live]:
    """A gateway in front of a provider."""
    Record.outcomes = asyncio.Queue()
    runner = web.ServerRunner(web.Server(provider))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with running_gateway(YAML.format(origin=f"http://{host}:{port}", burst=burst), folder) as live:
            yield live
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(live: Live, path: str = "/v1/realtime?model=m", **options: Any) -> AsyncIterator[Any]:
    """A client's open WebSocket."""
    options.setdefault("headers", live.auth)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(URL(live.url(path), encoded=True), autoping=False, max_msg_size=2**22, **options) as socket,
    ):
        yield socket


async def test_messages_pass_in_order_and_to_the_byte(tmp_path: Path) -> None:
    """Text and binary, empty and large, both ways."""
    sent = [f"text {n} ä\u2028" for n in range(50)] + ["", "x" * 60_000]
    async with behind(Provider(echo), tmp_path) as live, connected(live) as socket:
        for text in sent:
            await socket.send_str(text)
            await socket.send_bytes(text.encode() + b"\0\xff")
        for text in sent:
            assert (await socket.receive()).data == text
            assert (await socket.receive()).data == text.encode() + b"\0\xff"


async def test_pings_go_all_the_way(tmp_path: Path) -> None:
    """A ping is answered by the other end, not by the gateway."""
    async with behind(Provider(echo), tmp_path) as live, connected(live) as socket:
        await socket.ping(b"are you there")
        answer = await socket.receive()
        assert (answer.type, bytes(answer.data)) == (WSMsgType.PONG, b"are you there")


async def test_the_handshake_is_authenticated_and_rewritten(tmp_path: Path) -> None:
    """The chain stands in front: no key, no dial; with one, the provider sees its key and the target to the byte."""
    provider = Provider(echo)
    async with behind(provider, tmp_path) as live:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(live, headers={}):
                pass
        assert refused.value.status == 401
        assert provider.requests == []
        async with connected(live, "/v1/realtime?model=a%2Cb&x") as socket:
            await socket.send_str("hi")
            await socket.receive()
        (request,) = provider.requests
        assert request.raw_path == "/v1/realtime?model=a%2Cb&x"
        assert request.headers["Authorization"] == f"Bearer {live.provider_keys['u']}"
        assert live.key not in str(request.raw_headers)


async def test_browsers_key_in_the_subprotocol(tmp_path: Path) -> None:
    """F72: the key that a browser puts among the subprotocols is taken off; the others are negotiated as they are."""
    provider = Provider(echo, protocols=("realtime",))
    async with behind(provider, tmp_path) as live:
        offered = ("realtime", f"openai-insecure-api-key.{live.key}", "openai-beta.realtime-v1")
        async with connected(live, headers={"Origin": "https://app.example"}, protocols=offered) as socket:
            assert socket.protocol == "realtime"
            await socket.send_str("hi")
            assert (await socket.receive()).data == "hi"
        (request,) = provider.requests
        assert request.headers["Sec-WebSocket-Protocol"] == "realtime,openai-beta.realtime-v1"
        assert live.key not in str(request.raw_headers)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
async def test_closes_pass_with_code_and_reason(tmp_path: Path, code: int) -> None:
    """From the upstream to the client."""

    async def talk(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.close(code=code, message=b"because")

    async with behind(Provider(talk), tmp_path) as live, connected(live) as socket:
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, code, "because")
    _, outcome = await Record.outcomes.get()
    assert outcome.ended is Ended.COMPLETE


async def test_a_clients_close_passes(tmp_path: Path) -> None:
    """From the client to the upstream, whose answer ends the handshake of the close."""
    provider = Provider(echo)
    async with behind(provider, tmp_path) as live, connected(live) as socket:
        await socket.close(code=4001, message=b"done")
        assert await asyncio.wait_for(provider.closed.get(), 5) == 4001
        assert socket.close_code == 4001
    _, outcome = await Record.outcomes.get()
    assert outcome.ended is Ended.COMPLETE


async def test_an_upstreams_abort_is_1011(tmp_path: Path) -> None:
    """The reserved 1006 never goes on the wire: an abort is told as an internal error, which is no clean end."""

    async def talk(socket: web.WebSocketResponse, request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()

    async with behind(Provider(talk), tmp_path) as live, connected(live) as socket:
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
    _, outcome = await Record.outcomes.get()
    assert outcome.ended is Ended.UPSTREAM_BROKEN


async def test_a_clients_abort_reaches_the_upstream(tmp_path: Path) -> None:
    """F28: told as 1011 too, and at once."""
    provider = Provider(echo)
    async with behind(provider, tmp_path) as live:
        async with dial(live.url("")) as client:
            await client.send(handshake(live))
            await client.head()
            client.reset()
        assert await asyncio.wait_for(provider.closed.get(), 5) == 1011
    _, outcome = await Record.outcomes.get()
    assert outcome.ended is Ended.CLIENT_GONE


def handshake(live: Live, path: str = "/v1/realtime", *lines: str) -> bytes:
    """A WebSocket's handshake as it goes on the wire."""
    head = [
        f"GET {path} HTTP/1.1",
        "Host: g",
        f"Authorization: Bearer {live.key}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        *(lines or ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
    ]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    "lines",
    [
        ["Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"],
        ["Sec-WebSocket-Version: 13"],
    ],
)
async def test_malformed_handshakes(tmp_path: Path, lines: list[str]) -> None:
    """RFC 6455, 4.2.1: refused with 400 before the upstream hears of it."""
    provider = Provider(echo)
    async with behind(provider, tmp_path) as live, dial(live.url("")) as client:
        await client.send(handshake(live, "/v1/realtime", *lines))
        assert (await client.message()).status == 400
    assert provider.requests == []


async def test_a_message_that_is_too_large(tmp_path: Path) -> None:
    """The bound is the configured one, and both sides are told 1009."""
    provider = Provider(echo)
    async with behind(provider, tmp_path) as live, connected(live) as socket:
        await socket.send_bytes(bytes(70_000))
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
        assert await asyncio.wait_for(provider.closed.get(), 5) == 1009


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 502, "upstream_auth"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "unknown_url"),
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", 429, "upstream_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 502, "upstream_invalid"),
        (b"garbage\r\n\r\n", 502, "upstream_invalid"),
        (b"", 504, "upstream_timeout"),
    ],
)
async def test_an_upstream_that_declines(tmp_path: Path, answer: bytes, status: int, code: str) -> None:
    """Before the 101 a WebSocket is a request like any other: the client gets a status it can read."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(answer)

    Record.outcomes = asyncio.Queue()
    async with RawUpstream(script) as raw:
        slow = YAML.replace("first_byte: 1s", "first_byte: 100ms").replace("connect: 1s", "connect: 100ms")
        yaml = slow.format(origin=raw.origin, burst=100)
        async with running_gateway(yaml, tmp_path) as live, dial(live.url("")) as client:
            await client.send(handshake(live))
            got = await client.message()
            assert (got.status, json.loads(got.body)["error"]["code"]) == (status, code)


async def test_a_redirected_handshake_is_not_followed(tmp_path: Path) -> None:
    """The provider's key never goes where a redirect points."""
    async with RawUpstream() as elsewhere:

        async def script(wire: Wire) -> None:
            await wire.message()
            location = elsewhere.origin.encode()
            await wire.send(b"HTTP/1.1 307 There\r\nContent-Length: 0\r\nLocation: " + location + b"/v1\r\n\r\n")

        Record.outcomes = asyncio.Queue()
        async with RawUpstream(script) as raw:
            yaml = YAML.format(origin=raw.origin, burst=100)
            async with running_gateway(yaml, tmp_path) as live, dial(live.url("")) as client:
                await client.send(handshake(live))
                assert (await client.message()).status == 502
        assert elsewhere.connections == []


async def test_limits_count_what_is_asked_for(tmp_path: Path) -> None:
    """A connection takes one token and each ``response.create`` one more; what is refused is told and not passed on."""
    ask = json.dumps({"type": "response.create"})
    async with behind(Provider(echo), tmp_path, burst=2) as live, connected(live) as socket:
        await socket.send_str(json.dumps({"type": "input_audio_buffer.append", "audio": "response.create"}))
        await socket.send_str(ask)
        assert "append" in (await socket.receive()).data
        assert (await socket.receive()).data == ask
        await socket.send_str(ask.replace("response.create", "response\\u002ecreate"))
        event = json.loads((await socket.receive()).data)
        assert (event["type"], event["error"]["code"]) == ("error", "rate_limit_exceeded")
        await socket.send_str('{"type": "session.update"}')
        assert "session.update" in (await socket.receive()).data


async def test_usage_of_a_session_adds_up(tmp_path: Path) -> None:
    """Every answer reports its own tokens; the session's row has all of them."""

    async def talk(socket: web.WebSocketResponse, request: web.Request) -> None:
        usage = {"input_tokens": 3, "output_tokens": 4}
        for _ in range(2):
            await socket.send_json({"type": "response.done", "response": {"usage": usage}})
        await socket.close()

    async with behind(Provider(talk), tmp_path) as live, connected(live) as socket:
        while (await socket.receive()).type is WSMsgType.TEXT:
            pass
    _, outcome = await Record.outcomes.get()
    assert outcome.usage is not None
    assert (outcome.usage.input, outcome.usage.output) == (6, 8)
    assert outcome.bytes_out > 100


async def test_stopping_tells_both_sides(tmp_path: Path) -> None:
    """F57: past ``drain_timeout`` a session is closed with 1012, service restart."""
    provider = Provider(echo)
    async with aiohttp.ClientSession() as session:
        async with behind(provider, tmp_path) as live:
            socket = await session.ws_connect(live.url("/v1/realtime"), headers=live.auth)
            await socket.send_str("hi")
            await socket.receive()
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
        assert await asyncio.wait_for(provider.closed.get(), 5) == 1012


async def test_openais_realtime_client(tmp_path: Path) -> None:
    """The SDK connects, asks, and reads the answer's events."""

    async def talk(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.send_json({"type": "session.created", "event_id": "e1", "session": {"type": "realtime"}})
        async for message in socket:
            if json.loads(message.data)["type"] == "response.create":
                await socket.send_json(
                    {"type": "response.output_text.delta", "event_id": "e2", "response_id": "r", "item_id": "i",
                     "output_index": 0, "content_index": 0, "delta": "hello"}
                )  # fmt: skip
                await socket.send_json({"type": "response.done", "event_id": "e3", "response": {"id": "r"}})

    async with behind(Provider(talk), tmp_path) as live:
        client = AsyncOpenAI(base_url=live.url("/v1"), api_key=live.key)
        seen = []
        async with client, client.realtime.connect(model="gpt-realtime") as connection:
            await connection.response.create()
            async for event in connection:
                seen.append(event.type)
                if event.type == "response.done":
                    break
        assert seen == ["session.created", "response.output_text.delta", "response.done"]
