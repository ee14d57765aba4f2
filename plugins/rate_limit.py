"""So many requests in a time, for each key or each address."""

from __future__ import annotations

from functools import partial
from ipaddress import AddressValueError, IPv6Address
from math import ceil
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gateway.contract import EXCHANGE, PRINCIPAL, Bucket, Plugin, PluginConfig, Rate, Refusal, Tunnel, Verdict

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.contract import Decision, Exchange, Handler, Question, Requirement, Services

_DEFAULTS = {"key": Rate(60, 60.0), "ip": Rate(100, 60.0)}
# What sums of floats are off by must not show: neither 6.9999999 tokens as 6, nor 1.0000001 seconds as 2.
_ROUNDING = 1e-6
_WHOSE = {"key": "this API key", "ip": "this address"}


class RateLimit(Plugin):
    """Admits ``burst`` requests at once and ``requests`` over time, by token bucket; a refused request takes nothing.

    Entries with the same rate and burst on one listener share their buckets: 60 a minute for a key are 60 over all
    routes. Another listener counts apart, so traffic on the API locks nobody out of the dashboard.

    Every answer carries ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers-10), one line of
    each per limit that it passed. ``x-ratelimit-*`` stand on refusals of this layer alone: on a relayed answer they are
    the provider's.
    """

    class Config(PluginConfig):
        """Whom to limit, and to what."""

        by: Literal["key", "ip"]
        """``key``: whoever authenticated. ``ip``: the client's address, IPv6 by its /64."""
        requests: Rate | None = None
        """The rate, such as ``60/min``; null: 60/min by key, 100/min by ip."""
        burst: int | None = Field(default=None, ge=1)
        """How many requests may come at once; null: as many as ``requests`` names."""

    def __init__(self, config: Config, services: Services) -> None:
        self._by = config.by
        self._rate = config.requests or _DEFAULTS[config.by]
        self._burst = config.burst
        self._policy = _policy(config.by, self._rate)
        self._state = services.state

    def needs(self) -> frozenset[Requirement]:
        """Who is calling, to limit by it."""
        if self._by == "key":
            return frozenset({PRINCIPAL})
        return frozenset()

    async def explain(self, question: Question) -> Verdict:
        """Which limit applies; how much of it is left is known to the gateway that runs, and not asked."""
        principal = question.facts.get(PRINCIPAL) if self._by == "key" else None
        rate = (principal.rate if principal is not None else None) or self._rate
        burst = self._burst or rate.amount
        every = _duration(rate.period_s)
        return Verdict(f"takes one of {rate.amount} requests per {every} for {_WHOSE[self._by]}, {burst} at once")

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse, or go on and tell what is left."""
        bucket = self._bucket(request[EXCHANGE])
        decision = await self._state.take((bucket,))
        policy = self._policy if bucket.rate is self._rate else _policy(self._by, bucket.rate)
        name = policy.partition(";")[0]
        left = f"{name};r={_whole(decision.remaining[0])};t={_seconds(_until_full_s(bucket, decision))}"
        if not decision.allowed:
            raise self._refusal(bucket, decision, {"RateLimit": left, "RateLimit-Policy": policy})
        response = await handler(request)
        response.headers.add("RateLimit", left)
        response.headers.add("RateLimit-Policy", policy)
        if isinstance(response, Tunnel):
            # A connection took one token; so does every answer that is asked for on it.
            response.admit(partial(self._admit, bucket))
        return response

    async def _admit(self, bucket: Bucket, _: bytes) -> None:
        decision = await self._state.take((bucket,))
        if not decision.allowed:
            raise self._refusal(bucket, decision, {})

    def _bucket(self, exchange: Exchange) -> Bucket:
        if self._by == "ip":
            who, rate = _network(exchange.client), self._rate
        else:
            principal = exchange[PRINCIPAL]
            who, rate = f"{principal.kind}:{principal.id}", principal.rate or self._rate
        return Bucket(f"{exchange.listener}:{self._by}:{who}", rate, self._burst or rate.amount)

    def _refusal(self, bucket: Bucket, decision: Decision, headers: dict[str, str]) -> Refusal:
        wait_s = max(1, _seconds(decision.retry_after_s))
        rate = bucket.rate
        message = (
            f"Rate limit reached for {_WHOSE[self._by]}: {rate.amount} requests per {_duration(rate.period_s)}. "
            f"Please try again in {_duration(wait_s)}."
        )
        headers |= {
            "retry-after": str(wait_s),
            "x-ratelimit-limit-requests": str(rate.amount),
            "x-ratelimit-remaining-requests": str(_whole(decision.remaining[0])),
            "x-ratelimit-reset-requests": _duration(_until_full_s(bucket, decision)),
        }
        return Refusal(429, "rate_limit_exceeded", message, headers=headers)


def _policy(by: str, rate: Rate) -> str:
    return f'"{by}-{rate.amount}/{rate.period_s:g}s";q={rate.amount};w={rate.period_s:g}'


def _whole(tokens: float) -> int:
    return int(tokens + _ROUNDING)


def _seconds(exact: float) -> int:
    """Rounded up: who comes then is not early."""
    return ceil(exact - _ROUNDING)


def _until_full_s(bucket: Bucket, decision: Decision) -> float:
    return (bucket.burst - decision.remaining[0]) / bucket.rate.per_second


def _network(client: str) -> str:
    """What one client can be told by: an IPv4 address, or the /64 that an IPv6 customer has at least."""
    if ":" not in client:
        return client
    try:
        address = IPv6Address(client)
    except AddressValueError:
        return client
    return str(address.ipv4_mapped or f"{int(address) >> 64:x}/64")


def _duration(seconds: float) -> str:
    """``6m0s``: whole seconds, rounded up, as OpenAI writes them."""
    minutes, rest = divmod(_seconds(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
