"""Whether this process lives, whether it should get requests, and what it has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from aiohttp import hdrs, web

from gateway.contract import EXCHANGE, Plugin, Refusal, Verdict
from gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.contract import Handler, PluginConfig, Question, Services

_NO_STORE = {"cache-control": "no-store"}
_PAGES = ("/healthz", "/readyz", "/metrics")


class Health(Plugin):
    """Answers ``/healthz``, ``/readyz`` and ``/metrics`` below its route; everything else is a 404.

    ``/healthz`` touches nothing: a process that answers is alive, and a store that blinks must restart nobody.
    ``/readyz`` is 503 while draining, and stays 200, ``degraded``, while the store is away, because cached keys still
    work, and while the stored keys of some providers cannot be opened, which it names: the others' can.
    It is not authenticated: keep its listener off the internet.
    """

    terminal: ClassVar[bool] = True

    def __init__(self, config: PluginConfig, services: Services) -> None:  # noqa: ARG002 - the contract's signature
        self._services = services
        self._answers = dict(zip(_PAGES, (self._alive, self._ready, self._metrics), strict=True))

    def endpoints(self, prefix: str) -> Sequence[str]:
        """The pages that the route reaches."""
        return [f"GET {path}" for path in _reached(prefix)]

    async def explain(self, question: Question) -> Verdict:
        """Whether it is one of them."""
        return Verdict(f"answers {_page(question.method, question.path, question.prefix)}", answers=True)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG002 - terminal
        """Answer one of the three."""
        exchange = request[EXCHANGE]
        return await self._answers[_page(exchange.method, exchange.path, exchange.prefix)]()

    async def _alive(self) -> web.Response:
        return _status(200, "ok")

    async def _ready(self) -> web.Response:
        if self._services.is_draining():
            return _status(503, "draining")
        try:
            await self._services.store.ping()
        except StoreUnavailable:
            return _status(200, "degraded")
        if unhealthy := sorted(self._services.vault.unhealthy()):
            return _status(200, "degraded", unhealthy_credentials=unhealthy)
        return _status(200, "ok")

    async def _metrics(self) -> web.Response:
        headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8", **_NO_STORE}
        return web.Response(body=self._services.metrics.render(), headers=headers)


def _reached(prefix: str) -> dict[str, str]:
    """The pages by their paths behind a route at ``prefix``: that of one page reaches it alone, any other all three."""
    for page in _PAGES:
        if prefix.endswith(page):
            return {prefix: page}
    return {prefix + page: page for page in _PAGES}


def _page(method: str, path: str, prefix: str) -> str:
    page = _reached(prefix).get(path)
    if page is None:
        raise Refusal(404, "unknown_url", "There is /healthz, /readyz and /metrics here.")
    if method not in (hdrs.METH_GET, hdrs.METH_HEAD):
        raise Refusal(405, "method_not_allowed", "Only GET and HEAD are answered.", headers={"allow": "GET, HEAD"})
    return page


def _status(status: int, word: str, **more: object) -> web.Response:
    return web.json_response({"status": word, **more}, status=status, headers=_NO_STORE)
