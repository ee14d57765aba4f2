"""What is a well-formed request, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway import guard
from gateway.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

HOST = (b"Host", b"gateway:8080")


class Head:
    """A parsed head, as far as the guard looks at it."""

    def __init__(
        self,
        headers: Sequence[tuple[bytes, bytes]] = (HOST,),
        method: str = "POST",
        version: HttpVersion = HttpVersion11,
    ) -> None:
        self.raw_headers = tuple(headers)
        self.method = method
        self.version = version
        self.url = URL("/")
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


def refused(head: Head, target: str = "/v1/models") -> int:
    """The status of the refusal; 0 where there is none."""
    try:
        guard.check(cast_request(head), target, 65536)
    except Refusal as refusal:
        return refusal.status if refusal.close else -1  # who is malformed once is not asked a second time
    return 0


def cast_request(head: Head) -> web.BaseRequest:
    """What the guard takes."""
    return head  # type: ignore[return-value]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/models",
        "/v1/models?",
        "/v1/files/file-abc/content?x=%2C&x=1&y",
        "/v1/a%20b/c~d/e@f:g/h;i=j,k",
        "/v1/.well-known/...",
        "/v1/x?next=//other/../path&u=https://a/b",
    ],
)
def test_paths_that_pass_are_returned_as_they_came(target: str) -> None:
    """Nothing is normalised: the path is the target up to its query, to the letter."""
    assert guard.check(cast_request(Head()), target, 65536) == target.partition("?")[0]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../admin",
        "/v1/..",
        "/v1/./x",
        "/v1/.",
        "//evil/x",
        "/v1//x",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/a%2f..%2Fb",
        "/v1/a%2f.",
        "/v1/a%5Cb",
        "/v1/a%00b",
        "/v1/a%zz",
        "/v1/a%2",
        "/v1/a\\b",
        "/v1/a#b",
        "/v1/a b",
        "/v1/a\tb",
        "/v1/ä",
        "/v1/a\x7fb",
        "/v1/x?a b",
        "/v1/x?a#b",
        "*",
        "gateway:8080",
        "v1/models",
        "",
    ],
)
def test_paths_that_two_readers_may_read_differently_are_refused(target: str) -> None:
    """What a proxy behind us might normalise into another path is no path here."""
    assert refused(Head(), target) == 400


@given(st.text(alphabet=st.sampled_from("/.%2eEfF5cC0\\#?ab;"), max_size=24))
def test_no_path_that_passes_names_another_when_decoded(tail: str) -> None:
    """Decoding an accepted path once, twice or three times never makes a dot segment or a separator appear."""
    target = f"/v1/{tail}"
    try:
        path = guard.check(cast_request(Head()), target, 65536)
        guard.check_slashes(path)
    except Refusal:
        return
    decoded = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/").replace("%5c", "\\")
    assert decoded == path
    assert not {"", ".", ".."} & set(path.rstrip("/").split("/")[1:])


@pytest.mark.parametrize(
    "target", ["http://gateway/v1/models?x=%2C", "HTTPS://other:1/v1/models?x=%2C", "/v1/models?x=%2C"]
)
def test_absolute_form_is_understood(target: str) -> None:
    """RFC 9112, 3.2.2: the origin is dropped, the rest stays to the letter."""
    assert guard.origin_form(target) == "/v1/models?x=%2C"


def test_absolute_form_without_a_path() -> None:
    """An origin alone names the root."""
    assert guard.origin_form("http://gateway") == "/"
    assert guard.origin_form("http://gateway?x") == "/?x"


@pytest.mark.parametrize("place", ["/v1/models?key={}", "/v1/models?a=b&k={}&c", "/v1/models?key=%67w_{}"])
def test_a_key_in_the_url_is_refused(place: str) -> None:
    """F72: a URL is written into every log on the way; a key there is refused, however it is escaped."""
    key = "A1" * 16
    assert refused(Head(), place.format(key if "%67" in place else f"gw_{key}")) == 400


@pytest.mark.parametrize("value", [b"gateway", b"gateway:8080", b"127.0.0.1:1", b"[::1]:8080", b"a-b.c_d~e:65535"])
def test_hosts_that_pass(value: bytes) -> None:
    """RFC 9112, 3.2."""
    assert refused(Head([(b"Host", value)])) == 0


@pytest.mark.parametrize(
    "value",
    [
        b"", b"g:99999", b"user@g", b"g/x", b"a,b", b"a b", b"g:", b"g:8x", "ä".encode(), b"[::1", b"g#x", b"g?x",
        b"localhost:4000/#@attacker",
    ],
)  # fmt: skip
def test_hosts_that_are_no_hosts(value: bytes) -> None:
    """A Host that a reader could take for something else is refused before anybody builds a URL from it."""
    assert refused(Head([(b"Host", value)])) == 400


def test_host_is_needed_once() -> None:
    """RFC 9112, 3.2: HTTP/1.1 has exactly one; HTTP/1.0 may have none."""
    assert refused(Head([])) == 400
    assert refused(Head([HOST, HOST])) == 400
    assert refused(Head([], version=HttpVersion10)) == 0


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"0200")],
        [(b"Content-Length", b"+2")],
        [(b"Content-Length", b"2, 2")],
        [(b"Content-Length", b"")],
        [(b"Content-Length", "٣".encode())],
        [(b"Content-Length", b"2"), (b"Content-Length", b"2")],
        [(b"Transfer-Encoding", b"")],
        [(b"Transfer-Encoding", b"identity")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"2")],
        [(b"Content-Length", b"2"), (b"Transfer-Encoding", b"")],
        [(b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"X_Forwarded_For", b"1.2.3.4")],
        [(b"content_length", b"2")],
    ],
)
def test_heads_that_two_readers_may_read_differently_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """F36: framing and identity have one reading or none."""
    assert refused(Head([HOST, *headers])) == 400


def test_chunked_from_http_1_0_is_refused() -> None:
    """RFC 9112, 6.1: HTTP/1.0 has no transfer codings."""
    assert refused(Head([HOST, (b"Transfer-Encoding", b"chunked")], version=HttpVersion10)) == 400


@pytest.mark.parametrize("version", [HttpVersion(0, 9), HttpVersion(1, 2), HttpVersion(2, 0)])
def test_other_versions(version: HttpVersion) -> None:
    """RFC 9110, 15.6.6."""
    assert refused(Head(version=version)) == 505


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "FOO", "PROPFIND"])
def test_other_methods(method: str) -> None:
    """F39: RFC 9110, 9.1: methods are case-sensitive, unknown ones are 501; TRACE would echo credentials."""
    assert refused(Head(method=method)) == 501


def test_other_expectations() -> None:
    """RFC 9110, 10.1.1."""
    assert refused(Head([HOST, (b"Expect", b"100-continue")])) == 0
    assert refused(Head([HOST, (b"Expect", b"tea")])) == 417


def test_all_headers_together_are_bounded() -> None:
    """F34: a hundred lines that are each within bounds are not within bounds."""
    assert refused(Head([HOST, *[(b"X-%d" % n, b"v" * 8000) for n in range(100)]])) == 431
