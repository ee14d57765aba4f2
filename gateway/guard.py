"""Is this one well-formed request? Answered before routing, from the head as it was received.

aiohttp's parser is lenient where a proxy must not be: two readers who disagree about where a request ends, which host
it is for or which path it names are what request smuggling and authorisation bypasses are made of. What is refused here
is refused with 400 (501 and 505 where RFC 9110 says so) and the connection is closed.

The path that passes is the path that is authorised and the path that is sent: it is never normalised, only refused.
Nothing here knows of routes or layers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, HttpVersion11, hdrs

from gateway.contract.services import PRODUCT
from gateway.errors import Refusal
from gateway.security.exposure import keys_in

if TYPE_CHECKING:
    from aiohttp import web

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# RFC 9112, 3.2: uri-host [":" port]. Userinfo, paths, commas and non-ASCII have no place in it.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_MAX_PORT = 65535

# RFC 3986, 3.3 and 3.4: the characters of a path and of a query, where clients also leave some bare that should be
# escaped. Controls, space, `#` and non-ASCII are in neither.
_TARGET = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@%/?\[\]{}|^\"`<>\\]*)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%2e|%5c|%00", re.IGNORECASE)
_SLASH_ESCAPE = re.compile(r"%2f", re.IGNORECASE)
_DOT_SEGMENT = re.compile(r"/\.{1,2}(?:/|$)")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

# What `forward` has written into Via: one for each gateway that the request has passed (contract.Services.pseudonym).
_GATEWAY = re.compile(re.escape(PRODUCT) + r"[0-9a-f]{8}\b", re.IGNORECASE)
MAX_GATEWAYS = 10
"""How many gateways a request may have passed. Nobody builds more of them in a row; a loop does."""

# Each of these decides something, so two of them are two requests in one.
_SINGULAR = frozenset({b"authorization", b"host", b"content-length", b"content-type", b"transfer-encoding", b"expect"})


def origin_form(raw_target: str) -> str:
    """The target as ``/path?query``: absolute-form, which a server must accept (RFC 9112, 3.2.2), loses its origin."""
    if raw_target.startswith("/"):
        return raw_target
    match = _ABSOLUTE.match(raw_target)
    if match is None:
        return raw_target
    rest = raw_target[match.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def check(request: web.BaseRequest, target: str, max_header_bytes: int) -> str:
    """The path of a well-formed request. Raises the Refusal of a malformed one.

    ``max_header_bytes`` bounds all header lines together; aiohttp bounds each line alone.
    """
    _check_line(request)
    path = check_target(target)
    _check_headers(request, max_header_bytes)
    return path


def check_hops(request: web.BaseRequest, pseudonym: str) -> None:
    """Raise the Refusal of a request that this very gateway has sent, or that has passed too many of its kind.

    RFC 9110, 7.6: "An intermediary MUST NOT forward a message to itself unless it is protected from an infinite request
    loop."
    """
    if hdrs.VIA not in request.headers:
        return
    passed = [name.lower() for via in request.headers.getall(hdrs.VIA) for name in _GATEWAY.findall(via)]
    if pseudonym in passed or len(passed) > MAX_GATEWAYS:
        raise Refusal(508, "loop_detected", "The gateway's upstream leads back to the gateway.", close=True)


def _malformed(what: str) -> Refusal:
    return Refusal(400, "bad_request", f"The request is malformed: {what}.", close=True)


def _check_line(request: web.BaseRequest) -> None:
    if request.version not in {HttpVersion10, HttpVersion11}:
        raise Refusal(505, "bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.", close=True)
    check_method(request.method)


def check_method(method: str) -> None:
    """Raise the Refusal of a method that is not known here."""
    if method not in METHODS:
        # RFC 9110, 9.1: methods are case-sensitive; an unknown one is 501, whatever the resource.
        raise Refusal(501, "bad_request", "This method is not known here.", close=True)


def check_target(target: str) -> str:
    """The path of a target in origin form. Raises the Refusal of one that two readers could read differently."""
    if _TARGET.fullmatch(target) is None:
        raise _malformed("its target is not a path")
    path, _, query = target.partition("?")
    if "//" in path or _DOT_SEGMENT.search(_SLASH_ESCAPE.sub("/", path) if "%" in path else path):
        raise _malformed("its path has empty or dot segments")
    if "%" in path and _BAD_ESCAPE.search(path):
        raise _malformed("its path has an escape that hides a separator")
    if query and any(keys_in(query)):
        # A key in a URL is in every access log on the way; the edge tells the operator.
        raise _malformed("a key does not belong into the URL; send it as `Authorization: Bearer`")
    return path


def check_slashes(path: str) -> None:
    """Raise the Refusal of a path with ``%2F`` in it, which some readers decode into a separator.

    Apart from the other checks because a route may allow it (``encoded_slashes``): some upstreams' ids need it. It
    never changes which route or which permission a path meets: both go by the segments as they were sent.
    """
    if "%" in path and _SLASH_ESCAPE.search(path):
        raise _malformed("its path has an escaped slash")


def _check_headers(request: web.BaseRequest, max_header_bytes: int) -> None:
    size = 0
    seen: set[bytes] = set()
    for name, value in request.raw_headers:
        size += len(name) + len(value) + 4
        lower = name.lower()
        if b"_" in name:
            # `X_Forwarded_For` is `X-Forwarded-For` to whatever speaks CGI behind us.
            raise _malformed("a header's name has an underscore")
        if lower in _SINGULAR:
            if lower in seen:
                raise _malformed(f"it has two {lower.decode()} headers")
            seen.add(lower)
            _CHECKS.get(lower, _nothing)(value.decode("latin-1"))
    if size > max_header_bytes:
        raise Refusal(431, "request_too_large", f"The headers are larger than {max_header_bytes} bytes.", close=True)
    if b"host" not in seen and request.version != HttpVersion10:
        raise _malformed("it has no Host header")
    if b"transfer-encoding" in seen and (b"content-length" in seen or request.version == HttpVersion10):
        # RFC 9112, 6.1: either is an attack or a fault.
        raise _malformed("its framing is ambiguous")


def _nothing(_: str) -> None:
    """Let any value pass."""


def _check_host(value: str) -> None:
    match = _HOST.fullmatch(value)
    if match is None or (match[1] is not None and int(match[1]) > _MAX_PORT):
        raise _malformed("its Host header is not a host")


def _check_length(value: str) -> None:
    # RFC 9110, 8.6 allows leading zeros; readers that take them for octal exist, clients that send them do not.
    if not (value.isascii() and value.isdigit()) or (len(value) > 1 and value.startswith("0")):
        raise _malformed("its Content-Length is not a plain number")


def _check_coding(value: str) -> None:
    if value.lower() != "chunked":
        raise _malformed("its Transfer-Encoding is not chunked")


def _check_expect(value: str) -> None:
    if value.lower() != "100-continue":
        raise Refusal(417, "bad_request", "Only `Expect: 100-continue` is understood.", close=True)


_CHECKS = {
    b"host": _check_host,
    b"content-length": _check_length,
    b"transfer-encoding": _check_coding,
    b"expect": _check_expect,
}
