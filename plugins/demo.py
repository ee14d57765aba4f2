"""A model that answers offline, so that a new gateway can be tried before any provider's key is in it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from hashlib import shake_128
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from gateway.contract import EXCHANGE, Duration, Plugin, PluginConfig, Refusal, Relay, Usage, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from gateway.contract import Exchange, Handler, Question, Services

MODEL = "demo"
_LOOKED_AT_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 200
_MAX_INPUTS = 64
_MAX_DIMENSIONS = 256
_ENDPOINTS = ("/chat/completions", "/responses", "/embeddings")

_GREETING = (
    "Hello! I am the gateway's demo model. I run offline and understand nothing, "
    "but your request has come through every layer of the chain."
)


class Demo(Plugin):
    """Answers chat completions, responses and embeddings for the model ``demo``; lets everything else pass.

    Only a POST of at most 64 KiB to one of the three, with ``"demo"`` among its bytes, is parsed. Answers look like
    OpenAI's to the last field, streamed or not; a word counts as a token.
    """

    class Config(PluginConfig):
        """How it speaks."""

        pace: Duration = 0.02
        """The pause after each streamed event."""

    def __init__(self, config: Config, services: Services) -> None:
        self._pace_s = config.pace
        self._clock = services.clock

    async def explain(self, question: Question) -> Verdict:
        """Whether the demo model is asked."""
        if question.model == MODEL and _is_known(question.method, question.path):
            return Verdict("answers it, offline", answers=True)
        return Verdict(f"is not asked for the model {MODEL}")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer for the demo model."""
        exchange = request[EXCHANGE]
        body = await _asked(exchange)
        if body is None:
            return await handler(request)
        created = int(self._clock.time())
        if exchange.path.endswith("/embeddings"):
            return web.json_response(_embeddings(exchange, body))
        talk: _Chat | _Response = (_Chat if exchange.path.endswith("/chat/completions") else _Response)(
            exchange, body, created
        )
        if body.get("stream") is not True:
            return web.json_response(talk.whole())
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        return Relay(headers=headers, body=self._paced(talk.events()))

    async def _paced(self, events: Iterable[bytes]) -> AsyncIterator[bytes]:
        for number, event in enumerate(events):
            if number:  # before, not after: the end of the answer must not lag behind its last event
                await asyncio.sleep(self._pace_s)
            yield event


def _is_known(method: str, path: str) -> bool:
    return method == hdrs.METH_POST and path.endswith(_ENDPOINTS)


async def _asked(exchange: Exchange) -> dict[str, Any] | None:
    """The body, if it is one for us. What is no good JSON is the provider's to refuse."""
    if not _is_known(exchange.method, exchange.path):
        return None
    raw = await exchange.body.peek(_LOOKED_AT_BYTES)
    if raw is None or b'"demo"' not in raw:
        return None
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) and body.get("model") == MODEL else None


class _Talk:
    """What both kinds of conversation have in common: the words, and their count."""

    def __init__(self, exchange: Exchange, messages: object, created: int) -> None:
        said = list(_texts(messages))
        last = said[-1][:_SHOWN_CHARACTERS] if said else ""
        self.text = f"{_GREETING} You said: {last}" if last else _GREETING
        self.words = re.findall(r"\S+\s*", self.text)
        self.read = sum(len(text.split()) for text in said)
        self.written = len(self.words)
        self.id = exchange.id
        self.created = created
        exchange.usage = Usage(input=self.read, output=self.written, model=MODEL)


class _Chat(_Talk):
    """``/chat/completions``."""

    def __init__(self, exchange: Exchange, body: dict[str, Any], created: int) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "bad_request", "`messages` must be a list with at least one message.", param="messages")
        super().__init__(exchange, messages, created)
        options = body.get("stream_options")
        self._with_usage = isinstance(options, dict) and options.get("include_usage") is True

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self._object("chat.completion", [choice]) | {"usage": self._usage()}

    def events(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        for word in self.words:
            yield self._chunk({"content": word})
        yield self._chunk({}, "stop")
        if self._with_usage:
            yield _event(self._object("chat.completion.chunk", []) | {"usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = self._object("chat.completion.chunk", [choice])
        return _event(chunk | {"usage": None} if self._with_usage else chunk)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.id}",
            "object": kind,
            "created": self.created,
            "model": MODEL,
            "service_tier": "default",
            "system_fingerprint": "fp_demo",
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.read,
            "completion_tokens": self.written,
            "total_tokens": self.read + self.written,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


class _Response(_Talk):
    """``/responses``."""

    def __init__(self, exchange: Exchange, body: dict[str, Any], created: int) -> None:
        super().__init__(exchange, body.get("input"), created)
        self._number = -1

    def whole(self) -> dict[str, Any]:
        return self._object("completed", [self._message("completed", [self._part(self.text)])]) | {
            "usage": {
                "input_tokens": self.read,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": self.written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.read + self.written,
            }
        }

    def events(self) -> Iterator[bytes]:
        begun = self._object("in_progress", [])
        place = {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}
        done = self._part(self.text)
        yield self._next("created", response=begun)
        yield self._next("in_progress", response=begun)
        yield self._next("output_item.added", output_index=0, item=self._message("in_progress", []))
        yield self._next("content_part.added", **place, part=self._part(""))
        for word in self.words:
            yield self._next("output_text.delta", **place, delta=word, logprobs=[])
        yield self._next("output_text.done", **place, text=self.text, logprobs=[])
        yield self._next("content_part.done", **place, part=done)
        yield self._next("output_item.done", output_index=0, item=self._message("completed", [done]))
        yield self._next("completed", response=self.whole())

    def _next(self, kind: str, **fields: object) -> bytes:
        self._number += 1
        name = f"response.{kind}"
        return f"event: {name}\n".encode() + _event({"type": name, "sequence_number": self._number, **fields})

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": f"msg_{self.id}", "type": "message", "status": status}
        return head | {"role": "assistant", "content": content}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _object(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": MODEL,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
        }


def _embeddings(exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
    """``/embeddings``: vectors that are the same for the same input, and mean nothing."""
    given: Any = body.get("input")
    inputs: list[Any] = given if isinstance(given, list) and not _is_tokens(given) else [given]
    dimensions = _MAX_DIMENSIONS if body.get("dimensions") is None else body["dimensions"]
    if not 1 <= len(inputs) <= _MAX_INPUTS or not all(isinstance(one, str) or _is_tokens(one) for one in inputs):
        message = f"`input` must be one to {_MAX_INPUTS} texts or lists of tokens."
        raise Refusal(400, "bad_request", message, param="input")
    if type(dimensions) is not int or not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise Refusal(400, "bad_request", f"`dimensions` is 1 to {_MAX_DIMENSIONS} here.", param="dimensions")
    as_base64 = body.get("encoding_format") == "base64"
    read = sum(len(one.split()) if isinstance(one, str) else len(one) for one in inputs)
    exchange.usage = Usage(input=read, model=MODEL)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(one, dimensions, as_base64=as_base64)}
        for index, one in enumerate(inputs)
    ]
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": read, "total_tokens": read}}


def _vector(given: object, dimensions: int, *, as_base64: bool) -> str | list[float]:
    noise = shake_128(json.dumps(given).encode()).digest(dimensions)
    numbers = [byte / 127.5 - 1 for byte in noise]
    length = sum(number * number for number in numbers) ** 0.5
    packed = struct.pack(f"<{dimensions}f", *(number / length for number in numbers))
    return base64.b64encode(packed).decode() if as_base64 else list(struct.unpack(f"<{dimensions}f", packed))


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _texts(given: object) -> Iterator[str]:
    """Every text in messages or input items, however their content is written."""
    if isinstance(given, str):
        yield given
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict):
            yield from _texts(item.get("content"))
            if isinstance(item.get("text"), str):
                yield item["text"]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
