"""Errors are worded so that the SDKs raise the right exception, with the right fields."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anthropic
import openai
import pytest
from aiohttp import web

from gateway.contract import Refusal
from gateway.dialects import get
from gateway.dialects.sse import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REFUSALS = {
    "missing_api_key": Refusal(401, "missing_api_key", "No key."),
    "endpoint_not_allowed": Refusal(403, "endpoint_not_allowed", "Not you."),
    "model_not_found": Refusal(404, "model_not_found", "No such model.", param="model"),
    "request_too_large": Refusal(413, "request_too_large", "Too large."),
    "rate_limit_exceeded": Refusal(429, "rate_limit_exceeded", "Slower."),
    "bad_request": Refusal(400, "bad_request", "What?"),
    "gateway_plugin_error": Refusal(500, "gateway_plugin_error", "Broken."),
    "upstream_unreachable": Refusal(502, "upstream_unreachable", "Gone."),
    "auth_unavailable": Refusal(503, "auth_unavailable", "Later."),
    "overloaded": Refusal(503, "overloaded", "Busy."),
    "upstream_timeout": Refusal(504, "upstream_timeout", "Slow."),
}


@pytest.mark.parametrize("dialect", ["openai", "passthrough"])
@pytest.mark.parametrize("code", REFUSALS)
def test_openai_body(dialect: str, code: str) -> None:
    """All four keys are there, ``code`` a string, ``param`` a string or null and never the word None."""
    refusal = REFUSALS[code]
    error = json.loads(get(dialect).error_body(refusal, "01REQ"))["error"]
    assert error == {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": code}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("missing_api_key", "authentication_error"),
        ("endpoint_not_allowed", "permission_error"),
        ("model_not_found", "not_found_error"),
        ("request_too_large", "request_too_large"),
        ("rate_limit_exceeded", "rate_limit_error"),
        ("bad_request", "invalid_request_error"),
        ("gateway_plugin_error", "api_error"),
        ("upstream_unreachable", "api_error"),
        ("auth_unavailable", "api_error"),
        ("overloaded", "overloaded_error"),
        ("upstream_timeout", "timeout_error"),
    ],
)
def test_anthropic_body(code: str, kind: str) -> None:
    """Each refusal has the type that Anthropic documents for its case, and the request's id."""
    body = json.loads(get("anthropic").error_body(REFUSALS[code], "01REQ"))
    error = {"type": kind, "message": REFUSALS[code].message}
    assert body == {"type": "error", "error": error, "request_id": "01REQ"}


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "passthrough"])
def test_an_error_event_is_one_event(dialect: str) -> None:
    """Line ends in a message cannot end the event, nor start another one."""
    refusal = Refusal(502, "upstream_unreachable", "Two\n\ndata: lines\r\n and \u2028 more")
    events = EventStream().feed(get(dialect).error_event(refusal, "01REQ"))
    assert len(events) == 1
    assert json.loads(events[0].data)["error"]["message"] == refusal.message
    assert events[0].name == (b"error" if dialect == "anthropic" else b"")


@asynccontextmanager
async def provider(stream: bytes) -> AsyncIterator[str]:
    """A provider that answers everything with this event stream. Its URL."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=stream, content_type="text/event-stream")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_openai_sdk_raises_on_the_error_event() -> None:
    """The SDK notices an error in mid-stream and shows its message and code."""
    event = get("openai").error_event(REFUSALS["upstream_timeout"], "01REQ")
    async with (
        provider(b'data: {"id": "1", "choices": []}\n\n' + event) as url,
        openai.AsyncOpenAI(api_key="k", base_url=url + "/v1") as client,
    ):
        stream = await client.chat.completions.create(model="m", messages=[], stream=True)
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
    assert (caught.value.message, caught.value.code) == ("Slow.", "upstream_timeout")


async def test_the_anthropic_sdk_raises_on_the_error_event() -> None:
    """The SDK notices an error in mid-stream and shows the body."""
    event = get("anthropic").error_event(REFUSALS["upstream_timeout"], "01REQ")
    async with provider(event) as url, anthropic.AsyncAnthropic(api_key="k", base_url=url) as client:
        stream = await client.messages.create(model="m", max_tokens=1, messages=[], stream=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            [chunk async for chunk in stream]
    assert caught.value.body == json.loads(event.partition(b"data: ")[2])


def test_no_error_names_what_is_not_there() -> None:
    """A refusal's body holds its message and code and nothing of its cause."""
    refusal = Refusal(503, "credential_unavailable", "Not now.")
    refusal.__cause__ = RuntimeError("sk-secret")
    for dialect in ("openai", "anthropic", "passthrough"):
        assert b"secret" not in get(dialect).error_body(refusal, "1") + get(dialect).error_event(refusal, "1")
