"""A caller whose models are limited gets no other model through, however its upload is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.worlds.fronts import gateway
from tests.worlds.raw_upstream import RawUpstream
from tests.worlds.wire import dial

if TYPE_CHECKING:
    from tests.worlds.fronts import Front
    from tests.worlds.wire import Message, Wire

LIMITED = ("api_key_auth", "rbac: {allow: {member: ['* /v1/**']}, models: {member: [allowed]}}", "vault")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

MODEL = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
FILE = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"\x00" * 2_000_000 + b"\r\n"
END = b"--edge--\r\n"


def upload(front: Front, *parts: bytes, chunked: bool) -> bytes:
    """A form of these parts on its way to a transcription."""
    body = b"".join(parts)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {front.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\n{framing}\r\n\r\n"
    )
    return head.encode() + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_allowed_model_uploads(chunked: bool) -> None:
    """What arrives is what was sent, file and all."""
    arrived: list[Message] = []

    async def answer_once(wire: Wire) -> None:
        arrived.append(await wire.message())
        await wire.send(ANSWER)

    async with (
        RawUpstream(answer_once) as upstream,
        gateway(upstream.origin, chain=LIMITED) as front,
        dial(front.origin) as client,
    ):
        await client.send(upload(front, MODEL % b"allowed", FILE, END, chunked=chunked))
        answer = await client.message()
    (asked,) = arrived
    assert (answer.status, asked.complete) == (200, True)
    assert asked.body == MODEL % b"allowed" + FILE + END


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_second_model_never_arrives(chunked: bool) -> None:
    """F35: a provider that believes the last field gets a request without an end, and not the field."""
    async with (
        RawUpstream() as upstream,
        gateway(upstream.origin, chain=LIMITED) as front,
        dial(front.origin) as client,
    ):
        await client.send(upload(front, MODEL % b"allowed", FILE, MODEL % b"forbidden", END, chunked=chunked))
        answer = await client.message()
        asked = await (await upstream.connection()).message()
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "model")
    assert not asked.complete
    assert b"forbidden" not in asked.body


async def test_a_forbidden_model_is_not_even_connected_for() -> None:
    """The refusal comes before the provider hears of it."""
    async with (
        RawUpstream() as upstream,
        gateway(upstream.origin, chain=LIMITED) as front,
        dial(front.origin) as client,
    ):
        await client.send(upload(front, MODEL % b"forbidden", FILE, END, chunked=False))
        answer = await client.message()
        assert upstream.connections == []
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "model_not_found")
