"""The JSON Schema: an editor's opinion of a file is the loader's, as far as JSON Schema can say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import InstanceOf, PlainValidator

from gateway.config import json_schema, load
from gateway.config.document import parse, read
from gateway.contract import Plugin, PluginConfig
from gateway.errors import ConfigError
from gateway.registry import builtins, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.config.conftest import Load, Mutated, Refused

ROOT = Path(__file__).parents[2]
EXAMPLES = [ROOT / "gateway.yaml", *sorted((ROOT / "config" / "examples").glob("*.yaml"))]
INSTALLED = cache(resolve)


@cache
def committed() -> Draft202012Validator:
    """What editors use."""
    schema = json.loads((ROOT / "config" / "gateway.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def editor(plugin_classes: Mapping[str, type[Plugin]]) -> Draft202012Validator:
    """An editor that knows the tests' own plugins."""
    return Draft202012Validator(json_schema(plugin_classes))


def test_the_committed_schema_is_current() -> None:
    """After a change of a layer's configuration or of ours: ``make schema``."""
    assert committed().schema == json_schema(builtins())


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_what_we_ship_is_right(file: Path, tmp_path: Path, master_key: str) -> None:
    """The file a newcomer runs and the examples load, and no editor finds fault with them."""
    secret = tmp_path / "master_key"
    secret.write_text(master_key)
    copy = tmp_path / "gateway.yaml"
    copy.write_text(file.read_text(encoding="utf-8").replace("/run/secrets/gateway_master_key", str(secret)))
    config = load(copy, INSTALLED, {"GATEWAY_MASTER_KEY": master_key})
    assert config.vault.master_key.reveal() == master_key
    assert list(committed().iter_errors(read(file).root.plain())) == []


def test_each_names_the_schema_for_editors() -> None:
    """In its first line, relative to itself, and the schema is there."""
    for file in EXAMPLES:
        prefix, _, reference = file.read_text(encoding="utf-8").partition("\n")[0].partition("=")
        assert prefix == "# yaml-language-server: $schema"
        assert (file.parent / reference).resolve() == ROOT / "config" / "gateway.schema.json"


VALID = [
    "",
    "      - limit: {by: ip, requests: 60/min, burst: 5, names: [a], mode: 7}",
    '      - limit: {by: "${BY:-ip}", requests: "${RATE:-1/s}", burst: "${BURST:-5}", enabled: "${ON:-true}"}',
    "      - {use: limit, with: {by: ip, requests: 60/min}, on_error: open}",
    "      - plain:",
    "      - {use: plain}",
    "      - {use: plain, with: null}",
    "workers: 1\nreplicas: 3\nlog_level: debug\nstate: memory://\nstore: sqlite:///x.db",
    'workers: "${WORKERS:-1}"\nlog_level: "${LEVEL:-info}"\ndrain_timeout: "${DRAIN:-5s}"',
    "trusted_proxies: [10.0.0.0/8]\nauth_cache: {ttl: 1.5h, size: 1}\nlimits: {max_header_bytes: 32 KiB}",
]

INVALID = [
    "      - plian",
    "      - limit",
    "      - limit: {by: ip, requests: 60/min, brust: 5}",
    "      - limit: {by: ips, requests: 60/min}",
    "      - limit: {by: ip, requests: 60}",
    "      - limit: {by: ip, requests: 60/min, burst: '5'}",
    "      - limit: {by: ip, requests: 60/min, burst: 0}",
    "      - limit: {by: ip, requests: 60/min, enabled: yes}",
    "      - limit: {by: ip, requests: 60/min, names: a}",
    "      - {limit: {by: ip, requests: 60/min}, plain: {}}",
    "      - limit:",
    "      - {use: limit}",
    "      - {use: limit, with: {by: ip}}",
    "      - {use: plain, with: {x: 1}}",
    "      - {use: plian}",
    "      - {use: plain, on_error: ajar}",
    "      - {use: plain, when: x}",
    "      - {}",
    "      - 7",
    "worker: 1",
    "workers: 2",
    "workers: '1'",
    "replicas: 0",
    "log_level: INFO",
    "state: redis://x",
    "store: postgresql://db/gateway",
    "store: 'sqlite:///:memory:'",
    "drain_timeout: 5",
    "limits: {max_in_flight: 0}",
    "auth_cache: [1]",
    "trusted_proxies: 10.0.0.0/8",
    "upstream: {}",
]


@pytest.mark.parametrize("text", VALID)
def test_what_loads_is_right_in_an_editor(text: str, loaded: Load, editor: Draft202012Validator, working: str) -> None:
    """References included, wherever a scalar may stand."""
    loaded(f"{working}{text}\n")
    assert list(editor.iter_errors(parse(f"{working}{text}\n", "f").root.plain())) == []


@pytest.mark.parametrize("text", INVALID)
def test_a_typical_mistake_is_seen_in_the_editor(
    text: str, refused: Refused, editor: Draft202012Validator, working: str
) -> None:
    """F60: and the loader refuses the same."""
    assert refused(f"{working}{text}\n")
    assert list(editor.iter_errors(parse(f"{working}{text}\n", "f").root.plain()))


REPLACED = [
    ("path: /v1/", "paths: [/a, /b]", True),
    ("path: /v1/", "path: /v1/\n    paths: [/b]", False),
    ("path: /v1/", "pat: /v1/", False),
    ("path: /v1/", "path: v1", False),
    ("path: /v1/", "path: /v1/../x", False),
    ("path: /v1/", "path: /v1/*", False),
    ("name: api", "name: an api", False),
    ("bind: 127.0.0.1:8080", 'bind: "[::1]:0"', True),
    ("bind: 127.0.0.1:8080", "bind: 8080", False),
    ("bind: 127.0.0.1:8080", 'bind: ":8080"', False),
    ("public: {", "a b: {", False),
    ("credential: bearer", "credential: {header: x-api-key}", True),
    ("credential: bearer", "credential: none", True),
    ("credential: bearer", "credential: basic", False),
    ("credential: bearer", "credential: {heder: x-api-key}", False),
    ("credential: bearer", "", False),
    ("https://models.example/v1", "https://me:pass@models.example/v1", False),
    ("https://models.example/v1", "https://models.example/v1?x", False),
    ("https://models.example/v1", '"${URL:-https://models.example/v1}"', True),
    ("dialect: openai", "dialect: azure", False),
]


@pytest.mark.parametrize("change", REPLACED)
def test_editor_and_loader_agree(
    change: tuple[str, str, bool], loaded: Load, editor: Draft202012Validator, working: str
) -> None:
    """F60: on what may stand in a route, a listener and an upstream."""
    old, new, right = change
    assert old in working
    text = working.replace(old, new)
    assert editor.is_valid(parse(text, "f").root.plain()) is right
    if right:
        loaded(text)
    else:
        with pytest.raises(ConfigError):
            loaded(text)


@pytest.mark.parametrize("seed", range(150))
def test_an_editor_never_complains_of_what_loads(seed: int, mutated: Mutated, master_key: str, tmp_path: Path) -> None:
    """A red line under something that works would teach operators to ignore red lines."""
    file = tmp_path / "gateway.yaml"
    file.write_text(mutated((ROOT / "gateway.yaml").read_text(encoding="utf-8"), seed), encoding="utf-8")
    try:
        load(file, INSTALLED, {"GATEWAY_MASTER_KEY": master_key, "MASTER_KEY": master_key})
    except ConfigError:
        return
    assert list(committed().iter_errors(read(file).root.plain())) == []


def undescribed(schema: Any, path: str = "") -> Iterator[str]:
    """The keys below ``schema`` that an editor could not explain."""
    if isinstance(schema, list):
        for part in schema:
            yield from undescribed(part, path)
    elif isinstance(schema, dict):
        for name, part in schema.get("properties", {}).items():
            described = isinstance(part, dict) and (part.get("description") or "if" in path)
            if not described:
                yield f"{path}.{name}"
        for keyword, part in schema.items():
            if keyword not in {"if", "then"}:
                yield from undescribed(part, f"{path}/{keyword}")


def test_every_key_is_described() -> None:
    """Ours and every built-in layer's: the file is written without leaving the editor."""
    assert list(undescribed(committed().schema)) == []


def test_a_type_that_json_schema_cannot_say_is_left_to_the_loader() -> None:
    """A third party's Config may hold anything that pydantic validates; the rest of the schema stays."""

    class Odd(Plugin):
        """Odd."""

        class Config(PluginConfig):
            """Odd."""

            odd: Annotated[object, PlainValidator(bool)]
            """Odd."""
            odder: InstanceOf[Path] | None = None
            """Odder."""

    editor = Draft202012Validator(json_schema({"odd": Odd}))
    listeners = {"public": {"bind": "127.0.0.1:1"}}
    route = {"name": "a", "listener": "public", "path": "/", "chain": [{"odd": {"odd": ["anything"]}}]}
    assert editor.is_valid({"listeners": listeners, "vault": {"master_key": "x"}, "routes": [route]})
    route["chain"] = [{"odd": {"even": 1}}]
    assert not editor.is_valid({"listeners": listeners, "vault": {"master_key": "x"}, "routes": [route]})
