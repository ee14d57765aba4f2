"""Planted secrets are found nowhere: not in logs at DEBUG, answers, metrics, store files, `repr`, or upstream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import gzip
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

from click.testing import CliRunner

from gateway.cli import main
from tests.worlds.fronts import FULL_CHAIN, gateway
from tests.worlds.raw_upstream import RawUpstream, answering
from tests.worlds.wire import PeerGone, Wire, dial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.worlds.fronts import Front

WINDOW = 12
"""Characters in a row of a secret that count as the secret: more than the four that are shown to tell keys apart."""

CARELESS = '{use: "tests.e2e.foreign_layers:tells_everything"}'


def leaks(secrets: Mapping[str, str], seen: Mapping[str, bytes]) -> list[str]:
    """Which secret is where: plain, in base64, escaped, or a piece of it."""
    return [
        f"{name} in {place}"
        for name, secret in secrets.items()
        for place, data in seen.items()
        if any(form in data for form in forms(secret))
    ]


def forms(secret: str) -> Iterator[bytes]:
    """What a leaked secret may look like. A fixed prefix alone (`gw_`, `sk-openai-`) is no secret."""
    yield base64.b64encode(secret.encode())
    yield quote(secret, safe="").encode()
    yield secret[::-1].encode()
    random_part = secret.rpartition("-")[2].removeprefix("gw_")
    for start in range(len(random_part) - WINDOW + 1):
        yield random_part[start : start + WINDOW].encode()


def http(status: str, body: bytes, *fields: bytes) -> bytes:
    """An answer of the provider."""
    lines = [b"HTTP/1.1 " + status.encode(), *fields, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def betrayals(key: bytes) -> list[bytes]:
    """Answers of a provider that quotes the key it was given, in every place that it has."""
    words = b'{"error": {"message": "bad key ' + key + b'", "code": "x"}}'
    return [
        http("400 Bad Request", words, b"Content-Type: application/json"),
        http("400 Bad Request", gzip.compress(words), b"Content-Type: application/json", b"Content-Encoding: gzip"),
        http("401 Unauthorized", words, b"WWW-Authenticate: Bearer realm=" + key),
        http("403 Forbidden", words, b"X-Request-Id: " + key),
        http("429 Too Many Requests", b"{}", b"Retry-After: " + key, b"X-RateLimit-Key: " + key),
        http("500 " + key.decode(), words, b"OpenAI-Version: " + key),
        http("307 Temporary Redirect", b"", b"Location: https://elsewhere.example/?key=" + key),
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + key[:5] + b"\r\n"
        + b"%x\r\n" % (len(key) - 5) + key[5:] + b"\r\n0\r\n\r\n",
        key + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + key + b"\0: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + key + b"\r\n\r\n",
    ]  # fmt: skip


def carelessness(key: str) -> list[bytes]:
    """Requests of a client that sends its key where it does not belong, or that fail with the key in them."""
    good = f"Authorization: Bearer {key}"
    return [
        "\r\n".join([*lines, "", ""]).encode("latin-1")
        for lines in [
            ["POST /v1/boom HTTP/1.1", "Host: g", good, f"Cookie: key={key}", "Content-Length: 0"],
            ["GET /v1/boom HTTP/1.1", "Host: g", good, f"X-Other: {key}"],
            [f"GET /v1/models?key={key} HTTP/1.1", "Host: g", good],
            [f"GET /v1/models?api_key={key[:20]} HTTP/1.1", "Host: g", good],
            [f"GET /v1/{key} HTTP/1.1", "Host: g", good],
            [f"GET /nowhere/{key} HTTP/1.1", "Host: g"],
            [f"GET http://{key}@g/v1/models HTTP/1.1", "Host: g", good],
            ["GET /v1/models HTTP/1.1", f"Host: {key}@g", good],
            ["GET /v1/models HTTP/1.1", "Host: g", f"Authorization: Bearer {key}\0"],
            ["GET /v1/models HTTP/1.1", "Host: g", f"Authorization: Bearer {key}x"],
            ["GET /v1/models HTTP/1.1", "Host: g", f"Authorization: Basic {key}"],
            ["GET /v1/models HTTP/1.1", "Host: g", f"x-api-key: {key}", f"api-key: {key[::-1]}"],
            ["GET /v1/models HTTP/1.1", "Host: g", f"{key}: 1"],
            [f"{key} /v1/models HTTP/1.1", "Host: g"],
            [f"GET /v1/models {key}", "Host: g"],
            ["POST /v1/chat/completions HTTP/1.1", "Host: g", good, "Transfer-Encoding: " + key],
            ["POST /v1/chat/completions HTTP/1.1", "Host: g", good, f"Content-Length: {key}"],
            ["POST /v1/chat/completions HTTP/1.1", "Host: g", good, f"Expect: {key}", "Content-Length: 1"],
            ["OPTIONS /v1/models HTTP/1.1", "Host: g", f"Origin: https://{key}", "Access-Control-Request-Method: GET"],
        ]
    ] + [
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n{good}\r\nContent-Type: application/json\r\n"
        f'Content-Length: {len(key) + 15}\r\n\r\n{{"model": NaN, {key}'.encode()
    ]  # fmt: skip


async def tell(front: Front, request: bytes) -> bytes:
    """All that a client hears to its bytes."""
    async with dial(front.origin, deadline_s=5) as client:
        await client.send(request)
        with contextlib.suppress(PeerGone):
            await client.message()
        return bytes(client.received)


async def fetch(origin: str, path: str) -> bytes:
    """What the admin listener says."""
    async with dial(origin) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        await client.message()
        return bytes(client.received)


def shown_objects() -> bytes:
    """`repr` and `str` of every live object of the gateway's own classes."""
    own = [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("gateway.")]
    assert len(own) > 50
    return "\n".join(f"{thing!r} {thing}" for thing in own).encode(errors="replace")


def files(folder: Path) -> dict[str, bytes]:
    """Every file that the gateway wrote, store and log among them; not what the operator wrote."""
    found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in {"gateway.yaml", ".env"}}


async def test_a_running_gateway_shows_no_secret() -> None:
    """Whatever clients and providers do with keys, none is in an answer, the log, the metrics or a file.

    F72, F73, F74.
    """
    answers: Iterator[bytes] = iter([])

    async def betray(wire: Wire) -> None:
        while True:
            await wire.message()
            await wire.send(next(answers, http("200 OK", b"{}")))

    async with (
        RawUpstream(betray) as upstream,
        gateway(upstream.origin, chain=[*FULL_CHAIN[:-1], CARELESS, FULL_CHAIN[-1]]) as front,
    ):
        seen = {}
        for number, request in enumerate(carelessness(front.key)):
            seen[f"the answer to {request[:40]!r} ({number})"] = await tell(front, request)
        good = f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {front.key}\r\n\r\n".encode()
        for betrayal in betrayals(front.provider_key.encode()):
            answers = iter([betrayal])
            seen[f"the answer after {betrayal[:40]!r}"] = await tell(front, good)
        mark = uuid4().hex
        await tell(front, good.replace(b"models", mark.encode()))
        while mark not in front.output:  # noqa: ASYNC110 - a thread writes it, off the hot path
            await asyncio.sleep(0.01)
        for path in ("/metrics", "/healthz", "/readyz"):
            seen[path] = await fetch(front.admin, path)
        seen |= files(front.folder)
        assert b"boom" in seen["output"]
        assert "gateway.db" in seen
        assert not leaks(front.secrets, seen)


async def test_no_credential_of_a_client_goes_upstream(front: Front, upstream: RawUpstream) -> None:
    """Every slot that may hold a key is emptied, also where another one has authenticated the request. F72."""
    upstream.script = answering(http("200 OK", b"{}"))
    slots = ["x-api-key: KEY", "api-key: KEY", "x-goog-api-key: KEY", "Cookie: key=KEY", "Proxy-Authorization: KEY"]
    for slot in slots:
        fields = f"Host: g\r\nAuthorization: Bearer {front.key}\r\n{slot.replace('KEY', front.key)}\r\n\r\n"
        assert b" 200 " in await tell(front, b"GET /v1/models HTTP/1.1\r\n" + fields.encode())
    sent_up = b"".join(bytes(wire.received) for wire in upstream.connections)
    assert sent_up.count(front.provider_key.encode()) == len(slots)
    assert not leaks({"client key": front.key}, {"a request upstream": sent_up})


async def test_no_object_shows_a_secret() -> None:
    """The `repr` of no live object of the gateway holds a secret: a debugger's or a crash reporter's look is safe."""
    async with gateway("http://127.0.0.1:9") as front:
        await tell(front, f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {front.key}\r\n\r\n".encode())
        assert not leaks(front.secrets, {"an object": shown_objects()})


def test_the_command_shows_no_secret(served: Front) -> None:
    """What the verbs print, a refused start included, and what they write holds no secret that was made before."""

    def printed(*verb: str, **environment: str) -> bytes:
        file = str(served.folder / "gateway.yaml")
        return CliRunner(env=environment).invoke(main, [*verb, "-c", file]).output_bytes

    verbs = [["check"], ["key", "list", "--json"], ["provider-key", "list", "--json"], ["user", "list", "--json"]]
    seen = {" ".join(verb): printed(*verb) for verb in verbs}
    seen["a wrong master key"] = printed("serve", GATEWAY_MASTER_KEY="wrong" + served.secrets["master key"][::-1])
    assert b"master key" in seen["a wrong master key"]
    assert all(seen.values())
    assert not leaks(served.secrets, seen | files(served.folder))
