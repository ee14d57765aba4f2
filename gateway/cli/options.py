"""Options that several verbs share, and the types of their values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.contract import Secret

T = TypeVar("T")

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("gateway.yaml"),
    show_default=True,
    metavar="FILE",
    help="The gateway's configuration.",
)

no_config_option = click.option("-c", "--config", expose_value=False, hidden=True)
"""For verbs that do not read the file: every verb takes ``-c``, so that a script need not know which ones use it."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Quantity(click.ParamType[T]):
    """A value that ``gateway.yaml`` would take too, parsed by the same function: ``30d``, ``60/min``."""

    def __init__(self, name: str, parse: Callable[[object], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Usage errors (exit 2) are worded by the parser."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_secret(prompt: str, *, confirm: bool = False) -> Secret:
    """A secret from a hidden prompt, or one line of stdin where that is no terminal. Never from the command line.

    Raises click.UsageError where nothing was given.
    """
    from gateway.contract import Secret

    if sys.stdin.isatty():
        text: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        text = sys.stdin.readline()
    if not text.strip():
        raise click.UsageError(f"no {prompt.lower()} was given: type it at the prompt, or pipe it in as one line")
    return Secret(text.strip())
