"""The JSON Schema of gateway.yaml, for editors: it accepts what the loader accepts, as far as JSON Schema can say.

What several places must agree on (names, paths given twice, a chain's order) is beyond it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from gateway.config.models import GatewayConfig
from gateway.config.references import REFERENCE
from gateway.contract import OnError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema, core_schema

    from gateway.config.document import Steps
    from gateway.contract import Plugin

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

OBJECT = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""How ``use`` names an object of a module."""


class _Generator(GenerateJsonSchema):
    """pydantic's generator, without titles, and content with types that JSON Schema cannot express."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002 - pydantic's hook
        """A title that only repeats the key is noise."""
        return False

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        """A plugin's own type is anything to the editor; the loader checks it."""
        return {}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Names that do not fit their pattern are refused; ``patternProperties`` alone would let them pass."""
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
        return result

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default as the operator would write it, or none: 60.0 is not how a duration is written."""
        result = super().default_schema(schema)
        if not _is_written_so(result.get("default"), result):
            result.pop("default", None)
        return result


def _is_written_so(default: object, schema: Schema) -> bool:
    kind = schema.get("type")
    if kind == "string":
        return isinstance(default, str)
    return kind in {"integer", "number", "boolean"}


def json_schema(plugins: Mapping[str, type[Plugin]]) -> Schema:
    """The schema (draft 2020-12) of a gateway.yaml whose chains use ``plugins``, by the names that operators write."""
    configs = {plugin.Config for plugin in plugins.values()}
    models: list[type[BaseModel]] = [GatewayConfig, *sorted(configs, key=_qualified_name)]
    references, schema = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    definitions: Schema = {name: _with_references(part) for name, part in schema["$defs"].items()}
    root = definitions.pop("GatewayConfig")
    definitions["RouteConfig"]["properties"]["chain"]["items"] = {"$ref": "#/$defs/Layer"}
    layers = []
    for name, plugin in sorted(plugins.items()):
        config = references[plugin.Config, "validation"]
        needs_config = bool(definitions[config["$ref"].rpartition("/")[2]].get("required"))
        layers.append(_Layer(name, _first_line(plugin), config, needs_config))
    definitions["Layer"] = {"anyOf": [_bare_entry(layers), _short_entry(layers), _long_entry(layers)]}
    definitions["Reference"] = {
        "description": "`${NAME}`, `${NAME:-default}`, `${NAME:?message}` or `${file:/path}`",
        "type": "string",
        "pattern": REFERENCE,
    }
    return {"$schema": _DIALECT, "title": "gateway.yaml", **root, "$defs": dict(sorted(definitions.items()))}


def _qualified_name(model: type[BaseModel]) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def _first_line(plugin: type[Plugin]) -> str:
    return (inspect.getdoc(plugin) or "").partition("\n")[0]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the three forms of a chain's entry say of one plugin."""

    name: str
    description: str
    config: Schema
    needs_config: bool


def _bare_entry(layers: Sequence[_Layer]) -> Schema:
    """``- security_headers``."""
    names = [{"const": layer.name, "description": layer.description} for layer in layers if not layer.needs_config]
    return {"anyOf": names} if names else {"not": {}}


def _short_entry(layers: Sequence[_Layer]) -> Schema:
    """``- rate_limit: {by: ip}``; with nothing behind the colon where nothing is needed."""
    configs = {
        layer.name: {"description": layer.description}
        | (layer.config if layer.needs_config else {"anyOf": [layer.config, {"type": "null"}]})
        for layer in layers
    }
    return {
        "type": "object",
        "properties": configs,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _long_entry(layers: Sequence[_Layer]) -> Schema:
    """``- {use: rate_limit, with: {by: ip}, on_error: open}``."""
    return {
        "type": "object",
        "required": ["use"],
        "properties": {
            "use": {
                "description": "A plugin's name, or package.module:object.",
                "anyOf": [{"enum": [layer.name for layer in layers]}, {"type": "string", "pattern": OBJECT}],
            },
            "with": {"description": "The plugin's configuration.", "type": ["object", "null"]},
            "on_error": {
                "description": "What a fault of this layer does: `closed` answers 500, `open` goes on without it.",
                "anyOf": [{"enum": list(get_args(OnError))}, {"$ref": "#/$defs/Reference"}],
            },
        },
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"use": {"const": layer.name}}},
                "then": {"required": ["with"], "properties": {"with": layer.config}}
                if layer.needs_config
                else {"properties": {"with": {"anyOf": [layer.config, {"type": "null"}]}}},
            }
            for layer in layers
        ],
    }


def _with_references(schema: Schema) -> Schema:
    """The same schema, which also takes a reference wherever it takes a scalar."""
    schema = {keyword: part for keyword, part in schema.items() if keyword != "title"}
    if "properties" in schema:
        schema["properties"] = {name: _with_references(part) for name, part in schema["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            schema[keyword] = _with_references(schema[keyword])
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if keyword in schema:
            schema[keyword] = [_with_references(part) for part in schema[keyword]]
    if not _refuses_some_text(schema):
        return schema
    outside: Schema = {key: schema.pop(key) for key in ("description", "default") if key in schema}
    return {**outside, "anyOf": [schema, {"$ref": "#/$defs/Reference"}]}


def _refuses_some_text(schema: Schema) -> bool:
    if schema.get("type") in {"integer", "number", "boolean"} or "enum" in schema or "const" in schema:
        return True
    return schema.get("type") == "string" and bool(schema.keys() & {"pattern", "format", "minLength", "maxLength"})


def known_keys(model: type[BaseModel], steps: Steps) -> list[str]:
    """The keys that ``model`` knows at a place inside it, for whoever misspelt one."""
    schema = _schema_of(model)
    places = list(_variants(schema, schema))
    for step in steps:
        places = [
            variant for place in places for child in _children(place, step) for variant in _variants(child, schema)
        ]
    return sorted({key for place in places for key in place.get("properties", {})})


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(schema_generator=_Generator)


def _variants(place: Schema, root: Schema) -> Iterator[Schema]:
    """The place itself, with its references followed, and each of its alternatives."""
    yield place
    reference: str = place.get("$ref", "")
    alternatives = [*place.get("anyOf", []), *place.get("oneOf", []), *place.get("allOf", [])]
    if reference:
        alternatives.append(root["$defs"][reference.rpartition("/")[2]])
    for alternative in alternatives:
        yield from _variants(alternative, root)


def _children(place: Schema, step: str | int) -> list[Schema]:
    if isinstance(step, int):
        children = [place.get("items")]
    else:
        children = [place.get("properties", {}).get(step, place.get("additionalProperties"))]
    return [child for child in children if isinstance(child, dict)]
