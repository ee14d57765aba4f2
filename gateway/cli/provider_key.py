"""``gateway provider-key``: the keys that providers gave to the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option, json_option, read_secret
from gateway.cli.output import instant, print_rows
from gateway.cli.run import at_desk

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.desk import Desk


@click.group("provider-key")
def command() -> None:
    """Keys of the providers behind the upstreams."""


@command.command("set")
@config_option
@click.argument("upstream")
def set_(config_path: Path, upstream: str) -> None:
    """Seal the key of UPSTREAM, from a hidden prompt or from one line of stdin."""
    secret = read_secret("Provider key")
    at_desk(config_path, lambda desk: desk.set_provider_key(upstream, secret))


@command.command("list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Show which upstreams have a key, by its last four characters."""

    async def act(desk: Desk) -> list[dict[str, object]]:
        return [
            {
                "upstream": key.upstream,
                "last_four": key.last_four,
                "origin": key.origin,
                "added": instant(key.added),
                "added_by": key.added_by,
            }
            for key in await desk.store.provider_keys.list()
        ]

    print_rows(at_desk(config_path, act), as_json=as_json, nothing="There are no provider keys.")


@command.command()
@config_option
@click.argument("upstream")
def remove(config_path: Path, upstream: str) -> None:
    """Forget the key of UPSTREAM."""
    at_desk(config_path, lambda desk: desk.remove_provider_key(upstream))
