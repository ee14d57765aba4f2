"""The chain of ``gateway.yaml``, which a newcomer runs, keeps what every layer keeps: all of the layers together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ruamel.yaml import YAML

from gateway.testing import LayerConformance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.testing import Entry


def default_chain() -> list[Entry]:
    """It up to ``forward``, with limits that no test reaches."""
    document = YAML(typ="safe").load(Path(__file__).parents[1] / "gateway.yaml")
    chain: list[Entry]
    *chain, last = next(route["chain"] for route in document["routes"] if route["name"] == "api")
    assert "forward" in last
    for entry in chain:
        if "rate_limit" in entry:
            entry["rate_limit"]["requests"] = "1000000/min"
    return chain


class TestDefaultChain(LayerConformance):
    """Called by a page that may, with a key that works."""

    chain: ClassVar[Sequence[Entry]] = default_chain()
    credential: ClassVar[str] = "bearer"
    fields: ClassVar[Sequence[str]] = ["Origin: https://llm-gateway.com"]
