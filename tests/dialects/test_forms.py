"""The field ``model`` of a form, found in passing."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import httpx
import pytest
from aiohttp import FormData
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Refusal
from gateway.dialects.forms import MAX_MODEL_BYTES, MAX_PART_HEAD, FormModel

TYPE = "multipart/form-data; boundary=B0undary"
MODEL = b'--B0undary\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-5\r\n'
FILE = (
    b'--B0undary\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: x/y\r\n\r\n\x00\r\n-\r\n'
)
END = b"--B0undary--\r\n"


def part(head: str, content: bytes = b"gpt-5") -> bytes:
    """A part with this head."""
    return b"--B0undary\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def read(*parts: bytes, kind: str = TYPE) -> FormModel:
    """The form after these parts, one by one."""
    form = FormModel(kind)
    for each in parts:
        form.feed(each)
    return form


@given(st.lists(st.integers(1, len(FILE + MODEL + FILE + END) - 1), max_size=8))
def test_however_the_bytes_arrive(cuts: list[int]) -> None:
    """The model is the same in one piece and in many."""
    whole = FILE + MODEL + FILE + END
    places = [0, *sorted(cuts), len(whole)]
    form = read(*(whole[start:end] for start, end in itertools.pairwise(places)))
    assert (form.model, form.satisfied) == ("gpt-5", True)


@given(st.lists(st.integers(1, len(MODEL + FILE + MODEL) - 1), max_size=8))
def test_a_second_model_is_noticed_however_it_arrives(cuts: list[int]) -> None:
    """At its head, so that not even a form without an end gets past."""
    whole = MODEL + FILE + MODEL
    places = [0, *sorted(cuts), len(whole)]
    with pytest.raises(Refusal, match="twice"):
        read(*(whole[start:end] for start, end in itertools.pairwise(places)))


def test_a_large_file_is_not_held() -> None:
    """F35: what is kept of a file while it passes is no longer than a boundary."""
    form = read(MODEL, FILE[:-2])
    for _ in range(64):
        form.feed(b"\r\n--B0undar" * 6400)
    assert len(form._rest) < 64


def test_without_a_model_it_is_satisfied_at_the_end() -> None:
    """Nobody waits for more."""
    form = read(FILE)
    assert not form.satisfied
    form.feed(END)
    assert (form.satisfied, form.model) == (True, None)


@pytest.mark.parametrize("close", [b"--B0undary--", b"--B0undary--\r\n"])
def test_ends(close: bytes) -> None:
    """With a last line end or without."""
    assert read(MODEL, close).model == "gpt-5"


# ── What clients send ────────────────────────────────────────────────────────────────────────────────────────────────


async def aiohttp_form() -> tuple[str, bytes]:
    """As aiohttp writes it."""
    data = FormData()
    data.add_field("file", b"\xff" * 99, filename="ä.wav", content_type="audio/wav")
    data.add_field("model", "gpt-5")
    data.add_field("n", "1")
    payload = data()
    return payload.headers["content-type"], await payload.as_bytes()


def httpx_form() -> tuple[str, bytes]:
    """As httpx, and so the SDKs, write it."""
    request = httpx.Request("POST", "http://x", data={"model": "gpt-5", "n": "1"}, files={"file": ("ä.wav", b"\xff")})
    return request.headers["content-type"], request.read()


DOTNET = (
    'multipart/form-data; boundary="0f-1e"',
    (
        b"--0f-1e\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\n\xff\r\n"
        b"--0f-1e\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\ngpt-5"
        b"\r\n--0f-1e--\r\n"
    ),
)
CURL = (
    "multipart/form-data; boundary=------------------------d744",
    (
        b'--------------------------d744\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-5\r\n'
        b'--------------------------d744\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\xff\r\n--------------------------d744--\r\n"
    ),
)
BROWSER = (
    "multipart/form-data; boundary=----WebKitFormBoundary7MA4",
    (
        b'------WebKitFormBoundary7MA4\r\nContent-Disposition: form-data; name="include[]"\r\n'
        b'\r\nword\r\n------WebKitFormBoundary7MA4\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-5'
        b"\r\n------WebKitFormBoundary7MA4--\r\n"
    ),
)


@pytest.mark.parametrize(
    "sent", ["aiohttp", "httpx", DOTNET, CURL, BROWSER], ids=["aiohttp", "httpx", ".net", "curl", "browser"]
)
def test_what_clients_send_is_read(sent: Any) -> None:
    """Nobody with an ordinary client is refused."""
    kind, body = {"aiohttp": lambda: asyncio.run(aiohttp_form()), "httpx": httpx_form}.get(sent, lambda: sent)()
    assert read(body, kind=kind).model == "gpt-5"


# ── What two parsers could read differently ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/mixed; boundary=B0undary",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; charset=utf-16",
        "multipart/form-data; boundary*=utf-8''a",
        'multipart/form-data; boundary="a\\"b"',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data, boundary=a",
    ],
)
def test_a_content_type_in_doubt(kind: str) -> None:
    """One boundary, and nothing else."""
    with pytest.raises(Refusal, match="content type"):
        FormModel(kind)


@pytest.mark.parametrize(
    "body",
    [
        b"preamble\r\n" + MODEL,
        b"\r\n" + MODEL,
        b"--B0undarz",
        b"--B0undary \r\n",
        b"--B0undary\n",
        MODEL[:-2] + b"--B0undary",
        MODEL[:-2] + b"\n--B0undary",
        MODEL + b"--B0undary-x",
        MODEL + b"--B0undaryX",
        FILE + b"x --B0undary y",
        FILE[:-2] + MODEL,
        FILE[:-2] + b"\n" + MODEL,
        MODEL + END + MODEL,
        MODEL + END + b"x",
        part('Content-Disposition: form-data; name="model"', b""),
        part('Content-Disposition: form-data; name="model"', b"gpt-5\r\nx"),
        part('Content-Disposition: form-data; name="model"', b"gpt-5\x00"),
        part('Content-Disposition: form-data; name="model"', b"\xff"),
        part('Content-Disposition: form-data; name="model"', b"x" * (MAX_MODEL_BYTES + 1)),
        part('Content-Disposition: form-data; name="Model"'),
        part('Content-Disposition: form-data; name=" model"'),
        part('Content-Disposition: form-data; name="mod\\el"'),
        part("Content-Disposition: form-data; name*=utf-8''model"),
        part("Content-Disposition: form-data; name=\"x\"; name*=utf-8''model"),
        part('Content-Disposition: form-data; name="x"; name="model"'),
        part('Content-Disposition: form-data; filename="x"; name="model"'),
        part('Content-Disposition: form-data; name="model"; filename="x"'),
        part('Content-Disposition: attachment; name="model"'),
        part('Content-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="model"'),
        part('Content-Disposition: form-data;\r\n name="model"'),
        part('Content-Disposition: form-data; name="x"\nContent-Disposition: form-data; name="model"'),
        part('Content-Disposition : form-data; name="model"'),
        part('Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64'),
        part('Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16'),
        part('Content-Disposition: form-data; name="x"\r\nX-Other: 1'),
        part('Content-Disposition: form-data; name="_charset_"', b"utf-16"),
        part("Content-Type: text/plain"),
        part('Content-Disposition: form-data; name="' + "x" * MAX_PART_HEAD + '"'),
    ],
)
def test_a_form_in_doubt(body: bytes) -> None:
    """Whatever a lenient parser might read as another model than a strict one is 400, for the parameter `model`."""
    with pytest.raises(Refusal) as caught:
        read(body, END)
    assert (caught.value.status, caught.value.param, caught.value.close) == (400, "model", True)


def test_a_boundary_with_a_tail() -> None:
    """Two hyphens end a form, and nothing else does."""
    with pytest.raises(Refusal):
        read(MODEL, b"--B0undary__")


def test_the_refusal_repeats_nothing() -> None:
    """F74: what a form holds is not in the answer."""
    with pytest.raises(Refusal) as caught:
        read(part('Content-Disposition: form-data; name="Model"', b"sk-secret"))
    assert not re.search("secret|Model", caught.value.message)
