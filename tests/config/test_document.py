"""YAML as a tree with lines: what is read, what is refused, and at which line."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from gateway.config.document import MAX_FILE_BYTES, MAX_NODES, parse, read, read_text, spell
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def said(text: str) -> str:
    """What is said of a text that is refused, or read with faults."""
    try:
        return "\n".join(str(fault) for fault in parse(text, "f").faults)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        ("True", True),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ("|\n  7", "7"),
        ("9" * 5000, float("inf")),
    ],
)
@pytest.mark.parametrize("version", ["", "%YAML 1.1\n---\n"])
def test_scalars_are_those_of_yaml_1_2(written: str, read_as: object, version: str) -> None:
    """``on`` is text and ``12:30`` is not 750, whatever version the file claims."""
    value = parse(f"{version}key: {written}", "f").root.plain()["key"]
    assert value == read_as
    assert type(value) is type(read_as)


def test_keys_are_text() -> None:
    """A name may look like a number or a truth value."""
    assert parse("{1: a, on: b, null: c, '': d}", "f").root.plain() == {"1": "a", "on": "b", "null": "c", "": "d"}


def test_each_place_has_its_line() -> None:
    """In a mapping it is the key's line, in a list the entry's, behind an alias that of the anchor's parts."""
    document = parse("a:\n  b:\n\n    - c\n    - &d\n      e: 1\nf: *d\n", "f")
    steps = [("a",), ("a", "b"), ("a", "b", 1), ("a", "b", 1, "e"), ("f",), ("f", "e"), ("a", "nowhere"), ("z",)]
    assert [document.at(place).line for place in steps] == [1, 2, 5, 6, 7, 6, 1, 1]


def test_small_aliases_are_welcome() -> None:
    """F61: operators reuse a chain; what is refused is only what grows without bound."""
    document = parse("chain: &c [x, {y: 1}]\nagain: *c\n", "f")
    assert document.root.plain() == {"chain": ["x", {"y": 1}], "again": ["x", {"y": 1}]}
    assert parse("&key a: 1\nb: *key\n", "f").root.plain() == {"a": 1, "b": "a"}


def test_what_aliases_expand_to_is_bounded() -> None:
    """F61: exactly MAX_NODES values, aliases counted each time, are read; one more is refused."""
    hundreds = "- &h [" + "x," * 99 + "]\n" + "- *h\n" * (MAX_NODES // 100 - 2)
    assert said(hundreds + "- x\n" * 99) == ""
    assert "aliases expanded" in said(hundreds + "- x\n" * 100)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a: 1\n---\nb: 2\n", "f:2: a second document begins here; one file is one document"),
        ("a: 1\nb: \x00\n", "f:2: holds a control character, which YAML forbids"),
        ('a: 1\nb: "\\ud800"\n', "f:2 b: holds half of a surrogate pair, which is no text"),
        ('a: 1\nb: "\\U00110000"\n', "f:2: not YAML"),
        ("a: 1\n[b]: 2\n", "f:2: a key must be plain text"),
        ("a: 1\n!!str b: 2\n", "f:2: tags (!) are refused, on keys too"),
        ("a: 1\nb: 'x", "f:2: not YAML: found unexpected end of stream while scanning a quoted scalar"),
        ("a:\n  b: 1\n c: 2\n", "f:3: the indentation, or a dash, does not fit the lines above"),
        ("a: 1\nb\nc: 2\n", "f:3: a key without its colon"),
        ("a: {b: 1\nc: 2\n", "f:2: a comma or a closing bracket is missing before this"),
        ("%YAML 2.0\n---\na: 1", "f:1: not YAML: found incompatible YAML document (version 1.* is required)"),
    ],
)
def test_what_is_not_one_plain_document_is_refused(text: str, refusal: str) -> None:
    """With the line at which it stops being one."""
    assert said(text) == refusal


@pytest.mark.parametrize("value", ["!canary!x y", "!canary", "*canary", "&canary", "@canary", '"\\canary"', "%canary"])
def test_a_password_without_its_quotes_is_not_repeated(value: str) -> None:
    """F73: YAML reads its first character as syntax; the error does not show the rest."""
    text = said(f"vault:\n  master_key: {value}\n")
    assert "canary" not in text
    assert text.startswith("f:2") or not text


def test_depth_is_bounded_before_the_interpreter_is() -> None:
    """F61: a megabyte of brackets is refused at once, without a RecursionError."""
    assert said("[" * MAX_FILE_BYTES) == "f:1: nested deeper than 32 levels"
    assert said("- " * MAX_FILE_BYTES) == "f:1: nested deeper than 32 levels"
    # Each line is one level deeper than the one before, and none of them nests anything itself.
    stairs = "a0: &a0 []\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 300))
    assert said(stairs) == "f:32: nested deeper than 32 levels"


def test_a_file_is_read_to_its_limit(tmp_path: Path) -> None:
    """F61: a file of 1 MiB is read, a larger one is refused without being read to its end."""
    file = tmp_path / "f"
    file.write_text("a: 1\n#".ljust(MAX_FILE_BYTES, "x"))
    assert read(file).root.plain() == {"a": 1}
    with file.open("wb") as sparse:
        sparse.truncate(100 * 2**20)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="f:1: is larger than 1 MiB"):
        read(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * MAX_FILE_BYTES


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_text(mark: bytes, tmp_path: Path) -> None:
    """Some editors write one."""
    file = tmp_path / "f"
    file.write_bytes(mark + b"a: 1")
    assert read_text(file) == "a: 1"


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    """A file that is missing, a folder, and bytes that are not UTF-8, with the line of the first of them."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    for name, refusal in (
        ("missing", "missing:1: cannot be read: No such file or directory"),
        (".", ":1: cannot be read: Is a directory"),
        ("binary", "binary:2: is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=refusal):
            read(tmp_path / name)


def test_a_path_repeats_only_what_looks_like_a_key() -> None:
    """``{master_key:hunter2}`` is one key to YAML, and a password to its writer."""
    assert spell(("routes", 0, "chain", 4, "rate_limit", "burst")) == "routes[0].chain[4].rate_limit.burst"
    assert spell(("vault", "master_key:hunter2")) == "vault.<…>"
    assert spell(()) == ""


def test_an_outline_keeps_places_and_no_values() -> None:
    """F73: what lives on after loading to locate later faults holds no secret."""
    outline = parse("a: secret\nb: [secret, {c: secret}]\n", "f").outline()
    assert outline.root.plain() == {"a": None, "b": [None, {"c": None}]}
    assert outline.at(("b", 1, "c")).line == 2


def test_a_document_is_shown_without_its_values() -> None:
    """F73: a stray ``repr`` in a log or a traceback tells places only."""
    assert "secret" not in repr(parse("a: secret\nb: [secret]\n", "f"))
