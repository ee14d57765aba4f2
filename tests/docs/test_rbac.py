"""``docs/rbac.md`` shows what loads, and its table says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.plugins.rbac import Rbac

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "rbac.md").read_text(encoding="utf-8")


def layer(options: dict[str, Any]) -> Rbac:
    """The layer with this configuration."""
    return Rbac(Rbac.Config.model_validate(options), None)  # type: ignore[arg-type]


def test_the_example_loads() -> None:
    """The layer in the first block, whose chain stands in the order that works."""
    block = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    chain = YAML(typ="safe").load(block[1])
    options = chain[-1]["rbac"]
    assert layer(options).uncovered(["POST /v1/embeddings", "GET /healthz"]) == ["GET /healthz"]


@pytest.mark.parametrize(
    ("line", "allowed", "refused"),
    [
        ("POST /v1/chat/completions", ["POST /v1/chat/completions"], ["GET /v1/chat/completions"]),
        ("GET /v1/models", ["GET /v1/models", "HEAD /v1/models"], ["OPTIONS /v1/models"]),
        ("* /v1/embeddings", ["POST /v1/embeddings", "DELETE /v1/embeddings"], []),
        ("GET /v1/files/*", ["GET /v1/files/f1"], ["GET /v1/files", "GET /v1/files/f1/content"]),
        ("GET /v1/files/**", ["GET /v1/files/f1/content"], ["GET /v1/files"]),
    ],
)
def test_the_table(line: str, allowed: list[str], refused: list[str]) -> None:
    """Each row stands in the table, and is right."""
    assert f"| `{line}` |" in TEXT
    assert layer({"allow": {"member": [line]}}).uncovered(allowed + refused) == refused


def test_the_template_leaves_out_what_providers_store() -> None:
    """The matrix of gateway.yaml names nothing that lies behind the shared key."""
    (route,) = [route for route in YAML(typ="safe").load(ROOT / "gateway.yaml")["routes"] if route["name"] == "api"]
    (options,) = [entry["rbac"] for entry in route["chain"] if isinstance(entry, dict) and "rbac" in entry]
    stored = [
        "files",
        "batches",
        "responses/r",
        "conversations",
        "assistants",
        "threads",
        "vector_stores",
        "uploads",
        "containers",
        "evals",
    ]
    calls = [f"{method} /v1/{path}" for path in stored for method in ("GET", "POST", "DELETE")]
    calls += [
        "GET /v1/chat/completions",
        "GET /v1/chat/completions/c",
        "DELETE /v1/models/m",
        "GET /v1/organization/users",
    ]
    assert layer(options).uncovered(calls) == calls
