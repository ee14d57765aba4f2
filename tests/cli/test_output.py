"""What tables show."""

from __future__ import annotations

import pytest

from gateway.cli.output import instant, print_rows, printable


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (["a", "b"], "a, b"),
        ("é", "é"),
        ("a\tb", "a\\tb"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_values_are_shown_so_that_they_are_harmless(value: object, shown: str) -> None:
    """F82: nothing that moves a cursor, colours or turns the reading direction reaches the terminal."""
    assert printable(value) == shown


def test_instants_are_utc() -> None:
    """To the second, with their offset."""
    assert instant(0.0) == "1970-01-01T00:00:00+00:00"
    assert instant(None) is None


def test_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    """As wide as the widest cell, without blanks at the end."""
    print_rows([{"a_b": "x", "c": "yy"}, {"a_b": "long", "c": ""}], as_json=False, nothing="none")
    assert capsys.readouterr().out == "a b   c\nx     yy\nlong\n"


def test_nothing_is_said_apart_from_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr for people; programs get an empty list."""
    print_rows([], as_json=False, nothing="There are none.")
    print_rows([], as_json=True, nothing="There are none.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("[]\n", "There are none.\n")
