"""The traps that the libraries set: the gateway steps over each of them, and the naive proxy falls into it.

Every test that takes ``proxy`` runs twice. Against the gateway it has to pass; against ``tests/naive_proxy.py`` its
assertions have to fail, or it would prove nothing. What the naive proxy does wrong by saying nothing at all is turned
into an assertion in the test, so that a broken scene is never taken for a sprung trap.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anthropic
import openai
import pytest
import pytest_asyncio
from aiohttp import web

from gateway.server import GatewayProtocol
from tests.e2e.foreign_layers import splits_a_header
from tests.worlds.fronts import FULL_CHAIN, Front, gateway, naive
from tests.worlds.raw_upstream import RawUpstream, answering
from tests.worlds.wire import PeerGone, dial

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.worlds.wire import Message, Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
PATIENCE_S = 1.5
"""How long the naive proxy is given to do what it never does."""


def trap(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Hold the test against its ``proxy``: the gateway passes it, the naive proxy's assertions fail."""

    @functools.wraps(test)
    async def held(proxy: Front, **fixtures: Any) -> None:
        if proxy.admin:
            await test(proxy=proxy, **fixtures)
        else:
            with pytest.raises(AssertionError):
                await test(proxy=proxy, **fixtures)

    return held


@pytest_asyncio.fixture(params=["gateway", "naive"], loop_scope="session")
async def proxy(request: pytest.FixtureRequest, front: Front, address: socket.socket) -> AsyncIterator[Front]:
    """The shared gateway, then a naive proxy in front of the same upstream."""
    if request.param == "gateway":
        yield front
    else:
        async with naive(f"http://127.0.0.1:{address.getsockname()[1]}") as proxy:
            yield proxy


def head(proxy: Front, line: str = "POST /v1/chat/completions HTTP/1.1", *fields: str, host: str = "gateway") -> bytes:
    """A request's head with the proxy's key, up to its last field: the caller adds what it wants to add."""
    lines = [line, f"Host: {host}", f"Authorization: Bearer {proxy.key}", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(proxy: Front, *fields: str, path: str = "/v1/models", host: str = "gateway") -> bytes:
    """A GET request."""
    return head(proxy, f"GET {path} HTTP/1.1", *fields, host=host)


def post(proxy: Front, body: bytes, *fields: str) -> bytes:
    """A POST request with its body."""
    return head(proxy, "POST /v1/chat/completions HTTP/1.1", *fields, f"Content-Length: {len(body)}") + body


async def ask(proxy: Front, request: bytes) -> Message:
    """The proxy's answer to bytes, on a connection of their own."""
    async with dial(proxy.origin) as client:
        await client.send(request)
        return await client.message()


async def happens(awaitable: Awaitable[object]) -> bool:
    """Whether it comes to pass within the patience."""
    try:
        await asyncio.wait_for(awaitable, PATIENCE_S)
    except TimeoutError:
        return False
    return True


async def logged(proxy: Front) -> str:
    """All that the proxy has logged up to now: a request with a mark of its own is logged after everything before."""
    mark = uuid4().hex
    await ask(proxy, get(proxy, path=f"/v1/{mark}"))
    while mark not in (text := proxy.output):  # noqa: ASYNC110 - a thread writes it, off the hot path
        await asyncio.sleep(0.01)
    return text


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


# ── aiohttp as a server ──────────────────────────────────────────────────────────────────────────────────────────────


@trap
async def test_a_client_that_leaves_cancels_the_handler(proxy: Front, upstream: RawUpstream) -> None:
    """`handler_cancellation`: a handler that waits for the first byte ends with its client. F28."""
    async with dial(proxy.origin) as client:
        await client.send(post(proxy, b"{}"))
        provider = await upstream.connection()
        await provider.message()
    assert await happens(provider.ended())


@pytest.mark.parametrize("spoilt", ["\0", "x" * 40_000], ids=["NUL", "an over-long line"])
@trap
async def test_a_request_that_the_parser_refuses_is_not_repeated(
    proxy: Front, upstream: RawUpstream, spoilt: str
) -> None:
    """A key in a request that cannot be parsed is neither in the answer nor in the log. F74."""
    upstream.script = answering(OK)
    secret = "gw_neverToBeRepeated0123456789abcde"
    request = f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {secret}{spoilt}\r\n\r\n"
    answer = await ask(proxy, request.encode())
    assert answer.status in {400, 431}
    assert secret[:12].encode() not in answer.head + answer.body
    assert secret[:12] not in await logged(proxy)


LENIENCIES = {
    "an empty Transfer-Encoding beside Content-Length": ("POST /v1/x HTTP/1.1", ["Transfer-Encoding: "], b"{}"),
    "Content-Length with leading zeros": ("POST /v1/x HTTP/1.1", ["Content-Length: 0002"], b"{}"),
    "a fragment in the target": ("GET /v1/models#fragment HTTP/1.1", [], b""),
    "an underscore in a header's name": ("GET /v1/models HTTP/1.1", ["X_Forwarded_For: 1.2.3.4"], b""),
    "HTTP/2.0": ("GET /v1/models HTTP/2.0", [], b""),
    "HTTP/0.9": ("GET /v1/models HTTP/0.9", [], b""),
    "two credentials": ("GET /v1/models HTTP/1.1", ["Authorization: Bearer another"], b""),
}


@pytest.mark.parametrize(("line", "fields", "body"), LENIENCIES.values(), ids=LENIENCIES.keys())
@trap
async def test_what_the_parser_tolerates_and_readers_disagree_on_is_refused(
    proxy: Front, upstream: RawUpstream, line: str, fields: list[str], body: bytes
) -> None:
    """Ambiguous framing, versions and headers are 400 (505), the connection ends, nothing goes upstream. F36."""
    upstream.script = answering(OK)
    framing = [f"Content-Length: {len(body)}"] if body and "Content-Length" not in fields[0] else []
    async with dial(proxy.origin) as client:
        await client.send(head(proxy, line, *fields, *framing) + body)
        answer = await client.message()
        assert answer.status in {400, 505}
        assert not upstream.connections
        assert await happens(client.ended())


@pytest.mark.parametrize("host", ["", "user@gateway", "gateway/path", "a,b", "gateway:99999", "gätewäy"])
@trap
async def test_a_host_that_is_none_is_refused(proxy: Front, upstream: RawUpstream, host: str) -> None:
    """A Host header that is not a host is 400, never a 500 and never believed."""
    upstream.script = answering(OK)
    assert (await ask(proxy, get(proxy, host=host))).status == 400
    assert not upstream.connections


@pytest.mark.parametrize(
    "path",
    ["/v1/../admin", "/v1/x/%2e%2e/%2e%2e/admin", "/v1//evil/x", "/v1/a%2fb", "/v1/a%5cb", "/v1/a%00b", "/v1/./x"],
)
@trap
async def test_a_path_that_could_be_normalised_is_refused(proxy: Front, upstream: RawUpstream, path: str) -> None:
    """The path that was authorised is the path that is sent: one that reads two ways is 400."""
    upstream.script = answering(OK)
    assert (await ask(proxy, get(proxy, path=path))).status == 400
    assert not upstream.connections


@trap
async def test_a_compressed_request_body_is_passed_compressed(proxy: Front, upstream: RawUpstream) -> None:
    """A gzip body goes upstream as its few bytes, not as what it would inflate to. F41."""
    upstream.script = answering(OK)
    bomb = gzip.compress(bytes(900_000))
    await ask(proxy, post(proxy, bomb, "Content-Encoding: gzip"))
    assert b"\r\n\r\n" + bomb in (await upstream.connection()).received


@trap
async def test_a_body_of_two_megabytes_passes(proxy: Front, upstream: RawUpstream) -> None:
    """An image is larger than `client_max_size`, and no proxy's business."""
    upstream.script = answering(OK)
    assert (await ask(proxy, post(proxy, bytes(2 * 2**20)))).status == 200


@trap
async def test_headers_are_bounded_together(proxy: Front, upstream: RawUpstream) -> None:
    """A hundred headers of 8 KB are 431, though each line is short enough. F34."""
    upstream.script = answering(OK)
    assert (await ask(proxy, get(proxy, *[f"X-{number}: {'x' * 8_000}" for number in range(100)]))).status == 431


@trap
async def test_a_long_token_passes(proxy: Front, upstream: RawUpstream) -> None:
    """One header line of 20 KB is a long token, not an attack."""
    upstream.script = answering(OK)
    assert (await ask(proxy, get(proxy, f"X-Token: {'x' * 20_000}"))).status == 200


@trap
async def test_the_server_does_not_say_what_it_is(proxy: Front, upstream: RawUpstream) -> None:
    """No `Server: Python/3.11 aiohttp/…`: not on an answer, not on a refusal, not on a parser's error."""
    upstream.script = answering(OK)
    for request in (get(proxy), get(proxy, host=""), b"GET /v1/models HTTP/1.1\r\nHost: g\0\r\n\r\n"):
        assert (await ask(proxy, request)).value(b"server") is None


@trap
async def test_a_refused_upload_is_not_invited(proxy: Front, upstream: RawUpstream) -> None:
    """`100 Continue` is said just before the body is first read, so never to a request that is refused. F38."""
    upstream.script = answering(OK)
    refused = head(proxy, "POST /v1/x HTTP/1.1", "Expect: 100-continue", "Content-Length: 2").replace(b"gw_", b"no_")
    async with dial(proxy.origin) as client:
        await client.send(refused)
        assert not (await client.head()).startswith(b"HTTP/1.1 100")


async def test_an_expected_upload_is_invited(front: Front, upstream: RawUpstream) -> None:
    """`web.Server` never says `100 Continue`; the gateway does, and the request goes through."""
    upstream.script = answering(OK)
    async with dial(front.origin) as client:
        await client.send(head(front, "POST /v1/x HTTP/1.1", "Expect: 100-continue", "Content-Length: 2"))
        assert (await client.message(bodyless=True)).status == 100
        await client.send(b"{}")
        assert (await client.message()).status == 200
    provider = await upstream.connection()
    assert provider.received.endswith(b"\r\n\r\n{}")
    assert b"100-continue" not in provider.received


@trap
async def test_an_answer_that_breaks_is_a_reset_to_http_1_0(proxy: Front, upstream: RawUpstream) -> None:
    """To HTTP/1.0 the close ends the body, so an answer that breaks must not end with one."""
    async with dial(proxy.origin) as client:
        await client.send(head(proxy, "GET /v1/models HTTP/1.0"))
        provider = await upstream.connection()
        await provider.message()
        await provider.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"))
        await client.holds(b"half")
        provider.close()
        assert await client.ended() == "reset"


@trap
async def test_a_key_in_the_query_is_not_logged(proxy: Front, upstream: RawUpstream) -> None:
    """The log has the path, never the query: some clients send their key there."""
    upstream.script = answering(OK)
    await ask(proxy, get(proxy, path="/v1/models?key=AIzaNeverLogged"))
    assert "AIzaNeverLogged" not in await logged(proxy)


async def test_a_misspelt_server_option_is_an_error() -> None:
    """`web.Server` drops all of its options where one is misspelt, with a warning; our protocol refuses it."""
    with pytest.raises(TypeError):
        GatewayProtocol(None, None, None, loop=asyncio.get_running_loop(), handler_cancelation=True)  # type: ignore[arg-type,call-arg]
    bare = web.Server(splits_a_header, keepalive_timeout=1.0, misspelt=True)  # type: ignore[arg-type]
    assert bare().keepalive_timeout != 1.0


@asynccontextmanager
async def dressed(kind: str, origin: str) -> AsyncIterator[Front]:
    """A proxy with a foreign middleware that splits a header, by its kind."""
    if kind == "naive":
        async with naive(origin, middlewares=[splits_a_header]) as front:
            yield front
    else:
        chain = [*FULL_CHAIN, '{use: "tests.e2e.foreign_layers:splits_a_header"}']
        async with gateway(origin, chain=chain) as front:
            yield front


@pytest.mark.parametrize("kind", ["gateway", "naive"])
async def test_a_layer_that_splits_a_header_is_a_500(kind: str, upstream: RawUpstream) -> None:
    """A layer's header with CR and LF in it is a 500 with an id; aiohttp drops the connection without a word. F56."""
    upstream.script = answering(OK)
    async with dressed(kind, upstream.origin) as front:
        if kind == "naive":
            with pytest.raises(PeerGone):
                await ask(front, get(front))
        else:
            answer = await ask(front, get(front))
            assert (answer.status, answer.value(b"set-cookie")) == (500, None)
            assert json.loads(answer.body)["error"]["code"] == "gateway_plugin_error"
            assert answer.value(b"x-request-id")


SLOW = {
    "a head that never ends": b"GET /v1/models HTTP/1.1\r\nHost: g\r\n",
    "a body that never ends": (
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer KEY\r\nContent-Length: 9\r\n\r\n{"
    ),
    "nothing at all": b"",
}


@pytest.mark.parametrize("kind", ["gateway", "naive"])
async def test_slow_clients_have_deadlines(kind: str, upstream: RawUpstream) -> None:
    """Heads, bodies and connections that do not come to an end are answered or ended, on the operator's times.

    F31, F32.
    """
    limits = "limits: {header_timeout: 200ms, body_timeout: 200ms, idle_timeout: 200ms}"
    start = gateway(upstream.origin, extra=limits) if kind == "gateway" else naive(upstream.origin)
    async with start as front:

        async def is_dealt_with(said: bytes) -> bool:
            async with dial(front.origin) as client:
                await client.send(said.replace(b"KEY", front.key.encode()))
                with suppress(PeerGone):
                    return await happens(client.head())
                return True

        dealt_with = await asyncio.gather(*map(is_dealt_with, SLOW.values()))
    assert dealt_with == [kind == "gateway"] * len(SLOW)
    assert not upstream.connections


@pytest.mark.parametrize("kind", ["gateway", "naive"])
async def test_a_stream_that_outlives_the_drain_ends_with_an_error_event(kind: str, upstream: RawUpstream) -> None:
    """A shutdown cuts what does not end in time with an error event; the naive proxy's clients see nothing. F57."""
    start = gateway(upstream.origin, extra="drain_timeout: 100ms") if kind == "gateway" else naive(upstream.origin)
    async with dial_later() as late:
        async with start as front:
            client = await late(front)
            await client.send(post(front, b"{}"))
            provider = await upstream.connection()
            await provider.message()
            await provider.send(SSE_HEAD + chunk(EVENT))
            await client.holds(EVENT)
        message = await client.message()
    assert not message.complete
    assert (b'"error"' in message.body) == (kind == "gateway")


@asynccontextmanager
async def dial_later() -> AsyncIterator[Callable[[Front], Awaitable[Wire]]]:
    """A connection that is opened within a block and outlives it."""
    opened: list[AbstractAsyncContextManager[Wire]] = []

    async def late(front: Front) -> Wire:
        opened.append(dial(front.origin))
        return await opened[0].__aenter__()

    try:
        yield late
    finally:
        await opened[0].__aexit__(None, None, None)


# ── aiohttp as a client ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["gateway", "naive"])
async def test_cookies_of_an_upstream_are_nobodys(kind: str, upstream: RawUpstream) -> None:
    """A cookie that the upstream sets on one client's answer reaches no client, and no later request. F25."""
    upstream.script = answering(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: tenant=a\r\n\r\n"))
    origin = f"http://localhost:{upstream.port}"  # by name: aiohttp's jar takes no cookies from addresses
    async with gateway(origin) if kind == "gateway" else naive(origin) as front:
        first = await ask(front, get(front))
        await ask(front, get(front))
    assert (first.value(b"set-cookie") is None) == (kind == "gateway")
    seen = b"".join(bytes(connection.received) for connection in upstream.connections)
    assert (b"tenant=a" not in seen) == (kind == "gateway")


@trap
async def test_redirects_are_not_followed(proxy: Front, upstream: RawUpstream) -> None:
    """A redirect is the client's to see: no header of the request, and no key, goes to the other host. F19."""
    async with RawUpstream(answering(OK)) as other:
        elsewhere = f"Location: {other.origin}/v1/models".encode()
        upstream.script = answering(b"HTTP/1.1 307 Temporary Redirect\r\n%b\r\nContent-Length: 0\r\n\r\n" % elsewhere)
        answer = await ask(proxy, get(proxy, "X-Api-Version: 1"))
        assert not other.connections
        assert answer.status == 307


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test moves on."""

    skipped_s = 0.0

    def time(self) -> float:
        """Monotonic, with what was skipped."""
        return super().time() + self.skipped_s


@pytest.mark.parametrize("kind", ["gateway", "naive"])
def test_a_stream_may_take_as_long_as_it_takes(kind: str) -> None:
    """A stream with an event a minute for ten minutes is whole: there is no deadline on the total."""

    async def ten_minutes(loop: JumpingLoop) -> Message:
        async with RawUpstream() as upstream:
            start = gateway(upstream.origin) if kind == "gateway" else naive(upstream.origin)
            async with start as front, dial(front.origin) as client:
                await client.send(post(front, b'{"stream":true}'))
                provider = await upstream.connection()
                await provider.message()
                await provider.send(SSE_HEAD)
                with suppress(PeerGone):
                    for minute in range(10):
                        await provider.send(chunk(b"data: %d\n\n" % minute))
                        await client.holds(b"data: %d\n\n" % minute)
                        loop.skipped_s += 60
                    await provider.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
                return await client.message()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, JumpingLoop)
        assert runner.run(ten_minutes(loop)).complete == (kind == "gateway")


@trap
async def test_the_101st_stream_does_not_wait(proxy: Front, upstream: RawUpstream) -> None:
    """`TCPConnector(limit=100)`: with 100 streams open the next request reaches the upstream all the same."""
    async with AsyncExitStack() as stack:
        for _ in range(101):
            client = await stack.enter_async_context(dial(proxy.origin))
            await client.send(get(proxy))
        assert await happens(upstream.connection(100))


@trap
async def test_a_compressed_answer_is_passed_compressed(proxy: Front, upstream: RawUpstream) -> None:
    """An answer's gzip body reaches the client as it is, with the Content-Encoding that belongs to it. F24."""
    packed = gzip.compress(b'{"answer": 42}' * 100)
    upstream.script = answering(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
    )
    answer = await ask(proxy, get(proxy, "Accept-Encoding: gzip"))
    assert (answer.value(b"content-encoding"), answer.body) == (b"gzip", packed)


@trap
async def test_headers_that_connection_names_stay_behind(proxy: Front, upstream: RawUpstream) -> None:
    """A header that `Connection` names is for this hop only."""
    upstream.script = answering(OK)
    await ask(proxy, get(proxy, "Connection: keep-alive, X-Internal", "X-Internal: 1"))
    assert b"x-internal" not in bytes((await upstream.connection()).received).lower()


@trap
async def test_a_bare_line_feed_makes_no_header(proxy: Front, upstream: RawUpstream) -> None:
    """An upstream's header with a bare LF in it does not become two headers of the answer. F13."""
    upstream.script = answering(OK.replace(b"\r\n\r\n", b"\r\nX-A: a\nSet-Cookie: evil=1\r\n\r\n"))
    assert b"evil" not in (await ask(proxy, get(proxy))).head


@trap
async def test_a_close_that_cuts_a_stream_is_not_its_end(proxy: Front, upstream: RawUpstream) -> None:
    """A close-delimited stream that dies must not reach the client as a complete chunked body. F09."""
    async with dial(proxy.origin) as client:
        await client.send(post(proxy, b'{"stream":true}'))
        provider = await upstream.connection()
        await provider.message()
        await provider.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT)
        await client.holds(EVENT)
        provider.close()
        assert not (await client.message()).complete


TWO_MEGABYTES = b"X-Filler: %b\r\n" % (b"x" * 7_900) * 260
NOT_HTTP = {
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "2 MB of headers": b"HTTP/1.1 200 OK\r\n"
    + b"X-Filler: %b\r\n" % (b"x" * 7_900) * 260
    + b"Content-Length: 0\r\n\r\n",
    "length and chunks": OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"),
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP.keys())
@trap
async def test_what_is_not_http_is_a_502(proxy: Front, upstream: RawUpstream, answer: bytes) -> None:
    """What an upstream may not say is a 502 that says so, and its connection is never used again. F10, F11, F12."""
    upstream.script = answering(answer)
    refusal = await ask(proxy, get(proxy))
    assert refusal.status == 502
    assert json.loads(refusal.body)["error"]["code"] == "upstream_invalid"
    assert await happens((await upstream.connection()).ended())


# ── SDKs, on streams ─────────────────────────────────────────────────────────────────────────────────────────────────

END = b"0\r\n\r\n"
"""The end of a stream by its framing, without the terminal event of its dialect."""

ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)
RESPONSES_START = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"r",'
    b'"object":"response","created_at":1,"model":"m","output":[],"status":"in_progress"}}\n\n'
)


def streaming(proxy: Front) -> dict[str, tuple[bytes, Callable[[], Awaitable[None]], type[Exception]]]:
    """By dialect: how a stream begins, an SDK that reads one, and what it has to raise where one breaks."""

    async def chat() -> None:
        async with openai.AsyncOpenAI(base_url=f"{proxy.origin}/v1", api_key=proxy.key, max_retries=0) as client:
            async for _ in await client.chat.completions.create(model="m", messages=[], stream=True):
                pass

    async def responses() -> None:
        async with openai.AsyncOpenAI(base_url=f"{proxy.origin}/v1", api_key=proxy.key, max_retries=0) as client:
            async for _ in await client.responses.create(model="m", input="hi", stream=True):
                pass

    async def messages() -> None:
        async with anthropic.AsyncAnthropic(base_url=proxy.origin, api_key=proxy.key, max_retries=0) as client:
            async for _ in await client.messages.create(model="m", max_tokens=9, messages=[], stream=True):
                pass

    return {
        "chat": (EVENT, chat, openai.APIError),
        "responses": (RESPONSES_START, responses, openai.APIError),
        "messages": (ANTHROPIC_START, messages, anthropic.APIError),
    }


@pytest.mark.parametrize(
    ("dialect", "ending"),
    [("chat", END), ("responses", END), ("messages", END), ("messages", b"")],
    ids=["chat", "responses", "messages", "messages, cut"],  # a cut chat raises by itself in this SDK
)
@trap
async def test_an_sdk_notices_a_truncated_stream(
    proxy: Front, upstream: RawUpstream, dialect: str, ending: bytes
) -> None:
    """A stream without its terminal event raises the SDK's own error: it is neither success nor a bare socket error."""
    start, read, expected = streaming(proxy)[dialect]

    async def truncate(wire: Wire) -> None:
        await wire.message()
        await wire.send(SSE_HEAD + chunk(start) + ending)
        wire.close()

    upstream.script = truncate
    raised = (await asyncio.gather(read(), return_exceptions=True))[0]
    assert isinstance(raised, expected)


@trap
async def test_an_sdk_is_not_told_that_its_key_is_wrong_when_ours_is(proxy: Front, upstream: RawUpstream) -> None:
    """The provider's 401 is the gateway's matter: no AuthenticationError, no second attempt, none of its words. F20."""
    words = b'{"error":{"message":"Incorrect API key provided: sk-ab***","code":"invalid_api_key"}}'
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n"
    upstream.script = answering(refusal + b"Content-Length: %d\r\n\r\n%b" % (len(words), words))
    async with openai.AsyncOpenAI(base_url=f"{proxy.origin}/v1", api_key=proxy.key, max_retries=2) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.models.list()
    assert isinstance(caught.value, openai.InternalServerError)
    assert caught.value.code == "upstream_auth"
    assert "sk-ab" not in str(caught.value)
    assert sum(bytes(wire.received).count(b"GET /v1/models") for wire in upstream.connections) == 1


@trap
async def test_an_error_of_ours_tells_the_sdk_what_it_is(proxy: Front, upstream: RawUpstream) -> None:
    """An upstream that breaks off gives the SDK a code, a type and a request id, not an HTML page."""
    upstream.script = answering(b"garbage\r\n\r\n")
    async with openai.AsyncOpenAI(base_url=f"{proxy.origin}/v1", api_key=proxy.key, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.models.list()
    assert (caught.value.code, caught.value.type) == ("upstream_invalid", "server_error")
    assert caught.value.request_id
