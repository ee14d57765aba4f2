"""The field ``model`` of a multipart form, found while the form passes.

A form with a file in it may be larger than memory, so it is scanned and not held. Two parsers of multipart differ in a
hundred ways, and the one who gains from that is a caller who shows us one model and the provider another. So nothing is
understood here but what real clients send (RFC 7578, RFC 2046, 5.1.1: CRLF, one boundary, plain part heads), and all
else is refused: the boundary anywhere but between two parts, a second ``model``, an encoding.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PART_HEAD = 4096
MAX_MODEL_BYTES = 512

_CRLF = b"\r\n"
_TYPE = re.compile(
    r"""multipart/form-data *; *boundary=(?:"(?P<quoted>[\w'()+,./:=?-]{1,70})"|(?P<token>[\w'+.-]{1,70}))""",
    re.ASCII | re.IGNORECASE,
)
_HEADER = re.compile(rb"([A-Za-z-]+): *([^\r\n\0]*)")
_DISPOSITION = re.compile(
    rb"""form-data; *name=(?:"(?P<quoted>[^"\\]*)"|(?P<token>[\w.\[\]-]+))"""
    rb"""(?P<file>(?:; *filename=(?:"[^"]*"|[^\s;"]+))?(?:; *filename\*=[^\s;"]+)?)""",
    re.IGNORECASE,
)
_PLAIN_TEXT = re.compile(rb"text/plain(?:; *charset=utf-8)?", re.IGNORECASE)
_KNOWN_HEADERS = frozenset({b"content-disposition", b"content-length", b"content-transfer-encoding", b"content-type"})
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})


class FormModel:
    """Watches one form. ``model`` is the field's value, once it has come; ``feed`` raises a 400 Refusal for doubts.

    A :class:`~gateway.contract.Scanner`. Holds at most one part's head, or the model, and the length of a boundary.
    """

    def __init__(self, content_type: str) -> None:
        """``content_type`` is the request's header. Raises a 400 Refusal for one that is not plain."""
        match = _TYPE.fullmatch(content_type.strip())
        if match is None:
            raise _doubtful("its content type has more, or less, than a plain boundary")
        self._delimiter = b"--" + (match["quoted"] or match["token"]).encode()
        self._rest = b""
        # A function and not a bound method: no cycle for the garbage collector.
        self._step: Callable[[FormModel], bool] = FormModel._opening
        self._in_model = self._had_model = False
        self.model: str | None = None

    @property
    def satisfied(self) -> bool:
        """Whether the model is known, or will not come."""
        return self.model is not None or self._step == FormModel._epilogue

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes."""
        self._rest += chunk
        while self._step(self):
            pass

    # Each step takes what it understands from the rest and names the next one; False: it needs more bytes.

    def _opening(self) -> bool:
        """The first boundary: there is nothing in front of it."""
        if len(self._rest) < len(self._delimiter):
            if not self._delimiter.startswith(self._rest):
                raise _doubtful("it does not begin with its boundary")
            return False
        if not self._rest.startswith(self._delimiter):
            raise _doubtful("it does not begin with its boundary")
        self._rest = self._rest[len(self._delimiter) :]
        self._step = FormModel._after_boundary
        return True

    def _after_boundary(self) -> bool:
        """The end of the line, or of the form."""
        end, rest = self._rest[:2], self._rest[2:]
        if len(end) < len(_CRLF):
            return False
        if end not in (_CRLF, b"--"):
            raise _doubtful("a boundary stands where none belongs")
        self._rest = rest
        self._step = FormModel._head if end == _CRLF else FormModel._epilogue
        return True

    def _head(self) -> bool:
        """A part's headers, up to the blank line."""
        head, blank, rest = self._rest.partition(_CRLF + _CRLF)
        if len(head) > MAX_PART_HEAD:
            raise _doubtful("a part's head is too long")
        if not blank:
            return False
        self._in_model = _is_model(_headers(head))
        if self._in_model and self._had_model:
            raise _doubtful("it has the field model twice")
        self._had_model = self._had_model or self._in_model
        self._rest = rest
        self._step = FormModel._content
        return True

    def _content(self) -> bool:
        """A part's content, up to the next boundary, which stands in a line of its own."""
        content, boundary, rest = self._rest.partition(self._delimiter)
        if self._in_model and len(content) > MAX_MODEL_BYTES:
            raise _doubtful("the field model is too long")
        if not boundary:
            if not self._in_model:
                self._rest = self._rest[-(len(_CRLF) + len(self._delimiter)) :]
            return False
        if not content.endswith(_CRLF):
            raise _doubtful("a boundary stands where none belongs")
        if self._in_model:
            self.model = _text(content[: -len(_CRLF)])
        self._rest = rest
        self._step = FormModel._after_boundary
        return True

    def _epilogue(self) -> bool:
        """Behind the last boundary stands nothing."""
        if not _CRLF.startswith(self._rest):
            raise _doubtful("something follows its end")
        return False


def _headers(head: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in head.split(_CRLF):
        match = _HEADER.fullmatch(line)
        name = match[1].lower() if match is not None else b""
        if match is None or name in headers or name not in _KNOWN_HEADERS:
            raise _doubtful("a part has a header that is not plain")
        headers[name] = match[2].strip()
    return headers


def _is_model(headers: dict[bytes, bytes]) -> bool:
    """Whether the part is the field ``model``, for this reader and for any other."""
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if disposition is None or headers.get(b"content-transfer-encoding", b"binary").lower() not in _IDENTITY:
        raise _doubtful("a part has a header that is not plain")
    name = disposition["quoted"] or disposition["token"] or b""
    plain = name.strip().lower()
    if plain == b"_charset_":
        raise _doubtful("it changes its character set")
    if plain != b"model":
        return False
    if name != plain or disposition["file"] or not _PLAIN_TEXT.fullmatch(headers.get(b"content-type", b"text/plain")):
        raise _doubtful("its field model is not plain")
    return True


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise _doubtful("its field model is not plain") from error
    if not text.isprintable() or not text:
        raise _doubtful("its field model is not plain")
    return text


def _doubtful(what: str) -> Refusal:
    message = f"Your key may use only some models, and we cannot read the model of this form with certainty: {what}."
    return Refusal(400, "bad_request", message, param="model", close=True)
