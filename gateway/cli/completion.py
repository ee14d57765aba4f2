"""``gateway completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gateway.cli.options import no_config_option


@click.command("completion", short_help="Print a shell's completion script.")
@no_config_option
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes verbs and options in SHELL.

    Bash, for this session: source <(gateway completion bash)
    """
    kind = get_completion_class(shell)
    if kind is None:  # a click that dropped the shell
        raise click.ClickException(f"the installed click does not know {shell}")
    click.echo(kind(ctx.find_root().command, {}, "gateway", "_GATEWAY_COMPLETE").source())
