"""Keys that were sent where others could read them: in a URL, or over plain HTTP.

The gateway refuses such a request, but the key has been seen. So the operator is told whose it is (by its id: never the
key) and the occurrence is counted, whoever noticed it.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gateway.errors import StoreUnavailable
from gateway.security.keys import PREFIX, RANDOM_LENGTH, digest, is_api_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.contract import Exchange, Services

MAX_TOLD = 4
"""Different credentials of one request that are told of; more would let one request write many lines."""

_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{RANDOM_LENGTH}}}")


def keys_in(text: str) -> Iterator[str]:
    """Whatever has the shape of a key of ours, escaped as in a URL or not."""
    return (match[0] for match in _KEY.finditer(unquote(text)))


async def tell_exposed(services: Services, exchange: Exchange, credentials: Iterable[tuple[str, str]]) -> None:
    """Log and count each of these: where it stood, and its text, which stays here."""
    places = {text: place for place, text in credentials}
    for text, place in islice(places.items(), MAX_TOLD):
        key, known = await _whose(services, text)
        services.metrics.count("keys_exposed", listener=exchange.listener, known=known)
        services.log.warning(
            "key exposed: have it replaced",
            request=exchange.id,
            listener=exchange.listener,
            client=exchange.client,
            place=place,
            key=key,
            known=known,
        )


async def _whose(services: Services, text: str) -> tuple[str | None, str]:
    """The id of a key that works, and whether it is one: ``yes``, ``no``, or ``unchecked`` while the store is away."""
    if not is_api_key(text):
        return None, "no"
    try:
        principal = await services.keys.find(digest(text))
    except StoreUnavailable:
        return None, "unchecked"
    return (None, "no") if principal is None else (principal.id, "yes")
