"""The group of all verbs, and what becomes of an error.

The modules of the verbs import click and little else. What takes a second to import (the store, the HTTP server) is
imported by the verb that runs: ``--help`` and completion do not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from gateway import __version__
from gateway.errors import GatewayError

_VERBS = (
    "init",
    "serve",
    "check",
    "explain",
    "plugins",
    "schema",
    "key",
    "provider-key",
    "vault",
    "user",
    "completion",
)


class _Verbs(click.Group):
    """Each verb is the object ``command`` of the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"gateway.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Say an error of the gateway in its own words, one line per fault, without a traceback."""
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            click.echo(f"{error}", err=True)
            ctx.exit(1)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway", message="%(prog)s %(version)s")
def main() -> None:
    """A streaming LLM gateway: the chain of layers that gateway.yaml lists, in front of your providers."""
