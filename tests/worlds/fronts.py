"""What a client talks to: the gateway, or the naive proxy that it is measured against."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.worlds.programs import Program, running
from tests.worlds.providers import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy under test: where it listens, a key that it accepts, and its process."""

    origin: str
    key: str
    program: Program


@contextmanager
def gateway_program(upstream: str, provider_key: str, workdir: Path) -> Iterator[Front]:
    """One."""
    with running(
        [sys.executable, TESTS / "naive_proxy.py", upstream, provider_key, "18080"],
        ready=r"Running on (http://127\.0\.0\.1:[1-9]\d*)",
        output=workdir / "naive.log",
    ) as program:
        yield Front(program.said(), "gw_x", program)
