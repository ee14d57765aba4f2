"""Which requests name the model that they use, and where: OpenAI's API, Anthropic's, and those that speak like them.

For whoever must not let a caller use another model than it may. So everything here fails closed: an endpoint that is
not listed may use any model, and whatever two readers could take for two different models is refused. Paths are
compared as they are sent, letter by letter: ``/v1/chat/completion%73`` is not listed, whatever a provider makes of it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from gateway.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Naming(Enum):
    """Where a request names its model."""

    NOWHERE = "nowhere"
    """It uses none, or one that the caller cannot choose."""
    BODY = "body"
    """In ``model``, a key of the JSON or a field of the form."""
    QUERY = "query"
    """In the parameter ``model``."""
    UNKNOWN = "unknown"
    """It may use any: the endpoint is not known here, or its models stand where they are not seen, as in a batch's file
    or in the messages of a WebSocket."""


def naming(method: str, path: str, prefix: str, *, websocket: bool = False) -> Naming:
    """Where a request for ``path``, raw and without its query, on a route at ``prefix``, names its model.

    A known endpoint stands right below the prefix or, with a version between them, or inside of it: behind a route at
    ``/azure``, ``/azure/v1/embeddings`` is known, ``/azure/deployments/x/embeddings`` is not.
    """
    method = "GET" if method in _READING else method
    for endpoints in _ENDPOINTS.get(method, ()):
        match = endpoints.paths.fullmatch(path)
        if match is not None and prefix.startswith(match["before"]):
            return endpoints.name_it
    return Naming.NOWHERE if method == "GET" and not websocket else Naming.UNKNOWN


class _Endpoints:
    """Paths, ``*`` for one segment, behind anything and maybe a version."""

    def __init__(self, name_it: Naming, *paths: str) -> None:
        self.name_it = name_it
        listed = "|".join(re.escape(path).replace(r"\*", "[^/]+") for path in paths)
        self.paths = re.compile(rf"(?P<before>.*?)(?:/v\d[a-z0-9]*)?/(?:{listed})")


_READING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_ENDPOINTS = {
    "GET": (_Endpoints(Naming.QUERY, "realtime"),),
    "POST": (
        _Endpoints(
            Naming.BODY,
            "assistants",
            "assistants/*",
            "audio/speech",
            "audio/transcriptions",
            "audio/translations",
            "chat/completions",
            "completions",
            "embeddings",
            "fine_tuning/jobs",
            "images/edits",
            "images/generations",
            "images/variations",
            "messages",
            "messages/count_tokens",
            "moderations",
            "rerank",
            "responses",
            "responses/compact",
            "responses/input_tokens",
            "threads/*/runs",
            "threads/runs",
            "videos",
        ),
        _Endpoints(
            Naming.NOWHERE,
            "batches/*/cancel",
            "chat/completions/*",
            "containers",
            "containers/*/files",
            "conversations",
            "conversations/*",
            "conversations/*/items",
            "files",
            "fine_tuning/jobs/*/cancel",
            "fine_tuning/jobs/*/pause",
            "fine_tuning/jobs/*/resume",
            "messages/batches/*/cancel",
            "responses/*/cancel",
            "threads",
            "threads/*",
            "threads/*/messages",
            "threads/*/messages/*",
            "threads/*/runs/*/cancel",
            "threads/*/runs/*/submit_tool_outputs",
            "uploads",
            "uploads/*/cancel",
            "uploads/*/complete",
            "uploads/*/parts",
            "vector_stores",
            "vector_stores/*",
            "vector_stores/*/file_batches",
            "vector_stores/*/files",
            "vector_stores/*/search",
        ),
    ),
}


# ── The names ────────────────────────────────────────────────────────────────────────────────────────────────────────


def named_in_json(body: object) -> tuple[str, ...]:
    """Every model that a body names, ``model`` first.

    The others: the fall-backs in ``models`` (OpenRouter's), and those that tools use (image generation, advisors).
    Raises a 400 Refusal where there is no ``model``, and where the names cannot be told for certain.
    """
    if not isinstance(body, dict):
        raise unnamed()
    # Go's JSON, and some that imitate it, take `Model` for `model`, whichever comes last.
    if any(key not in _KEYS and key.casefold() in _KEYS for key in body):
        raise Refusal(400, "bad_request", "The keys model, models and tools are written in lower case.", param="model")
    return tuple(_name(value) for value in _values(body))


_KEYS = frozenset({"model", "models", "tools"})


def _values(body: dict[str, object]) -> Iterator[object]:
    yield body.get("model")
    fallbacks = body.get("models")
    if fallbacks is not None:
        yield from fallbacks if isinstance(fallbacks, list) else (fallbacks,)
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("model") is not None:
            yield tool["model"]


def named_in_query(query: str) -> tuple[str, ...]:
    """The one model that a query names. Raises a 400 Refusal where there is none, and where there are several."""
    # A few servers still part parameters at `;`: what is one value to some of them is no model to the others.
    pairs = parse_qsl(query.replace(";", "&"), keep_blank_values=True)
    values = [value for name, value in pairs if name.casefold() == "model"]
    if len(values) > 1:
        raise Refusal(400, "bad_request", "The parameter model may be given only once.", param="model")
    return (_name(values[0] if values else None),)


def unnamed() -> Refusal:
    """For a request that must name its model and does not."""
    return Refusal(400, "bad_request", "Name the model: your key may use only some, not a default.", param="model")


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise unnamed()
    return value
