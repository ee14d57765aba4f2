"""What a client sent, what the gateway made of it, and what a second parser reads out of what the upstream received.

Request smuggling lives where two readers disagree. The first reader is the gateway's, llhttp behind a guard. The second
is h11, written by others in another language: it stands at the upstream's socket, and it reads the client's bytes too.
A third one, the canonical form, knows only one way to write a request. F36.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import h11
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.testing import running_gateway
from gateway.testing.upstream import RawUpstream
from gateway.testing.wire import dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.testing import Live
    from gateway.testing.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

YAML = """
listeners:
  public: {{bind: "127.0.0.1:0"}}
store: ${{STORE}}
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
upstreams:
  u: {{base_url: "{origin}", dialect: passthrough, credential: none}}
log_level: error
limits: {{header_timeout: 1s, body_timeout: 250ms, min_body_rate: 1GiB, idle_timeout: 1s}}
routes:
  - name: api
    listener: public
    path: /
    chain: [{{forward: {{upstream: u}}}}]
"""

OF_ONE_HOP = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding",
     b"upgrade", b"via"}
)  # fmt: skip


# ── Readers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Request:
    """A whole request as a reader understood it. ``fields`` are those that go from end to end."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


class H11:
    """h11 at a server's end of a connection. ``requests`` are the whole ones, up to what is no HTTP to it."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**22)
        self._head: h11.Request
        self._body = b""
        self.requests: list[Request] = []
        self.broken = False

    def feed(self, data: bytes) -> int:
        """Read on; how many requests became whole by that."""
        before = len(self.requests)
        self._connection.receive_data(data)
        try:
            while self._next():
                pass
        except h11.RemoteProtocolError:
            self.broken = True
        return len(self.requests) - before

    def _next(self) -> bool:
        connection = self._connection
        match connection.next_event():
            case h11.Request() as head:
                self._head, self._body = head, b""
            case h11.Data(data=data):
                self._body += data
            case h11.EndOfMessage():
                self._keep()
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return False
                connection.start_next_cycle()
            case _:
                return False
        return True

    def _keep(self) -> None:
        head = self._head
        named = b",".join(value for name, value in head.headers if name == b"connection").lower()
        dropped = OF_ONE_HOP | {name.strip() for name in named.split(b",")}
        fields = tuple((name, value) for name, value in head.headers if name not in dropped)
        self.requests.append(Request(head.method, head.target, fields, self._body))


def read(data: bytes) -> list[Request]:
    """The requests that h11 sees in a client's bytes, up to what is no HTTP to it.

    It is given two liberties that RFC 9112 grants and that h11 does not take: empty lines before a request (2.2), and
    several spaces in its first line (3).
    """
    reader, line = H11(), b""
    for place in range(len(data)):
        byte = data[place : place + 1]
        if not line.endswith(b"\n"):
            if (not line and byte in b"\r\n") or (byte == b" " and line.endswith(b" ")):
                continue
            line += byte
        if reader.feed(byte):
            line = b""
    return reader.requests


def origin(request: Request) -> Request:
    """The request without the host in its target (RFC 9112, 3.2.2)."""
    target = re.sub(rb"(?i)^http://[^/?]*", b"", request.target)
    return replace(request, target=target if target.startswith(b"/") else b"/" + target)


class Canonical:
    """Counts requests that are written in the one way in which nobody can read them differently."""

    HEAD = re.compile(
        rb"[A-Z]+ /[!-~]* HTTP/1\.1\r\n"
        rb"(?:[!#$%&'*+\-.^`|~0-9A-Za-z]+: [\t -~\x80-\xff]*\r\n)*"
        rb"\r\n"
    )
    FRAMING = re.compile(rb"(?i)\n(content-length|transfer-encoding)[ \t]*:([^\r\n]*)")
    CHUNK = re.compile(rb"([1-9a-f][0-9a-f]*|0)\r\n")

    def __init__(self) -> None:
        self._data = b""
        self.requests = 0
        self.broken = False

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._data += data
        while not self.broken and b"\r\n\r\n" in self._data:
            head = self.HEAD.match(self._data)
            end = None if head is None else self._end(head.end(), self.FRAMING.findall(head[0]))
            self.broken = self.broken or head is None
            if self.broken or end is None or len(self._data) < end:
                return
            self._data = self._data[end:]
            self.requests += 1

    def _end(self, body: int, framing: list[tuple[bytes, bytes]]) -> int | None:
        """Where a request ends; None while nobody can say."""
        match framing:
            case []:
                return body
            case [(b"Content-Length", length)] if re.fullmatch(rb" (?:0|[1-9][0-9]*)", length):
                return body + int(length)
            case [(b"Transfer-Encoding", b" chunked")]:
                return self._end_of_chunks(body)
        self.broken = True
        return None

    def _end_of_chunks(self, start: int) -> int | None:
        while chunk := self.CHUNK.match(self._data, start):
            size = int(chunk[1], 16)
            start = chunk.end() + size + 2
            if len(self._data) < start:
                return None
            self.broken = self._data[start - 2 : start] != b"\r\n"
            if self.broken or not size:
                return start
        self.broken = b"\r\n" in self._data[start:]
        return None


class Witness:
    """The upstream. It answers what h11 calls a request, and remembers all that it was sent."""

    def __init__(self) -> None:
        self.raw = RawUpstream(self._serve, deadline_s=600)
        self.requests: list[Request] = []
        self.canonical = 0
        self.objections: list[bytes] = []

    async def _serve(self, wire: Wire) -> None:
        reader, canonical = H11(), Canonical()
        while data := await wire.more():
            canonical.feed(data)
            for _ in range(reader.feed(data)):
                self.requests.append(reader.requests[-1])
                await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if reader.broken or canonical.broken or len(reader.requests) != canonical.requests:
                self.objections.append(bytes(wire.received))


@dataclass
class Meeting:
    """What became of a client's bytes: the statuses that it got, and the requests that reached the upstream whole."""

    statuses: list[int]
    arrived: list[Request]


@dataclass
class Stage:
    """A gateway between clients and the witness."""

    live: Live
    witness: Witness

    async def meet(self, sent: bytes, *, patient: bool = True) -> Meeting:
        """Send bytes on a connection of their own, and see it to its end.

        The gateway ends it: after a refusal, after ``Connection: close``, or when it has waited long enough. Who is not
        ``patient`` leaves after the first answer.
        """
        before = len(self.witness.requests)
        async with dial(self.live.url("")) as client:
            client.transport.write(sent)
            await (client.ended() if patient else client.more())
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", client.received)]
        # Whatever was on its way to the upstream has arrived before this has.
        async with dial(self.live.url("")) as client:
            await client.send(LAST)
            assert (await client.message()).status == 200
        *arrived, last = self.witness.requests[before:]
        assert last.target == b"/last"
        assert self.witness.objections == []
        return Meeting([status for status in statuses if status >= 200], arrived)


LAST = b"GET /last HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One for all."""
    witness = Witness()
    folder = tmp_path_factory.mktemp("gateway")
    async with witness.raw as raw, running_gateway(YAML.format(origin=raw.origin), folder) as live:
        yield Stage(live, witness)


# ── By hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def get(target: bytes = b"/one", *lines: bytes, host: bytes = b"g") -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: " + host, *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A request with a body, whose framing the lines say."""
    return b"\r\n".join([b"POST /one HTTP/1.1", b"Host: g", *lines, b"", b""]) + body


def chunked(body: bytes, *lines: bytes) -> bytes:
    """A request whose body is chunked in its own way."""
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


SECOND = b"GET /second HTTP/1.1\r\nHost: g\r\n\r\n"
LARGE = b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"
"""A chunk that is too large to be held: the request is on its way up before the next one is read."""

TOLERATED = {
    "plain": (get(), b""),
    "several spaces": (b"GET   /one   HTTP/1.1\r\nHost: g\r\n\r\n", b""),
    "a leading CRLF": (b"\r\n" + get(), b""),
    "leading CRLFs": (b"\r\n\r\n\r\n" + get(), b""),
    "absolute-form": (get(b"http://other.example/one"), b""),
    "absolute-form in capitals": (get(b"HTTP://OTHER.example:80/one"), b""),
    "HTTP/1.0 that is kept": (b"GET /one HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b""),
    "names in odd case": (b"GET /one HTTP/1.1\r\nhOST: g\r\noRIGIN: a\r\n\r\n", b""),
    "no space after the colon": (b"GET /one HTTP/1.1\r\nHost:g\r\nX-A:b\r\n\r\n", b""),
    "spaces and tabs around values": (get(b"/one", b"X-A: \t b \t "), b""),
    "an empty value": (get(b"/one", b"X-A:"), b""),
    "odd characters in a name": (get(b"/one", b"!#$%&'*+-.^`|~: b"), b""),
    "bytes over 127 in a value": (get(b"/one", b"X-A: \xc3\xa4\xff"), b""),
    "doubled fields": (get(b"/one", b"X-A: a", b"X-A: b", b"x-a: a"), b""),
    "a length": (post(b"Content-Length: 5", body=b"hello"), b"hello"),
    "a length of nothing": (post(b"Content-Length: 0"), b""),
    "a body that looks like a request": (post(b"Content-Length: %d" % len(SECOND), body=SECOND), SECOND),
    "a GET with a body": (b"GET /one HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), b"hello"),
    "chunks in capitals": (post(b"Transfer-Encoding: CHUNKED", body=b"A\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"),
    "chunk sizes with zeros in front": (chunked(b"0005\r\nhello\r\n0000\r\n\r\n"), b"hello"),
    "chunk extensions": (chunked(b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n'), b"hello"),
    "a chunk extension of 100 KB": (chunked(b"5;a=" + b"b" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "a chunk that looks like an end": (chunked(b"7\r\n0\r\n\r\nGE\r\n0\r\n\r\n"), b"0\r\n\r\nGE"),
    "trailers": (chunked(b"5\r\nhello\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n"), b"hello"),
    "a large body in chunks": (chunked(LARGE + b"0\r\n\r\n"), b"x" * 100_000),
    "a Connection that names the framing": (
        post(b"Content-Length: 5", b"Connection: Content-Length, Host", body=b"hello"),
        b"hello",
    ),
    "a Connection that names nothing": (get(b"/one", b"Connection: \x85, \xc3\xa4,, keep-alive"), b""),
    "a Connection that names the coding": (
        chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Connection: Transfer-Encoding"),
        b"hello",
    ),
}


@pytest.mark.parametrize(("sent", "body"), TOLERATED.values(), ids=TOLERATED.keys())
async def test_what_has_one_reading_goes_up_in_one_form(stage: Stage, sent: bytes, body: bytes) -> None:
    """F36: what the parser hides is tolerated: what goes up is framed anew, and what follows is another request."""
    meeting = await stage.meet(sent + SECOND + LAST)
    (as_sent,) = read(sent)
    first, *others = meeting.arrived
    assert first == origin(as_sent)
    assert first.body == body
    # No connection goes on behind chunks: aiohttp's parser takes their last trailer for the next request's header.
    assert others == (
        [] if b"Transfer-Encoding" in sent else [Request(b"GET", name, (), b"") for name in (b"/second", b"/last")]
    )
    assert meeting.statuses == [200] * len(meeting.arrived)


CODINGS_THAT_ARE_NONE = (
    b"", b" ", b" identity", b" gzip, chunked", b" chunked, chunked", b" chunked, identity", b" xchunked",
    b" chunkedx", b" chunked;a=b", b' "chunked"', b" chunked,", b" ,chunked", b"\x0bchunked", b" chunked\x0b",
    b" \x00chunked", b" chun\tked", b" cow", b" chunked\xa0", b" \xffchunked",
)  # fmt: skip

CHUNKS_THAT_ARE_NONE = (
    b"5\nhello\n0\n\n", b"5\r\nhello\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"5_0\r\nhello\r\n0\r\n\r\n",
    b"g\r\nhello\r\n0\r\n\r\n", b"\r\nhello\r\n0\r\n\r\n", b";\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloworld\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\r\n\r\n0\r\n\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"5;\nhello\r\n0\r\n\r\n",
    b"5;a=b\nhello\r\n0\r\n\r\n", b"5\r\n\nhello\r\n0\r\n\r\n", b"5\x00\r\nhello\r\n0\r\n\r\n",
    b"5;a=\x00\r\nhello\r\n0\r\n\r\n", "\N{ARABIC-INDIC DIGIT FIVE}\r\nhello\r\n0\r\n\r\n".encode(),
    b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX-A: b\nX: y\r\n\r\n", b"5\r\nhello\r\n0\r\n X-A: b\r\n\r\n", b"5\r\nhello\r\n0\r\n\rX",
    b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n",
)  # fmt: skip

LINES_THAT_ARE_NONE = (
    b"GET /one", b"GET", b"GET /one HTTP/1.1 HTTP/1.1", b"GET /one HTTP/1.1 ", b" GET /one HTTP/1.1",
    b"GET\t/one\tHTTP/1.1", b"GET /one\x0bHTTP/1.1", b"GET /one HTTP/1.1\x00", b"GET /one http/1.1",
    b"GET /one HTTP/01.1", b"GET /one HTTP/1.10", b"GET /one HTTP/2.0", b"GET /one HTTP/1.2", b"GET /one HTTP/0.9",
    b"GET /one HTTP", b"GET /one HTTPS/1.1", b"GET /a b HTTP/1.1", b"GET /one\x00 HTTP/1.1",
    b"GET /one\xff HTTP/1.1", b"GET /one#f HTTP/1.1", b"GET one HTTP/1.1", b"GET //one HTTP/1.1",
    b"GET /../one HTTP/1.1", b"GET /%2e%2e/one HTTP/1.1", b"GET /a%2fone HTTP/1.1", b"GET /a\\one HTTP/1.1",
    b"GET /%one HTTP/1.1", b"GET ftp://g/one HTTP/1.1", b"GET http:/one HTTP/1.1", b"GET http://g\\@h/one HTTP/1.1",
    b"GET g:80 HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT g:80 HTTP/1.1",
    b"TRACE /one HTTP/1.1", b"get /one HTTP/1.1", b"GE(T /one HTTP/1.1", b"PRI * HTTP/2.0",
    b"GET /one HTTP/1.1\rX-A: b", b"GET /one?a\rb HTTP/1.1", b"GET /one?\xc2\xa0 HTTP/1.1",
)  # fmt: skip

FIELDS_THAT_ARE_NONE = (
    b"X-A : b", b"X A: b", b"X-A", b": b", b" X-A: b", b"X-A: a\x00b", b"X-A: a\rb", b"X-A: b\r", b"X_A: b",
    b"X-A\x00: b", b"X-\xe4: b", b"X-A: a\x0bb", b"X-A: a\x7fb", b"X-A: a\x1bb", b"(X): b",
    b"X-A: b\r\n folded: line", b"X-A: b\r\n\tfolded", b"X-A: b\n\nGET /evil HTTP/1.1", b"Expect: tea",
    b"Authorization: a\r\nAuthorization: b", b"Content-Type: a\r\nContent-Type: b",
)  # fmt: skip

REFUSED = {
    # Two lengths
    "a length and chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and a length": chunked(b"0\r\n\r\n", b"Content-Length: 5"),
    "chunks and a length of nothing": chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Content-Length: 0"),
    "two different lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"),
    "two equal lengths": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "a list of lengths": post(b"Content-Length: 5, 5", body=b"hello"),
    # Lengths that are none
    "a signed length": post(b"Content-Length: +5", body=b"hello"),
    "a negative length": post(b"Content-Length: -5", body=b"hello"),
    "a hexadecimal length": post(b"Content-Length: 0x5", body=b"hello"),
    "a length with a fraction": post(b"Content-Length: 5.0", body=b"hello"),
    "a length with a zero in front": post(b"Content-Length: 05", body=b"hello"),
    "a length with an underscore": post(b"Content-Length: 1_0", body=b"hello"),
    "a length in Arabic digits": post("Content-Length: \N{ARABIC-INDIC DIGIT FIVE}".encode(), body=b"hello"),
    "an empty length": post(b"Content-Length:", body=b"hello"),
    "a length past 64 bits": post(b"Content-Length: 18446744073709551621", body=b"hello"),
    "a length past any": post(b"Content-Length: " + b"9" * 400, body=b"hello"),
    "a space inside a length": post(b"Content-Length: 5 0", body=b"hello"),
    # Transfer codings
    **{
        f"the coding {coding!r}": post(b"Transfer-Encoding:" + coding, body=b"5\r\nhello\r\n0\r\n\r\n")
        for coding in CODINGS_THAT_ARE_NONE
    },
    "two codings": chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "a coding and its doubt": chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: cow"),
    "a coding in a folded line": post(b"Transfer-Encoding:", b" chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "a coding with a space before the colon": post(b"Transfer-Encoding : chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "a coding after a space": post(b" Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "a coding with an underscore": post(
        b"Transfer_Encoding: chunked", b"Content-Length: 15", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "a coding in another's value": post(b"X-A: b\nTransfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "a coding behind a CR": post(b"X-A: b\rTransfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "chunks to HTTP/1.0": chunked(b"5\r\nhello\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    # Chunks
    **{f"the chunks {chunks!r}": chunked(chunks) for chunks in CHUNKS_THAT_ARE_NONE},
    "trailers that would be framing": chunked(
        b"5\r\nhello\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: x\r\n\r\n"
    ),
    "a trailer that would be a host": chunked(b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n"),
    "10k trailers": chunked(b"5\r\nhello\r\n0\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n"),
    "a large chunk, then none": chunked(LARGE + b"zz\r\nhello\r\n0\r\n\r\n"),
    "a large chunk, then a bare LF": chunked(LARGE + b"5\nhello\n0\n\n"),
    "a large chunk that is longer than it says": chunked(LARGE[:-2] + b"yy\r\n0\r\n\r\n"),
    # The request line
    **{f"the line {line!r}": line + b"\r\nHost: g\r\n\r\n" for line in LINES_THAT_ARE_NONE},
    # Hosts
    "no host": b"GET /one HTTP/1.1\r\n\r\n",
    "two hosts": get(b"/one", b"Host: h"),
    "two equal hosts": get(b"/one", b"host: g"),
    "an empty host": get(host=b""),
    "a host with a user": get(host=b"g@h"),
    "a host with a path": get(host=b"g/../h"),
    "a list of hosts": get(host=b"g, h"),
    "a host with a bad port": get(host=b"g:99999"),
    # Fields
    **{f"the field {line!r}": get(b"/one", line) for line in FIELDS_THAT_ARE_NONE},
    "bare LFs": get().replace(b"\r\n", b"\n"),
    "a bare LF behind the request line": get().replace(b"\r\n", b"\n", 1),
    "a bare LF behind the fields": get()[:-4] + b"\n\n",
    "bare CRs": get().replace(b"\r\n", b"\r"),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
async def test_what_two_readers_could_read_differently_is_refused(stage: Stage, sent: bytes) -> None:
    """F36: one refusal and the end of the connection: what stands behind it is never run, and nothing arrived whole."""
    meeting = await stage.meet(sent + SECOND + LAST)
    assert meeting.arrived == []
    assert len(meeting.statuses) == 1
    assert meeting.statuses[0] in {400, 417, 431, 501, 505}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
async def test_pipelining_changes_no_reading(stage: Stage, sent: bytes) -> None:
    """F36: behind a good request it is refused all the same. The good one is served, or refused with it, never half."""
    meeting = await stage.meet(get(b"/zero") + sent + SECOND + LAST)
    assert [request.target for request in meeting.arrived] in ([], [b"/zero"])
    *served, refused = meeting.statuses
    assert served == [200] * len(meeting.arrived)
    assert refused >= 400


UNFINISHED = {
    "a head": get()[:-2],
    "a length": post(b"Content-Length: 50", body=b"hello"),
    "a chunk": chunked(b"50\r\nhello"),
    "a chunk of 16 EiB": chunked(b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "an end of chunks": chunked(b"5\r\nhello\r\n0\r\n"),
    "a large body": chunked(LARGE + b"5\r\nhel"),
    "a large length": post(b"Content-Length: 200000", body=b"x" * 150_000),
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED.keys())
async def test_what_never_ends_never_arrives_whole(stage: Stage, sent: bytes) -> None:
    """F27, F36: the upstream must not take a part for the whole."""
    meeting = await stage.meet(sent, patient=False)
    assert meeting.arrived == []
    assert meeting.statuses in ([], [408])


# ── By the hundred ───────────────────────────────────────────────────────────────────────────────────────────────────

LINES = [b"POST /one HTTP/1.1", b"GET /one HTTP/1.1", b"GET  /one HTTP/1.1", b"PUT http://h/one HTTP/1.1"]

# Pairs of what the fields say of the body, and the body.
SOUND = [
    ([], b""),
    ([], b"\r\n"),
    ([b"Content-Length: 0"], b""),
    ([b"Content-Length: 5"], b"hello"),
    ([b"content-length:5 "], b"hello"),
    ([b"Content-Length: %d" % len(SECOND)], SECOND),
    ([b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding:\tChunked "], b"5;a\r\nhello\r\n0\r\nX-A: b\r\n\r\n"),
    ([b"Transfer-Encoding: chunked"], b"05\r\nhello\r\n00\r\n\r\n"),
]
UNSOUND = [
    ([], b"hello"),
    ([b"Content-Length: 5"], b"hello!"),
    ([b"Content-Length: 8"], b"hello"),
    ([b"Content-Length: 05"], b"hello"),
    ([b"Content-Length: 5, 5"], b"hello"),
    ([b"Content-Length : 5"], b"hello"),
    ([b"Content-Length: 15", b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding: chunked"], b"5\r\nhelloX\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding: chunked"], b"0x5\r\nhello\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding: chunked"], b"5\nhello\n0\n\n"),
    ([b"Transfer-Encoding: identity"], b"hello"),
    ([b"Transfer-Encoding: gzip, chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding\x0b: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
]

ODDITIES = [
    b"Host: h",
    b"X-A: b",
    b"x-a:b\t ",
    b"X-A:",
    b"X-A: b\nContent-Length: 5",
    b"X-A: b\r\n Transfer-Encoding: chunked",
    b"X_A: b",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive, X-A, Content-Length",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Trailer: X-A",
    b"TE: trailers",
]


@st.composite
def assembled(draw: st.DrawFn) -> bytes:
    """One to three requests of good and odd pieces."""
    sent = b""
    for _ in range(draw(st.integers(1, 3))):
        fields, body = draw(st.sampled_from(SOUND * 6 + UNSOUND))
        odd = draw(st.lists(st.sampled_from(ODDITIES), max_size=1))
        end = draw(st.sampled_from([b"\r\n"] * 19 + [b"\n"]))
        sent += end.join([draw(st.sampled_from(LINES)), b"Host: g", *fields, *odd, b"", b""]) + body
    return sent


WHOLE = [sent for sent, _ in TOLERATED.values() if len(sent) < 1000 and b"HTTP/1.0" not in sent]
NOISE = [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b"0", b"5", b";", b"\x0b", b"\x85", b"\xa0", b"a"]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request in which a byte or some were replaced, taken out or put in, then another good one."""
    sent = draw(st.sampled_from(WHOLE))
    place = draw(st.integers(0, len(sent)))
    kept = draw(st.integers(place, min(place + 2, len(sent))))
    return sent[:place] + draw(st.sampled_from(NOISE)) + sent[kept:] + draw(st.sampled_from(WHOLE))


@given(sent=st.one_of(assembled(), damaged()))
@settings(max_examples=400, deadline=None)
async def test_two_readers_never_disagree(stage: Stage, sent: bytes) -> None:
    """F36: whole requests arrive for those that are answered, and for no other; each as h11 reads it in what was sent.

    The first refusal is the last word on a connection.
    """
    meeting = await stage.meet(sent + LAST)
    number = len(meeting.arrived)
    assert meeting.statuses[:number] == [200] * number
    assert all(status >= 400 for status in meeting.statuses[number:])
    assert len(meeting.statuses) <= number + 1
    assert meeting.arrived == [origin(request) for request in read(sent + LAST)[:number]]
