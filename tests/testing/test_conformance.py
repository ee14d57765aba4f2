"""The conformance suites find what they are for: for every promise there is a layer that breaks it, and is caught."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, ClassVar

import pytest
from aiohttp import web

import gateway.testing.scene
from gateway.contract import EXCHANGE, Fact, Handler, Plugin, Relay, RequestBody
from gateway.errors import UpstreamError
from gateway.testing import Entry, LayerConformance, TerminalConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.contract import Exchange

ITSELF: Fact[Exchange] = Fact("ITSELF", "a cycle")


class Buffers(Plugin):
    """Hands an answer on when it has all of it."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Hold it."""
        response = await handler(request)
        if isinstance(response, Relay) and response.body is not None and response.whole is None:
            response.body = _at_once(response.body)
        return response


async def _at_once(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join([chunk async for chunk in body])


class ReadsAll(Plugin):
    """Reads the request before anything else."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Hold it."""
        await request[EXCHANGE].body.read(2**30)
        return await handler(request)


class Changes(Plugin):
    """Changes a byte on its way."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Change it."""
        response = await handler(request)
        if isinstance(response, Relay) and response.body is not None:
            response.body, response.whole = _changed(response.body), None
        return response


async def _changed(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in body:
        yield chunk.replace(b"a", b"b")


class Shields(Plugin):
    """Goes on for a client that has left."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Wait behind a shield."""
        return await asyncio.shield(handler(request))


class Completes(Plugin):
    """Takes what came of a request for all of it."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make do with it."""
        exchange, kept = request[EXCHANGE], _Kept()
        try:
            async for chunk in exchange.body.stream():
                kept.rest += chunk
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        exchange.body = RequestBody(kept, declared=len(kept.rest), limit=2**30)
        return await handler(request)


class _Kept:
    """A request's content that is in memory."""

    def __init__(self) -> None:
        self.rest = b""
        self.total_bytes = 1

    def is_eof(self) -> bool:
        return True

    def at_eof(self) -> bool:
        return not self.rest

    async def readany(self) -> bytes:
        rest, self.rest = self.rest, b""
        return rest


class Smooths(Plugin):
    """Ends what broke as if it were whole."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Swallow the break."""
        response = await handler(request)
        if isinstance(response, Relay) and response.body is not None:
            response.body, response.verify_end = _smoothed(response.body), None
            response.headers.popall("content-length", None)
        return response


async def _smoothed(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in body:
            yield chunk
    except UpstreamError:
        return


class Beautifies(Plugin):
    """Has a page of its own for errors."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Replace them."""
        response = await handler(request)
        return response if response.status < 400 else web.Response(status=response.status, text="Sorry!")


class Undresses(Plugin):
    """Stamps what went well."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Stamp it."""
        response = await handler(request)
        if response.status < 400:
            response.headers["x-stamp"] = "here"
        return response


class Cycles(Plugin):
    """Makes an exchange that refers to itself."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tie the knot."""
        request[EXCHANGE][ITSELF] = request[EXCHANGE]
        return await handler(request)


class Forgets(Plugin):
    """Starts a task and does not think of it again."""

    _forgotten: ClassVar[list[asyncio.Task[None]]] = []

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Start it."""
        self._forgotten.append(asyncio.get_running_loop().create_task(asyncio.sleep(600)))
        return await handler(request)


class FinishesEarly(Plugin):
    """Runs the exchange's closers itself."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Close, and close again."""
        exchange = request[EXCHANGE]
        exchange.push(exchange._closers[0])
        return await handler(request)


class Reads(Plugin):
    """Takes every answer for a web.Response."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Look into it."""
        response = await handler(request)
        if not isinstance(response, Relay | web.Response):
            raise TypeError("what is this?")
        return response


class NoHead(Plugin):
    """Knows no other method than POST."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Fail for them."""
        return await {"POST": handler}[request.method](request)


class Slow(Plugin):
    """Answers for whoever is not there any more, from a task that nobody ends."""

    terminal: ClassVar[bool] = True

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer in the end."""

        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.05)
            yield b"b"

        request[EXCHANGE][ITSELF] = request[EXCHANGE]
        if request.method != "POST":
            raise RuntimeError("what is this?")
        await request[EXCHANGE].body.read(2**30)
        return Relay(body=body())


BROKEN = [
    (Changes, "an_answer_passes"),
    (Shields, "a_client_that_leaves_before_the_head"),
    (Buffers, "a_client_that_leaves_in_mid_answer"),
    (Completes, "a_client_that_leaves_in_mid_request"),
    (Beautifies, "an_upstream_that_fails_before_the_head"),
    (Smooths, "a_stream_that_breaks"),
    (Smooths, "an_answer_that_breaks"),
    (Buffers, "no_byte_is_delayed"),
    (ReadsAll, "a_large_request"),
    (Buffers, "a_large_answer"),
    (Undresses, "a_refusal_from_within_is_dressed"),
    (Beautifies, "a_refusal_from_within_is_dressed"),
    (Beautifies, "a_failure_from_within_says_nothing"),
    (NoHead, "head_and_options"),
    (Reads, "websockets"),
    (Cycles, "nothing_is_left_of_an_exchange"),
    (Forgets, "an_answer_passes"),
    (FinishesEarly, "an_answer_passes"),
]
BROKEN_ENDS = ["other_methods", "a_large_request", "websockets", "nothing_is_left_of_an_exchange"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never happens need not be waited for as long as a slow machine might take."""
    monkeypatch.setattr(gateway.testing.scene, "PATIENCE_S", 2.0)


@pytest.mark.parametrize(("layer", "promise"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
async def test_a_layer_that_breaks_a_promise_is_caught(tmp_path: Path, layer: type[Plugin], promise: str) -> None:
    """The test of that promise fails for it."""

    class Suite(LayerConformance):
        chain: ClassVar[Sequence[Entry]] = [{"use": f"{__name__}:{layer.__name__}"}]

    with pytest.raises((AssertionError, TimeoutError)):
        await getattr(Suite(), f"test_{promise}")(tmp_path)


@pytest.mark.parametrize("promise", BROKEN_ENDS)
async def test_an_end_that_breaks_a_promise_is_caught(tmp_path: Path, promise: str) -> None:
    """The test of that promise fails for it."""

    class Suite(TerminalConformance):
        chain: ClassVar[Sequence[Entry]] = [{"use": f"{__name__}:{Slow.__name__}"}]

    with pytest.raises((AssertionError, TimeoutError)):
        await getattr(Suite(), f"test_{promise}")(tmp_path)


def test_no_promise_is_without_its_breach() -> None:
    """Whoever adds a promise shows a layer that breaks it."""
    promises = {name for name, _ in inspect.getmembers(LayerConformance) if name.startswith("test_")}
    assert promises == {f"test_{promise}" for _, promise in BROKEN}
