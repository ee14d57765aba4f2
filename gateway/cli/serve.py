"""``gateway serve``."""

from __future__ import annotations

import os
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
    from gateway.config import load  # noqa: PLC0415 - heavy: only who runs the verb waits for it
    from gateway.registry import resolve  # noqa: PLC0415
    from gateway.server import run  # noqa: PLC0415

    run(load(config_path, resolve, os.environ), started=_say_where)


def _say_where(addresses: Mapping[str, tuple[str, int]]) -> None:
    for name, (host, port) in addresses.items():
        click.echo(f"{name} listens on {f'[{host}]' if ':' in host else host}:{port}")
