"""The upstream side against an upstream that does to the byte what a script says."""

from __future__ import annotations

import asyncio
import gc
import ssl
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.errors import (
    CertificateError,
    Refusal,
    UpstreamBroken,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.http1 import HIGH_WATER, MAX_HEAD_BYTES
from gateway.metrics import PrometheusMetrics
from gateway.upstream import HttpUpstream
from tests.worlds.raw_upstream import RawUpstream, Script, answering, silence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.http1 import Answer
    from tests.worlds.wire import Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def config(origin: str, **changes: Any) -> Any:
    """An upstream's configuration, as ``gateway.config`` would load it."""
    timeouts = {"connect": 1.0, "first_byte": 5.0, "idle": 5.0} | changes.pop("timeouts", {})
    fields = {
        "origin": origin,
        "base_path": "",
        "dialect": "openai",
        "credential": "none",
        "response_headers": (),
        "timeouts": SimpleNamespace(**timeouts),
        "tls": None,
        "max_connections": 100,
    }
    return cast("Any", SimpleNamespace(**(fields | changes)))


@asynccontextmanager
async def talking_to(script: Script, **changes: Any) -> AsyncIterator[tuple[HttpUpstream, RawUpstream]]:
    """A pool towards an upstream that runs ``script``."""
    async with (
        RawUpstream(script) as raw,
        HttpUpstream("u", config(raw.origin, **changes), PrometheusMetrics()) as pool,
    ):
        yield pool, raw


async def get(pool: HttpUpstream, method: str = "GET", body: Any = None, **options: Any) -> Answer:
    """Send a small request."""
    length = f"Content-Length: {len(body)}\r\n" if isinstance(body, bytes) else ""
    if options.get("chunked"):
        length = "Transfer-Encoding: chunked\r\n"
    head = f"{method} /x HTTP/1.1\r\nHost: u\r\n{length}\r\n".encode()
    return await pool.send(method, head, body, **options)


async def read(answer: Answer) -> bytes:
    """The whole body."""
    return b"".join([chunk async for chunk in answer])


async def released(pool: HttpUpstream) -> None:
    """Return when no exchange holds a connection; the loop reports a closed one in one of its next rounds."""
    for _ in range(100):
        if not pool.in_use:
            return
        await asyncio.sleep(0)
    raise AssertionError("a connection is still held")


def once(answer: bytes, then: Callable[[Wire], Awaitable[None] | None] | None = None) -> Script:
    """Answer the first request, then do something to the connection."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(answer)
        done = then(wire) if then else None
        if done is not None:
            await done

    return script


async def test_an_answer_arrives_and_the_connection_serves_again() -> None:
    """Keep-alive: ten requests, one connection."""
    async with talking_to(answering(OK)) as (pool, raw):
        for _ in range(10):
            assert await read(await get(pool)) == b"ok"
        assert len(raw.connections) == 1


async def test_a_whole_answer_is_known_to_be_whole() -> None:
    """What arrived in one piece can go out in one piece."""
    async with talking_to(answering(OK)) as (pool, _):
        answer = await get(pool)
        assert answer.take_whole() == b"ok"


async def test_refused_connection() -> None:
    """F01: nobody listens: UpstreamUnreachable, at once."""
    async with RawUpstream(silence) as raw:
        origin = raw.origin
    async with HttpUpstream("u", config(origin), PrometheusMetrics()) as pool:
        with pytest.raises(UpstreamUnreachable):
            await get(pool)


@pytest.mark.parametrize("name", ["no.such.host.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_unresolvable_name(name: str) -> None:
    """F03: a name that does not exist, or cannot, is unreachable, and the loop goes on while it is asked for."""
    async with HttpUpstream("u", config(f"http://{name}:80"), PrometheusMetrics()) as pool:
        with pytest.raises((UpstreamUnreachable, UpstreamTimeout)):
            await get(pool)


async def test_connect_deadline() -> None:
    """F02: who does not finish the TLS handshake is given up at the connect deadline."""
    async with RawUpstream(silence) as raw:
        changed = config(raw.origin.replace("http:", "https:"), timeouts={"connect": 0.1})
        async with HttpUpstream("u", changed, PrometheusMetrics()) as pool:
            with pytest.raises(UpstreamTimeout):
                await get(pool)


async def test_plain_answer_where_tls_was_expected_gets_no_request() -> None:
    """F04: what is not the upstream's TLS sees no byte of the request."""

    async def script(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawUpstream(script) as raw:
        async with HttpUpstream("u", config(raw.origin.replace("http:", "https:")), PrometheusMetrics()) as pool:
            with pytest.raises(UpstreamUnreachable):
                await get(pool, "POST", b"the secret")
        assert b"secret" not in (await raw.connection()).received


async def test_first_byte_deadline() -> None:
    """F05: an upstream that accepts and says nothing is given up, and its connection closed."""
    async with talking_to(silence, timeouts={"first_byte": 0.1}) as (pool, raw):
        with pytest.raises(UpstreamTimeout):
            await get(pool)
        assert await (await raw.connection()).ended()


async def test_dripping_head_deadline() -> None:
    """F05: a head that drips does not buy time: the first-byte deadline holds until the head is whole."""

    async def drip(wire: Wire) -> None:
        await wire.message()
        for byte in OK[:30]:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.02)

    async with talking_to(drip, timeouts={"first_byte": 0.2}) as (pool, _):
        with pytest.raises(UpstreamTimeout):
            await get(pool)


async def test_idle_deadline() -> None:
    """F06: an upstream that stalls in mid-answer is given up after the idle deadline; what came is delivered first."""
    stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    async with talking_to(once(stalled), timeouts={"idle": 0.1}) as (pool, _):
        answer = await get(pool)
        assert await anext(answer) == b"half"
        with pytest.raises(UpstreamTimeout):
            await anext(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
    ids=["content-length", "chunked"],
)
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_cut_answers_are_broken(answer: bytes, end: str) -> None:
    """F07, F08: an answer that its own framing calls incomplete raises, however the connection ended."""
    cut = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(answer)
        await cut.wait()
        getattr(wire, end)()

    async with talking_to(script) as (pool, _):
        got = await get(pool)
        assert await anext(got) == b"half"
        cut.set()
        with pytest.raises(UpstreamBroken):
            await anext(got)


async def test_close_delimited_body_ends_with_the_connection() -> None:
    """RFC 9112, 6.3: without framing the close is the end, and the connection is not used again."""
    async with talking_to(once(b"HTTP/1.1 200 OK\r\n\r\nall of it", lambda wire: wire.close())) as (pool, raw):
        assert await read(await get(pool)) == b"all of it"
        assert await read(await get(pool)) == b"all of it"
        assert len(raw.connections) == 2


async def test_close_delimited_body_that_is_reset_is_broken() -> None:
    """F09: at least a reset can be told from an end."""
    cut = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await cut.wait()
        wire.reset()

    async with talking_to(script) as (pool, _):
        answer = await get(pool)
        assert await anext(answer) == b"part"
        cut.set()
        with pytest.raises(UpstreamBroken):
            await anext(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\nX-Injected: c\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 99 What\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 2_000_000 + b"\r\n\r\n",
        b"",
    ],
    ids=[
        "garbage", "cl+te", "two lengths", "negative length", "foreign coding", "two codings", "bare lf", "nul",
        "bare cr", "folded", "101", "http/2", "status 99", "10k headers", "2 MB header", "closed without a word",
    ],
)  # fmt: skip
async def test_answers_that_are_no_http(answer: bytes) -> None:
    """F10-F13, F18: what cannot be read one way only is no answer, and its connection is gone."""
    async with talking_to(once(answer, lambda wire: wire.close())) as (pool, _):
        with pytest.raises(UpstreamInvalid):
            await get(pool)
        await released(pool)


async def test_bad_chunk_size_in_mid_answer() -> None:
    """F12: framing that breaks after the head breaks the answer."""
    async with talking_to(once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n")) as (pool, _):
        answer = await get(pool)
        with pytest.raises(UpstreamError):
            await read(answer)


async def test_large_heads_within_the_bound_pass() -> None:
    """The bound is on what is unreasonable, not on what is large."""
    value = b"v" * (MAX_HEAD_BYTES // 2)
    async with talking_to(once(b"HTTP/1.1 200 OK\r\nX-A: " + value + b"\r\nContent-Length: 0\r\n\r\n")) as (pool, _):
        assert (b"X-A", value) in (await get(pool)).headers


async def test_flood_is_held_back() -> None:
    """F15: an upstream that is faster than the reader is stopped at its socket; what is held stays bounded."""
    size = 64 * 2**20
    blocked = asyncio.Event()

    async def flood(wire: Wire) -> None:
        await wire.message()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        wire.transport.write(bytes(size))
        blocked.set()

    async with talking_to(flood) as (pool, raw):
        answer = await get(pool)
        await blocked.wait()
        held = answer._held
        while True:  # the kernel's buffers fill, then nothing moves
            await asyncio.sleep(0.05)
            if answer._held == held:
                break
            held = answer._held
        assert held <= HIGH_WATER + 2**20
        assert (await raw.connection()).transport.get_write_buffer_size() > 0
        assert len(await read(answer)) == size


async def test_unsolicited_answer_never_meets_the_next_request() -> None:
    """F16: bytes that nobody asked for close the connection; the next request gets its own answer."""

    async def script(wire: Wire) -> None:
        number = len(raw.connections)
        await wire.message()
        if number == 1:
            await wire.send(OK)
            await asked.wait()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        else:
            await wire.send(OK)

    asked = asyncio.Event()
    async with talking_to(script) as (pool, raw):
        assert await read(await get(pool)) == b"ok"
        asked.set()
        assert await (await raw.connection()).ended()
        assert await read(await get(pool)) == b"ok"


async def test_two_answers_in_one_piece() -> None:
    """F16: the same, where both arrive in one read."""
    async with talking_to(once(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")) as (pool, raw):
        assert await read(await get(pool)) == b"ok"
        assert await read(await get(pool)) == b"ok"
        assert len(raw.connections) == 2


async def test_answer_before_the_upload_ends() -> None:
    """F17: an early answer is delivered, the upload stops, and the connection is not used again."""

    async def early(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.001)

    async with talking_to(early) as (pool, raw):
        answer = await get(pool, "POST", endless(), chunked=True)
        assert (answer.status, await read(answer)) == (413, b"no")
        assert await (await raw.connection()).ended()


async def test_informational_answers_are_skipped() -> None:
    """F18: 100 and 103 are not the answer, nor are their headers."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with talking_to(answering(hints + OK)) as (pool, _):
        for _ in range(2):
            answer = await get(pool)
            assert (answer.status, await read(answer)) == (200, b"ok")
            assert [name for name, _ in answer.headers] == [b"Content-Length"]


async def test_idle_connection_that_died_is_replaced_for_repeatable_requests() -> None:
    """F23: a GET on a connection that the upstream closes unread is sent once more, on a fresh one."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(OK)
        if len(raw.connections) == 1:
            await wire.message()
            wire.reset()

    async with talking_to(script) as (pool, raw):
        assert await read(await get(pool)) == b"ok"
        assert await read(await get(pool)) == b"ok"
        assert len(raw.connections) == 2


@pytest.mark.parametrize("repeatable", [False, True])
async def test_a_post_is_not_silently_sent_twice(repeatable: bool) -> None:
    """F23: a POST may have been acted upon: it is sent again only where the client said that it may be."""

    async def script(wire: Wire) -> None:
        await wire.message()
        await wire.send(OK)
        if len(raw.connections) == 1:
            await wire.message()
            wire.reset()

    async with talking_to(script) as (pool, raw):
        assert await read(await get(pool)) == b"ok"
        if repeatable:
            assert await read(await get(pool, "POST", b"pay", repeatable=True)) == b"ok"
        else:
            with pytest.raises(UpstreamInvalid):
                await get(pool, "POST", b"pay")
        assert len(raw.connections) == 1 + repeatable


async def test_trailers_never_become_headers() -> None:
    """A trailer is dropped."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n"
    async with talking_to(answering(chunked)) as (pool, raw):
        for _ in range(2):
            answer = await get(pool)
            assert await read(answer) == b"ok"
            assert (b"X-Late", b"1") not in answer.headers
        assert len(raw.connections) == 1


async def test_head_answers_have_no_body() -> None:
    """RFC 9110, 9.3.2: an answer to HEAD ends with its head, whatever length it announces."""
    async with talking_to(once(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")) as (pool, _):
        answer = await get(pool, "HEAD")
        assert await read(answer) == b""


async def test_upload_streams_with_its_framing() -> None:
    """A streamed body goes out chunk by chunk and ends with the last chunk."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with talking_to(answering(OK)) as (pool, raw):
        assert await read(await get(pool, "POST", parts(), chunked=True)) == b"ok"
        assert (await raw.connection()).received.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_failing_upload_raises_its_own_error_and_never_looks_complete() -> None:
    """F27: what breaks the body is raised as it is; the upstream sees no end of the body."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        raise Refusal(413, "request_too_large", "too large")

    async with talking_to(silence) as (pool, raw):
        with pytest.raises(Refusal):
            await get(pool, "POST", parts(), chunked=True)
        wire = await raw.connection()
        await wire.ended()
        assert not wire.received.endswith(b"0\r\n\r\n")


async def test_cancelled_exchange_closes_its_connection() -> None:
    """A caller that leaves before the head takes its connection with it (aiohttp#12953)."""
    async with talking_to(silence) as (pool, raw):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(get(pool))
            await (await raw.connection()).head()
            task.cancel()
        assert await (await raw.connection()).ended()
        await released(pool)


async def test_abandoned_answer_closes_its_connection() -> None:
    """A caller that leaves in mid-answer does so too, and what was on the wire meets nobody."""
    async with talking_to(once(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")) as (pool, raw):
        answer = await get(pool)
        answer.abort()
        assert await (await raw.connection()).ended()


async def test_more_than_the_limit_is_refused() -> None:
    """The pool's bound answers 503; it never queues in silence."""
    async with talking_to(once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), max_connections=2) as (pool, _):
        await get(pool)
        await get(pool)
        with pytest.raises(Refusal) as refused:
            await get(pool)
        assert (refused.value.status, refused.value.code) == (503, "overloaded")


async def test_more_than_a_hundred_streams_at_once() -> None:
    """The 101st stream does not wait for one of the hundred."""
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    async with talking_to(once(start), max_connections=200) as (pool, raw):
        answers = [await get(pool) for _ in range(120)]
        assert [await anext(answer) for answer in answers] == [b"x"] * 120
        assert len(raw.connections) == 120


async def test_no_reference_cycle_per_exchange() -> None:
    """What an exchange leaves behind is freed at once: a cycle would wait for the collector and hold memory."""
    async with talking_to(answering(OK)) as (pool, _):
        await read(await get(pool))
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await read(await get(pool))
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_an_unreadable_ca_is_a_configuration_fault(tmp_path: Any) -> None:
    """F04: a private CA that cannot be read stops the start; it never means fewer checks."""
    missing = config("https://u:1", tls=SimpleNamespace(ca=tmp_path / "none.pem"))
    with pytest.raises(CertificateError, match="certificates"):
        HttpUpstream("u", missing, PrometheusMetrics())


def test_certificates_are_always_verified() -> None:
    """F04: there is no way to ask for anything else."""
    context = HttpUpstream("u", config("https://u:1"), PrometheusMetrics())._ssl
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
