"""Bytes in are bytes out, both ways, seen raw at both sockets.

300 requests and 300 answers are made from a seed: every spelling of a path, a query and a header that must survive,
and every kind of body. What a proxy has to change (framing, Host, Via, credentials, hop-by-hop headers) is listed
here, once; everything else is compared byte for byte.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.worlds.fronts import LEAN_CHAIN, gateway
from tests.worlds.raw_upstream import RawUpstream, answering
from tests.worlds.wire import Wire, dial

if TYPE_CHECKING:
    from tests.worlds.fronts import Front
    from tests.worlds.wire import Message

CASES = 300
WRITTEN_UP = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding"}
"""Headers of a request that are the gateway's to write, towards the provider."""

WRITTEN_DOWN = {b"date", b"connection", b"content-length", b"transfer-encoding", b"x-request-id", b"via"}
"""Headers of an answer that are the gateway's to write, towards the client."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
SEGMENTS = ["chat", "completions", "files", "file-abc123", "a%2Cb", "%41%62c", "~x", "a:b", "@me", "a=b;c", "%E4%BD%A0"]
QUERIES = [
    "", "?", "?a=1", "?a=1&a=2&a", "?after=x%2Cy", "?q=a+b%20c", "?x=%2F%2e%2E", "?a[]=1&a[]=2", "?=&&=",
    "?path=/x/y?z", "?json={%22k%22:[1]}", "?e=%", "?A=%c3%A9", "?b=|^`",
]  # fmt: skip
NAMES = [
    "X-Thing",
    "x-thing",
    "Accept",
    "Accept-Language",
    "OpenAI-Beta",
    "accept-encoding",
    "X-Stainless-Lang",
    "Range",
]
VALUES = ["", "a", "a, b,c", 'quoted "x"', "two  spaces", "tab\there", "gzip;q=0.5, *;q=0", "text/event-stream", "é"]
KINDS = ["none", "length", "chunked", "empty length", "empty chunked"]
DROPPED = [
    [("Connection", "X-Hop, keep-alive"), ("X-Hop", "1")], [("Keep-Alive", "timeout=5")], [("TE", "trailers")],
    [("Proxy-Connection", "x")], [("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1")], [("Cookie", "session=1")],
]  # fmt: skip

STATUSES = [200, 200, 201, 202, 204, 206, 304, 400, 404, 409, 418, 422, 429, 500, 503, 529]
ALLOWED = ["Content-Type", "ETAG", "cache-control", "OpenAI-Version", "x-ratelimit-limit-requests", "Retry-After"]
STRANGERS = ["Set-Cookie", "Server", "Alt-Svc", "OpenAI-Organization", "X-Goog-Api-Key", "Access-Control-Allow-Origin"]


@dataclass(frozen=True, slots=True)
class Question:
    """A generated request: as it is sent, and what of it has to arrive."""

    raw: bytes
    start_line: bytes
    end_to_end: list[tuple[bytes, bytes]]
    payload: bytes
    declared: bytes | None

    @property
    def is_head(self) -> bool:
        """Whether no answer to it has a body."""
        return self.raw.startswith(b"HEAD ")


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated answer: as it is sent, and what of it has to arrive."""

    raw: bytes
    status: int
    allowed: list[tuple[bytes, bytes]]
    payload: bytes
    ends_with_the_connection: bool


Fields = list[tuple[str, str]]


def lines(fields: Fields) -> bytes:
    """Header fields as they are sent."""
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)


def parsed(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Header fields as :attr:`Message.headers` shows them."""
    return [(name.encode(), value.encode()) for name, value in fields]


def respelt(rng: random.Random, name: str) -> str:
    """The same header's name in another mixture of cases."""
    return "".join(rng.choice([char.lower(), char.upper()]) for char in name)


def chunks(rng: random.Random, payload: bytes) -> bytes:
    """The payload in chunks of random sizes, their lengths in either case of hexadecimal."""
    framed = b""
    while payload:
        size = min(len(payload), rng.choice([1, 10, 4_096, 100_000]))
        framed += rng.choice([b"%x", b"%X"]) % size + b"\r\n" + payload[:size] + b"\r\n"
        payload = payload[size:]
    return framed + b"0\r\n\r\n"


def body(rng: random.Random, kind: str) -> tuple[Fields, bytes, bytes]:
    """Framing headers, the body as it is sent, and the payload in it."""
    payload = (
        b"" if kind.startswith(("none", "empty")) else rng.randbytes(rng.choice([1, 2, 17, 1_000, 70_000, 200_000]))
    )
    if kind.endswith("chunked"):
        # Few and small chunks: how it is cut is not what is proved here.
        return [("Transfer-Encoding", "chunked")], chunks(rng, payload[:5_000]), payload[:5_000]
    return [("Content-Length", str(len(payload)))] if kind.endswith("length") else [], payload, payload


def question(rng: random.Random, key: str) -> Question:
    """A request of the seed."""
    method = rng.choice(METHODS)
    path = "/v1/" + "/".join(rng.choices(SEGMENTS, k=rng.randint(1, 4))) + rng.choice(["", "", "/"])
    start_line = f"{method} {path}{rng.choice(QUERIES)} HTTP/1.1"
    kept = [(respelt(rng, rng.choice(NAMES)), rng.choice(VALUES)) for _ in range(rng.randint(0, 8))]
    kept += rng.choice(
        [[], [("content-TYPE", "application/json; charset=utf-8"), ("user-Agent", "OpenAI/Python 3.54")]]
    )
    framing, sent, payload = body(rng, "none" if method in {"GET", "HEAD"} else rng.choice(KINDS))
    dropped = [field for group in rng.sample(DROPPED, 3) for field in group]
    mixed = kept.copy()
    for field in [*framing, *dropped, ("Host", "gateway.example:80"), ("Authorization", f"Bearer {key}")]:
        mixed.insert(rng.randint(0, len(mixed)), field)
    declared = next((value.encode() for name, value in framing if name == "Content-Length"), None)
    raw = f"{start_line}\r\n".encode() + lines(mixed) + b"\r\n" + sent
    return Question(raw, start_line.encode(), parsed(kept), payload, declared)


def reply(rng: random.Random, *, to_head: bool) -> Reply:
    """An answer of the seed."""
    status = rng.choice(STATUSES)
    allowed = [(respelt(rng, name), rng.choice(VALUES[:-1])) for name in rng.sample(ALLOWED, 3)]
    kind = "none" if to_head or status in {204, 304} else rng.choice([*KINDS[1:], "close"])
    framing, sent, payload = body(rng, kind)
    head = [*allowed, *((name, "x") for name in rng.sample(STRANGERS, 3)), *framing]
    if kind == "close":
        head.append(("Connection", "close"))
    raw = f"HTTP/1.1 {status} Said So\r\n".encode() + lines(head) + b"\r\n" + sent
    return Reply(raw, status, parsed(allowed), payload, kind == "close")


def check_arrived(sent: Question, seen: Message) -> None:
    """The provider saw the client's request: line, end-to-end headers in order and spelling, and payload."""
    assert seen.start_line == sent.start_line
    assert [field for field in seen.headers if field[0].lower() not in WRITTEN_UP] == sent.end_to_end
    assert seen.body == sent.payload
    assert seen.complete
    if sent.declared is not None or not sent.payload:
        assert seen.value(b"content-length") in {sent.declared, b"0" if sent.declared is None else sent.declared}


def check_returned(sent: Reply, seen: Message) -> None:
    """The client saw the provider's answer: status, listed headers, payload, and nothing that is not listed."""
    assert seen.status == sent.status
    assert [field for field in seen.headers if field[0].lower() not in WRITTEN_DOWN] == sent.allowed
    assert seen.body == sent.payload
    assert seen.complete


async def test_300_requests_and_answers_pass_unchanged() -> None:
    """The provider's socket saw what the client sent, and the client's socket saw what the provider sent."""
    rng = random.Random(20261123)  # noqa: S311 - a seed, no secret
    planned: list[Reply] = []
    arrived: list[Message] = []

    async def provider(wire: Wire) -> None:
        while True:
            arrived.append(await wire.message())
            await wire.send(planned[-1].raw)
            if planned[-1].ends_with_the_connection:
                wire.close()

    async with (
        RawUpstream(provider, deadline_s=60) as upstream,
        gateway(upstream.origin, chain=LEAN_CHAIN) as front,
        AsyncExitStack() as clients,
    ):
        client = None
        for number in range(CASES):
            client = client or await clients.enter_async_context(dial(front.origin))
            sent = question(rng, front.key)
            planned.append(reply(rng, to_head=sent.is_head))
            await client.send(sent.raw)
            returned = await client.message(bodyless=sent.is_head)
            assert len(arrived) == number + 1, f"case {number}: {sent.raw[:500]!r} was answered {returned.head!r}"
            check_arrived(sent, arrived[-1])
            check_returned(planned[-1], returned)
            if b"close" in returned.values(b"connection"):
                client = None


async def test_an_answers_header_beyond_ascii_passes_unchanged(front: Front, upstream: RawUpstream) -> None:
    """A header of an answer that is not ASCII reaches the client in the provider's bytes."""
    upstream.script = answering(b"HTTP/1.1 200 OK\r\nETag: \xc3\xa9\r\nContent-Length: 0\r\n\r\n")
    async with dial(front.origin) as client:
        await client.send(f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {front.key}\r\n\r\n".encode())
        assert (await client.message()).value(b"etag") == b"\xc3\xa9"
