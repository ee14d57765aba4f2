"""The layer ``security_headers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from pydantic import ValidationError

if TYPE_CHECKING:
    from gateway.contract import Handler
    from tests.plugins.conftest import World

ECHO = "gateway.testing:Echo"
SEED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
    "Content-Security-Policy": "default-src 'self'",
}
HSTS = "Strict-Transport-Security"


@web.middleware
async def own_policy(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A layer that knows its page."""
    response = await handler(request)
    response.headers["content-security-policy"] = "default-src 'none'"
    return response


async def test_the_five_defaults_over_tls(world: World) -> None:
    """Over TLS every answer carries the five headers of the security document, once each."""
    async with world.serve("security_headers", ECHO, secure=True) as get:
        answer = await get()
    assert [answer.headers.getall(name) for name in SEED] == [[value] for value in SEED.values()]
    assert answer.headers.getall(HSTS) == ["max-age=31536000"]


async def test_no_hsts_over_plain_http(world: World) -> None:
    """RFC 6797, 7.2: over plain HTTP there is no HSTS, even where one is configured; the other four stay."""
    async with world.serve({"security_headers": {"strict_transport_security": "max-age=1"}}, ECHO) as get:
        answer = await get()
    assert HSTS not in answer.headers
    assert set(SEED) <= set(answer.headers)


async def test_refusals_are_dressed_too(world: World) -> None:
    """The refusal of a layer further in carries the headers."""
    async with world.serve("security_headers", "api_key_auth", ECHO) as get:
        answer = await get()
    assert answer.status == 401
    assert set(SEED) <= set(answer.headers)


async def test_each_can_be_changed_or_removed(world: World) -> None:
    """A value replaces a default, null leaves the header out."""
    options = {"frame_options": "SAMEORIGIN", "xss_protection": None, "content_security_policy": None}
    async with world.serve({"security_headers": options}, ECHO) as get:
        answer = await get()
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert not {"X-XSS-Protection", "Content-Security-Policy"} & set(answer.headers)


async def test_an_inner_layer_keeps_its_own(world: World) -> None:
    """A page that sets its own policy keeps it, whatever the case of its name."""
    async with world.serve("security_headers", f"{__name__}:own_policy", ECHO) as get:
        answer = await get()
    assert answer.headers.getall("Content-Security-Policy") == ["default-src 'none'"]


@pytest.mark.parametrize("value", ["", "a\r\nSet-Cookie: x", "a\0", "é", " padded", 5])
def test_a_value_that_is_no_header_does_not_load(plugin_config: Any, value: object) -> None:
    """F56: nothing that would split or break an answer gets past the configuration."""
    with pytest.raises(ValidationError):
        plugin_config("security_headers", {"frame_options": value})
