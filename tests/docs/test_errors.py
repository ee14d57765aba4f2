"""``docs/errors.md`` and the code name the same errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.contract import Refusal
from gateway.dialects import get

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'Refusal\(\s*(?:\d+|[a-z_.]+),\s*"(\w+)"')
ROW = re.compile(r"^\| ([\d, ]+) \| `(\w+)` \| (\w+) \| ([\w, ]+) \|", re.MULTILINE)

TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = [
    (statuses.split(", "), code, kind, anthropic.split(", ")) for statuses, code, kind, anthropic in ROW.findall(TEXT)
]


def raised() -> set[str]:
    """Every code that the gateway or a built-in layer refuses with."""
    files = [file for folder in ("gateway", "plugins") for file in (ROOT / folder).rglob("*.py")]
    return {code for file in files for code in RAISED.findall(file.read_text(encoding="utf-8"))}


def test_every_code_is_documented() -> None:
    """No client meets a code that it cannot look up."""
    assert len(raised()) > 15
    assert {code for code in raised() if f"`{code}`" not in TEXT} == set()


@pytest.mark.parametrize(("statuses", "code", "kind", "anthropic"), ROWS, ids=[row[1] for row in ROWS])
def test_the_types_are_the_documented_ones(statuses: list[str], code: str, kind: str, anthropic: list[str]) -> None:
    """In each dialect a refusal has the type that its row says."""
    bodies = [get("anthropic").error_body(Refusal(int(status), code, ""), "1") for status in statuses]
    assert {Refusal(int(status), code, "").type for status in statuses} == {kind}
    assert {json.loads(body)["error"]["type"] for body in bodies} == set(anthropic)


def test_what_is_not_worth_a_retry_is_documented() -> None:
    """The codes that tell SDKs not to retry are those of the section on retries."""
    final = {code for _, code, _, _ in ROWS if "x-should-retry" in Refusal(400, code, "").headers}
    section = TEXT.partition("## Retries")[2].partition("##")[0]
    assert {code for _, code, _, _ in ROWS if f"`{code}`" in section} == final
