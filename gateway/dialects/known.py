"""Which dialects there are, and which one a caller speaks."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.dialects.anthropic import Anthropic
from gateway.dialects.openai import OpenAI
from gateway.dialects.passthrough import Passthrough

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.contract import Dialect
    from gateway.dialects.base import ProviderDialect

_OPENAI = OpenAI()
_ANTHROPIC = Anthropic()
DIALECTS: Mapping[str, ProviderDialect] = MappingProxyType(
    {dialect.name: dialect for dialect in (_OPENAI, _ANTHROPIC, Passthrough())}
)
"""What ``upstreams.NAME.dialect`` may say."""

_MESSAGES = "/v1/messages"


def get(name: str) -> ProviderDialect:
    """The dialect of this name. Raises KeyError for one that the configuration should have refused."""
    return DIALECTS[name]


def for_request(path: str, headers: Mapping[str, str]) -> Dialect:
    """The dialect in which whoever asks for ``path`` (with or without a query) understands an error.

    ``headers`` is case-insensitive, or in lower case.
    """
    after = path[len(_MESSAGES) :] if path.startswith(_MESSAGES) else None
    if after is not None and after[:1] in ("", "/", "?"):
        return _ANTHROPIC
    return _ANTHROPIC if "anthropic-version" in headers else _OPENAI
