"""pydantic's findings as faults in a file: located, in an operator's words, and without the values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.config.near import near_miss
from gateway.config.schema import known_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from gateway.config.document import Document, Steps
    from gateway.errors import Fault

Model = TypeVar("Model", bound=BaseModel)

_MAX_LISTED_KEYS = 12

_PHRASES = {
    "missing": "is required",
    **dict.fromkeys(("bool_type", "bool_parsing"), "write true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "write a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "write a number"),
    **dict.fromkeys(("string_type", "path_type"), "write text; a number that is meant as text stands in quotes"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "write a list"),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
        "write a mapping of keys to values",
    ),
}

_SCALAR_TYPES = frozenset({"bool_type", "int_type", "float_type"})


@dataclass(frozen=True, slots=True)
class _Finding:
    """One thing that pydantic found, at its place in the document."""

    steps: Steps
    problem: str
    hint: str = ""
    alternative: bool = False
    """Whether it only says why one member of a union does not fit."""


def validate(
    model: type[Model],
    data: Any,  # noqa: ANN401 - as parsed
    document: Document,
    steps: Steps,
    context: object = None,
) -> tuple[Model | None, list[Fault]]:
    """``data``, which stands at ``steps`` of the document, as an instance of ``model``: None where there are faults."""
    reader = _Reader(model, document, steps)
    instance = None
    try:
        try:
            instance = model.model_validate(data, context=context)
        except ValidationError as error:
            reader.read(error)
        _read_strictly(reader, data, context)
    except Exception as error:  # noqa: BLE001 - a plugin's own validator may fail in any way
        problem = f"the plugin could not check its configuration ({type(error).__name__})"
        return None, [document.fault(steps, problem)]
    faults = reader.faults()
    return (None if faults else instance), faults


def _read_strictly(reader: _Reader, data: object, context: object) -> None:
    """Find ``"5"`` and ``true`` where a number stands, which pydantic would convert.

    It has to convert: a reference is always text, and YAML has lists where a model has tuples and sets. In strict mode
    on JSON it takes lists for those and still no ``"5"`` for 5. Of what it says then, only the complaints about scalars
    count that stand literally in the file.
    """
    try:
        reader.model.model_validate_json(json.dumps(data, default=lambda _: None), strict=True, context=context)
    except ValidationError as error:
        reader.read(error, only=_SCALAR_TYPES)


class _Reader:
    """Collects what pydantic says of one model."""

    def __init__(self, model: type[BaseModel], document: Document, steps: Steps) -> None:
        self.model = model
        self._document = document
        self._steps = steps
        self._findings: list[_Finding] = []

    def read(self, error: ValidationError, only: frozenset[str] | None = None) -> None:
        for details in error.errors(include_url=False, include_input=False):
            steps, alternative = self._place(details)
            if self._is_consequence(details, steps):
                continue
            if only is not None and (details["type"] not in only or self._document.at(steps).referenced):
                continue
            problem, hint = self._words(details, steps)
            self._findings.append(_Finding(steps, problem, hint, alternative))

    def faults(self) -> list[Fault]:
        by_place: dict[Steps, list[_Finding]] = {}
        for finding in self._findings:
            if not (finding.alternative and self._is_outdone(finding)):
                by_place.setdefault(finding.steps, []).append(finding)
        return [self._document.fault(steps, _join(findings)) for steps, findings in by_place.items()]

    def _is_outdone(self, finding: _Finding) -> bool:
        """Whether another member of the union got further into the value: that is the one that was meant."""
        depth = len(finding.steps)
        return any(
            other.alternative and len(other.steps) > depth and other.steps[:depth] == finding.steps
            for other in self._findings
        )

    def _is_consequence(self, details: ErrorDetails, steps: Steps) -> bool:
        """Whether this is only said because something else is wrong, which is said too."""
        if details["type"] == "too_short":
            # pydantic counts the items that are right.
            value = self._document.at(steps).value
            return isinstance(value, list | dict) and len(value) >= details["ctx"]["min_length"]
        return details["type"] == "default_factory_not_called"

    def _place(self, details: ErrorDetails) -> tuple[Steps, bool]:
        """Where in the document; pydantic's ``loc`` also names members of unions, which the document does not have."""
        steps = self._steps
        alternative = False
        *_, last = (None, *details["loc"])
        for part in details["loc"]:
            deeper = (*steps, part)
            if self._document.find(deeper) is not None or (part is last and details["type"] == "missing"):
                steps = deeper
            elif part != "[key]":
                alternative = True
        return steps, alternative

    def _words(self, details: ErrorDetails, steps: Steps) -> tuple[str, str]:
        """The problem, and what may have been meant."""
        kind = details["type"]
        context = details.get("ctx", {})
        if kind in _PHRASES:
            return _PHRASES[kind], ""
        if kind == "extra_forbidden":
            return "unknown key", self._meant_key(steps)
        if kind in {"literal_error", "enum"}:
            expected = str(context["expected"])
            return "write " + expected.replace("'", ""), self._meant_word(expected, steps)
        if kind == "value_error":
            return self._without_values(str(context["error"]), steps), ""
        message = re.sub(r"^\w+ should", "must", details["msg"]).replace(" after validation", "")
        return self._without_values(message, steps), ""

    def _meant_word(self, expected: str, steps: Steps) -> str:
        words = re.findall(r"'([^']+)'", expected)
        written = self._document.at(steps).value
        if isinstance(written, str):
            return near_miss(written, words)
        return ", in quotes" if str(written) in words else ""

    def _meant_key(self, steps: Steps) -> str:
        *above, key = steps[len(self._steps) :]
        known = known_keys(self.model, tuple(above))
        if ":" in str(key):
            return "; a space follows the colon after a key"
        meant = near_miss(str(key), known)
        if meant or not 0 < len(known) <= _MAX_LISTED_KEYS:
            return meant
        return f"; known here: {', '.join(known)}"

    def _without_values(self, text: str, steps: Steps) -> str:
        """Somebody else's words, without any value that a reference brought in."""
        for scalar in self._document.at(steps).scalars():
            if scalar.referenced and scalar.value:
                text = text.replace(str(scalar.value), "***")
        return text


def _join(findings: Iterable[_Finding]) -> str:
    problems = list(dict.fromkeys(finding.problem for finding in findings))
    hints = dict.fromkeys(finding.hint for finding in findings)
    rest = [problem.removeprefix("write ") for problem in problems[1:]]
    return " or ".join([problems[0], *rest]) + "".join(hints)
