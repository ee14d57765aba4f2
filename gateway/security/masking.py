"""Keeping secrets out of whatever is written: logs, errors, answers that a provider sent.

Two nets, because each has holes that the other closes:

* by *value*: what was registered is masked wherever it stands, in clear or as a URL, a JSON string or base 64 would
  write it. It needs no guess at what a secret looks like, and finds a provider's key in the provider's own error.
* by *shape*: what looks like a key, a token or a Bearer credential is masked though nobody registered it, such as a
  client's key in a malformed request.

A value that two calls share between them, half each, is found by neither: mask whole lines and whole bodies.
"""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.contract import Secret

MASK = "***"
MIN_VALUE_LENGTH = 8

# No branch can be entered twice for the same text, and none gives back what it took (`++`): linear on any input.
_SHAPES = re.compile(
    r"(gw_)[A-Za-z0-9]{32}"
    r"|(\b(?i:bearer)(?:\s|%20){1,8})[^\s\"',;]{8,}+"
    r"|(?<![\w-])(eyJ)[\w-]{5,}+\.[\w-]{5,}+\.[\w-]*+"
    r"|(?<![\w-])(sk-)[\w-]{20,}+"
)
_BASE64 = "[A-Za-z0-9+/_-]"
_PERCENT = re.compile("%[0-9A-F]{2}")


@dataclass(frozen=True, slots=True)
class _Form:
    """One way in which a value may be written. ``partial``: its edges share their base 64 digits with neighbours."""

    text: str = field(repr=False)
    partial: bool = False

    def mask(self, text: str) -> str:
        if not self.partial:
            return text.replace(self.text, MASK)
        return re.sub(f"{_BASE64}{{0,3}}{re.escape(self.text)}{_BASE64}{{0,3}}={{0,2}}", MASK, text)


class Masker:
    """Knows the secrets that are live in this process, and masks them in any text.

    It keeps the ``max_values`` that were registered last; what the forgotten ones look like is still masked by shape.
    One substring search per form is all that a text without secrets costs. ``register`` and ``mask`` may be called
    from different threads.
    """

    def __init__(self, *, max_values: int = 512) -> None:
        self._max_values = max_values
        self._values: OrderedDict[str, tuple[_Form, ...]] = OrderedDict()
        self._forms: tuple[_Form, ...] = ()

    def __repr__(self) -> str:
        return f"Masker({len(self._values)} values)"

    def register(self, *secrets: Secret) -> None:
        """Mask these values from now on.

        One under 8 characters is not kept: it would mask ordinary words and give itself away by that.
        """
        for secret in secrets:
            value = secret.reveal()
            if len(value) >= MIN_VALUE_LENGTH:
                self._values[value] = self._values.get(value) or tuple(_forms(value))
                self._values.move_to_end(value)
        while len(self._values) > self._max_values:
            self._values.popitem(last=False)
        forms = {form for forms in self._values.values() for form in forms}
        # Longest first: a value that lies inside another must not leave the other's ends standing.
        self._forms = tuple(sorted(forms, key=lambda form: -len(form.text)))

    def mask(self, text: str) -> str:
        """``text`` with every secret replaced by ``***``."""
        for form in self._forms:
            if form.text in text:
                text = form.mask(text)
        return _SHAPES.sub(_keep_prefix, text) if _may_hold_a_shape(text) else text

    def mask_bytes(self, data: bytes) -> bytes:
        """The same for bytes, which need not be valid UTF-8; what is not secret keeps every bit."""
        return self.mask(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _may_hold_a_shape(text: str) -> bool:
    """Whether the expression is worth its time: it tries four branches at every character, this is a fast scan."""
    return "gw_" in text or "eyJ" in text or "sk-" in text or "bearer" in text.lower()


def _keep_prefix(match: re.Match[str]) -> str:
    """What says the kind of secret stays: ``Bearer ***``."""
    return (match[1] or match[2] or match[3] or match[4]) + MASK


def _forms(value: str) -> Iterator[_Form]:
    """The ways in which ``value`` may stand in a text."""
    for percent in (
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
    ):
        yield _Form(percent)
        yield _Form(_PERCENT.sub(lambda match: match[0].lower(), percent))
    escaped = json.dumps(value)[1:-1]
    for text in (value, escaped, json.dumps(value, ensure_ascii=False)[1:-1], escaped.replace("/", "\\/")):
        yield _Form(text)
    for shift in range(3):
        digits = _inner_digits(value.encode("utf-8", "replace"), shift)
        yield _Form(digits, partial=True)
        yield _Form(digits.replace("+", "-").replace("/", "_"), partial=True)


def _inner_digits(data: bytes, shift: int) -> str:
    """The base 64 digits that ``data`` has whatever stands around it, when ``shift`` bytes of a group precede it."""
    digits = base64.b64encode(b"\0" * shift + data).decode()
    first = -(-8 * shift // 6)
    last = 8 * (shift + len(data)) // 6
    return digits[first:last]
