"""Whether this process lives, whether it should get requests, and what it has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from aiohttp import hdrs, web

from gateway.contract import EXCHANGE, Plugin, Refusal
from gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from gateway.contract import Handler, PluginConfig, Services

_NO_STORE = {"cache-control": "no-store"}


class Health(Plugin):
    """Answers ``/healthz``, ``/readyz`` and ``/metrics`` below its route; everything else is a 404.

    ``/healthz`` touches nothing: a process that answers is alive, and a store that blinks must restart nobody.
    ``/readyz`` is 503 while draining, and stays 200, ``degraded``, while the store is away: cached keys still work.
    It is not authenticated: keep its listener off the internet.
    """

    terminal: ClassVar[bool] = True

    def __init__(self, config: PluginConfig, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._services = services
        self._answers = {"healthz": self._alive, "readyz": self._ready, "metrics": self._metrics}

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG002 - terminal
        """Answer one of the three."""
        answer = self._answers.get(request[EXCHANGE].path.rpartition("/")[2])
        if answer is None:
            raise Refusal(404, "unknown_url", "There is /healthz, /readyz and /metrics here.")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise Refusal(405, "method_not_allowed", "Only GET and HEAD are answered.", headers={"allow": "GET, HEAD"})
        return await answer()

    async def _alive(self) -> web.Response:
        return _status(200, "ok")

    async def _ready(self) -> web.Response:
        if self._services.is_draining():
            return _status(503, "draining")
        try:
            await self._services.store.ping()
        except StoreUnavailable:
            return _status(200, "degraded")
        return _status(200, "ok")

    async def _metrics(self) -> web.Response:
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8", **_NO_STORE}
        return web.Response(body=self._services.metrics.render(), headers=headers)


def _status(status: int, word: str) -> web.Response:
    return web.json_response({"status": word}, status=status, headers=_NO_STORE)
