"""Tokens by upstream, as another program left them, and taking the keys out of them.

What is wrong is told for all entries at once, by the line. A line is never repeated: what stands in it may be a secret.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import click

from gateway.config.near import near_miss

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from gateway.cli.desk import Desk
    from gateway.contract import Secret
    from gateway.security.plain_fernet import PlainFernet

_MAX_BYTES = 16 * 2**20
_STORE = "the store"


@dataclass(frozen=True, slots=True)
class Entry:
    """A token and whose it is. ``where`` says where it was found."""

    where: str
    upstream: str
    token: str


def read_entries(file: IO[bytes]) -> list[Entry]:
    """The entries of lines ``upstream<TAB>token``, or of a JSON object.

    Raises click.ClickException with every line that is neither.
    """
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise click.ClickException(f"more than {_MAX_BYTES // 2**20} MiB of tokens")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.ClickException("the tokens are not UTF-8 text") from None
    entries = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    if not entries:
        raise click.ClickException("there are no tokens")
    return entries


def _from_lines(text: str) -> list[Entry]:
    lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    _refuse([f"{where}: write an upstream, a tab and a token" for where, line in lines if line.count("\t") != 1])
    return [Entry(where, *(part.strip() for part in line.split("\t"))) for where, line in lines]


def _from_json(text: str) -> list[Entry]:
    try:
        # As pairs: of an upstream that stands there twice a dict would keep the last, in silence.
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise click.ClickException("this is no JSON object of tokens by upstream") from None
    numbered = [(f"entry {number}", *pair) for number, pair in enumerate(pairs, start=1)]
    _refuse([f"{where}: the token is no text" for where, _, token in numbered if not isinstance(token, str)])
    return [Entry(where, upstream, token.strip()) for where, upstream, token in numbered]


async def import_keys(desk: Desk, entries: Sequence[Entry], reader: PlainFernet, *, replace: bool) -> int:
    """Store every key, or none; how many. Raises click.ClickException with every entry that is at fault."""
    places = {} if replace else {key.upstream: _STORE for key in await desk.store.provider_keys.list()}
    keys: dict[str, Secret] = {}
    faults = []
    for entry in entries:
        key = reader.open(entry.token)
        fault = _fault_of(entry, key, desk.config.upstreams, places)
        places.setdefault(entry.upstream, entry.where)
        if fault is not None:
            faults.append(f"{entry.where}: {fault}")
        elif key is not None:
            keys[entry.upstream] = key
    _refuse(faults)
    await desk.import_provider_keys(keys)
    return len(keys)


def _fault_of(entry: Entry, key: Secret | None, upstreams: Collection[str], places: Mapping[str, str]) -> str | None:
    """What keeps this entry from being stored. ``places`` says where a key of an upstream was seen before."""
    if entry.upstream not in upstreams:
        return f"the configuration has no such upstream{near_miss(entry.upstream, upstreams)}"
    if entry.upstream in places:
        place = places[entry.upstream]
        remedy = ": add --replace to put this one in its place" if place == _STORE else ""
        return f"{entry.upstream} has a key in {place} already{remedy}"
    if key is None:
        return (
            f"the token of {entry.upstream} cannot be opened: it is damaged, or the password, --salt or --iterations "
            "is another"
        )
    return None


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise click.ClickException("\n".join([*faults, "nothing was stored"]))
