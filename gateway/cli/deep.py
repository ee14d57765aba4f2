"""What ``gateway check --deep`` opens: everything that the file names, each for itself, and closed again.

Nothing is written, nothing is sent, and every wait is bounded: by the store's deadline, by the upstreams' for
connecting.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.cli.desk import DEADLINE_S
from gateway.clock import SystemClock
from gateway.errors import CertificateError, GatewayError, StoreError, VaultError
from gateway.services import at_rest, unlock, unopened
from gateway.store.store import Store
from gateway.tls import ServerCertificate, client_context
from gateway.upstream import HttpUpstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.config import GatewayConfig, ListenerConfig, ListenerTlsConfig
    from gateway.contract import Services


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``ok`` is None where it could not be, for the fault of another one."""

    what: str
    ok: bool | None
    detail: str


async def look(config: GatewayConfig) -> list[Finding]:
    """What there is to be found, in the order in which a gateway would open it."""
    findings = await _durable(config)
    findings += _certificates(config)
    findings += [await _listener(name, listener) for name, listener in config.listeners.items()]
    async with asyncio.TaskGroup() as group:
        upstreams = [
            group.create_task(_upstream(upstream))
            for upstream in unopened(config).upstreams.values()
            if isinstance(upstream, HttpUpstream)
        ]
    return findings + [task.result() for task in upstreams]


# ── The store, and what is sealed in it ──────────────────────────────────────────────────────────────────────────────


async def _durable(config: GatewayConfig) -> list[Finding]:
    try:
        schema = await Store.look(config.store)
        if not schema.is_current:
            # Opening it would migrate it, under the gateway that may be running.
            detail = f"has schema {schema.reached or 'none'}; the next start brings it to {schema.newest}"
            return [Finding("store", ok=True, detail=detail), *_not_looked_at(config)]
        async with Store.open(config.store, clock=SystemClock(), deadline_s=DEADLINE_S) as store:
            return [Finding("store", ok=True, detail=f"has schema {schema.reached}"), *await _sealed(config, store)]
    except StoreError as error:
        return [Finding("store", ok=False, detail=str(error)), *_not_looked_at(config)]


def _not_looked_at(config: GatewayConfig) -> Iterator[Finding]:
    yield Finding("vault", ok=None, detail="could not be looked at")
    yield from _keys_not_looked_at(config)


def _keys_not_looked_at(config: GatewayConfig) -> Iterator[Finding]:
    for name in _with_credential(config):
        yield Finding(f"provider key {name}", ok=None, detail="could not be looked at")


def _with_credential(config: GatewayConfig) -> list[str]:
    return [name for name, upstream in config.upstreams.items() if upstream.credential != "none"]


async def _sealed(config: GatewayConfig, store: Store) -> list[Finding]:
    try:
        vault = await unlock(store, config)
    except GatewayError as error:
        return [Finding("vault", ok=False, detail=str(error)), *_keys_not_looked_at(config)]
    services = await at_rest(config, store, vault)
    findings = [Finding("vault", ok=True, detail="opens with the master key")]
    findings += [_provider_key(name, services) for name in _with_credential(config)]
    for key in await store.provider_keys.list():
        if key.upstream not in _with_credential(config):
            findings.append(
                Finding(f"provider key {key.upstream}", ok=True, detail="is stored, and no upstream uses it")
            )
    return findings


def _provider_key(name: str, services: Services) -> Finding:
    upstream = services.upstreams[name]
    try:
        services.vault.credential(name, upstream.origin)
    except VaultError as error:
        return Finding(f"provider key {name}", ok=False, detail=str(error))
    return Finding(f"provider key {name}", ok=True, detail=f"opens, for {upstream.origin}")


# ── Certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _certificates(config: GatewayConfig) -> Iterator[Finding]:
    for name, listener in config.listeners.items():
        if listener.tls is not None:
            yield _certificate(name, listener.tls)
    for name, upstream in config.upstreams.items():
        if upstream.tls is not None:
            yield _authorities(name, upstream.tls.ca)


def _certificate(name: str, tls: ListenerTlsConfig) -> Finding:
    what = f"certificate {name}"
    try:
        certificate = ServerCertificate(tls)
    except CertificateError as error:
        return Finding(what, ok=False, detail=str(error))
    dates = f"valid from {_day(certificate.valid_from)} to {_day(certificate.valid_until)}"
    if not certificate.is_valid(time.time()):
        return Finding(what, ok=False, detail=f"{certificate.file} is {dates}, which now is not")
    return Finding(what, ok=True, detail=f"{certificate.file} is {dates}")


def _authorities(name: str, ca: Path) -> Finding:
    count = len(client_context(ca).get_ca_certs())
    return Finding(f"authorities {name}", ok=True, detail=f"{ca} has {count}")


def _day(date: datetime) -> str:
    return date.astimezone(UTC).date().isoformat()


# ── The network ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def _listener(name: str, listener: ListenerConfig) -> Finding:
    what, address = f"listener {name}", f"{listener.host}:{listener.port}"
    try:
        server = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, listener.host, listener.port, start_serving=False
        )
    except OSError as error:
        # The loop's own words repeat the address; those of a name that is not known have a negative number.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        detail = f"cannot listen on {address}: {reason}"
        return Finding(what, ok=False, detail=detail)
    server.close()
    await server.wait_closed()
    return Finding(what, ok=True, detail=f"can listen on {address}")


async def _upstream(upstream: HttpUpstream) -> Finding:
    what = f"upstream {upstream.name}"
    try:
        async with upstream:
            await upstream.probe()
    except GatewayError as error:
        return Finding(what, ok=False, detail=f"{upstream.origin}: {error}")
    verified = " and shows a certificate that is right" if upstream.origin.startswith("https:") else ""
    return Finding(what, ok=True, detail=f"{upstream.origin} can be reached{verified}")
