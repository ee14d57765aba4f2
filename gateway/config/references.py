"""References in scalars to what must not stand in the file: environment variables and files with secrets.

=========================  ==============================================================
``${NAME}``                the variable; it must be set
``${NAME:-default}``       the default where the variable is not set or empty
``${NAME:?message}``       the message is the error where the variable is not set or empty
``${file:/run/secrets/x}`` the file's text without its last line break; relative to gateway.yaml
``$${``                    ``${`` itself
=========================  ==============================================================

They are resolved in the parsed tree, so a value is never read as YAML and cannot add a key or a layer. A resolved value
is text, which a field for a number or a truth value converts. It never appears in an error.
"""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream

from gateway.config.document import MAX_FILE_BYTES, Document, Node, Steps, is_encodable, read_text
from gateway.config.near import near_miss
from gateway.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_SECRET_BYTES = 2**16

REFERENCE = r"\$\{[^{}]*\}"
"""How a reference looks, for the JSON Schema."""

_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/+=@%^-]+")
_FORMS = "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${file:/path}; for a plain ${ write $${"


class _Unresolved(Exception):
    """Why a reference has no value. Never holds one."""


def load_dotenv(path: Path) -> dict[str, str]:
    """The variables of a ``.env`` file, none if there is no such file. Values are taken as they are, ``$`` included.

    Raises ConfigError for a file that cannot be read and for each line that is no assignment.
    """
    if not path.exists():
        return {}
    bindings = list(parse_stream(StringIO(read_text(path))))
    broken = [binding.original.line for binding in bindings if binding.error]
    if broken:
        raise ConfigError([Fault(f"{path}:{line}", "", "write NAME=value") for line in broken])
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value is not None}


def with_variable(text: str, name: str, value: str) -> str | None:
    """The text of a ``.env`` file with this value for a variable that it sets, all else as it was.

    None where it does not set the variable, or where the value cannot be written there.
    """
    bindings = list(parse_stream(StringIO(text)))
    if name not in {binding.key for binding in bindings}:
        return None
    changed = "".join(
        _assignment(binding.original.string, name, value) if binding.key == name else binding.original.string
        for binding in bindings
    )
    understood = {binding.key: binding.value for binding in parse_stream(StringIO(changed))}
    return changed if understood[name] == value else None


def _assignment(before: str, name: str, value: str) -> str:
    """A line in the place of another, quoted only where it must be: not every reader of such files knows quotes."""
    leading = before[: len(before) - len(before.lstrip())]
    export = "export " if before.lstrip().startswith("export") else ""
    if not _PLAIN.fullmatch(value):
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{leading}{export}{name}={value}\n"


def variable_of(text: str) -> str | None:
    """The variable that ``text`` refers to and is nothing else than; None for any other text."""
    token = _TOKEN.fullmatch(text)
    variable = _VARIABLE.fullmatch(token[1]) if token is not None and token[1] else None
    return variable[1] if variable is not None else None


def resolve_references(document: Document, environ: Mapping[str, str], directory: Path) -> Document:
    """The document with its references resolved; those that cannot be are faults of it and stay as they are."""
    resolver = _Resolver(document, environ, directory)
    root = resolver.resolve(document.root, ())
    return replace(document, root=root, faults=(*document.faults, *resolver.faults))


class _Resolver:
    """Resolves one document, to at most MAX_FILE_BYTES of text in all."""

    def __init__(self, document: Document, environ: Mapping[str, str], directory: Path) -> None:
        self.faults: list[Fault] = []
        self._document = document
        self._environ = environ
        self._directory = directory
        self._resolved_chars = 0

    def resolve(self, node: Node, steps: Steps) -> Node:
        match node.value:
            case dict() as entries:
                return replace(node, value={key: self.resolve(part, (*steps, key)) for key, part in entries.items()})
            case list() as items:
                return replace(node, value=[self.resolve(part, (*steps, index)) for index, part in enumerate(items)])
            case str() as text if "${" in text:
                return self._scalar(node, text, steps)
        return node

    def _scalar(self, node: Node, text: str, steps: Steps) -> Node:
        try:
            return replace(node, value=_TOKEN.sub(self._value, text), referenced=True)
        except _Unresolved as why:
            self.faults.append(self._document.fault(steps, str(why)))
            return node

    def _value(self, token: re.Match[str]) -> str:
        if token[0] == "$${":
            return "${"
        if not token[2]:
            raise _Unresolved(f"a reference without its end: {_FORMS}")
        kind, colon, path = token[1].partition(":")
        value = self._file(path) if kind == "file" and colon else self._variable(token[1])
        if not is_encodable(value):
            raise _Unresolved(f"the value of {kind} is not UTF-8 text")
        self._resolved_chars += len(value)
        if self._resolved_chars > MAX_FILE_BYTES:
            raise _Unresolved(f"references amount to more than {MAX_FILE_BYTES // 2**20} MiB")
        return value

    def _variable(self, reference: str) -> str:
        match = _VARIABLE.fullmatch(reference)
        if match is None:
            raise _Unresolved(f"not a reference: {_FORMS}")
        name, operator, operand = match.groups()
        value = self._environ.get(name)
        if operator and not value:
            if operator == "-":
                return str(operand)
            raise _Unresolved(f"{name}: {operand or 'must be set'}")
        if value is None:
            raise _Unresolved(f"the variable {name} is not set, nor in .env{near_miss(name, self._environ)}")
        return value

    def _file(self, path: str) -> str:
        try:
            with (self._directory / path).open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise _Unresolved(f"the file {path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise _Unresolved("the name of a file holds no NUL") from None
        if len(data) > MAX_SECRET_BYTES:
            raise _Unresolved(f"the file {path} is larger than {MAX_SECRET_BYTES // 2**10} KiB")
        try:
            return data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise _Unresolved(f"the file {path} is not UTF-8 text") from None
