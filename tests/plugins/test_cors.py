"""The layer ``cors``, as browsers use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from pydantic import ValidationError

if TYPE_CHECKING:
    from gateway.contract import Handler
    from tests.plugins.conftest import World

ECHO = "gateway.testing:Echo"
PAGE = "https://llm-gateway.com"
OPEN = {"origins": [PAGE], "credentials": True}
ALLOW = "Access-Control-Allow-Origin"
PREFLIGHT = (("Origin", PAGE), ("Access-Control-Request-Method", "POST"))


@web.middleware
async def opinionated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An inner layer, or an upstream, with a CORS opinion of its own."""
    response = await handler(request)
    response.headers[ALLOW] = "*"
    response.headers["Access-Control-Allow-Private-Network"] = "true"
    response.headers["Vary"] = "Accept-Encoding"
    return response


async def test_an_allowed_page_may_read(world: World) -> None:
    """The exact origin is named, credentials are allowed where configured, our own headers may be read."""
    async with world.serve({"cors": OPEN}, ECHO) as get:
        headers = (await get("GET", "/x", ("Origin", PAGE))).headers
    assert (headers[ALLOW], headers["Access-Control-Allow-Credentials"]) == (PAGE, "true")
    assert "x-request-id" in headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", PAGE + ".evil.example", "http://llm-gateway.com", PAGE + "/", PAGE + ":443", ""],
)
async def test_no_other_origin_may_read(world: World, origin: str) -> None:
    """Only the exact origin counts; the request itself is answered all the same."""
    async with world.serve({"cors": OPEN}, ECHO) as get:
        answer = await get("GET", "/x", ("Origin", origin))
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_closed_by_default(world: World) -> None:
    """Without origins nobody may read, and a preflight grants nothing."""
    async with world.serve("cors", ECHO) as get:
        answers = [await get("GET", "/x", ("Origin", PAGE)), await get("OPTIONS", "/x", *PREFLIGHT)]
    assert not [name for answer in answers for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("headers", [(), (("Origin", PAGE),), (("Origin", "https://evil.example"),), PREFLIGHT])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_every_answer_varies_by_origin(world: World, method: str, headers: tuple[tuple[str, str], ...]) -> None:
    """A cache never shows one origin's answer to another, whoever asked first."""
    async with world.serve({"cors": OPEN}, ECHO) as get:
        answer = await get(method, "/x", *headers)
    assert "Origin" in ", ".join(answer.headers.getall("Vary")).split(", ")


async def test_a_preflight_ends_here(world: World) -> None:
    """A preflight carries no key: it is answered before the authentication, and echoes what it asked for."""
    async with world.serve({"cors": OPEN}, "api_key_auth", ECHO) as get:
        asked = ("Access-Control-Request-Headers", "authorization, x-stainless-lang")
        answer = await get("OPTIONS", "/x", *PREFLIGHT, asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers[ALLOW] == PAGE
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-lang"
    assert answer.headers["Access-Control-Max-Age"] == "600"


async def test_listed_methods_and_headers_are_told(world: World) -> None:
    """Where methods and headers are listed, a preflight is told the lists and nothing is echoed."""
    options = {**OPEN, "methods": ["GET", "POST"], "headers": ["authorization"], "max_age": "1h"}
    async with world.serve({"cors": options}, ECHO) as get:
        asked = ("Access-Control-Request-Headers", "x-evil")
        answer = await get("OPTIONS", "/x", PREFLIGHT[0], ("Access-Control-Request-Method", "DELETE"), asked)
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
    assert answer.headers["Access-Control-Max-Age"] == "3600"


async def test_what_is_no_name_is_not_echoed(world: World) -> None:
    """Of what a preflight asks for only names come back."""
    async with world.serve({"cors": OPEN}, ECHO) as get:
        asked = ("Access-Control-Request-Headers", "x-good,<script>, a b,, x-fine")
        answer = await get("OPTIONS", "/x", *PREFLIGHT, asked)
    assert answer.headers["Access-Control-Allow-Headers"] == "x-good, x-fine"


async def test_options_that_are_no_preflight_pass(world: World) -> None:
    """OPTIONS without the question of a preflight is a request like any other."""
    async with world.serve({"cors": OPEN}, ECHO) as get:
        answer = await get("OPTIONS", "/x", ("Origin", PAGE))
    assert answer.json["method"] == "OPTIONS"


async def test_refusals_can_be_read_by_the_page(world: World) -> None:
    """An allowed page sees why it was refused, instead of a network error."""
    async with world.serve({"cors": OPEN}, "api_key_auth", ECHO) as get:
        answer = await get("POST", "/x", ("Origin", PAGE))
    assert (answer.status, answer.headers[ALLOW]) == (401, PAGE)


@pytest.mark.parametrize(("origin", "allowed"), [(PAGE, [PAGE]), ("https://evil.example", [])])
async def test_the_upstreams_opinion_is_dropped(world: World, origin: str, allowed: list[str]) -> None:
    """CORS headers from further in never reach a browser; its Vary does."""
    async with world.serve({"cors": OPEN}, f"{__name__}:opinionated", ECHO) as get:
        answer = await get("GET", "/x", ("Origin", origin))
    assert answer.headers.getall(ALLOW, []) == allowed
    assert "Access-Control-Allow-Private-Network" not in answer.headers
    assert answer.headers.getall("Vary") == ["Accept-Encoding", "Origin"]


async def test_credentials_only_where_configured(world: World) -> None:
    """Without ``credentials`` a page may not call with cookies."""
    async with world.serve({"cors": {"origins": [PAGE]}}, ECHO) as get:
        answers = [await get("GET", "/x", ("Origin", PAGE)), await get("OPTIONS", "/x", *PREFLIGHT)]
    assert [answer.headers[ALLOW] for answer in answers] == [PAGE, PAGE]
    assert not [answer for answer in answers if "Access-Control-Allow-Credentials" in answer.headers]


@pytest.mark.parametrize(
    "options",
    [
        {"origins": ["*"]},
        {"origins": ["null"]},
        {"origins": [PAGE + "/"]},
        {"origins": ["https://*.example.com"]},
        {"origins": ["HTTPS://EXAMPLE.COM"]},
        {"origins": ["llm-gateway.com"]},
        {"headers": ["a b"]},
        {"methods": ["*"]},
        {"orgins": [PAGE]},
    ],
)
def test_what_would_never_match_does_not_load(plugin_config: Any, options: dict[str, Any]) -> None:
    """An origin that no browser sends, or that means everybody, is an error of the file and not a silent surprise."""
    with pytest.raises(ValidationError):
        plugin_config("cors", options)
