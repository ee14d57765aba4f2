"""YAML text as a tree that knows its lines.

Owns reading the file, its limits and its syntax: size, depth, aliases, tags, duplicate keys. Knows nothing of what a
gateway's keys mean.

ruamel.yaml scans and parses; the tree is built here from its events, for three reasons: every duplicate key is
reported and not only the first, aliases are counted before they are expanded (a billion laughs is an addition), and
nothing is ever constructed from a tag. Plain scalars have the meaning of the core schema (YAML 1.2.2, 10.3.2)
whatever ``%YAML`` says: ``on``, ``12:30`` and ``2026-01-01`` are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from gateway.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from ruamel.yaml.events import Event

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 50_000
"""Scalars, lists and mappings of one file, each alias counted as often as it is used."""

Scalar = str | int | float | bool | None

Steps = tuple[str | int, ...]
"""The way from the root to a place: ``("routes", 0, "chain", 4, "rate_limit", "burst")``."""

_KEY = re.compile(r"[A-Za-z_][\w.-]{0,63}")

_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], Scalar]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda _: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?[0-9]{1,300}"), int),
    (re.compile(r"0o[0-7]{1,300}"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]{1,300}"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


_SLIPS = (
    ("'\\t'", "a tab; YAML is indented with spaces"),
    ("mapping values are not allowed", "a colon too many, or a wrong indentation; text with a colon stands in quotes"),
    ("sequence entries are not allowed", "a dash where no list can begin; check the indentation"),
    ("expected <block end>", "the indentation, or a dash, does not fit the lines above"),
    ("expected '<document start>'", "the indentation, or a dash, does not fit the lines above"),
    ("could not find expected ':'", "a key without its colon"),
    ("but got '{'", "a brace where none can stand; inside { } and [ ] a ${NAME} stands in quotes"),
    ("expected ',' or '", "a comma or a closing bracket is missing before this"),
)
"""What the parser says of the commonest slips, and what it means."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line where it begins; in a mapping that is the line of its key."""

    value: Scalar | list[Node] | dict[str, Node] = field(repr=False)
    line: int
    size: int = 1
    """How many nodes this one is, its parts included."""
    height: int = 0
    """How many levels there are below it."""
    referenced: bool = False
    """Whether the value came, in whole or in part, from outside the file, and may be secret."""

    def plain(self) -> Any:  # noqa: ANN401 - for pydantic, which alone knows what it should be
        """The value without lines."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
        return self.value

    def outline(self) -> Node:
        """The same places without what stands there."""
        match self.value:
            case dict():
                return replace(self, value={key: node.outline() for key, node in self.value.items()})
            case list():
                return replace(self, value=[node.outline() for node in self.value])
        return replace(self, value=None)

    def child(self, step: str | int) -> Node | None:
        """The part of that key or index, None where there is none."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def scalars(self) -> Iterator[Node]:
        """All scalars in this node."""
        match self.value:
            case dict():
                parts = list(self.value.values())
            case list():
                parts = self.value
            case _:
                yield self
                return
        for part in parts:
            yield from part.scalars()


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. ``file`` is its name as the operator wrote it.

    ``faults`` are wrong in its form (a key twice, a tag) and leave a tree in which the others can still be found.
    """

    file: str
    root: Node
    faults: tuple[Fault, ...] = ()

    def fault(self, steps: Steps, problem: str) -> Fault:
        """``problem``, located as deep in the file as ``steps`` lead."""
        return Fault(f"{self.file}:{self.at(steps).line}", spell(steps), problem)

    def outline(self) -> Document:
        """What is kept after loading, to locate faults that are found later: lines, and no values."""
        return Document(self.file, self.root.outline())

    def find(self, steps: Steps) -> Node | None:
        """The node at ``steps``, None where the file has none."""
        node: Node | None = self.root
        for step in steps:
            node = node.child(step) if node is not None else None
        return node

    def at(self, steps: Steps) -> Node:
        """The last node on the way along ``steps`` that the file has."""
        node = self.root
        for step in steps:
            child = node.child(step)
            if child is None:
                break
            node = child
        return node


def spell(steps: Steps) -> str:
    """``routes[0].chain[4].rate_limit``.

    A key that does not look like a key is not repeated: ``{master_key:hunter2}``, a space forgotten, is one.
    """
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if _KEY.fullmatch(step) else ".<…>"
    return text.removeprefix(".")


def read(path: Path) -> Document:
    """The file as a document. Raises ConfigError for a file that cannot be read or is not one YAML document."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of an UTF-8 file of at most :data:`MAX_FILE_BYTES`. Raises ConfigError."""

    def refuse(line: int, problem: str) -> NoReturn:
        raise ConfigError([Fault(f"{path}:{line}", "", problem)])

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        refuse(1, f"cannot be read: {error.strerror}")
    if len(data) > MAX_FILE_BYTES:
        refuse(1, f"is larger than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(1 + data.count(b"\n", 0, error.start), "is not UTF-8 text")


def parse(text: str, file: str) -> Document:
    """``text`` as a document. Raises ConfigError where its syntax or its extent leaves no tree to look at."""
    composer = _Composer(text, file)
    root = composer.document()
    return Document(file, root, tuple(composer.faults))


class _Composer:
    """Builds the tree from the parser's events. A recursive descent, MAX_DEPTH deep at most."""

    def __init__(self, text: str, file: str) -> None:
        self.faults: list[Fault] = []
        self._file = file
        self._text = text
        self._line = 1
        self._nodes = 0
        self._anchors: dict[str, Node] = {}
        self._events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)

    def document(self) -> Node:
        self._next()  # the stream's start
        if isinstance(self._next(), StreamEndEvent):
            self._line = 1
            self._stop("is empty: a gateway needs at least listeners, vault and routes")
        root = self._node(self._next(), ())
        self._next()  # the document's end
        if not isinstance(self._next(), StreamEndEvent):
            self._stop("a second document begins here; one file is one document")
        return root

    def _next(self) -> Event:
        try:
            event = next(self._events)
        except ReaderError as error:
            self._line = 1 + self._text.count("\n", 0, error.position)
            self._stop("holds a control character, which YAML forbids")
        except MarkedYAMLError as error:
            self._line = error.problem_mark.line + 1
            self._stop(_syntax_problem(error))
        except (YAMLError, ValueError):  # ValueError: ruamel, for an escape beyond the last character of Unicode
            self._stop("not YAML")
        self._line = event.start_mark.line + 1
        return event

    def _stop(self, problem: str) -> NoReturn:
        raise ConfigError([*self.faults, Fault(f"{self._file}:{self._line}", "", problem)])

    def _fault(self, line: int, steps: Steps, problem: str) -> None:
        self.faults.append(Fault(f"{self._file}:{line}", spell(steps), problem))

    def _node(self, event: Event, steps: Steps) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            return self._alias(event, line, steps)
        if getattr(event, "tag", None) is not None:
            self._fault(line, steps, "tags (!) are refused; text that begins with ! stands in quotes")
        self._check_depth(len(steps))
        match event:
            case ScalarEvent():
                node = Node(self._scalar(event, steps), line)
            case SequenceStartEvent():
                node = self._sequence(line, steps)
            case _:  # a MappingStartEvent: nothing else begins a node
                node = self._mapping(line, steps)
        self._count(1)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            # Only now: an alias inside its own anchor would be a tree without an end.
            self._anchors[anchor] = node
        return node

    def _alias(self, event: AliasEvent, line: int, steps: Steps) -> Node:
        # The name is not repeated: `master_key: *hunter2` is a password without its quotes.
        node = self._anchors.get(event.anchor)
        if node is None:
            self._stop(
                "an alias (*) to an anchor that does not stand before it; text that begins with * stands in quotes"
            )
        self._check_depth(len(steps) + node.height)
        self._count(node.size)
        return replace(node, line=line)

    def _check_depth(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._stop(f"nested deeper than {MAX_DEPTH} levels")

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._stop(f"more than {MAX_NODES} values, aliases expanded")

    def _sequence(self, line: int, steps: Steps) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, (*steps, len(items))))
        return _branch(items, line, items)

    def _mapping(self, line: int, steps: Steps) -> Node:
        entries: dict[str, Node] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key_line = event.start_mark.line + 1
            key = self._key(event, steps)
            value = self._node(self._next(), (*steps, key))
            if key == "<<":
                self._fault(key_line, steps, "merge keys (<<) are no part of YAML 1.2; alias a whole value")
            elif key in entries:
                problem = f"this key stands in line {entries[key].line} already"
                self._fault(key_line, (*steps, key), problem)
            else:
                entries[key] = replace(value, line=key_line)
        return _branch(entries, line, entries.values())

    def _key(self, event: Event, steps: Steps) -> str:
        if not isinstance(event, ScalarEvent):
            self._stop("a key must be plain text")
        if event.tag is not None:
            self._fault(event.start_mark.line + 1, steps, "tags (!) are refused, on keys too")
        if event.anchor is not None:
            self._anchors[event.anchor] = Node(event.value, event.start_mark.line + 1)
        return str(event.value)

    def _scalar(self, event: ScalarEvent, steps: Steps) -> Scalar:
        text = str(event.value)
        if not is_encodable(text):
            self._fault(event.start_mark.line + 1, steps, "holds half of a surrogate pair, which is no text")
            return None
        plain, _ = event.implicit
        if plain:
            for pattern, convert in _PLAIN:
                if pattern.fullmatch(text):
                    return convert(text)
        return text


def _branch(value: list[Node] | dict[str, Node], line: int, parts: Collection[Node]) -> Node:
    size = 1 + sum(part.size for part in parts)
    height = 1 + max((part.height for part in parts), default=0)
    return Node(value, line, size, height)


def is_encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8. A lone surrogate would fail later, in an error that shows the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _syntax_problem(error: MarkedYAMLError) -> str:
    """What the parser stumbled over, in an operator's words where there are some."""
    problem = str(error.problem)
    for said, meant in _SLIPS:
        if said in problem:
            return meant
    # What stands where a tag would may be a password that begins with ! and forgot its quotes.
    problem = re.sub(r"(tag handle) .*", r"\1", problem, flags=re.DOTALL)
    context = f" {error.context}" if error.context else ""
    return f"not YAML: {problem}{context}"
