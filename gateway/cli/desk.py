"""What an administrator does: each act changes the store and leaves a row in the audit log.

Opening the desk proves the master key first, so that whoever has the wrong one changes nothing.
"""

from __future__ import annotations

import getpass
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from gateway.clock import SystemClock
from gateway.config import load
from gateway.errors import StoreConflict
from gateway.registry import resolve
from gateway.security.keys import new_api_key
from gateway.security.passwords import Passwords
from gateway.services import unlock
from gateway.store.audit import PURPOSE
from gateway.store.credentials import seal
from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping
    from pathlib import Path

    from gateway.config import GatewayConfig
    from gateway.contract import Rate, Secret
    from gateway.security.vault import KeyVault
    from gateway.store import ApiKey, SealedKey, User
    from gateway.store.audit import AuditLog
    from gateway.store.rotation import DataKeyChange, Progress

DEADLINE_S = 5.0
"""An administrator waits longer for a busy store than a request may."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only moment at which its text is known."""

    key: ApiKey
    text: Secret


@dataclass(frozen=True, slots=True)
class Desk:
    """The open store, the unlocked vault, and who is acting. ``click.ClickException`` is the answer no."""

    config: GatewayConfig
    store: Store
    vault: KeyVault
    passwords: Passwords
    audit: AuditLog
    actor: str

    async def create_key(
        self,
        *,
        name: str,
        owner: str | None = None,
        expires: float | None = None,
        rate: Rate | None = None,
        models: frozenset[str] | None = None,
    ) -> NewKey:
        """A new API key for the user with the email ``owner``; the first administrator's where None."""
        user = await self._owner(owner)
        text = new_api_key()
        key = await self.store.api_keys.create(
            text, name=name, owner=user.id, expires=expires, rate=rate, models=models
        )
        await self._note("key.create", key.id, name=name, owner=user.email)
        return NewKey(key, text)

    async def revoke_key(self, key_id: str) -> None:
        """End a key for good."""
        if not await self.store.api_keys.revoke(key_id):
            raise click.ClickException(f"there is no key {key_id} that could be revoked")
        await self._note("key.revoke", key_id)

    async def rotate_key(self, key_id: str, *, overlap_s: float) -> NewKey:
        """A new key in the place of another, which works for ``overlap_s`` seconds more."""
        text = new_api_key()
        key = await self.store.api_keys.rotate(key_id, text, overlap_s=overlap_s)
        if key is None:
            raise click.ClickException(f"there is no key {key_id} that still works")
        await self._note("key.rotate", key_id, successor=key.id, overlap_s=overlap_s)
        return NewKey(key, text)

    async def set_provider_key(self, upstream: str, secret: Secret) -> None:
        """Seal ``secret`` for this upstream at its present origin, in place of what was there."""
        origin = self.origin(upstream)
        await self._put_provider_keys({upstream: secret})
        await self._note("provider_key.set", upstream, origin=origin)

    async def import_provider_keys(self, secrets: Mapping[str, Secret]) -> None:
        """The same for several upstreams: all of them, or none."""
        await self._put_provider_keys(secrets)
        for upstream in secrets:
            await self._note("provider_key.import", upstream, origin=self.origin(upstream))

    async def change_data_key(self, progress: Progress) -> DataKeyChange:
        """Seal every provider key with a new data key, or finish what a run that was interrupted began."""
        async with self.store.rotation(actor=self.actor, cipher=self.config.vault.cipher) as rotation:
            return await rotation.change_data_key(self.config.vault.master_key, progress)

    async def remove_provider_key(self, upstream: str) -> None:
        """Forget the upstream's key."""
        if not await self.store.provider_keys.remove(upstream):
            raise click.ClickException(f"there is no key for an upstream {upstream!r}")
        await self._note("provider_key.remove", upstream)

    async def create_user(self, email: str, role: str, password: Secret) -> User:
        """Add a user."""
        hashed = await self._hash(password)
        try:
            user = await self.store.users.create(email, hashed, role)
        except StoreConflict as error:
            raise click.ClickException(f"there is a user {email} already") from error
        await self._note("user.create", user.email, role=role)
        return user

    async def set_password(self, email: str, password: Secret) -> None:
        """Replace a user's password."""
        user = await self._user(email)
        await self.store.users.set_password(user.id, await self._hash(password))
        await self._note("user.set_password", user.email)

    async def disable_user(self, email: str) -> None:
        """Lock a user out, with all of the user's keys."""
        user = await self._user(email)
        await self.store.users.disable(user.id)
        await self._note("user.disable", user.email)

    def origin(self, upstream: str) -> str:
        """Where the configuration says that the upstream is."""
        if upstream not in self.config.upstreams:
            near = get_close_matches(upstream, self.config.upstreams, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {_listed(self.config.upstreams)}"
            raise click.ClickException(f"the configuration has no upstream {upstream!r}; {hint}")
        return self.config.upstreams[upstream].origin

    async def _put_provider_keys(self, secrets: Mapping[str, Secret]) -> None:
        try:
            await self.store.provider_keys.put(*self._sealed(secrets, self.vault))
        except StoreConflict:
            # The vault got a new data key since the desk was opened: only what is sealed with that one is taken.
            await self.store.provider_keys.put(*self._sealed(secrets, await unlock(self.store, self.config)))

    def _sealed(self, secrets: Mapping[str, Secret], vault: KeyVault) -> list[SealedKey]:
        now = SystemClock().time()
        return [
            seal(vault, secret, upstream=upstream, origin=self.origin(upstream), added_by=self.actor, added=now)
            for upstream, secret in secrets.items()
        ]

    async def _user(self, email: str) -> User:
        user = await self.store.users.by_email(email)
        if user is None:
            raise click.ClickException(f"there is no user {email}")
        return user

    async def _owner(self, email: str | None) -> User:
        if email is not None:
            return await self._user(email)
        for user in await self.store.users.list():
            if user.role == "admin" and not user.disabled:
                return user
        raise click.ClickException("there is no administrator to own the key: name its owner with --owner EMAIL")

    async def _hash(self, password: Secret) -> str:
        try:
            return await self.passwords.hash(password)
        except ValueError as error:
            raise click.ClickException(str(error)) from error

    async def _note(self, action: str, target: str, **detail: object) -> None:
        await self.audit.append(self.actor, action, target, detail)


@asynccontextmanager
async def open_desk(config_path: Path) -> AsyncIterator[Desk]:
    """The desk of the gateway that ``config_path`` describes. Raises GatewayError where it cannot be opened."""
    config = load(config_path, resolve, os.environ)
    async with Store.open(config.store, clock=SystemClock(), deadline_s=DEADLINE_S) as store:
        vault = await unlock(store, config)
        async with desk_of(config, store, vault) as desk:
            yield desk


@asynccontextmanager
async def desk_of(config: GatewayConfig, store: Store, vault: KeyVault) -> AsyncIterator[Desk]:
    """A desk over what is open already."""
    async with Passwords() as passwords:
        yield Desk(config, store, vault, passwords, store.audit(vault.derive(PURPOSE)), actor())


def actor() -> str:
    """Whom the audit log names for what this process does."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
