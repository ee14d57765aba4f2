"""``gateway schema``."""

from __future__ import annotations

import click

from gateway.cli.options import no_config_option
from gateway.cli.output import print_json


@click.command("schema", short_help="Print the JSON Schema of gateway.yaml.")
@no_config_option
def command() -> None:
    """Print the JSON Schema of gateway.yaml for editors, with every installed layer."""
    from gateway.config import json_schema
    from gateway.registry import builtins

    print_json(json_schema(builtins()))
