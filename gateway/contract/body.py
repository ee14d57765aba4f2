"""The request's body: read at most once, in bounded memory, and forwarded byte for byte."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from aiohttp import web

from gateway.contract.exchange import EXCHANGE
from gateway.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Scanner(Protocol):
    """Sees a body that is too large to be held as it passes, before any of it can be forwarded."""

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes. Raise a Refusal to let neither them nor anything after them go on."""

    @property
    def satisfied(self) -> bool:
        """Whether what came so far is enough to let the request go on."""


class RequestBody:
    """The body of a request, taken from the socket at most once.

    A layer that must see it calls :meth:`peek`, :meth:`read` or :meth:`scan`; what was read stays here and is what is
    forwarded, byte for byte. Nobody reads: it streams. ``limit`` bounds the whole body in bytes, however it is read.
    The first read sends ``100 Continue`` where the client waits for it, so a refused request never uploads.
    """

    __slots__ = (
        "_complete",
        "_content",
        "_expired",
        "_head",
        "_json",
        "_on_first_read",
        "_reader",
        "_scanners",
        "_waited_s",
        "_waiting_since",
        "declared",
        "limit",
        "received",
    )

    def __init__(
        self,
        content: Any,  # noqa: ANN401 - aiohttp's StreamReader, or its empty stand-in
        *,
        declared: int | None,
        limit: int,
        on_first_read: Callable[[], None] | None = None,
    ) -> None:
        self._content = content
        self._head: list[bytes] = []
        self._json: Any = None
        self._on_first_read = on_first_read
        self._reader: asyncio.Task[Any] | None = None
        self._scanners: list[Scanner] = []
        self._waiting_since = 0.0
        self._waited_s = 0.0
        self._expired = False
        self._complete = declared == 0 or (content.is_eof() and content.total_bytes == 0)
        self.declared = declared
        self.limit = limit
        self.received = 0

    @property
    def empty(self) -> bool:
        """Whether the request has no body at all."""
        return self._complete and not self._head

    async def peek(self, limit: int) -> bytes | None:
        """The whole body if it has at most ``limit`` bytes, else None; nothing is lost either way."""
        if self.declared is not None and self.declared > min(limit, self.limit):
            self._check(self.declared)
            return None
        while not self._complete and self.received <= limit:
            await self._pull()
        if self.received > limit:
            return None
        if len(self._head) > 1:
            self._head = [b"".join(self._head)]
        return self._head[0] if self._head else b""

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises a 413 Refusal past ``limit`` bytes."""
        body = await self.peek(limit)
        if body is None:
            raise _too_large(limit)
        return body

    async def scan(self, scanner: Scanner, limit: int) -> None:
        """Show ``scanner`` the whole body as it passes, and wait until it is satisfied, or the body ends.

        At most ``limit`` bytes (and the chunk that they end in) are read ahead for that; what comes later is shown when
        it is read.
        """
        self._scanners.append(scanner)
        for chunk in self._head:
            scanner.feed(chunk)
        while not (scanner.satisfied or self._complete or self.received >= limit):
            await self._pull()

    async def stream(self) -> AsyncIterator[bytes]:
        """What was read so far, then the rest as it arrives. Once per exchange, after the last peek."""
        head, self._head = self._head, []
        for chunk in head:
            yield chunk
        while not self._complete:
            await self._pull()
            chunks, self._head = self._head, []
            for chunk in chunks:
                yield chunk

    async def _pull(self) -> None:
        if self._on_first_read is not None:
            self._on_first_read()
            self._on_first_read = None
        chunk = await self._next_chunk()
        if not chunk:
            self._complete = True
            return
        self.received += len(chunk)
        self._complete = self._content.at_eof()
        self._check(self.received)
        for scanner in self._scanners:
            scanner.feed(chunk)
        self._head.append(chunk)

    async def _next_chunk(self) -> bytes:
        loop = asyncio.get_running_loop()
        self._reader, self._waiting_since = asyncio.current_task(), loop.time()
        try:
            chunk: bytes = await self._content.readany()
        except web.RequestPayloadError as error:
            # The client's chunked framing broke: nothing that follows on this connection can be trusted.
            raise Refusal(400, "bad_request", "The request body's framing is malformed.", close=True) from error
        except asyncio.CancelledError:
            if not self._expired or self._reader is None or self._reader.uncancel() > 0:
                raise
            raise Refusal(408, "request_timeout", "The request body came too slowly.", close=True) from None
        finally:
            self._reader = None
            self._waited_s += loop.time() - self._waiting_since
        return chunk

    def expire_if_overdue(self, now: float, *, timeout_s: float, min_rate: int) -> None:
        """End the wait for a client that sends too slowly: whoever reads gets a 408 Refusal.

        All waiting together may take ``timeout_s`` seconds and one more for every ``min_rate`` bytes that came, so a
        byte every three seconds buys nothing. Time in which nobody reads does not count. ``now`` is the loop's time.
        """
        if self._reader is None or self._expired:
            return
        if self._waited_s + now - self._waiting_since > timeout_s + self.received / min_rate:
            self._expired = True
            self._reader.cancel()

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise _too_large(self.limit)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "request_too_large", f"The request body is larger than {limit} bytes.", close=True)


_JSON_STRINGS = re.compile(rb'"[^"]*+"')


async def json_body(request: web.Request, *, max_bytes: int = 4 * 2**20, max_tokens: int = 200_000) -> Any:  # noqa: ANN401 - JSON
    """The request's body as JSON, parsed once for all layers. What is forwarded stays the original bytes.

    Bounded before parsing, in bytes and in tokens of JSON: 15 MB of numbers would hold the interpreter for half a
    second (F42). Raises Refusal 413 past ``max_bytes`` and 400 ``invalid_json`` for more than ``max_tokens``, for what
    is not JSON, for NaN, for lone surrogates, for too deep nesting, and for an object that names a key twice: where a
    decision hangs on the body, the provider must not read another one than we did.
    """
    body = request[EXCHANGE].body
    if body._json is None:  # noqa: SLF001 - one concept in two forms
        data = await body.read(max_bytes)
        body._json = (_parse_json(data, max_tokens),)  # noqa: SLF001
    return body._json[0]  # noqa: SLF001


def _parse_json(data: bytes, max_tokens: int) -> Any:  # noqa: ANN401 - JSON
    if _separators(data) > max_tokens and _has_more_values(data, max_tokens):
        raise _bad_json(f"it has more than {max_tokens} values")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise _bad_json("it is not valid UTF-8") from error
    except RecursionError as error:
        raise _bad_json("it is nested too deeply") from error
    except ValueError as error:
        reason = error.args[0] if isinstance(error, _Reason) else "it cannot be parsed"
        raise _bad_json(reason) from error
    return value


def _has_more_values(data: bytes, limit: int) -> bool:
    """Whether it has more values than ``limit`` also when what stands inside strings is not counted."""
    # Without its escapes every quote begins or ends a string. Too many strings are not looked at one by one: a million
    # of them would hold the loop for as long as parsing them.
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    return plain.count(b'"') > 2 * limit or _separators(_JSON_STRINGS.sub(b"", plain)) > limit


class _Reason(ValueError):
    """A ValueError whose words may be shown."""


def _separators(data: bytes) -> int:
    return data.count(b",") + data.count(b"{") + data.count(b"[")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "an object names a key twice"
        raise _Reason(msg)
    return found


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise _Reason(msg)


def _bad_json(reason: str) -> Refusal:
    return Refusal(400, "invalid_json", f"We could not read the JSON body of your request: {reason}.")
