"""``gateway vault``: the keys that provider keys are sealed with."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import Quantity, config_option, read_secret
from gateway.cli.run import at_desk

if TYPE_CHECKING:
    from gateway.cli.desk import Desk
    from gateway.contract import Secret
    from gateway.store.rotation import DataKeyChange


def _parse_salt(value: object) -> bytes:
    from gateway.security.plain_fernet import parse_salt

    return parse_salt(value)


@click.group("vault")
def command() -> None:
    """The keys that provider keys are sealed with."""


@command.group()
def rotate() -> None:
    """Replace the master key or the data key. A gateway that runs goes on meanwhile.

    Whatever interrupts a run: running it again finishes it.
    """


@rotate.command("master-key")
@config_option
@click.option("--new-key-env", metavar="NAME", help="Take the new master key from this variable of the environment.")
@click.option("--write-env", is_flag=True, help="Also put it into the .env beside the configuration.")
def master_key(config_path: Path, new_key_env: str | None, write_env: bool) -> None:
    """Put the vault under a new master key, from a hidden prompt or from one line of stdin.

    Only the vault's own record is written. Make the new key first, and keep it: openssl rand -base64 48
    """
    from gateway.cli.master_key import MasterKeySource, change_master_key, finish_interrupted

    source = MasterKeySource.of(config_path)
    env_file = source.env_file() if write_env else None
    if env_file is not None and asyncio.run(finish_interrupted(config_path, env_file)):
        click.echo(f"Finished what was interrupted: the vault is under the new master key, and so is {source}.")
        return
    new = _given("New master key", new_key_env, confirm=True)
    changed = asyncio.run(change_master_key(config_path, new, env_file))
    click.echo("The vault is under the new master key." if changed else "The vault was under this master key already.")
    if env_file is not None:
        click.echo(f"So is {source}.")
    else:
        click.echo(f"Now change {source}: without that the gateway does not start again.")
    click.echo("Keep the old master key for as long as you keep older backups of the store.")


@rotate.command("data-key")
@config_option
def data_key(config_path: Path) -> None:
    """Seal every provider key anew, with a new data key."""
    change = at_desk(config_path, _with_progress)
    if change.resumed:
        click.echo("Finished what was interrupted.")
    click.echo(
        f"Sealed {change.sealed} provider key{'' if change.sealed == 1 else 's'} with data key {change.version}."
    )


@command.command("import-fernet")
@config_option
@click.option(
    "--salt",
    type=Quantity("salt", _parse_salt),
    required=True,
    help="The salt that the old key was made with: hex:…, base64:… or text:….",
)
@click.option(
    "--iterations",
    type=click.IntRange(1, 50_000_000),
    default=100_000,
    show_default=True,
    help="How many rounds of PBKDF2-HMAC-SHA256 it was made with.",
)
@click.option("--password-env", metavar="NAME", help="Take the old master password from this variable.")
@click.option("--replace", is_flag=True, help="Also for upstreams that have a key, which is then gone.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def import_fernet(
    *, config_path: Path, salt: bytes, iterations: int, password_env: str | None, replace: bool, file: Path
) -> None:
    """Take provider keys out of FILE, which Fernet sealed under a master password, and seal them in this vault.

    FILE has lines of an upstream, a tab and a token, or is a JSON object of tokens by upstream; - is stdin. The old
    master password comes from a hidden prompt, or from one line of stdin. All keys are stored, or none.
    """
    from gateway.cli.fernet import import_keys, read_entries
    from gateway.security.plain_fernet import PlainFernet

    if str(file) == "-" and password_env is None:
        raise click.UsageError("tokens come from stdin: give the old master password with --password-env NAME")
    with click.open_file(str(file), "rb") as opened:
        entries = read_entries(opened)
    reader = PlainFernet(_given("Old master password", password_env), salt=salt, iterations=iterations)
    count = at_desk(config_path, lambda desk: import_keys(desk, entries, reader, replace=replace))
    click.echo(f"Stored {count} provider key{'' if count == 1 else 's'}.")


def _given(what: str, variable: str | None, *, confirm: bool = False) -> Secret:
    """A secret from a variable of the environment, or asked for."""
    from gateway.contract import Secret

    if variable is None:
        return read_secret(what, confirm=confirm)
    value = os.environ.get(variable, "").strip()
    if not value or not value.isprintable():
        raise click.UsageError(f"the variable {variable} is not set, or holds no line of text")
    return Secret(value)


async def _with_progress(desk: Desk) -> DataKeyChange:
    with click.progressbar(length=0, label="Sealing", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return await desk.change_data_key(show)
