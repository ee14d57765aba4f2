"""Quantities as an operator writes them: ``60s``, ``64KiB``, ``100/min``.

Each is a pydantic type for the field of a configuration class. A bare number is refused: a reader must not have to
guess
whether ``timeout: 5`` means seconds. Nothing but parsing belongs here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_PERIODS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}

_DURATION = r"^([0-9]{1,12}(?:\.[0-9]{1,12})?) ?(ms|s|min|m|h|d)$"
_SIZE = r"^([0-9]{1,12}(?:\.[0-9]{1,12})?) ?(B|KB|MB|GB|KiB|MiB|GiB)$"
_RATE = r"^([0-9]{1,12}) ?/ ?(sec|s|min|m|hour|h|day|d)$"


def parse_duration(value: object) -> float:
    """``"1.5h"`` → 5400.0 seconds. Raises ValueError for anything else than a number with one of ms, s, m, h, d."""
    match = re.fullmatch(_DURATION, value) if isinstance(value, str) else None
    if match is None:
        msg = "write a duration with its unit: 500ms, 5s, 15m, 12h or 1d"
        raise ValueError(msg)
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """``"64KiB"`` → 65536 bytes. KB is 1000, KiB is 1024."""
    match = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    if match is None:
        msg = "write a size with its unit: 512B, 64KiB, 10MiB or 1GiB"
        raise ValueError(msg)
    return int(float(match[1]) * _BYTES[match[2]])


Duration = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["5s"]})
]
"""Seconds, written with a unit."""

Size = Annotated[
    int, BeforeValidator(parse_size), WithJsonSchema({"type": "string", "pattern": _SIZE, "examples": ["64KiB"]})
]
"""Bytes, written with a unit."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a period: ``60/min``. ``amount`` is at least 1, ``period_s`` in seconds."""

    amount: int
    period_s: float

    @classmethod
    def parse(cls, value: object) -> Rate:
        """``"60/min"`` → Rate(60, 60.0)."""
        if isinstance(value, Rate):
            return value
        match = re.fullmatch(_RATE, value) if isinstance(value, str) else None
        if match is None or int(match[1]) < 1:
            msg = "write a rate as a positive number and a period: 60/min, 10/s, 1000/h or 5000/day"
            raise ValueError(msg)
        return cls(int(match[1]), _PERIODS[match[2]])

    @property
    def per_second(self) -> float:
        """The refill of a token bucket that allows this rate."""
        return self.amount / self.period_s

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401 - pydantic's hook
        """How pydantic reads one."""
        return core_schema.no_info_plain_validator_function(cls.parse)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """How an editor checks one."""
        return {"type": "string", "pattern": _RATE, "examples": ["60/min"]}
