"""A gateway on real sockets, from the text of a ``gateway.yaml``, with a key to use it."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway import registry
from gateway.clock import SystemClock
from gateway.config import load
from gateway.contract import Secret
from gateway.process import Gateway
from gateway.security.keys import new_api_key
from gateway.security.vault import KeyVault, new_master_key
from gateway.store.credentials import seal
from gateway.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.config import GatewayConfig


@dataclass(frozen=True)
class Live:
    """A running gateway. ``key`` is a member's key; ``provider_keys`` are what each upstream is given.

    ``secure`` names the listeners that speak TLS.
    """

    gateway: Gateway
    key: str = field(repr=False)
    provider_keys: Mapping[str, str] = field(repr=False)
    master_key: str = field(repr=False)
    secure: frozenset[str] = frozenset()

    def url(self, path: str = "/", listener: str = "public") -> str:
        """Where a client finds ``path`` on a listener."""
        host, port = self.gateway.addresses[listener]
        return f"{'https' if listener in self.secure else 'http'}://{host}:{port}{path}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the public listener."""
        return self.gateway.addresses["public"]

    @property
    def auth(self) -> dict[str, str]:
        """The header of an authenticated request."""
        return {"Authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def running_gateway(yaml: str, folder: Path, *, environ: Mapping[str, str] | None = None) -> AsyncIterator[Live]:
    """Run ``yaml`` in this process and event loop, until the context closes.

    ``folder`` holds the file and its store. The store is made anew, with a vault, a user, one key of that user, and a
    provider key for every upstream that wants one. ``${GATEWAY_MASTER_KEY}`` and ``${STORE}`` may be referred to. Bind
    listeners to port 0 and ask :meth:`Live.url`.
    """
    master = new_master_key()
    path = folder / "gateway.yaml"
    path.write_text(yaml, encoding="utf-8")
    environ = {
        **os.environ,
        "GATEWAY_MASTER_KEY": master.reveal(),
        "STORE": f"sqlite:///{folder}/gateway.db",
        **(environ or {}),
    }
    config = load(path, registry.resolve, environ)
    key, provider_keys = await _furnish(config, master)
    async with Gateway(config) as gateway:
        secure = frozenset(name for name, listener in config.listeners.items() if listener.tls is not None)
        yield Live(gateway, key.reveal(), provider_keys, master.reveal(), secure)


async def _furnish(config: GatewayConfig, master: Secret) -> tuple[Secret, Mapping[str, str]]:
    vault, record = KeyVault.create(master, config.vault.cipher, iterations=1)
    key, provider_keys = new_api_key(), {}
    async with Store.open(config.store, clock=SystemClock(), create=True) as store:
        await store.vault.create(record)
        user = await store.users.create("tester@example.com", "no password", "member")
        await store.api_keys.create(key, name="test", owner=user.id)
        for name, upstream in config.upstreams.items():
            if upstream.credential != "none":
                provider_keys[name] = f"sk-{name}-{new_api_key().reveal()[3:]}"
                secret = Secret(provider_keys[name])
                await store.provider_keys.put(
                    seal(vault, secret, upstream=name, origin=upstream.origin, added_by="test", added=time.time())
                )
    return key, provider_keys
