"""References to variables and files: what they become, and what is said when they cannot."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import parse
from gateway.config.references import (
    MAX_SECRET_BYTES,
    load_dotenv,
    resolve_references,
    variable_of,
    with_variable,
)
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from tests.config.conftest import Load, Refused

ENVIRON = {"SET": "a value", "EMPTY": "", "YAML": "{x: [1, *y]}\n- !z", "REF": "${SET}", "ODD": "\udcff"}


def resolved(text: str, folder: Path) -> object:
    """The value of a scalar, or what is said of it."""
    document = resolve_references(parse(f"key: {text}", "f"), ENVIRON, folder)
    return document.faults[0].problem if document.faults else document.root.plain()["key"]


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("${SET}", "a value"),
        ("<${SET}|${SET}>", "<a value|a value>"),
        ("${EMPTY}", ""),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${SET:-other}", "a value"),
        ("${UNSET:-}", ""),
        ("${SET:?needed}", "a value"),
        ("$${SET}", "${SET}"),
        ("$$${SET}", "$${SET}"),
        ("$SET and $", "$SET and $"),
        ("7", 7),
    ],
)
def test_a_reference_becomes_its_value(written: str, becomes: object, tmp_path: Path) -> None:
    """As in a shell; a doubled dollar stands for itself, a lone one is nothing special."""
    assert resolved(written, tmp_path) == becomes


@pytest.mark.parametrize("name", ["YAML", "REF"])
def test_a_value_is_never_read_again(name: str, tmp_path: Path) -> None:
    """Neither as YAML nor as a reference: who sets a variable cannot add a key or a layer."""
    assert resolved(f"${{{name}}}", tmp_path) == ENVIRON[name]


def test_keys_are_not_resolved(tmp_path: Path) -> None:
    """What a file configures does not depend on the environment, only with which values."""
    document = resolve_references(parse('"${SET}": 1', "f"), ENVIRON, tmp_path)
    assert document.root.plain() == {"${SET}": 1}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("${SIT}", "the variable SIT is not set, nor in .env; did you mean SET?"),
        ("${UNHEARD_OF}", "the variable UNHEARD_OF is not set, nor in .env"),
        ("${EMPTY:?say what}", "EMPTY: say what"),
        ("${UNSET:?}", "UNSET: must be set"),
        ("${ODD}", "the value of ODD is not UTF-8 text"),
        ('"${file:no\\0name}"', "the name of a file holds no NUL"),
        ("${file:}", "the file  cannot be read: Is a directory"),
        ("${file:missing}", "the file missing cannot be read: No such file or directory"),
        ("${file:binary}", "the file binary is not UTF-8 text"),
        ("${file:large}", "the file large is larger than 64 KiB"),
    ],
)
def test_a_reference_without_a_value_is_a_fault(written: str, problem: str, tmp_path: Path) -> None:
    """It says what to set; a value that is there but unfit is not shown."""
    (tmp_path / "binary").write_bytes(b"\xffcanary")
    (tmp_path / "large").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    assert resolved(written, tmp_path) == problem


@pytest.mark.parametrize("written", ["${}", "${1}", "${SET:+x}", "${SET", "a${", "${A B}", "${SET:}"])
def test_what_is_no_reference_names_the_forms(written: str, tmp_path: Path) -> None:
    """A dollar and a brace are never passed on as they are, unless doubled."""
    assert "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}" in str(resolved(written, tmp_path))


@pytest.mark.parametrize("written", ["secret", "secret\n", "secret\r\n"])
def test_a_file_is_its_text_without_the_last_line_break(written: str, tmp_path: Path) -> None:
    """Editors and ``echo`` add one; relative paths begin beside gateway.yaml."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "key").write_bytes(written.encode())
    assert resolved("${file:inside/key}", tmp_path) == "secret"
    assert resolved(f"${{file:{tmp_path}/inside/key}}", tmp_path) == "secret"


def test_references_do_not_multiply_without_bound(tmp_path: Path) -> None:
    """F61: a small file that refers to a large secret a hundred times is refused."""
    (tmp_path / "large").write_bytes(b"x" * MAX_SECRET_BYTES)
    assert resolved("${file:large}" * 16, tmp_path) == "x" * 2**20
    assert resolved("${file:large}" * 17, tmp_path) == "references amount to more than 1 MiB"


def test_the_environment_wins_over_dotenv(loaded: Load, working: str, tmp_path: Path) -> None:
    """``.env`` beside gateway.yaml fills in what the process was not given."""
    (tmp_path / ".env").write_text("MASTER_KEY=from the file\nLEVEL='debug'\n")
    config = loaded(f"{working}log_level: ${{LEVEL}}\n")
    assert config.log_level == "debug"
    assert config.vault.master_key.reveal() != "from the file"


def test_dotenv_values_are_taken_as_they_are(tmp_path: Path) -> None:
    """A random key may hold a ``$``; nothing in it is expanded."""
    file = tmp_path / ".env"
    file.write_text("# keys\nexport A=x$B${B}\nB='two words'\n\nEMPTY=\nNAME_ONLY\n")
    assert load_dotenv(file) == {"A": "x$B${B}", "B": "two words", "EMPTY": ""}


def test_a_broken_dotenv_is_located(refused: Refused, working: str, tmp_path: Path) -> None:
    """Its line is told, and not shown."""
    (tmp_path / ".env").write_text("A=1\nB='canary\n")
    with pytest.raises(ConfigError) as caught:
        load_dotenv(tmp_path / ".env")
    assert str(caught.value) == f"{tmp_path}/.env:2: write NAME=value"
    (tmp_path / ".env").write_bytes(b"A=\xff")
    assert refused(working) == [f"{tmp_path}/.env:1: is not UTF-8 text"]


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("${A_1}", "A_1"),
        ("${A:-b}", "A"),
        ("${A:?b}", "A"),
        ("<${A}>", None),
        ("${A}${B}", None),
        ("${file:/a}", None),
        ("$${A}", None),
        ("${A b}", None),
        ("${", None),
        ("A", None),
    ],
)
def test_the_variable_that_a_text_is(text: str, variable: str | None) -> None:
    """Only where the text is one reference to one variable."""
    assert variable_of(text) == variable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A=1\n", "A=x\n"),
        ("A=1", "A=x\n"),
        ("# c\n\n  export A = '1'  # d\nB=2\n", "# c\n\n  export A=x\nB=2\n"),
        ("B='A=1'\nA=\"1\n2\"\nA=3\nC", "B='A=1'\nA=x\nA=x\nC"),
    ],
)
def test_a_variable_of_an_env_file_is_changed_and_all_else_is_as_it_was(before: str, after: str) -> None:
    """Comments, other variables, `export` and the order stay; a variable that is set twice is changed twice."""
    assert with_variable(before, "A", "x") == after


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_value_is_read_back_as_it_was_written_or_not_written(value: str) -> None:
    """Quotes, blanks, dollars and line breaks included."""
    changed = with_variable("A=1\nB=2\n", "A", value)
    if changed is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ".env"
            path.write_text(changed, newline="")
            assert load_dotenv(path) == {"A": value, "B": "2"}


@pytest.mark.parametrize("value", ["x" * 64, "a b", "it's", 'a"b', "$HOME", "a#b", "a\\nb", "ü", "", " "])
def test_any_line_of_text_can_be_written(value: str) -> None:
    """Bare where every reader of such files takes it so, and else in quotes."""
    changed = with_variable("A=1\n", "A", value)
    assert changed is not None
    assert ("'" in changed) == (value != "x" * 64)


def test_a_variable_that_is_not_set_is_not_added() -> None:
    """Who asks for a change means a file that has it."""
    assert with_variable("B=A\n", "A", "x") is None
