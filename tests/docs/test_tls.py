"""What ``docs/tls.md`` shows can be written so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.config import load
from gateway.config.document import parse
from gateway.generation import Generation
from gateway.registry import resolve
from gateway.services import unopened

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
EXAMPLE = (ROOT / "config" / "examples" / "tls.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [*BLOCKS, ""], ids=[f"block {n + 1}" for n in range(len(BLOCKS))] + ["the example"])
def test_the_files_shown_are_right(block: str, tmp_path: Path) -> None:
    """Each block, in the place of the example's own words, loads, and its chains can work."""
    changed = parse(EXAMPLE, "tls.yaml").root.plain() | (parse(block, "tls.md").root.plain() if block else {})
    changed["vault"] = {"master_key": "${MASTER_KEY}"}
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(changed), encoding="utf-8")
    config = load(file, resolve, {"MASTER_KEY": "m" * 40})
    assert Generation(config, unopened(config)).routes
