"""Whole files: broken ones with all their faults, mutations of a right one, and what loading adds to the values.

The files in ``broken/`` and what is said of them stand side by side. After a change of words, write the words anew with
``UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/config`` and read the difference.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config import load
from gateway.errors import ConfigError
from gateway.registry import resolve as resolve_installed

if TYPE_CHECKING:
    from tests.config.conftest import Load, Mutated, Refused, Resolve

ROOT = Path(__file__).parents[2]
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))


@pytest.fixture
def beside_the_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the broken files are, so that they are named without a path."""
    monkeypatch.chdir(Path(__file__).parent / "broken")


@pytest.mark.usefixtures("beside_the_broken")
@pytest.mark.parametrize("file", BROKEN, ids=[file.stem for file in BROKEN])
def test_a_broken_file_is_refused_with_all_its_faults(file: Path, plugins: Resolve, master_key: str) -> None:
    """F59, F60, F61: every fault at once, each with file, line and path, and without a secret."""
    with pytest.raises(ConfigError) as caught:
        load(Path(file.name), plugins, {"MASTER_KEY": master_key, "EMPTY": ""})
    said = f"{caught.value}\n"
    golden = file.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8")
    assert "canary" not in said
    assert all(re.match(rf"{file.name}:[1-9]\d*( \S+)?: \S", line) for line in said.splitlines())


def test_there_are_twenty_broken_files() -> None:
    """No file of words is left without its cause, and nobody thins them out unseen."""
    assert len(BROKEN) >= 20
    assert {file.with_suffix(".txt") for file in BROKEN} == set(BROKEN[0].parent.glob("*.txt"))


def test_a_right_file_is_typed(loaded: Load, working: str, tmp_path: Path) -> None:
    """What the operator wrote arrives parsed, defaults included, and knows its file."""
    config = loaded(working + "      - limit: {by: ip, requests: 60/min, burst: '${BURST}'}\n", {"BURST": "5"})
    (route,) = config.routes
    assert (config.listeners["public"].host, config.listeners["public"].port) == ("127.0.0.1", 8080)
    assert (config.upstreams["house"].origin, config.upstreams["house"].base_path) == ("https://models.example", "/v1")
    assert (route.name, route.listener, route.paths, route.max_body) == ("api", "public", ("/v1/",), 512 * 2**20)
    assert [(layer.use, layer.plugin.__name__, layer.on_error) for layer in route.chain] == [
        ("plain", "Plain", None),
        ("limit", "Limit", None),
    ]
    assert route.chain[1].config.model_dump(include={"by", "burst"}) == {"by": "ip", "burst": 5}
    assert (config.drain_timeout, config.limits.max_header_bytes, config.replicas) == (600.0, 65536, 1)
    assert config.source == tmp_path / "gateway.yaml"


def test_the_store_lies_beside_the_file(loaded: Load, working: str, tmp_path: Path) -> None:
    """Not below the working directory, where a service manager's choice would make an empty one (F49)."""
    assert loaded(working).store == f"sqlite:///{tmp_path}/data/gateway.db"
    assert loaded(f"{working}store: sqlite:////var/lib/gateway.db\n").store == "sqlite:////var/lib/gateway.db"


def test_later_faults_are_located_too(loaded: Load, working: str, tmp_path: Path) -> None:
    """An order that makes no sense, or a port that is taken, is told with its line long after the file was read."""
    config = loaded(
        working + "      - limit: {by: ip, requests: 60/min,\n         burst: 5}\n      - {use: limit, with:\n"
        "         {by: ip, requests: 60/min}}\n"
    )
    plain, short, long = config.routes[0].chain
    assert [
        str(fault).removeprefix(f"{tmp_path}/gateway.yaml:")
        for fault in (
            plain.fault("a"),
            short.fault("b"),
            short.fault("c", "burst"),
            long.fault("d"),
            long.fault("e", ".requests"),
            config.fault("f", "listeners", "public", "bind"),
        )
    ] == [
        "11 routes[0].chain[0].plain: a",
        "12 routes[0].chain[1].limit: b",
        "13 routes[0].chain[1].limit.burst: c",
        "14 routes[0].chain[2]: d",
        "15 routes[0].chain[2].with.requests: e",
        "2 listeners.public.bind: f",
    ]


def test_what_is_loaded_shows_no_secret(loaded: Load, working: str, master_key: str) -> None:
    """F73: ``repr`` of the configuration and of its layers hides the master key and every layer's Secret."""
    config = loaded(working + "      - strict: {token: '${MASTER_KEY}'}\n")
    assert config.vault.master_key.reveal() == master_key
    assert master_key not in f"{config!r} {config} {config.routes[0].chain!r} {vars(config)}"
    kept = [config._context.document, *(layer.document for layer in config.routes[0].chain)]
    assert all(scalar.value is None for document in kept for scalar in document.root.scalars())


def test_the_system_chooses_different_ports(loaded: Load, working: str) -> None:
    """Two listeners may both ask for any port."""
    listeners = working.replace("8080}", "0}\n  admin: {bind: 127.0.0.1:0}")
    assert len(loaded(listeners).listeners) == 2


def test_names_are_compared_once_resolved(refused: Refused, working: str) -> None:
    """A path and a listener from the environment take part in the comparison like any other."""
    route = "  - {name: two, listener: '${WHERE}', path: '${PATH}', chain: [plain]}\n"
    assert refused(working + route, {"WHERE": "public", "PATH": "/v1"}) == [
        "12 routes[1].path: line 9 has this path already, on the same listener"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "listeners: 5\nroutes: 7\nvault: 1\n",
        "listeners: {public: 5}\nroutes: [7]\n",
        "routes: [{listener: {}, path: {}, paths: {}, name: [], chain: 5}]\n",
        "listeners: {public: {bind: [1]}}\nroutes: [{listener: x, paths: [[], 5], chain: [[]]}]\nupstreams: []\n",
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_like_any_other(text: str, refused: Refused) -> None:
    """Looking for disagreements presumes nothing of what pydantic is still to check."""
    assert all(re.match(r"\d+ ", fault) for fault in refused(text))


INSTALLED = cache(resolve_installed)


@pytest.mark.parametrize("seed", range(150))
def test_a_mutation_is_located_or_loads(seed: int, mutated: Mutated, master_key: str, tmp_path: Path) -> None:
    """F59: no slip in gateway.yaml is anything else than a configuration or located faults without a secret."""
    file = tmp_path / "gateway.yaml"
    file.write_text(mutated((ROOT / "gateway.yaml").read_text(encoding="utf-8"), seed), encoding="utf-8")
    error, config = None, None
    try:
        config = load(file, INSTALLED, {"GATEWAY_MASTER_KEY": master_key, "MASTER_KEY": master_key})
    except ConfigError as refusal:
        error = refusal
    places = [fault.where for fault in error.faults] if error else [f"{file}:1"]
    assert places
    assert all(re.fullmatch(rf"{re.escape(str(file))}:[1-9]\d*", place) for place in places)
    assert master_key not in f"{error} {config!r}"
