"""``gateway user``: who may log in and own keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option, json_option, read_secret
from gateway.cli.output import instant, print_rows
from gateway.cli.run import at_desk

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.desk import Desk


@click.group("user")
def command() -> None:
    """Users and their roles."""


@command.command()
@config_option
@click.option("--role", type=click.Choice(["admin", "operator", "member", "viewer"]), required=True)
@click.argument("email")
def create(config_path: Path, role: str, email: str) -> None:
    """Add a user, the password from a hidden prompt or from one line of stdin."""
    password = read_secret("Password", confirm=True)
    at_desk(config_path, lambda desk: desk.create_user(email, role, password))


@command.command("list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Show all users."""

    async def act(desk: Desk) -> list[dict[str, object]]:
        return [
            {"email": user.email, "role": user.role, "disabled": user.disabled, "created": instant(user.created)}
            for user in await desk.store.users.list()
        ]

    print_rows(at_desk(config_path, act), as_json=as_json, nothing="There are no users.")


@command.command("set-password")
@config_option
@click.argument("email")
def set_password(config_path: Path, email: str) -> None:
    """Replace a user's password, from a hidden prompt or from one line of stdin."""
    password = read_secret("Password", confirm=True)
    at_desk(config_path, lambda desk: desk.set_password(email, password))


@command.command()
@config_option
@click.argument("email")
def disable(config_path: Path, email: str) -> None:
    """Lock a user out, with all of the user's keys."""
    at_desk(config_path, lambda desk: desk.disable_user(email))
