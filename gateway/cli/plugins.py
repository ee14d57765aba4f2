"""``gateway plugins``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli.options import json_option
from gateway.cli.output import print_rows

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from gateway.contract import Plugin


@click.command("plugins")
@json_option
def command(as_json: bool) -> None:
    """List the installed layers: what each promises, and which package brought it."""
    from gateway.registry import available, resolve  # noqa: PLC0415 - heavy: only who runs the verb waits for it

    try:
        rows = [_row(entry, resolve(name)) for name, entry in available().items()]
    except LookupError as error:
        raise click.ClickException(str(error)) from error
    print_rows(rows, as_json=as_json, nothing="No layers are installed.")


def _row(entry: EntryPoint, plugin: type[Plugin]) -> dict[str, object]:
    promise = (plugin.__doc__ or "").strip().partition("\n")[0]
    package = "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return {"name": entry.name, "promise": promise, "package": package, "terminal": plugin.terminal}
