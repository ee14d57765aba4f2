"""Where an exchange begins and ends. How an answer is written stands in ``gateway/sending.py``.

An :class:`Exchange` is made, the guard looks at the head, the route is found, its
chain answers, the answer is sent with backpressure, and whatever happened, the exchange is finished exactly once:
closers first (an upstream connection is aborted), then the ``on_done`` callbacks with the :class:`Outcome`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import hdrs, web

from gateway import guard
from gateway.chain import describe
from gateway.contract import EXCHANGE, Ended, Exchange, Outcome, RequestBody
from gateway.dialects import for_request
from gateway.errors import Refusal
from gateway.forwarded import caller
from gateway.security.exposure import keys_in, tell_exposed
from gateway.security.headers import DEFAULT_HEADERS, DEFAULT_HEADERS_OVER_TLS
from gateway.sending import MAY_WRITE, Broken, Sending
from gateway.ulid import ulid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import StreamWriter

    from gateway.contract import Services
    from gateway.contract.exchange import DoneCallback
    from gateway.generation import Generation, Route

CLIENT_CLOSED_REQUEST = 499
"""nginx's number for a client that left before it had an answer."""


class Connection(Protocol):
    """The client's connection, as far as the edge knows it."""

    def began(self, body: RequestBody) -> None:
        """Know that an exchange has begun."""

    def ended(self) -> None:
        """Know that it has ended."""


class GatewayRequest(web.Request):
    """aiohttp's request without an Application behind it, and with a body that is read in one place only."""

    ATTRS = web.Request.ATTRS

    async def read(self) -> bytes:
        """The body, for a foreign middleware: bounded by its usual size, and still forwarded afterwards."""
        return await self[EXCHANGE].body.read(self._client_max_size)

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Look at an answer that aiohttp is about to write.

        Drops what aiohttp says about itself (``Server: Python/3.11 aiohttp/…``), and stops a layer that writes to the
        client by itself before its first byte is out.
        """
        if EXCHANGE in self and MAY_WRITE not in self:
            writer = cast("StreamWriter", self.writer)
            writer.chunked, writer.length = False, None  # what preparing has set for an answer that is not sent
            raise RuntimeError("a layer writes to the client by itself; return a Relay instead")
        response.headers.popall(hdrs.SERVER, None)

    def send_continue(self) -> None:
        """``100 Continue``, which ``web.Server`` never sends: just before the body is first read."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class _Sent(web.StreamResponse):
    """What aiohttp is told of an answer that is out already: only whether the connection may serve again."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp's
        """Nothing is left to prepare."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


_KEEP, _CLOSE = _Sent(keep_alive=True), _Sent(keep_alive=False)


class Edge:
    """One listener's handler.

    ``generation`` is asked once per request, so that an exchange keeps the one that it began with.
    ``observers`` see the outcome of every exchange, after its own callbacks.
    """

    def __init__(
        self,
        listener: str,
        services: Services,
        generation: Callable[[], Generation],
        *,
        secure: bool,
        observers: Sequence[DoneCallback] = (),
    ) -> None:
        self._listener = listener
        self._services = services
        self._generation = generation
        self._secure = secure
        self._observers = observers
        self._running: dict[Exchange, asyncio.Task[None] | None] = {}
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Exchanges that have begun and not ended."""
        return len(self._running)

    async def drained(self) -> None:
        """Return when no exchange is in flight."""
        await self._idle.wait()

    def cut(self) -> None:
        """End what is still running, honestly: an error event where the stream can carry one, then an unclean close."""
        self._stopping = True
        for task in tuple(self._running.values()):
            if task is not None:
                task.cancel()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request, from its parsed head to its finished exchange."""
        assert isinstance(request, GatewayRequest)  # noqa: S101 - the server's request_factory
        generation = self._generation()
        exchange = self._begin(request, generation)
        sending = Sending(
            request,
            exchange,
            tap_failed=lambda error: self._tap_failed(exchange, error),
            is_stopping=lambda: self._stopping,
        )
        self._running[exchange] = asyncio.current_task()
        self._idle.clear()
        ended = Ended.CLIENT_GONE
        try:
            with generation:
                response = await self._answer(request, exchange, generation)
                self._dress(exchange, response)
                await sending.send(response, self._services.clock.time())
                ended = Ended.COMPLETE
        except Broken as broken:
            ended = Ended.UPSTREAM_BROKEN
            exchange.code = broken.refusal.code
            self._log("answer broke off", exchange, broken.__cause__)
            sending.break_off(broken.refusal)
        except asyncio.CancelledError:
            ended = sending.ended or Ended.CLIENT_GONE
            if self._stopping:
                ended = Ended.FAILED
                sending.break_off(Refusal(503, "gateway_draining", "The gateway is shutting down."))
            raise
        except Exception as error:  # noqa: BLE001 - the rim: whatever we did wrong, the client must not take it for success
            if isinstance(error, ConnectionError) and sending.client_is_gone:
                ended = sending.ended or Ended.CLIENT_GONE
            else:
                ended = Ended.FAILED
                self._services.log.error("exchange failed", request=exchange.id, error=error)
                sending.break_off(Refusal(500, "server_error", "The gateway failed."))
        finally:
            cast("Connection", request.protocol).ended()
            self._finish(exchange, sending, ended)
        return _KEEP if sending.reusable and not self._services.is_draining() else _CLOSE

    def _begin(self, request: GatewayRequest, generation: Generation) -> Exchange:
        clock = self._services.clock
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        waits = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        target = guard.origin_form(request.raw_path)
        client, secure = caller(
            peer[0] if isinstance(peer, tuple) else "",
            secure=self._secure,
            headers=request.headers,
            trusted=generation.trusted_proxies,
        )
        exchange = Exchange(
            id=ulid(clock.time()),
            listener=self._listener,
            method=request.method,
            target=target,
            path="",
            client=client,
            secure=secure,
            dialect=for_request(target, request.headers),
            body=RequestBody(
                request.content,
                declared=request.content_length,
                limit=0,  # the route says
                on_first_read=request.send_continue if waits else None,
            ),
            started=clock.monotonic(),
        )
        for observer in self._observers:
            exchange.on_done(observer)
        request[EXCHANGE] = exchange
        cast("Connection", request.protocol).began(exchange.body)
        return exchange

    async def _answer(self, request: GatewayRequest, exchange: Exchange, generation: Generation) -> web.StreamResponse:
        try:
            route = self._admit(request, exchange, generation)
        except Refusal as refusal:
            await tell_exposed(self._services, exchange, (("url", key) for key in keys_in(exchange.target)))
            response = generation.rim.refuse(exchange, refusal, "edge")
            response.headers.update(DEFAULT_HEADERS_OVER_TLS if exchange.secure else DEFAULT_HEADERS)
            return response
        return await route.handler(request)

    def _admit(self, request: GatewayRequest, exchange: Exchange, generation: Generation) -> Route:
        """Find the one route of a well-formed request. Raises the Refusal of any other."""
        exchange.path = guard.check(request, exchange.target, generation.limits.max_header_bytes)
        guard.check_hops(request, self._services.pseudonym)
        if len(self._running) > generation.limits.max_in_flight:
            raise Refusal(503, "overloaded", "The gateway is at its limit.", headers={"retry-after": "1"})
        route = generation.route(self._listener, exchange.path)
        if route is None:
            raise Refusal(404, "unknown_url", "Nothing is routed at this path.")
        if not route.encoded_slashes:
            guard.check_slashes(exchange.path)
        exchange.route, exchange.prefix = route.name, route.prefix
        exchange.body.limit = route.max_body
        if (exchange.body.declared or 0) > route.max_body:
            raise Refusal(
                413, "request_too_large", f"The request body is larger than {route.max_body} bytes.", close=True
            )
        return route

    def _dress(self, exchange: Exchange, response: web.StreamResponse) -> None:
        """Add what every answer carries, whoever made it."""
        exchange.first_byte = self._services.clock.monotonic()
        response.headers["x-request-id"] = exchange.id
        if self._services.is_draining():
            response.force_close()

    def _finish(self, exchange: Exchange, sending: Sending, ended: Ended) -> None:
        """The exchange's one end: closers first, then whoever asked to know."""
        services = self._services
        exchange.close(lambda error: self._log("closer failed", exchange, error))
        now = services.clock.monotonic()
        outcome = Outcome(
            ended=ended,
            status=sending.status or CLIENT_CLOSED_REQUEST,
            code=exchange.code,
            layer=exchange.layer,
            bytes_in=exchange.body.received,
            bytes_out=sending.bytes_out,
            duration_s=now - exchange.started,
            first_byte_s=None if exchange.first_byte is None else exchange.first_byte - exchange.started,
            usage=exchange.usage,
        )
        exchange.finish(outcome, lambda error: self._log("on_done failed", exchange, error))
        del self._running[exchange]
        if not self._running:
            self._idle.set()

    def _tap_failed(self, exchange: Exchange, error: Exception) -> None:
        self._services.metrics.count("taps_detached", route=exchange.route or "")
        self._log("tap failed and was detached", exchange, error)

    def _log(self, event: str, exchange: Exchange, error: BaseException | None) -> None:
        cause = describe(error) if error is not None else None
        self._services.log.warning(event, request=exchange.id, route=exchange.route, cause=cause)
