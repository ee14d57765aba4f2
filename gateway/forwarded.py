"""Who is calling, and over what: the socket's word, or that of the proxies in front of it where they are trusted.

A proxy tells of the connection that it accepted, in ``X-Forwarded-For`` and ``X-Forwarded-Proto`` or in ``Forwarded``
(RFC 7239). Whoever sends a request can send these headers too, and a proxy appends to what it gets. So:

1. Nobody is believed unless the socket's peer is in ``trusted_proxies``.
2. Addresses are read from the right. The right-most was written by the peer; the one before it by whoever the peer
   calls its client, and so on. The first address that is not a trusted proxy's is the caller: everything to the left of
   it is hearsay. What is no address (``unknown``, ``_hidden``, an empty entry, nonsense) ends the reading at the last
   address that was believed.
3. A line of ``Forwarded`` that breaks the grammar is not read at all: an opening quote in what a stranger sent could
   swallow what the proxy appended.
4. A proxy that writes one family of headers passes the other on as it came. Where both are there and contradict each
   other, one of them is a stranger's: then neither is believed, the caller is the peer and the transport is plain.

Pure functions over text, bounded in entries and bytes. Whoever calls them decides nothing by headers itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HOPS = 32
"""How many proxies a request may have come through; entries beyond are not looked at."""

MAX_FORWARDED_CHARS = 8192
"""Of all ``Forwarded`` lines together; longer ones are not parsed, and nothing in them is believed."""

T = TypeVar("T")
Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, 5.6.2
_QUOTED = r'"(?:[^"\\]|\\.)*"'  # RFC 9110, 5.6.4

# RFC 7239, 4. Spaces around the separators are not in its grammar, and are in what proxies write.
_PAIR = re.compile(rf"[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?[ \t]*([;,]|\Z)")

# RFC 7239, 6, without its unknown and obfuscated names, which are no addresses. IPv6 without brackets is what
# X-Forwarded-For has; a port after either kind is what some load balancers add to it.
_V6 = r"[0-9A-Fa-f:.]{2,45}"
_NODE = re.compile(rf"(?:\[({_V6})\]|([0-9.]{{7,15}}))(?::(?:[0-9]{{1,5}}|_[0-9A-Za-z._-]{{1,64}}))?|({_V6})")

_MAPPED = "::ffff:"
_ENCRYPTED = frozenset({"https", "wss"})


class Headers(Protocol):
    """The part of a multidict that is asked."""

    def getall(self, key: str, default: tuple[()], /) -> Sequence[str]:
        """Every value of that name, in order."""


class Caller(NamedTuple):
    """Whose request this is, and how it came.

    ``client`` is an address, IPv4 inside IPv6 unwrapped; ``secure`` says whether it came to us, or to the first of the
    trusted proxies, over TLS.
    """

    client: str
    secure: bool


class _Told(NamedTuple):
    """What one family of headers says; None where it says nothing."""

    client: Address | None
    secure: bool | None


def caller(peer: str, *, secure: bool, headers: Headers, trusted: Networks) -> Caller:
    """Who is calling. ``peer`` and ``secure`` are what the socket says; "" where it has no address."""
    if not trusted:
        return Caller(_unwrapped(peer), secure)
    address = _peer(peer)
    if address is None or not _is_trusted(address, trusted):
        return Caller(_unwrapped(peer), secure)
    common = _x_forwarded(address, headers, trusted)
    standard = _forwarded(address, headers.getall("forwarded", ()), trusted)
    return Caller(
        str(_agreed(common.client, standard.client, nobody=address, contradiction=address)),
        _agreed(common.secure, standard.secure, nobody=secure, contradiction=False),
    )


def _agreed(one: T | None, other: T | None, *, nobody: T, contradiction: T) -> T:
    if one is None:
        return nobody if other is None else other
    return one if other is None or other == one else contradiction


# ── X-Forwarded-For, X-Forwarded-Proto ──


def _x_forwarded(peer: Address, headers: Headers, trusted: Networks) -> _Told:
    values = headers.getall("x-forwarded-for", ())
    client = None
    if values:
        client = peer
        for hop in islice(_from_the_right(values), MAX_HOPS):
            address = _node(hop.strip(" \t"))
            if address is None:
                break
            client = address
            if not _is_trusted(client, trusted):
                break
    protocols = headers.getall("x-forwarded-proto", ())
    return _Told(client, _all_encrypted(protocols) if protocols else None)


def _from_the_right(values: Sequence[str]) -> Iterator[str]:
    for value in reversed(values):
        yield from reversed(value.rsplit(",", MAX_HOPS))


def _all_encrypted(values: Sequence[str]) -> bool:
    """There is no telling which of several entries is whose: one that is not HTTPS is enough to mean plain."""
    return all(entry.strip(" \t").lower() in _ENCRYPTED for value in values for entry in value.split(","))


# ── Forwarded ──


def _forwarded(peer: Address, values: Sequence[str], trusted: Networks) -> _Told:
    if not values:
        return _Told(None, None)
    client, secure = peer, None
    if sum(map(len, values)) > MAX_FORWARDED_CHARS:
        return _Told(client, secure)
    for element in islice(_elements_from_the_right(values), MAX_HOPS):
        protocol = element.get("proto")
        secure = None if protocol is None else protocol.lower() in _ENCRYPTED
        address = _node(element.get("for", ""))
        if address is None:
            break
        client = address
        if not _is_trusted(client, trusted):
            break
    return _Told(client, secure)


def _elements_from_the_right(values: Sequence[str]) -> Iterator[dict[str, str]]:
    """The elements up to the first line, from the right, that is malformed."""
    for value in reversed(values):
        elements = parse_forwarded(value)
        if elements is None:
            return
        yield from reversed(elements)


def parse_forwarded(value: str) -> list[dict[str, str]] | None:
    """The elements of one ``Forwarded`` line, names in lower case, values unquoted; None where it is malformed."""
    elements: list[dict[str, str]] = [{}]
    position, separator = 0, ";"
    while separator:
        match = _PAIR.match(value, position)
        if match is None:
            return None
        name, text, separator = match.groups()
        if name is not None:
            name = name.lower()
            if name in elements[-1]:
                return None  # RFC 7239, 4: each parameter once in an element
            elements[-1][name] = _unquoted(text)
        if separator == ",":
            elements.append({})
        position = match.end()
    return elements


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


# ── Addresses ──


def _node(text: str) -> Address | None:
    """The address of a hop, without its port; None for anything that is no address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        return _without_mapping(ip_address(match[1] or match[2] or match[3]))
    except ValueError:
        return None


def _peer(text: str) -> Address | None:
    """The address of a socket's other end: of a link-local one it has the zone, which no header may have."""
    try:
        return _without_mapping(ip_address(text))
    except ValueError:
        return None


def _without_mapping(address: Address) -> Address:
    """A socket that listens on IPv6 tells of IPv4 clients as ``::ffff:192.0.2.1``."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _unwrapped(peer: str) -> str:
    """The same for a text that nobody parses otherwise: every request of a gateway without proxies passes here."""
    return peer.removeprefix(_MAPPED) if "." in peer else peer


def _is_trusted(address: Address, trusted: Networks) -> bool:
    return any(address in network for network in trusted)
