"""aiohttp middlewares as others write them: what the chain has to bear, and the naive proxy too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@web.middleware
async def splits_a_header(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Answer with a header whose value carries a second one."""
    return web.Response(headers={"x-stamp": "a\r\nSet-Cookie: evil=1"})


@web.middleware
async def tells_everything(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Fail on one path with an exception that quotes the whole request, as careless code does."""
    if request.path.endswith("/boom"):
        raise RuntimeError(f"{request.path_qs} {dict(request.headers)}")
    return await handler(request)
