"""``gateway key``: the keys that clients call with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from gateway.cli.options import Quantity, config_option, json_option
from gateway.cli.output import instant, print_json, print_rows
from gateway.cli.run import at_desk
from gateway.units import Rate, parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.desk import Desk, NewKey
    from gateway.store import ApiKey

_DURATION = Quantity("duration", parse_duration)
_RATE = Quantity("rate", Rate.parse)


@click.group("key")
def command() -> None:
    """API keys of clients."""


@command.command()
@config_option
@json_option
@click.option("--name", required=True, help="What the key is for, in lists and logs.")
@click.option("--owner", metavar="EMAIL", help="The user whose role it has.  [default: the first administrator]")
@click.option("--expires", "expires_s", type=_DURATION, help="How long it works, such as 90d.  [default: for good]")
@click.option("--rate", type=_RATE, help="In place of rate_limit's configured rate, such as 60/min.")
@click.option("--model", "models", multiple=True, help="A model that it may call; repeat it.  [default: all]")
def create(
    *,
    config_path: Path,
    as_json: bool,
    name: str,
    owner: str | None,
    expires_s: float | None,
    rate: Rate | None,
    models: tuple[str, ...],
) -> None:
    """Make a key and show it, once."""
    expires = None if expires_s is None else time.time() + expires_s
    limit = frozenset(models) or None
    made = at_desk(
        config_path, lambda desk: desk.create_key(name=name, owner=owner, expires=expires, rate=rate, models=limit)
    )
    _show_once(made, as_json=as_json)


@command.command("list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Show all keys by their last four characters, those that no longer work too."""

    async def act(desk: Desk) -> list[dict[str, object]]:
        emails = {user.id: user.email for user in await desk.store.users.list()}
        return [_row(key, emails[key.owner]) for key in await desk.store.api_keys.list()]

    print_rows(at_desk(config_path, act), as_json=as_json, nothing="There are no keys.")


@command.command()
@config_option
@click.argument("key_id", metavar="ID")
def revoke(config_path: Path, key_id: str) -> None:
    """End a key for good."""
    at_desk(config_path, lambda desk: desk.revoke_key(key_id))


@command.command()
@config_option
@json_option
@click.option(
    "--overlap", "overlap_s", type=_DURATION, default="24h", show_default=True, help="How long the old key still works."
)
@click.argument("key_id", metavar="ID")
def rotate(config_path: Path, as_json: bool, overlap_s: float, key_id: str) -> None:
    """Make a key in the place of another, with its name and limits, and show it, once."""
    _show_once(at_desk(config_path, lambda desk: desk.rotate_key(key_id, overlap_s=overlap_s)), as_json=as_json)


def _show_once(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": made.key.id, "key": made.text.reveal()})
        return
    click.echo(f"id   {made.key.id}")
    click.echo(f"key  {made.text.reveal()}")
    click.echo("It is not shown again.", err=True)


def _row(key: ApiKey, owner: str) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "last_four": key.last_four,
        "owner": owner,
        "created": instant(key.created),
        "expires": instant(key.expires),
        "revoked": instant(key.revoked),
        "last_used": instant(key.last_used),
        "rate": None if key.rate is None else f"{key.rate.amount}/{key.rate.period_s:g}s",
        "models": None if key.models is None else sorted(key.models),
    }
