"""The layer ``rate_limit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from gateway.contract import Rate
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.contract import Handler
    from tests.plugins.conftest import World

ECHO = "gateway.testing:Echo"
TRUSTED = ("127.0.0.1/32",)


def from_(address: str) -> tuple[str, str]:
    """Say, as a trusted proxy, where a request came from."""
    return ("X-Forwarded-For", address)


@web.middleware
async def relaying(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An answer with the provider's own limits on it."""
    response = await handler(request)
    response.headers["x-ratelimit-remaining-requests"] = "4999"
    return response


@pytest.mark.parametrize(("by", "limit"), [("ip", 100), ("key", 60)])
async def test_the_default_limits(world: World, by: str, limit: int) -> None:
    """100 requests a minute for an address, 60 for a key, and then 429."""
    async with world.serve("gateway.testing:Identify", {"rate_limit": {"by": by}}, ECHO) as get:
        statuses = [(await get()).status for _ in range(limit + 1)]
        world.clock.now += 60 / limit
        later = (await get()).status
    assert statuses == [200] * limit + [429]
    assert later == 200


async def test_a_refusal_says_when_to_come_again(world: World) -> None:
    """The 429 has everything that SDKs wait by; the wait is rounded up, and coming then succeeds."""
    async with world.serve({"rate_limit": {"by": "ip", "requests": "2/min"}}, ECHO) as get:
        for _ in range(2):
            await get()
        world.clock.now += 0.5
        refused = await get()
        world.clock.now += int(refused.headers["retry-after"])
        admitted = await get()
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert admitted.status == 200


async def test_every_answer_tells_what_is_left(world: World) -> None:
    """RateLimit and RateLimit-Policy are on admitted and on refused answers, one line for each limit passed."""
    limits = [{"rate_limit": {"by": "ip", "requests": "9/min"}}, {"rate_limit": {"by": "key", "requests": "1/h"}}]
    async with world.serve(limits[0], "gateway.testing:Identify", limits[1], ECHO) as get:
        admitted, refused = await get(), await get()
    assert [answer.status for answer in (admitted, refused)] == [200, 429]
    for answer in (admitted, refused):
        assert sorted(answer.headers.getall("RateLimit-Policy")) == ['"ip-9/60s";q=9;w=60', '"key-1/3600s";q=1;w=3600']
    assert sorted(admitted.headers.getall("RateLimit")) == ['"ip-9/60s";r=8;t=7', '"key-1/3600s";r=0;t=3600']
    assert sorted(refused.headers.getall("RateLimit")) == ['"ip-9/60s";r=7;t=14', '"key-1/3600s";r=0;t=3600']


async def test_the_providers_own_limits_are_left_alone(world: World) -> None:
    """On a relayed answer ``x-ratelimit-*`` are the provider's."""
    async with world.serve({"rate_limit": {"by": "ip"}}, f"{__name__}:relaying", ECHO) as get:
        answer = await get()
    assert answer.headers.getall("x-ratelimit-remaining-requests") == ["4999"]
    assert "x-ratelimit-limit-requests" not in answer.headers


async def test_keys_have_buckets_of_their_own(world: World) -> None:
    """One key's use takes nothing from another's."""
    one, other = ("x-api-key", world.new_key()), ("x-api-key", world.new_key())
    async with world.serve("api_key_auth", {"rate_limit": {"by": "key", "requests": "1/min"}}, ECHO) as get:
        statuses = [(await get("GET", "/x", key)).status for key in (one, one, other)]
    assert statuses == [200, 429, 200]


async def test_a_principals_own_rate(world: World) -> None:
    """A rate that is set on a key replaces the configured one, and is what the answer tells."""
    key = ("x-api-key", world.new_key(rate=Rate(3, 60.0)))
    async with world.serve("api_key_auth", {"rate_limit": {"by": "key", "requests": "1/min"}}, ECHO) as get:
        answers = [await get("GET", "/x", key) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"key-3/60s";q=3;w=60'
    assert answers[3].headers["x-ratelimit-limit-requests"] == "3"


async def test_the_burst_bounds_what_comes_at_once(world: World) -> None:
    """With a burst of two, a rate of sixty a minute admits two at once and one more each second."""
    limit = {"rate_limit": {"by": "ip", "requests": "60/min", "burst": 2}}
    async with world.serve(limit, ECHO) as get:
        statuses = [(await get()).status for _ in range(3)]
        world.clock.now += 1
        statuses += [(await get()).status for _ in range(2)]
    assert statuses == [200, 200, 429, 200, 429]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.2.3", "::ffff:10.1.2.3", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ],
)
async def test_what_is_one_address(world: World, first: str, second: str, shared: bool) -> None:
    """F81: an IPv6 /64 is one client, and an IPv4 address in IPv6 clothes is itself."""
    async with world.serve({"rate_limit": {"by": "ip", "requests": "1/min"}}, ECHO, trusted=TRUSTED) as get:
        statuses = [(await get("GET", "/x", from_(address))).status for address in (first, second)]
    assert statuses == [200, 429 if shared else 200]


async def test_a_client_cannot_choose_its_address(world: World) -> None:
    """F81: without a trusted proxy, forwarded addresses change nothing."""
    async with world.serve({"rate_limit": {"by": "ip", "requests": "1/min"}}, ECHO) as get:
        statuses = [(await get("GET", "/x", from_(f"10.0.0.{last}"))).status for last in range(3)]
    assert statuses == [200, 429, 429]


async def test_a_refused_request_goes_no_further(world: World) -> None:
    """What the limit refuses, no later layer sees."""
    async with world.serve({"rate_limit": {"by": "ip", "requests": "1/min"}}, "api_key_auth", ECHO) as get:
        for _ in range(3):
            await get("GET", "/x", ("x-api-key", "gw_" + "A1" * 16))
    assert world.keys.asked == 1


@pytest.mark.parametrize(("elsewhere", "status"), [({"path": "/other/"}, 429), ({"listener": "admin"}, 200)])
async def test_one_limit_for_all_routes_of_a_listener(world: World, elsewhere: dict[str, str], status: int) -> None:
    """What was used up on one route is used up on the others; another listener is not locked by it."""
    limit = {"rate_limit": {"by": "ip", "requests": "1/min"}}
    async with world.serve(limit, ECHO) as get:
        assert (await get()).status == 200
    async with world.serve(limit, ECHO, **elsewhere) as get:
        assert (await get("GET", "/other/x")).status == status


async def test_by_key_needs_somebody(world: World) -> None:
    """F60: a limit by key in front of the authentication does not start; one by address does."""
    with pytest.raises(ConfigError, match="needs PRINCIPAL"):
        async with world.serve({"rate_limit": {"by": "key"}}, "api_key_auth", ECHO):
            pass
    async with world.serve({"rate_limit": {"by": "ip"}}, "api_key_auth", ECHO):
        pass


@pytest.mark.parametrize("options", [{}, {"by": "user"}, {"by": "ip", "requests": 60}, {"by": "ip", "brust": 5}])
def test_a_wrong_limit_does_not_load(plugin_config: Any, options: dict[str, Any]) -> None:
    """F60: whom to limit must be said, a rate has a period, and no unknown key passes."""
    with pytest.raises(ValidationError):
        plugin_config("rate_limit", options)


@pytest.mark.parametrize("burst", [0, -1, "many"])
def test_a_burst_is_at_least_one(plugin_config: Any, burst: object) -> None:
    """A limit that would admit nobody is an error of the file."""
    with pytest.raises(ValidationError):
        plugin_config("rate_limit", {"by": "ip", "burst": burst})
