"""``gateway init``: from an empty folder to a gateway that can serve.

Each step looks for what it would make and leaves it alone where it is there, so a second run changes nothing and a run
that was interrupted is finished by the next one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json
from gateway.errors import MasterKeyError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.desk import NewKey
    from gateway.config import GatewayConfig
    from gateway.contract import Secret
    from gateway.security.vault import KeyVault
    from gateway.store.store import Store

MASTER_KEY = "GATEWAY_MASTER_KEY"
"""The variable that the template of gateway.yaml takes the master key from."""


@dataclass
class Made:
    """What this run made, as far as it got; None or empty where it was there before."""

    admin: str
    files: list[str] = field(default_factory=list)
    master_key: bool = False
    password: Secret | None = None
    key: NewKey | None = None
    base_url: str | None = None
    complete: bool = False


@click.command("init", short_help="Make what a gateway needs, where it is missing.")
@config_option
@json_option
@click.option("--admin", metavar="EMAIL", default="admin@localhost", show_default=True, help="The first administrator.")
def command(config_path: Path, as_json: bool, admin: str) -> None:
    """Make what is missing: gateway.yaml, a master key, the store, an administrator, a first API key.

    The password and the key are shown this once. Run again, it changes nothing.
    """
    made = Made(admin)
    try:
        asyncio.run(_init(config_path, made))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    finally:
        # Also where a later step failed: a password that is not shown now is known to nobody.
        if as_json:
            print_json(_as_data(made))
        else:
            _tell(made)


async def _init(config_path: Path, made: Made) -> None:
    from gateway.cli.desk import desk_of
    from gateway.clock import SystemClock
    from gateway.config import load
    from gateway.registry import resolve
    from gateway.security.passwords import random_password
    from gateway.store.store import Store

    template = files("gateway.cli").joinpath("gateway.yaml").read_text(encoding="utf-8")
    if _write_once(config_path, template, mode=0o644):
        made.files.append(str(config_path))
    offered = _offer_master_key(config_path)
    config = load(config_path, resolve, {MASTER_KEY: offered.reveal(), **os.environ} if offered else os.environ)
    async with Store.open(config.store, clock=SystemClock(), create=True, deadline_s=5.0) as store:
        vault = await _vault(store, config, offered, config_path, made)
        async with desk_of(config, store, vault) as desk:
            if not await store.users.list():
                password = random_password()
                await desk.create_user(made.admin, "admin", password)
                made.password = password
            if not await store.api_keys.list():
                made.key = await desk.create_key(name="first")
    made.base_url = _base_url(config)
    made.complete = True


def _offer_master_key(config_path: Path) -> Secret | None:
    """A new master key, where the configuration asks for ours and nobody has given it one."""
    from gateway.security.vault import new_master_key

    asked = f"${{{MASTER_KEY}" in config_path.read_text(encoding="utf-8", errors="replace")
    given = MASTER_KEY in os.environ or _env_file(config_path).exists()
    return new_master_key() if asked and not given else None


async def _vault(
    store: Store, config: GatewayConfig, offered: Secret | None, config_path: Path, made: Made
) -> KeyVault:
    """The store's vault; a new one where it has none. The master key is on disk before anything depends on it."""
    from gateway.security.vault import KeyVault
    from gateway.services import unlock

    env_file = _env_file(config_path)
    exists = await store.vault.read() is not None
    if offered is not None:
        if exists:
            raise MasterKeyError(
                f"the store has a vault, and its master key is gone: put it back into {env_file} as {MASTER_KEY}=..., "
                "or restore that file from a backup"
            )
        if not _write_once(env_file, f"{MASTER_KEY}={offered.reveal()}\n", mode=0o600):
            raise click.ClickException(
                f"{env_file} appeared meanwhile: is another `gateway init` running? Run it again"
            )
        made.files.append(str(env_file))
        made.master_key = True
    if not exists:
        _, record = await asyncio.to_thread(KeyVault.create, config.vault.master_key, config.vault.cipher)
        await store.vault.create(record)
    return await unlock(store, config)


def _env_file(config_path: Path) -> Path:
    return config_path.parent / ".env"


def _write_once(path: Path, text: str, *, mode: int) -> bool:
    """Make ``path`` with all of ``text`` in it, or not at all; False where it is there already."""
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)  # fails where a rename would replace
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return True


# What it says


def _base_url(config: GatewayConfig) -> str | None:
    """Where an SDK finds the first route that the demo answers; None where no route does."""
    for route in config.routes:
        if any(layer.use == "demo" for layer in route.chain):
            listener = config.listeners[route.listener]
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104 - shown, not bound
            return f"http://{f'[{host}]' if ':' in host else host}:{listener.port}{route.paths[0].rstrip('/')}"
    return None


def _as_data(made: Made) -> dict[str, object]:
    return {
        "complete": made.complete,
        "files": made.files,
        "base_url": made.base_url,
        "admin": None if made.password is None else {"email": made.admin, "password": made.password.reveal()},
        "key": None if made.key is None else {"id": made.key.key.id, "key": made.key.text.reveal()},
    }


def _tell(made: Made) -> None:
    for name in made.files:
        click.echo(f"made {name}")
    if made.master_key:
        click.echo("It holds the master key: keep a copy of it, apart from the copies of the store.")
    if made.password is not None:
        click.echo(f"administrator  {made.admin}")
        click.echo(f"password       {made.password.reveal()}  (not shown again)")
    if made.key is not None:
        click.echo(f"API key        {made.key.text.reveal()}  (not shown again)")
    if made.base_url is not None:
        click.echo(f"base URL       {made.base_url}")
    if made.base_url is not None and made.key is not None:
        click.echo(_EXAMPLES.format(base_url=made.base_url, key=made.key.text.reveal()))
    elif made.complete:
        click.echo(f"Everything is in place. Another key: {_program()} key create --name NAME")


def _program() -> str:
    """How this command is called from here: by its name, or by the path of who has no environment activated."""
    return "gateway" if shutil.which("gateway") else sys.argv[0]


_EXAMPLES = """
Try it:

curl -N {base_url}/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "demo", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="{key}")
stream = client.chat.completions.create(model="demo", stream=True, messages=[{{"role": "user", "content": "Hello"}}])
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""
