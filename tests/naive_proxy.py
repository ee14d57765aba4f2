"""The proxy that an ordinary engineer writes on aiohttp in an hour. Frozen: it is never repaired.

Every trap that the libraries set is still open here. Each test in ``tests/e2e/test_traps.py`` runs against the gateway
and against this, and has to fail here: a test that this proxy passes proves nothing.

Run it: ``python tests/naive_proxy.py UPSTREAM_URL PROVIDER_KEY [PORT]``.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from aiohttp import ClientSession, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UPSTREAM = web.AppKey("UPSTREAM", str)
PROVIDER_KEY = web.AppKey("PROVIDER_KEY", str)
SESSION = web.AppKey("SESSION", ClientSession)

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


async def proxy(request: web.Request) -> web.StreamResponse:
    """Forward the request with the provider's key and stream the answer back."""
    app = request.app
    headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP | {"host", "content-length"}}
    headers["Authorization"] = f"Bearer {app[PROVIDER_KEY]}"
    async with app[SESSION].request(
        request.method,
        app[UPSTREAM] + str(request.url.relative()),
        headers=headers,
        data=await request.read(),
    ) as upstream:
        response = web.StreamResponse(status=upstream.status)
        for name, value in upstream.headers.items():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                response.headers[name] = value
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def session(app: web.Application) -> AsyncIterator[None]:
    """One client session for the life of the application."""
    app[SESSION] = ClientSession()
    yield
    await app[SESSION].close()


def create_app(upstream: str, provider_key: str) -> web.Application:
    """Build the proxy to ``upstream`` (an origin without a path)."""
    app = web.Application()
    app[UPSTREAM] = upstream
    app[PROVIDER_KEY] = provider_key
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/v1/{path:.*}", proxy)
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    web.run_app(
        create_app(sys.argv[1], sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[3]) if len(sys.argv) > 3 else 8080,
    )
