"""What every layer keeps, whatever it is for: as classes of tests that an author subclasses.

::

    from gateway.testing import LayerConformance


    class TestStamp(LayerConformance):
        chain = [{"use": "my_package:Stamp", "with": {"value": "here"}}]

pytest runs it, with pytest-asyncio in its ``auto`` mode; nothing here imports either. :class:`LayerConformance` is for
what passes requests on, alone or as a chain of many; :class:`TerminalConformance` for what answers them itself. Each
test is one promise, on real sockets, and pauses on events, never on the clock: what does not happen within ten seconds
fails.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, ClassVar

import aiohttp

from gateway.contract import Ended
from gateway.testing.measures import (
    ENGINES,
    EXCHANGES,
    HANDSHAKE,
    LARGE,
    LAST,
    MIB,
    OK,
    STREAM,
    bounded_memory,
    chunk,
    closes,
    digest,
    digest_of,
    error_of,
    let_go,
    names,
    nothing_left,
    pieces,
    shown,
    speaking_websocket,
    streaming,
)
from gateway.testing.scene import STUMBLE, Scene, scene
from gateway.testing.upstream import answering, silence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gateway.testing.scene import Entry
    from gateway.testing.upstream import Script
    from gateway.testing.wire import Message, Wire


class _Suite:
    """What both suites are told, and how they ask."""

    chain: ClassVar[Sequence[Entry]]
    """The layer, with the layers that it needs in front of it, as in ``gateway.yaml``."""

    route: ClassVar[str] = "/v1/"
    """The route's path."""

    fields: ClassVar[Sequence[str]] = ()
    """More header lines for every request: ``"X-Team: red"``. The key of ``gateway.testing`` is always sent."""

    settings: ClassVar[Mapping[str, object]] = {}
    """More of ``gateway.yaml``, or other values of it: ``{"trusted_proxies": ["127.0.0.1"]}``."""

    largest: ClassVar[int] = LARGE
    """Bytes of the largest request that passes. Less only for a layer that reads bodies, up to a bound."""

    memory: ClassVar[int] = 4 * MIB
    """Bytes that may be held while it passes, or while an answer of 10 MiB does."""

    method: ClassVar[str] = "POST"
    path: ClassVar[str] = "/v1/chat/completions"
    body: ClassVar[bytes] = b'{"model": "conformance", "messages": []}'

    def _ask(self, it: Scene, method: str | None = None, *more: str, path: str | None = None) -> bytes:
        """A request as it goes on the wire. HEAD, OPTIONS and GET have no body."""
        method = method or self.method
        body = b"" if method in {"HEAD", "OPTIONS", "GET"} else self.body
        framing = ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
        return self._head(it, method, path or self.path, *framing, *more) + body

    def _head(self, it: Scene, method: str, path: str, *lines: str) -> bytes:
        key = f"Authorization: Bearer {it.live.key}"
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: gateway", key, *self.fields, *lines, "", ""]).encode()

    def _large(self, it: Scene) -> bytes:
        """The head of the largest request, whose body is :func:`pieces`."""
        lines = ("Content-Type: application/json", f"Content-Length: {self.largest}")
        return self._head(it, "POST", self.path, *lines)

    async def _still_serves(self, it: Scene, client: Wire) -> None:
        """What came before was framed well: the connection's next answer is one."""
        await client.send(self._ask(it))
        assert (await client.message()).complete, "the connection is of no use for a second request"


# ── Layers that pass requests on ─────────────────────────────────────────────────────────────────────────────────────


class LayerConformance(_Suite):
    """What passes requests on. ``chain`` goes in front of ``forward``; it may be empty.

    ``credential`` is the upstream's: ``bearer`` where the chain provides one.
    """

    credential: ClassVar[str] = "none"
    only_on_success: ClassVar[frozenset[str]] = frozenset()
    """Headers that the chain adds to the provider's answers and not to refusals, in lower case."""

    def scene(self, folder: Path, script: Script, *, origin: str | None = None) -> AbstractAsyncContextManager[Scene]:
        """The chain between a client and an upstream that follows ``script``."""
        chain = [*self.chain, {"use": "gateway.testing.scene:Stumble"}, {"forward": {"upstream": "provider"}}]
        return scene(
            folder,
            script,
            chain=chain,
            route=self.route,
            credential=self.credential,
            settings=self.settings,
            origin=origin,
        )

    async def test_an_answer_passes(self, tmp_path: Path) -> None:
        """Status and body as the provider sent them, the exchange ends as complete; again on the same connection."""
        async with self.scene(tmp_path, answering(OK)) as it, it.client() as client:
            for number in range(2):
                await client.send(self._ask(it))
                got = await client.message()
                assert (got.status, got.body) == (200, b'{"ok": true}'), f"not the provider's answer: {shown(got)}"
                assert (await it.outcome(number)).ended is Ended.COMPLETE

    async def test_a_client_that_leaves_before_the_head(self, tmp_path: Path) -> None:
        """The upstream's connection is closed, and the exchange ends as left by its client."""
        async with self.scene(tmp_path, silence) as it:
            async with it.client() as client:
                await client.send(self._ask(it))
                upstream = await it.upstream.connection()
                await upstream.message()
            await let_go(upstream)
            assert (await it.outcome()).ended is Ended.CLIENT_GONE

    async def test_a_client_that_leaves_in_mid_answer(self, tmp_path: Path) -> None:
        """The same when a part of the answer has gone out."""
        async with self.scene(tmp_path, streaming(b"data: 1\n\n")) as it:
            async with it.client() as client:
                await client.send(self._ask(it))
                await client.holds(b"data: 1\n\n")
            await let_go(await it.upstream.connection())
            assert (await it.outcome()).ended is Ended.CLIENT_GONE

    async def test_a_client_that_leaves_in_mid_request(self, tmp_path: Path) -> None:
        """The upstream never gets a request that looks whole."""
        arrived: list[Message] = []

        async def script(wire: Wire) -> None:
            arrived.append(await wire.message())
            await wire.send(OK)

        async with self.scene(tmp_path, script) as it:
            async with it.client() as client:
                await client.send(self._large(it) + bytes(self.largest // 2))
                await it.ends.get(0)
            assert (await it.outcome()).ended is Ended.CLIENT_GONE
        assert not any(request.complete for request in arrived), "the upstream got a whole request from half of one"

    async def test_an_upstream_that_fails_before_the_head(self, tmp_path: Path) -> None:
        """The client gets a 502 that it can read."""

        async def script(wire: Wire) -> None:
            await wire.message()
            wire.reset()

        async with self.scene(tmp_path, script) as it, it.client() as client:
            await client.send(self._ask(it))
            got = await client.message()
            assert got.status == 502, f"not 502 but {shown(got)}"
            assert error_of(got)["code"].startswith("upstream_"), f"not the upstream's fault: {shown(got)}"
            assert (await it.outcome()).ended is Ended.COMPLETE

    async def test_a_stream_that_breaks(self, tmp_path: Path) -> None:
        """The client is told by an event, and its stream has no clean end."""
        async with self.scene(tmp_path, streaming(b"data: 1\n\n", breaks=True)) as it, it.client() as client:
            await client.send(self._ask(it))
            got = await client.message()
            assert got.body.startswith(b"data: 1\n\n"), f"what came before the break is lost: {shown(got)}"
            assert b"upstream_broken" in got.body, f"no event tells of the break: {shown(got)}"
            assert not got.complete, "a broken stream looks complete"
            assert (await it.outcome()).ended is Ended.UPSTREAM_BROKEN

    async def test_an_answer_that_breaks(self, tmp_path: Path) -> None:
        """What is no stream has no clean end either."""

        async def script(wire: Wire) -> None:
            await wire.message()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{")
            await broken.wait()
            wire.reset()

        broken = asyncio.Event()
        async with self.scene(tmp_path, script) as it, it.client() as client:
            await client.send(self._ask(it))
            await client.holds(b"{")
            broken.set()
            assert not (await client.message()).complete, "a broken answer looks complete"
            assert (await it.outcome()).ended is Ended.UPSTREAM_BROKEN

    async def test_no_byte_is_delayed(self, tmp_path: Path) -> None:
        """Each piece of a stream is at the client while the upstream still holds the next one back."""
        events = [b"data: %d\n\n" % number for number in range(5)]
        arrived = [asyncio.Event() for _ in events]

        async def script(wire: Wire) -> None:
            await wire.message()
            await wire.send(STREAM)
            for event, seen in zip(events, arrived, strict=True):
                await wire.send(chunk(event))
                await seen.wait()
            await wire.send(chunk(LAST) + chunk(b""))

        async with self.scene(tmp_path, script) as it, it.client() as client:
            await client.send(self._ask(it))
            for event, seen in zip(events, arrived, strict=True):
                try:
                    await client.holds(event)
                except TimeoutError:
                    raise AssertionError(f"{event!r} is held back until more comes") from None
                seen.set()
            got = await client.message()
            assert (got.complete, got.body) == (True, b"".join(events) + LAST), f"changed: {shown(got)}"

    async def test_a_large_request(self, tmp_path: Path) -> None:
        """10 MiB arrive to the byte, and little of it is held on the way."""
        received = asyncio.get_running_loop().create_future()

        async def script(wire: Wire) -> None:
            wire.skip(len(await wire.head()))
            received.set_result(await digest(wire, self.largest))
            await wire.send(OK)

        async with self.scene(tmp_path, script) as it, it.client() as client:
            with bounded_memory(self.memory):
                await client.send(self._large(it))
                for piece in pieces(self.largest):
                    await client.send(piece)
                got = await client.message()
            assert got.status == 200, f"refused: {shown(got)}"
            assert await received == digest_of(pieces(self.largest)), (
                "the upstream got other bytes than the client sent"
            )

    async def test_a_large_answer(self, tmp_path: Path) -> None:
        """10 MiB arrive to the byte, and little of it is held on the way."""

        async def script(wire: Wire) -> None:
            await wire.message()
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: %d\r\n\r\n" % LARGE)
            for piece in pieces(LARGE):
                await wire.send(piece)

        async with self.scene(tmp_path, script) as it, it.client() as client:
            with bounded_memory(self.memory):
                await client.send(self._ask(it))
                client.skip(len(await client.head()))
                received = await digest(client, LARGE)
            assert received == digest_of(pieces(LARGE)), "the client got other bytes than the upstream sent"
            assert (await it.outcome()).bytes_out == LARGE

    async def test_a_refusal_from_within_is_dressed(self, tmp_path: Path) -> None:
        """It passes as it was raised, in the caller's dialect, with the headers that the chain adds to any answer."""
        async with self.scene(tmp_path, answering(OK)) as it, it.client() as client:
            await client.send(self._ask(it))
            added = names(await client.message()) - ENGINES
            await client.send(self._ask(it, None, f"{STUMBLE}: refuse"))
            got = await client.message()
            assert (got.status, error_of(got)["code"]) == (429, "insufficient_quota"), f"another refusal: {shown(got)}"
            assert got.value(b"retry-after") == b"7", "the refusal has lost a header"
            missing = added - names(got) - self.only_on_success
            assert not missing, f"added to answers and not to refusals: {', '.join(sorted(missing))}"
            await client.send(self._ask(it, None, f"{STUMBLE}: refuse", "anthropic-version: 2023-06-01"))
            assert json.loads((await client.message()).body)["type"] == "error", "not in Anthropic's words"

    async def test_a_failure_from_within_says_nothing(self, tmp_path: Path) -> None:
        """A layer's exception is a 500 with an id and none of its words, whoever stands around it."""
        async with self.scene(tmp_path, answering(OK)) as it, it.client() as client:
            await client.send(self._ask(it, None, f"{STUMBLE}: fail"))
            got = await client.message()
            assert (got.status, error_of(got)["code"]) == (500, "gateway_plugin_error"), f"swallowed: {shown(got)}"
            assert got.value(b"x-request-id"), "no id to ask the operator about"
            assert b"said to nobody" not in client.received, "the exception's words reach the client"

    async def test_head_and_options(self, tmp_path: Path) -> None:
        """They pass, or are answered; HEAD without a body, and the connection serves on."""

        async def script(wire: Wire) -> None:
            while True:
                asked = await wire.message()
                await wire.send(OK.partition(b"{")[0] if asked.start_line.startswith(b"HEAD") else OK)

        async with self.scene(tmp_path, script) as it, it.client() as client:
            for method in ("HEAD", "OPTIONS"):
                await client.send(self._ask(it, method))
                got = await client.message(bodyless=method == "HEAD")
                assert got.status < 500, f"{method} fails: {shown(got)}"
                await self._still_serves(it, client)

    async def test_websockets(self, tmp_path: Path) -> None:
        """They pass, messages both ways and the close; or the client is refused with a status that it can read."""
        closed: asyncio.Queue[int | None] = asyncio.Queue()
        async with speaking_websocket(closed) as origin, self.scene(tmp_path, silence, origin=origin) as it:
            async with it.client() as client:
                await client.send(self._head(it, "GET", "/v1/realtime?model=conformance", *HANDSHAKE))
                got = await client.message()
            if got.status != 101:
                assert 400 <= got.status < 500, f"no WebSocket, and no reason: {shown(got)}"
                assert error_of(got)["message"], f"no words: {shown(got)}"
                return
            fields = [line.partition(": ") for line in (f"Authorization: Bearer {it.live.key}", *self.fields)]
            async with (
                aiohttp.ClientSession(headers={name: value for name, _, value in fields}) as session,
                session.ws_connect(it.live.url("/v1/realtime?model=conformance")) as socket,
            ):
                await socket.send_str("text")
                await socket.send_bytes(b"\0\xff")
                assert await socket.receive_str() == "text", "a message was lost or changed"
                assert await socket.receive_bytes() == b"\0\xff", "a message was lost or changed"
                await socket.close(code=4001)
            assert (await it.outcome(1)).ended is Ended.COMPLETE
            assert {await closed.get(), await closed.get()} == {1011, 4001}, "a close did not pass"

    async def test_nothing_is_left_of_an_exchange(self, tmp_path: Path) -> None:
        """It goes when it is over, without the garbage collector: cycles cost pauses that every client feels."""
        answers = [OK, STREAM + chunk(b"data: 1\n\n" + LAST) + chunk(b"")]
        for answer in answers:
            folder = tmp_path / str(len(answer))
            folder.mkdir()
            async with self.scene(folder, answering(answer)) as it:
                with nothing_left():
                    async with it.client() as client:
                        for _ in range(EXCHANGES):
                            await client.send(self._ask(it))
                            assert (await client.message()).complete
                    await it.settle()


# ── Layers that answer ───────────────────────────────────────────────────────────────────────────────────────────────


class TerminalConformance(_Suite):
    """What answers requests itself: ``chain`` ends with it. The suite asks it for ``method`` and ``path``.

    ``streams`` says that the answer comes in pieces, with a moment between them.
    """

    streams: ClassVar[bool] = False

    def scene(self, folder: Path) -> AbstractAsyncContextManager[Scene]:
        """The chain, and a client in front of it."""
        return scene(folder, silence, chain=self.chain, route=self.route, credential="none", settings=self.settings)

    async def test_it_answers(self, tmp_path: Path) -> None:
        """With a whole answer, again on the same connection where that is kept, and the exchange ends as complete."""
        async with self.scene(tmp_path) as it:
            await self._answers(it, 2)
            assert (await it.outcome(0)).ended is (await it.outcome(1)).ended is Ended.COMPLETE

    async def test_other_methods(self, tmp_path: Path) -> None:
        """They are answered too, HEAD without a body, and the connection serves on."""
        async with self.scene(tmp_path) as it:
            for method in ("HEAD", "OPTIONS", "DELETE", "PATCH"):
                async with it.client() as client:
                    await client.send(self._ask(it, method))
                    got = await client.message(bodyless=method == "HEAD")
                    assert got.status < 500, f"{method} fails: {shown(got)}"
                    if not closes(got):
                        await self._still_serves(it, client)

    async def test_a_client_that_leaves_at_once(self, tmp_path: Path) -> None:
        """The exchange ends, whatever it was about to do."""
        async with self.scene(tmp_path) as it:
            async with it.client() as client:
                await client.send(self._ask(it))
                await it.ends.get(0)
            await it.outcome()

    async def test_a_client_that_leaves_in_mid_answer(self, tmp_path: Path) -> None:
        """The rest of a stream is not made for nobody."""
        if not self.streams:
            return
        async with self.scene(tmp_path) as it:
            async with it.client() as client:
                await client.send(self._ask(it))
                client.skip(len(await client.head()))
                await client.more()
            assert (await it.outcome()).ended is Ended.CLIENT_GONE

    async def test_a_large_request(self, tmp_path: Path) -> None:
        """10 MiB are answered or refused, and little of them is held."""
        async with self.scene(tmp_path) as it, it.client() as client:
            with bounded_memory(self.memory):
                await client.send(self._large(it))
                for piece in pieces(self.largest):
                    if client.ending is None:
                        await client.send(piece)
                got = await client.message()
            assert got.status < 500, f"fails: {shown(got)}"

    async def test_websockets(self, tmp_path: Path) -> None:
        """Refused with a status that the client can read."""
        async with self.scene(tmp_path) as it, it.client() as client:
            await client.send(self._head(it, "GET", self.path, *HANDSHAKE))
            got = await client.message()
            assert got.complete, f"not whole: {shown(got)}"
            assert got.status < 500, f"fails: {shown(got)}"

    async def test_nothing_is_left_of_an_exchange(self, tmp_path: Path) -> None:
        """It goes when it is over, without the garbage collector: cycles cost pauses that every client feels."""
        async with self.scene(tmp_path) as it:
            with nothing_left():
                await self._answers(it, EXCHANGES)
                await it.settle()

    async def _answers(self, it: Scene, times: int) -> None:
        """Ask so many times, on one connection for as long as the gateway keeps it."""
        while times:
            async with it.client() as client:
                closing = False
                while times and not closing:
                    await client.send(self._ask(it))
                    got = await client.message()
                    assert got.complete, f"not whole: {shown(got)}"
                    assert got.status < 500, f"fails: {shown(got)}"
                    times, closing = times - 1, closes(got)
