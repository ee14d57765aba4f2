"""What verbs print: data on stdout, as a table for people or as JSON for programs.

Names come from whoever was allowed to choose one, so a table shows control characters escaped: a key's name cannot
drive the administrator's terminal.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def print_json(data: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(data, indent=2))


def print_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool, nothing: str) -> None:
    """All rows; ``nothing`` says what is not there when there are none."""
    if as_json:
        print_json([dict(row) for row in rows])
    elif rows:
        _print_table(rows)
    else:
        click.echo(nothing, err=True)


def instant(seconds: float | None) -> str | None:
    """A point in time as ISO 8601 in UTC, to the second."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def printable(value: object) -> str:
    """``value`` for a terminal: what would move its cursor or change its colours is escaped; nothing is a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(printable, value))
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))


def _print_table(rows: Sequence[Mapping[str, object]]) -> None:
    table = [[name.replace("_", " ") for name in rows[0]]]
    table += [[printable(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
