"""``gateway check``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json

if TYPE_CHECKING:
    from pathlib import Path


@click.command("check", short_help="Prove the configuration without starting.")
@config_option
@json_option
def command(config_path: Path, as_json: bool) -> None:
    """Say whether a gateway could start with this configuration, or all that is wrong with it. Opens nothing."""
    from gateway.config import load
    from gateway.generation import Generation
    from gateway.registry import resolve
    from gateway.services import unopened

    config = load(config_path, resolve, os.environ)
    Generation(config, unopened(config))
    chains = [
        {
            "route": route.name,
            "listener": route.listener,
            "paths": list(route.paths),
            "chain": [layer.use for layer in route.chain],
        }
        for route in config.routes
    ]
    if as_json:
        print_json({"ok": True, "routes": chains})
        return
    click.echo("ok")
    for chain in chains:
        click.echo(f"{chain['listener']} {' '.join(chain['paths'])}: {' → '.join(chain['chain'])}")
