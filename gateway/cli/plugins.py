"""``gateway plugins``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from gateway.cli.options import json_option, no_config_option
from gateway.cli.output import print_rows

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from gateway.contract import Plugin, Services


@click.command("plugins", short_help="List the installed layers.")
@no_config_option
@json_option
def command(as_json: bool) -> None:
    """List the installed layers: what each needs, provides and promises, and which package brought it.

    Needs and provides are those of an entry without options; they are left out where a layer has options that must be
    given.
    """
    from gateway.registry import available, resolve

    try:
        rows = [_row(entry, resolve(name)) for name, entry in available().items()]
    except LookupError as error:
        raise click.ClickException(str(error)) from error
    print_rows(rows, as_json=as_json, nothing="No layers are installed.")


def _row(entry: EntryPoint, plugin: type[Plugin]) -> dict[str, object]:
    needs, provides = _facts(plugin)
    return {
        "name": entry.name,
        "package": "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}",
        "needs": needs,
        "provides": provides,
        "promise": (plugin.__doc__ or "").strip().partition("\n")[0],
    }


def _facts(plugin: type[Plugin]) -> tuple[list[str] | None, list[str] | None]:
    """What the layer needs and provides without options; None where it has none without."""
    try:
        layer = plugin(plugin.Config(), _nothing_open())
    except ValueError:  # pydantic's ValidationError is one
        return None, None
    return sorted(map(repr, layer.needs())), sorted(map(repr, layer.provides()))


def _nothing_open() -> Services:
    """Services for a constructor, which by contract keeps them and touches none."""
    from gateway.contract import Services

    nothing = cast("Any", None)
    return Services(
        clock=nothing,
        keys=nothing,
        store=nothing,
        state=nothing,
        vault=nothing,
        upstreams={},
        log=nothing,
        metrics=nothing,
    )
