"""``docs/plugins.md`` is run: what a reader types in works, and the examples keep what every layer keeps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import aiohttp
import pytest

from gateway.testing import LayerConformance, running_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.testing import Entry

TEXT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python|yaml|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MASTER_KEY = {"GATEWAY_MASTER_KEY": "t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E"}


def files() -> Mapping[str, str]:
    """The files of the page; blocks that name the same file follow each other in it."""
    found: dict[str, str] = defaultdict(str)
    for name, text in BLOCK.findall(TEXT):
        found[name] += text
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which somebody has followed the page."""
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


GATEWAY = ("-c", "from gateway.cli import main; main()")


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the page."""
    environ = {**os.environ, **MASTER_KEY, "PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=environ, capture_output=True, text=True, check=False
    )


def test_the_tutorials_tests_pass(place: Path) -> None:
    """The layer does what it is for, and keeps what every layer keeps."""
    result = run(place, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout
    promises = sum(name.startswith("test_") for name in dir(LayerConformance))
    assert f"{promises + 1} passed" in result.stdout


def test_the_configuration_loads(place: Path) -> None:
    """``gateway check`` accepts it as it is printed, and finds the misspelling that the page speaks of."""
    assert run(place, *GATEWAY, "check").stdout.startswith("ok\n")
    file = place / "gateway.yaml"
    file.write_text(file.read_text().replace("most", "moast"))
    assert "did you mean most?" in run(place, *GATEWAY, "check").stderr


def test_what_is_shipped_is_a_project() -> None:
    """The entry point names the class of the page."""
    ((name, value),) = tomllib.loads(files()["pyproject.toml"])["project"]["entry-points"]["gateway.plugins"].items()
    assert (name, value) == ("token_cap", "token_cap:TokenCap")


@pytest.fixture
def examples(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module of the shorter examples, importable."""
    monkeypatch.syspath_prepend(str(place))
    yield
    sys.modules.pop("examples", None)


CHAIN: list[Entry] = [
    {"use": "examples:no_robots"},
    {"use": "gateway.testing:Identify"},
    {"use": "examples:Team"},
    {"use": "examples:Stamp"},
    {"use": "examples:Meter"},
    {"use": "examples:Ticker"},
]


@pytest.mark.usefixtures("examples")
async def test_the_examples_do_what_they_say(tmp_path: Path) -> None:
    """A stamp on the answer, a middleware that refuses, and a meter that has counted."""
    config = {
        "listeners": {"public": {"bind": "127.0.0.1:0"}},
        "store": "${STORE}",
        "vault": {"master_key": "${GATEWAY_MASTER_KEY}"},
        "log_level": "error",
        "routes": [
            {"name": "r", "listener": "public", "path": "/", "chain": [*CHAIN, {"use": "gateway.testing:Echo"}]}
        ],
    }
    async with running_gateway(json.dumps(config), tmp_path) as live, aiohttp.ClientSession() as client:
        async with client.get(live.url("/x")) as answer:
            assert (answer.status, answer.headers["x-team"]) == (200, "nobody's")
        async with client.get(live.url("/x"), headers={"User-Agent": "a robot"}) as answer:
            assert (answer.status, await answer.text()) == (403, "people only")


@pytest.mark.usefixtures("examples")
class TestExamples(LayerConformance):
    """They keep what every layer keeps, all together."""

    chain: ClassVar[Sequence[Entry]] = CHAIN


@pytest.mark.usefixtures("examples")
def test_the_meter_counts() -> None:
    """What passed, by team."""
    meter = import_module("examples").Meter(None, None)
    meter._count("red", b"123")
    meter._count("red", b"45")
    assert meter.bytes == {"red": 5}
