"""Opens what a configuration names, once per process, and lends it to the layers.

The order matters and is undone backwards: the log first, so that everything after it can be told; the store before
the vault, whose record it keeps; the vault before anything that serves, so that a wrong master key serves nobody.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from gateway.clock import SystemClock
from gateway.contract import Services
from gateway.errors import CertificateError, ConfigError, StoreMismatch
from gateway.log import open_log
from gateway.metrics import PrometheusMetrics
from gateway.security.masking import Masker
from gateway.security.vault import KeyVault
from gateway.state import open_state
from gateway.store.cache import KeyCache
from gateway.store.credentials import ProviderKeys
from gateway.store.store import Store
from gateway.store.usage import UsageWriter
from gateway.store.watch import watch
from gateway.upstream import HttpUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from gateway.config import GatewayConfig
    from gateway.contract import Metrics
    from gateway.security.vault import VaultRecord


@dataclass
class Running:
    """What is open, and whether it is on its way to closing."""

    services: Services = field(init=False)
    usage: UsageWriter = field(init=False)
    draining: bool = False


class _NotOpened:
    """Stands for what ``gateway check`` does not open. To touch it in ``__init__`` is a fault of the layer."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it has no attribute
        msg = f"a layer used services in its constructor ({name}); open things in __aenter__"
        raise ValueError(msg)


def unopened(config: GatewayConfig) -> Services:
    """Services for building and proving chains without opening anything."""
    nothing = cast("Any", _NotOpened())
    metrics = PrometheusMetrics()
    return Services(
        clock=SystemClock(),
        keys=nothing,
        store=nothing,
        state=nothing,
        vault=nothing,
        upstreams=_upstreams(config, metrics),
        log=nothing,
        metrics=metrics,
    )


class _Silence:
    """The log of who is told directly."""

    def debug(self, event: str, **fields: object) -> None:
        """Say nothing."""

    info = warning = error = debug


async def at_rest(config: GatewayConfig, store: Store, vault: KeyVault) -> Services:
    """Services for asking what a gateway would do: the store and the vault as they are now, and nothing that runs."""
    credentials = ProviderKeys(vault, Masker(), unlock=_unlocking(config), log=_Silence())
    await credentials.reload(store)
    return replace(unopened(config), store=store, vault=credentials)


@asynccontextmanager
async def open_services(config: GatewayConfig, in_flight: Callable[[], int]) -> AsyncIterator[Running]:
    """Open the log, the store, the vault, the state and the upstreams. Raises GatewayError where one cannot be."""
    clock, masker, running = SystemClock(), Masker(), Running()
    masker.register(config.vault.master_key)
    async with AsyncExitStack() as stack:
        log = stack.enter_context(open_log(config.log_level, sys.stderr, masker.mask))
        metrics = PrometheusMetrics(in_flight)
        store = await stack.enter_async_context(Store.open(config.store, clock=clock))
        vault = await unlock(store, config)
        credentials = ProviderKeys(vault, masker, unlock=_unlocking(config), log=log)
        keys = KeyCache(
            store,
            clock=clock,
            ttl_s=config.auth_cache.ttl,
            stale_s=config.auth_cache.stale_while_down,
            size=config.auth_cache.size,
        )
        # Entering it loads the provider keys: the first poll tells of everything.
        await stack.enter_async_context(watch(store, keys.clear, lambda: credentials.reload(store), log=log))
        running.usage = await stack.enter_async_context(UsageWriter(store, clock=clock, log=log))
        metrics.follow("log_lines_dropped", "Log lines that could not be written.", lambda: log.dropped)
        metrics.follow(
            "usage_rows_dropped", "Exchanges whose usage could not be recorded.", lambda: running.usage.dropped
        )
        upstreams = _upstreams(config, metrics)
        for upstream in upstreams.values():
            await stack.enter_async_context(upstream)
        running.services = Services(
            clock=clock,
            keys=keys,
            store=store,
            state=await stack.enter_async_context(open_state(config.state, clock)),
            vault=credentials,
            upstreams=upstreams,
            log=log,
            metrics=metrics,
            is_draining=lambda: running.draining,
        )
        yield running


async def unlock(store: Store, config: GatewayConfig) -> KeyVault:
    """The store's vault under the configured master key. Raises MasterKeyError, or StoreMismatch before `init`."""
    record = await store.vault.read()
    if record is None:
        raise StoreMismatch("the store has no vault yet: run `gateway init`")
    # 600,000 rounds of PBKDF2 hold a thread for a tenth of a second, once.
    return await asyncio.to_thread(_unlocking(config), record)


def _unlocking(config: GatewayConfig) -> Callable[[VaultRecord], KeyVault]:
    return partial(KeyVault.unlock, config.vault.master_key, cipher=config.vault.cipher)


def _upstreams(config: GatewayConfig, metrics: Metrics) -> Mapping[str, HttpUpstream]:
    faults, upstreams = [], {}
    for name, upstream in config.upstreams.items():
        try:
            upstreams[name] = HttpUpstream(name, upstream, metrics)
        except CertificateError as error:
            faults.append(config.fault(str(error), "upstreams", name, "tls", error.field))
    if faults:
        raise ConfigError(faults)
    return upstreams
