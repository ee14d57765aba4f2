"""What a client talks to: the gateway, or the naive proxy that it is measured against.

:func:`gateway` and :func:`naive` run on the test's own loop, so that a hundred of them are cheap;
:func:`make` and :func:`serving` are what an operator does, with the commands that an operator uses.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TextIO

from aiohttp import web

from gateway.testing import running_gateway
from tests.naive_proxy import create_app
from tests.worlds.programs import Program, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from aiohttp.typedefs import Middleware

PROVIDER_KEY = "sk-provider-0123456789abcdef"
"""What the naive proxy and the gateway's programs present to their upstream."""

GATEWAY = Path(sys.executable).parent / "gateway"
"""The command."""

FULL_CHAIN = (
    "security_headers",
    "cors: {origins: ['https://llm-gateway.com'], credentials: true}",
    "rate_limit: {by: ip, requests: 1000000/min}",
    "api_key_auth",
    "rate_limit: {by: key, requests: 1000000/min}",
    "demo",
    "vault",
)
"""Every layer that stands in front of `forward`, with limits that no test reaches."""

LEAN_CHAIN = ("api_key_auth", "vault")
"""What `forward` needs in front of it, and nothing else."""


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy under test.

    ``key`` is one that it accepts, ``provider_key`` what it presents to its upstream. ``folder`` holds its files, and
    in ``output`` what it logs. ``admin`` is the origin of health and metrics, where there is one; ``program`` its
    process, where it has one of its own. ``secrets`` names what must never be seen.
    """

    origin: str
    key: str = field(repr=False)
    provider_key: str = field(repr=False)
    folder: Path
    admin: str = ""
    program: Program | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def output(self) -> str:
        """What it has logged so far."""
        return (self.folder / "output").read_text()


def configuration(upstream: str, chain: Sequence[str], extra: str = "") -> str:
    """A gateway.yaml in front of ``upstream``, an origin: ``/v1/messages`` is Anthropic's, the rest OpenAI's."""
    layers = "\n".join(f"      - {layer}" for layer in chain)
    return f"""
listeners:
  admin: {{bind: 127.0.0.1:0}}
  public: {{bind: 127.0.0.1:0}}
store: sqlite:///gateway.db
vault: {{master_key: "${{GATEWAY_MASTER_KEY}}"}}
{extra}
upstreams:
  openai: {{base_url: {upstream}/v1, dialect: openai, credential: bearer, max_connections: 5000}}
  anthropic: {{base_url: {upstream}/v1/messages, dialect: anthropic, credential: {{header: x-api-key}}}}
routes:
  - name: openai
    listener: public
    path: /v1/
    chain:
{layers}
      - forward: {{upstream: openai}}
  - name: anthropic
    listener: public
    path: /v1/messages
    chain:
{layers}
      - forward: {{upstream: anthropic}}
  - name: health
    listener: admin
    paths: [/healthz, /readyz, /metrics]
    chain: [health]
"""


@asynccontextmanager
async def gateway(upstream: str, *, chain: Sequence[str] = FULL_CHAIN, extra: str = "") -> AsyncIterator[Front]:
    """The gateway on this loop. ``extra`` is added to its configuration."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        output = stack.enter_context((folder / "output").open("w"))
        # What a broken test leaves open must not hold it for the ten minutes that operators want.
        drain = "" if "drain_timeout" in extra else "drain_timeout: 0s\n"
        text = configuration(upstream, chain, f"{drain}log_level: debug\n{extra}")
        with redirect_stderr(output):  # it keeps the standard error that it finds at its start
            live = await stack.enter_async_context(running_gateway(text, folder))
        origin, admin = (live.url("", listener) for listener in ("public", "admin"))
        secrets = {"client key": live.key, "master key": live.master_key, **live.provider_keys}
        yield Front(origin, live.key, live.provider_keys["openai"], folder, admin, secrets=secrets)


@asynccontextmanager
async def naive(upstream: str, *, middlewares: Sequence[Middleware] = ()) -> AsyncIterator[Front]:
    """The naive proxy on this loop, logging as its own main program does."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        output = stack.enter_context((folder / "output").open("w"))
        stack.enter_context(_root_logging_to(output))
        app = create_app(upstream, PROVIDER_KEY)
        app.middlewares.extend(middlewares)
        runner = web.AppRunner(app, shutdown_timeout=0.05)  # not 0, which means for ever
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Front(f"http://127.0.0.1:{site.port}", "gw_" + "x" * 32, PROVIDER_KEY, folder)


@contextmanager
def _root_logging_to(stream: TextIO) -> Iterator[None]:
    """``logging.basicConfig(level=INFO)``, undone afterwards."""
    root, handler = logging.getLogger(), logging.StreamHandler(stream)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@dataclass(frozen=True, slots=True)
class Made:
    """A folder with all that ``gateway serve`` needs, and the secrets that were made or stored on the way."""

    folder: Path
    secrets: Mapping[str, str] = field(repr=False)


def make(upstream: str, folder: Path, *, extra: str = "") -> Made:
    """Make a gateway in front of ``upstream`` as an operator does: a file, ``init``, ``provider-key set``."""
    (folder / "gateway.yaml").write_text(configuration(upstream, FULL_CHAIN, extra))
    made = json.loads(_say(GATEWAY, "init", "--json", folder=folder))
    for name in ("openai", "anthropic"):
        _say(GATEWAY, "provider-key", "set", name, folder=folder, told=PROVIDER_KEY)
    secrets = {
        "client key": made["key"]["key"],
        "password": made["admin"]["password"],
        "provider key": PROVIDER_KEY,
        "master key": (folder / ".env").read_text().partition("=")[2].strip(),
    }
    return Made(folder, secrets)


@contextmanager
def serving(made: Made, copy_to: Path | None = None) -> Iterator[Front]:
    """``gateway serve`` in a process of its own, on what was made or on a copy of it."""
    folder = made.folder if copy_to is None else Path(copytree(made.folder, copy_to, dirs_exist_ok=True))
    with running(
        [GATEWAY, "serve"], ready=r"public listens on (127\.0\.0\.1:\d+)", output=folder / "output", cwd=folder
    ) as program:
        admin = next(line.split()[-1] for line in program.text().splitlines() if line.startswith("admin listens on "))
        key = made.secrets["client key"]
        yield Front(f"http://{program.said()}", key, PROVIDER_KEY, folder, f"http://{admin}", program, made.secrets)


def _say(*command: str | Path, folder: Path, told: str = "") -> bytes:
    """Run a verb to its end and return what it printed."""
    return subprocess.run(command, cwd=folder, input=told.encode(), stdout=subprocess.PIPE, check=True).stdout


@contextmanager
def gateway_program(upstream: str, folder: Path, *, extra: str = "") -> Iterator[Front]:
    """Make a gateway and serve it, for a test that wants one to itself."""
    with serving(make(upstream, folder, extra=extra)) as front:
        yield front
