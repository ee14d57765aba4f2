"""``gateway check``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json, print_rows

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.cli.deep import Finding
    from gateway.config import GatewayConfig


@click.command("check", short_help="Prove the configuration without starting.")
@config_option
@json_option
@click.option(
    "--deep", is_flag=True, help="Also open what it names: store, vault, keys, ports, certificates, upstreams."
)
@click.pass_context
def command(ctx: click.Context, config_path: Path, as_json: bool, deep: bool) -> None:
    """Say whether a gateway could start with this configuration, or all that is wrong with it.

    Opens nothing but the file, unless --deep asks for it. The ports of a gateway that runs are taken then.
    """
    config = _load(config_path)
    findings = _look(config) if deep else []
    ok = all(finding.ok is not False for finding in findings)
    if as_json:
        found = {"findings": [asdict(finding) for finding in findings]} if deep else {}
        print_json({"ok": ok, "routes": _chains(config), **found})
    else:
        _tell(config, findings, ok=ok)
    ctx.exit(0 if ok else 1)


def _load(config_path: Path) -> GatewayConfig:
    from gateway.config import load
    from gateway.generation import Generation
    from gateway.registry import resolve
    from gateway.services import unopened

    config = load(config_path, resolve, os.environ)
    Generation(config, unopened(config))
    return config


def _look(config: GatewayConfig) -> list[Finding]:
    from gateway.cli.deep import look

    return asyncio.run(look(config))


def _chains(config: GatewayConfig) -> list[dict[str, Any]]:
    return [
        {
            "route": route.name,
            "listener": route.listener,
            "paths": list(route.paths),
            "chain": [layer.use for layer in route.chain],
        }
        for route in config.routes
    ]


def _tell(config: GatewayConfig, findings: list[Finding], *, ok: bool) -> None:
    click.echo("ok" if ok else "not ok")
    for chain in _chains(config):
        click.echo(f"{chain['listener']} {' '.join(chain['paths'])}: {' → '.join(chain['chain'])}")
    if findings:
        click.echo()
        print_rows([asdict(finding) for finding in findings], as_json=False, nothing="")
