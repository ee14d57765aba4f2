"""``gateway serve``."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@click.command("serve", short_help="Serve until told to stop.")
@config_option
def command(config_path: Path) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running answers finish. A second signal ends at once."""
    from gateway.config import load
    from gateway.process import run
    from gateway.registry import resolve

    run(load(config_path, resolve, os.environ), started=_say_where)


def _say_where(addresses: Mapping[str, tuple[str, int]]) -> None:
    with suppress(OSError):  # nobody reads our stdout: no reason not to serve
        for name, (host, port) in addresses.items():
            click.echo(f"{name} listens on {f'[{host}]' if ':' in host else host}:{port}")
