"""Browsers are told to be careful with every answer of the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from gateway.contract import EXCHANGE, Plugin, PluginConfig, Verdict
from gateway.security.headers import DEFAULT_HEADERS, HSTS

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.contract import Handler, Question, Services


def _field_value(value: str) -> str:
    if not (value.isascii() and value.isprintable() and value.strip() == value and value):
        raise ValueError("a header's value is printable ASCII; write null to leave the header out")
    return value


FieldValue = Annotated[str, AfterValidator(_field_value)] | None


class SecurityHeaders(Plugin):
    """Adds five headers to every answer, refusals included; list it first, so that it sees them all.

    A layer further in that sets one of them knows its page better and keeps its own. An upstream cannot: its headers
    pass by an allow-list. HSTS is sent over TLS only.
    """

    class Config(PluginConfig):
        """The value of each header; null leaves it out."""

        content_type_options: FieldValue = DEFAULT_HEADERS["X-Content-Type-Options"]
        """``X-Content-Type-Options``: no guessing of types."""
        frame_options: FieldValue = DEFAULT_HEADERS["X-Frame-Options"]
        """``X-Frame-Options``: no framing by other pages."""
        xss_protection: FieldValue = DEFAULT_HEADERS["X-XSS-Protection"]
        """``X-XSS-Protection``: for browsers of before 2020."""
        strict_transport_security: FieldValue = HSTS
        """``Strict-Transport-Security``: come back over TLS only. Not sent over plain HTTP (RFC 6797, 7.2)."""
        content_security_policy: FieldValue = DEFAULT_HEADERS["Content-Security-Policy"]
        """``Content-Security-Policy``: where a page's parts may come from."""

    def __init__(self, config: Config, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._always = _present(
            ("X-Content-Type-Options", config.content_type_options),
            ("X-Frame-Options", config.frame_options),
            ("X-XSS-Protection", config.xss_protection),
            ("Content-Security-Policy", config.content_security_policy),
        )
        self._over_tls = (
            *self._always,
            *_present(("Strict-Transport-Security", config.strict_transport_security)),
        )

    async def explain(self, question: Question) -> Verdict:  # noqa: ARG002 - all requests are alike
        """How many headers it adds."""
        return Verdict(f"adds {len(self._over_tls)} headers to the answer")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Dress the answer."""
        response = await handler(request)
        for name, value in self._over_tls if request[EXCHANGE].secure else self._always:
            response.headers.setdefault(name, value)
        return response


def _present(*headers: tuple[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers if value is not None)
