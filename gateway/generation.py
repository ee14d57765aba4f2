"""One configuration made real: its layers built, their order proved, its routes composed.

A generation is immutable once it serves. An exchange keeps the generation that it began with; the layers are closed
when the generation has been replaced and its last exchange has ended. Building one opens nothing, so ``gateway check``
does it too.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from gateway.chain import Layer, Rim, compose, prove
from gateway.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from gateway.config import GatewayConfig, LayerConfig, RouteConfig
    from gateway.contract import Handler, Services


@dataclass(frozen=True, slots=True)
class Route:
    """A path prefix of a listener and the chain behind it. ``prefix`` ends without a slash; "" is everything."""

    name: str
    listener: str
    prefix: str
    max_body: int
    encoded_slashes: bool
    layers: tuple[Layer, ...]
    handler: Handler

    def covers(self, path: str) -> bool:
        """Whether ``path`` lies under the prefix, by whole segments: /v1 covers /v1 and /v1/x, never /v10."""
        prefix = self.prefix
        return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")


class Generation:
    """The routes of one configuration. Enter it (``async with``) to open its layers, pin it (``with``) per exchange."""

    def __init__(self, config: GatewayConfig, services: Services) -> None:
        """Build and prove. Raises ConfigError with every fault."""
        self.rim = Rim(services.log, services.metrics)
        self.trusted_proxies = config.trusted_proxies
        self.limits = config.limits
        self.routes = _build(config, services, self.rim)
        # Longest prefix first: the first that covers a path is the most specific one.
        self._by_listener = {
            name: sorted(
                (route for route in self.routes if route.listener == name), key=lambda r: len(r.prefix), reverse=True
            )
            for name in config.listeners
        }
        self._stack = AsyncExitStack()
        self._pins = 0
        self._unpinned = asyncio.Event()
        self._unpinned.set()

    def route(self, listener: str, path: str) -> Route | None:
        """The one route of a path; None where nothing is routed."""
        for route in self._by_listener[listener]:
            if route.covers(path):
                return route
        return None

    def __enter__(self) -> Self:
        self._pins += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pins -= 1
        if not self._pins:
            self._unpinned.set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for layer in {id(layer): layer for route in self.routes for layer in route.layers}.values():
                await stack.enter_async_context(layer.plugin)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last exchange, then close the layers."""
        self._unpinned.clear()
        if self._pins:
            await self._unpinned.wait()
        await self._stack.aclose()


def _build(config: GatewayConfig, services: Services, rim: Rim) -> tuple[Route, ...]:
    routes: list[Route] = []
    faults: list[Fault] = []
    for route in config.routes:
        layers = _layers(route, services, faults)
        if len(layers) < len(route.chain):
            continue
        prefixes = [path.rstrip("/") for path in route.paths]
        faults += [route.chain[index].fault(problem) for index, problem in prove(layers, prefixes)]
        handler = compose(layers, rim)
        routes += [
            Route(route.name, route.listener, prefix, route.max_body, route.encoded_slashes, tuple(layers), handler)
            for prefix in prefixes
        ]
    if faults:
        raise ConfigError(faults)
    return tuple(routes)


def _layers(route: RouteConfig, services: Services, faults: list[Fault]) -> Sequence[Layer]:
    """The route's layers; fewer than it lists, and a fault for each, where one cannot be built."""
    layers: list[Layer] = []
    for entry in route.chain:
        try:
            layers.append(_layer(entry, services))
        except ValueError as error:
            faults.append(entry.fault(str(error)))
    return layers


def _layer(entry: LayerConfig, services: Services) -> Layer:
    return Layer(entry.use, entry.plugin(entry.config, services), entry.on_error or entry.plugin.on_error)
