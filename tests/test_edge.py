"""An exchange from its first byte to its one end, on real sockets."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest

from gateway.contract import EXCHANGE, Ended, Exchange, Outcome, Plugin, Relay
from gateway.testing import running_gateway
from tests.worlds.raw_upstream import RawUpstream, Script, answering, silence
from tests.worlds.wire import Message, Wire, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from gateway.contract import Handler
    from gateway.testing import Live

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
state: memory://
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u:
    base_url: "{origin}/base"
    dialect: openai
    credential: bearer
    timeouts: {{connect: 1s, first_byte: 5s, idle: 5s}}
drain_timeout: {drain}
log_level: error
routes:
  - name: api
    listener: public
    path: /v1/
    max_body: 1MiB
    chain:
      - {{use: "{module}:Record"}}
      - api_key_auth
      - vault
      - forward: {{upstream: u}}
  - name: stream
    listener: public
    path: /stream
    chain:
      - {{use: "{module}:Record"}}
      - {{use: "{module}:Endless"}}
  - name: break
    listener: public
    path: /break
    chain:
      - {{use: "{module}:Record"}}
      - {{use: "{module}:Breaks"}}
"""


class Record(Plugin):
    """Keeps the outcomes of all exchanges."""

    outcomes: ClassVar[asyncio.Queue[tuple[Exchange, Outcome]]]

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask to be told."""
        request[EXCHANGE].on_done(lambda exchange, outcome: self.outcomes.put_nowait((exchange, outcome)))
        return await handler(request)


class Endless(Plugin):
    """Streams events until somebody stops it."""

    terminal: ClassVar[bool] = True

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Never end."""

        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"data: {}\n\n"
                await asyncio.sleep(0.01)

        return Relay(headers={"content-type": "text/event-stream"}, body=body())


class Breaks(Plugin):
    """Streams an event, and then its own source is gone."""

    terminal: ClassVar[bool] = True

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Break off."""

        async def body() -> AsyncIterator[bytes]:
            yield b"data: {}\n\n"
            raise ConnectionResetError

        return Relay(headers={"content-type": "text/event-stream"}, body=body())


@asynccontextmanager
async def before(script: Script, folder: Path, drain: str = "5s") -> AsyncIterator[tuple[Live, RawUpstream]]:
    """A gateway in front of a scripted upstream."""
    Record.outcomes = asyncio.Queue()
    async with RawUpstream(script) as raw:
        yaml = YAML.format(origin=raw.origin, module=__name__, drain=drain)
        async with running_gateway(yaml, folder) as live:
            yield live, raw


def request(live: Live, path: str = "/v1/x", *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request as it goes on the wire."""
    head = [f"{method} {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {live.key}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_the_path_below_the_prefix_goes_to_the_base_url(tmp_path: Path) -> None:
    """The route's prefix is replaced by the path of ``base_url``; query and escapes stay."""
    queue: asyncio.Queue[Message] = asyncio.Queue()
    async with before(recording(queue), tmp_path) as (live, _), dial(live.url("")) as client:
        for sent, arrived in (("/v1/a%20b?x=%2C&x", b"/base/a%20b?x=%2C&x"), ("/v1?", b"/base?"), ("/v1/", b"/base/")):
            await client.send(request(live, sent))
            assert (await client.message()).status == 200
            assert (await queue.get()).target == arrived


async def test_provider_key_instead_of_client_key(tmp_path: Path) -> None:
    """F72: every slot in which a client carries credentials is emptied; the provider's key goes in its own."""
    slots = ["x-api-key: {0}", "api-key: {0}", "Cookie: a={0}", "x-goog-api-key: {0}", "Proxy-Authorization: Basic {0}"]
    queue: asyncio.Queue[Message] = asyncio.Queue()
    async with before(recording(queue), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/v1/x", *[slot.format(live.key) for slot in slots]))
        assert (await client.message()).status == 200
        arrived = await queue.get()
        assert live.key.encode() not in arrived.head
        assert arrived.values(b"authorization") == [f"Bearer {live.provider_keys['u']}".encode()]


async def test_hop_by_hop_headers_stay_behind(tmp_path: Path) -> None:
    """RFC 9110, 7.6.1: what Connection names, and what says where the client is, is not for the provider."""
    lines = [
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "TE: trailers",
        "X-Forwarded-For: 1.2.3.4",
        "Forwarded: for=a",
    ]
    queue: asyncio.Queue[Message] = asyncio.Queue()
    async with before(recording(queue), tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(request(live, "/v1/x", *lines, "X-End: 1", "Via: 1.0 other"))
        assert (await client.message()).status == 200
        arrived = await queue.get()
        names = [name.lower() for name, _ in arrived.headers]
        assert names == [b"host", b"x-end", b"via", b"authorization"]
        assert arrived.value(b"via") == b"1.0 other, 1.1 " + live.gateway.running.services.pseudonym.encode()
        assert arrived.value(b"host") == raw.origin.removeprefix("http://").encode()


async def test_response_headers_pass_by_list(tmp_path: Path) -> None:
    """F25: no cookie, organisation, CORS or server header of the provider reaches a client; request ids are renamed."""
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nServer: x\r\n"
        b"Access-Control-Allow-Origin: *\r\nopenai-organization: us\r\n"
        b"X-Request-Id: theirs\r\nopenai-processing-ms: 5\r\n"
        b"x-ratelimit-remaining-requests: 9\r\nX-Unheard-Of: 1\r\n\r\n{}"
    )
    async with before(answering(answer), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live))
        got = await client.message()
        names = {name.lower() for name, _ in got.headers}
        assert not names & {b"set-cookie", b"server", b"access-control-allow-origin", b"openai-organization"}
        assert b"x-unheard-of" not in names
        assert got.value(b"x-upstream-request-id") == b"theirs"
        assert got.values(b"x-request-id") != [b"theirs"]
        assert got.value(b"openai-processing-ms") == b"5"
        assert got.value(b"x-ratelimit-remaining-requests") == b"9"


async def test_outcome_of_a_complete_exchange(tmp_path: Path) -> None:
    """``on_done`` runs once with how it ended, what it cost and how much passed."""
    body = json.dumps({"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with before(answering(answer), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/v1/chat/completions", "Content-Length: 2", method="POST", body=b"hi"))
        await client.message()
        _, outcome = await Record.outcomes.get()
        assert (outcome.ended, outcome.status, outcome.bytes_in, outcome.bytes_out) == (
            Ended.COMPLETE, 200, 2, len(body),
        )  # fmt: skip
        assert outcome.usage is not None
        assert (outcome.usage.input, outcome.usage.output, outcome.usage.model) == (3, 4, "m-1")
        assert Record.outcomes.empty()


@pytest.mark.parametrize("window", ["before the head", "mid-stream"])
async def test_client_gone(tmp_path: Path, window: str) -> None:
    """F28: the upstream's connection is closed, the exchange ends once, as left by the client."""
    asked = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        asked.set()
        if window == "mid-stream":
            await wire.send(EVENTS + chunk(b"data: 1\n\n"))

    async with before(script, tmp_path) as (live, raw):
        async with dial(live.url("")) as client:
            await client.send(request(live))
            await asked.wait()
            if window == "mid-stream":
                await client.holds(b"data: 1")
        assert await (await raw.connection()).ended()
        _, outcome = await Record.outcomes.get()
        assert outcome.ended is Ended.CLIENT_GONE
        assert outcome.status == (499 if window == "before the head" else 200)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("end", ["reset", "close"])
async def test_broken_stream_never_looks_complete(tmp_path: Path, version: str, end: str) -> None:
    """F07: an error event in the caller's dialect, then an unclean close; to HTTP/1.0 a reset: a close is an end."""
    cut = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS + chunk(b'data: {"a": 1}\n\n'))
        await cut.wait()
        getattr(wire, end)()

    async with before(script, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/v1/chat/completions").replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        await client.holds(b'data: {"a": 1}')
        cut.set()
        if version == "1.1":
            got = await client.message()
            assert not got.complete
            assert got.body.startswith(b'data: {"a": 1}\n\ndata: {"error"')
            assert b"upstream_broken" in got.body
        else:
            assert await client.ended() == "reset"
        _, outcome = await Record.outcomes.get()
        assert (outcome.ended, outcome.code) == (Ended.UPSTREAM_BROKEN, "upstream_broken")


async def test_leaving_at_the_last_event_is_no_leaving(tmp_path: Path) -> None:
    """SDKs close at ``data: [DONE]``, without waiting for the last chunk: with the whole answer, and so it counts."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS + chunk(b'data: {"usage": {"prompt_tokens": 1}}\n\ndata: [DONE]\n\n'))

    async with before(script, tmp_path) as (live, raw):
        async with dial(live.url("")) as client:
            await client.send(request(live, "/v1/chat/completions", method="POST"))
            await client.holds(b"[DONE]")
        _, outcome = await Record.outcomes.get()
        assert (outcome.ended, outcome.status) == (Ended.COMPLETE, 200)
        assert await (await raw.connection()).ended()


async def test_layers_own_broken_source_is_not_a_gone_client(tmp_path: Path) -> None:
    """F55: a ConnectionError out of a layer's stream ends it as a fault, with an error event, not in silence."""
    async with before(silence, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/break"))
        got = await client.message()
        assert not got.complete
        assert b"server_error" in got.body
        _, outcome = await Record.outcomes.get()
        assert outcome.ended is Ended.FAILED


async def test_stream_without_its_terminator_is_broken(tmp_path: Path) -> None:
    """F09: a clean end of the framing is not the end of the stream: ``data: [DONE]`` is."""
    body = EVENTS + chunk(b"data: {}\n\n") + b"0\r\n\r\n"
    async with before(answering(body), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/v1/chat/completions", method="POST"))
        got = await client.message()
        assert not got.complete
        assert b"upstream_broken" in got.body


async def test_complete_stream_is_untouched(tmp_path: Path) -> None:
    """What ends as it should goes through to the byte, and the connection serves again."""
    events = b'data: {"choices": []}\n\ndata: [DONE]\n\n'
    body = EVENTS + chunk(events[:7]) + chunk(events[7:]) + b"0\r\n\r\n"
    async with before(answering(body), tmp_path) as (live, _), dial(live.url("")) as client:
        for _ in range(2):
            await client.send(request(live, "/v1/chat/completions", method="POST"))
            got = await client.message()
            assert (got.complete, got.body) == (True, events)


async def test_upstreams_401_is_not_the_clients(tmp_path: Path) -> None:
    """F20: a client whose own key is good must not be told that it is bad, nor read a part of the provider's."""
    answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 21\r\n\r\nIncorrect key sk-u-***"
    async with before(answering(answer), tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live))
        got = await client.message()
        assert got.status == 502
        assert json.loads(got.body)["error"]["code"] == "upstream_auth"
        assert got.value(b"x-should-retry") == b"false"
        assert b"sk-u" not in got.body


async def test_provider_key_in_an_error_is_masked(tmp_path: Path) -> None:
    """F73: an upstream's error passes as it is, but for our key in it, also where it straddles two chunks."""

    async def script(wire: Wire) -> None:
        key = (await wire.message()).value(b"authorization").removeprefix(b"Bearer ")
        body = chunk(b'{"error": "' + key[:9]) + chunk(key[9:] + b' is odd"}') + b"0\r\n\r\n"
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nRetry-After: "
        )
        await wire.send(head + key + b"\r\n\r\n" + body)

    async with before(script, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live))
        got = await client.message()
        assert got.status == 400
        assert live.provider_keys["u"].encode() not in bytes(client.received)
        assert got.body == b'{"error": "' + b"*" * len(live.provider_keys["u"]) + b' is odd"}'


async def test_what_no_route_names_is_refused(tmp_path: Path) -> None:
    """404 in our form, with the headers that make browsers careful."""
    async with before(silence, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/admin"))
        got = await client.message()
        assert got.status == 404
        assert json.loads(got.body)["error"]["code"] == "unknown_url"
        assert got.value(b"x-content-type-options") == b"nosniff"
        assert got.value(b"server") is None


@pytest.mark.parametrize(
    "bad",
    [b"Authorization: Bearer gw_SECRET\0\r\n", b"X-Long: " + b"gw_SECRET" * 8000 + b"\r\n", b"gw_SECRET\r\n"],
)
async def test_parser_errors_repeat_nothing(tmp_path: Path, bad: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """F74: what the parser refuses is answered in our form; neither answer nor log repeats a byte of it."""
    async with before(silence, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(b"GET /v1/x HTTP/1.1\r\nHost: g\r\n" + bad + b"\r\n")
        got = await client.message()
        assert got.status in {400, 431}
        assert json.loads(got.body)["error"]["type"] == "invalid_request_error"
        assert await client.ended()
        assert b"SECRET" not in bytes(client.received)
    assert "SECRET" not in "".join(capfd.readouterr())


async def test_continue_comes_when_the_body_is_wanted(tmp_path: Path) -> None:
    """F38: a client that waits with its body is told to go on just before it is read, and never when it is refused."""
    lines = ["Content-Length: 2", "Expect: 100-continue"]
    async with before(answering(OK), tmp_path) as (live, raw):
        async with dial(live.url("")) as client:
            await client.send(request(live, "/v1/x", *lines, method="POST"))
            await client.holds(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert not raw.connections
            await client.send(b"hi")
            await client.holds(b"HTTP/1.1 200")
        async with dial(live.url("")) as client:
            await client.send(
                request(live, "/v1/x", *lines, method="POST").replace(live.key.encode(), b"gw_" + b"a" * 32)
            )
            assert (await client.message()).status == 401
            assert b"100 Continue" not in client.received


@pytest.mark.parametrize("framing", ["Content-Length: 2000000", "Transfer-Encoding: chunked"])
async def test_body_larger_than_the_routes_limit(tmp_path: Path, framing: str) -> None:
    """F35: 413, at once where it is declared; the upstream never sees a complete request."""
    async with before(silence, tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(request(live, "/v1/x", framing, method="POST"))
        if "chunked" in framing:
            for _ in range(20):
                await client.send(chunk(b"x" * 100_000))
        got = await client.message()
        assert got.status == 413
        assert json.loads(got.body)["error"]["code"] == "request_too_large"
        for wire in raw.connections:
            await wire.ended()
            assert not wire.received.endswith(b"0\r\n\r\n")


async def test_malformed_chunks(tmp_path: Path) -> None:
    """F36: framing that breaks in the body is a 400 and the end of the connection; no request went up whole."""
    async with before(silence, tmp_path) as (live, raw), dial(live.url("")) as client:
        await client.send(
            request(live, "/v1/x", "Transfer-Encoding: chunked", method="POST") + b"zz\r\nhi\r\n0\r\n\r\n"
        )
        assert (await client.message()).status == 400
        assert await client.ended()
        assert not raw.connections


@pytest.mark.parametrize(("allowed", "status"), [("false", 400), ("true", 200)])
async def test_escaped_slashes(tmp_path: Path, allowed: str, status: int) -> None:
    """``%2F`` is refused, unless the route says that its upstream's ids need it; then it is sent as it came."""
    queue: asyncio.Queue[Message] = asyncio.Queue()
    Record.outcomes = asyncio.Queue()
    async with RawUpstream(recording(queue)) as raw:
        yaml = YAML.format(origin=raw.origin, module=__name__, drain="5s")
        yaml = yaml.replace("    max_body: 1MiB\n", f"    max_body: 1MiB\n    encoded_slashes: {allowed}\n")
        async with running_gateway(yaml, tmp_path) as live, dial(live.url("")) as client:
            await client.send(request(live, "/v1/files/a%2Fb%2f..c"))
            assert (await client.message()).status == status
        if status == 200:
            assert (await queue.get()).target == b"/base/files/a%2Fb%2f..c"
        else:
            assert not raw.connections


async def test_websockets_where_the_dialect_has_none(tmp_path: Path) -> None:
    """F40: 404, at which clients fall back to plain requests; the upstream is not asked."""
    async with before(silence, tmp_path) as (live, _), dial(live.url("")) as client:
        await client.send(request(live, "/v1/chat/completions", "Connection: Upgrade", "Upgrade: websocket"))
        assert (await client.message()).status == 404


async def test_stopping_lets_what_runs_finish(tmp_path: Path) -> None:
    """F57: new connections are refused, the running exchange gets its whole answer, the next one is not accepted."""
    go_on = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(EVENTS + chunk(b"data: 1\n\n"))
        await go_on.wait()
        await wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with RawUpstream(script) as raw:
        Record.outcomes = asyncio.Queue()
        yaml = YAML.format(origin=raw.origin, module=__name__, drain="30s")
        running = running_gateway(yaml, tmp_path)
        live = await running.__aenter__()
        async with dial(live.url("")) as client:
            await client.send(request(live, "/v1/chat/completions", method="POST"))
            await client.holds(b"data: 1")
            async with asyncio.TaskGroup() as group:
                group.create_task(running.__aexit__(None, None, None))
                await refuses_connections(live)
                go_on.set()
                got = await client.message()
            assert (got.complete, got.body) == (True, b"data: 1\n\ndata: [DONE]\n\n")


def recording(arrived: asyncio.Queue[Message], answer: bytes = OK) -> Script:
    """Answer every request, and keep it."""

    async def script(wire: Wire) -> None:
        while True:
            arrived.put_nowait(await wire.message())
            await wire.send(answer)

    return script


async def refuses_connections(live: Live) -> None:
    """Return once nobody accepts any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection(*live.address)
            except OSError:
                return
            writer.close()


async def test_stopping_cuts_honestly_when_time_is_up(tmp_path: Path) -> None:
    """F57: past ``drain_timeout`` a stream gets its error event and an unclean close; one without a head gets 503."""
    async with before(silence, tmp_path, drain="100ms") as (live, raw):
        streaming, waiting = dial(live.url("")), dial(live.url(""))
        stream, wait = await streaming.__aenter__(), await waiting.__aenter__()
        await stream.send(request(live, "/stream"))
        await stream.holds(b"data: {}\n\n")
        await wait.send(request(live))
        await (await raw.connection()).head()
    got = await stream.message()
    assert not got.complete
    assert b"gateway_draining" in got.body
    refused = await wait.message()
    assert refused.status == 503
    assert json.loads(refused.body)["error"]["code"] == "gateway_draining"
    await streaming.__aexit__(None, None, None)
    await waiting.__aexit__(None, None, None)


@pytest.mark.parametrize("answer", [OK, EVENTS + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"], ids=["plain", "streamed"])
async def test_no_reference_cycle_per_request(tmp_path: Path, answer: bytes) -> None:
    """A cycle would leave every request to the collector: p99 of 54 ms instead of 3 in a prototype."""
    async with before(answering(answer), tmp_path) as (live, _), dial(live.url("")) as client:
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                await client.send(request(live, "/v1/chat/completions", "Content-Length: 2", method="POST", body=b"hi"))
                assert (await client.message()).status == 200
                Record.outcomes.get_nowait()
            left = sum(type(it) is Exchange for it in gc.get_objects())
        finally:
            gc.enable()
        assert left < 5, "the connection still holds its last one; no other is left to the collector"
