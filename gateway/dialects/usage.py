"""Reading the tokens that a provider reports.

One reader for all shapes, because no field means two things:

====================  ==============================================  =================================================
                      ``input`` (with what was cached)                ``cached``, ``reasoning``
====================  ==============================================  =================================================
chat, completions,    ``prompt_tokens``                               ``prompt_tokens_details.cached_tokens``,
embeddings                                                            ``completion_tokens_details.reasoning_tokens``
responses, images,    ``input_tokens``                                ``input_tokens_details.cached_tokens``,
audio                                                                 ``output_tokens_details.reasoning_tokens``
Anthropic's messages  ``input_tokens`` + ``cache_read_input_tokens``  ``cache_read_input_tokens``
                      + ``cache_creation_input_tokens``
====================  ==============================================  =================================================

Nothing here raises: what a provider sends is not ours to trust, and an answer is not worse for a strange usage.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from gateway.contract import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

# Parsing holds the loop for about 10 ms per MiB. Of a larger answer only the usage at its very end is read, where
# embeddings and images have it.
_PARSED_BYTES = 2**18
_TAIL_BYTES = 2**12
_USAGE_AT_END = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*\}\s*$')

# More is a provider's error, and would not fit into a database's integers.
_MAX_TOKENS = 2**53


def usage_of(body: bytes) -> Usage | None:
    """The usage in a complete JSON answer."""
    if b'"usage"' not in body:
        return None
    if len(body) <= _PARSED_BYTES:
        return read_usage(parse_object(body))
    found = _USAGE_AT_END.search(body[-_TAIL_BYTES:])
    return read_usage({"usage": parse_object(found[1])}) if found else None


def read_usage(answer: Mapping[str, Any]) -> Usage | None:
    """The usage in a parsed answer, or in the event that has the answer's shape. None where it reports no tokens."""
    usage = _object(answer, "usage")
    cached = _tokens(usage, "cache_read_input_tokens")
    prompt = _tokens(usage, "prompt_tokens") or _tokens(usage, "input_tokens")
    output = _tokens(usage, "completion_tokens") or _tokens(usage, "output_tokens")
    total = prompt + cached + _tokens(usage, "cache_creation_input_tokens")
    if not total and not output:
        return None
    details_in = _object(usage, "prompt_tokens_details") or _object(usage, "input_tokens_details")
    details_out = _object(usage, "completion_tokens_details") or _object(usage, "output_tokens_details")
    model = answer.get("model")
    return Usage(
        input=total,
        output=output,
        cached=cached or _tokens(details_in, "cached_tokens"),
        reasoning=_tokens(details_out, "reasoning_tokens"),
        model=model if isinstance(model, str) else None,
    )


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` is; an empty one for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and 0 < value < _MAX_TOKENS else 0
