"""Files on disk, loaded with small plugins of the tests' own."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import Field, field_validator

from gateway.config import GatewayConfig, load
from gateway.config.near import near_miss
from gateway.contract import Plugin, PluginConfig, Rate, Secret
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MASTER_KEY = "canary-8Xq2-master-key"

Resolve = Callable[[str], type[Plugin]]
"""What finds a plugin."""

Load = Callable[..., GatewayConfig]
"""Write this text to gateway.yaml and load it, with these variables beside MASTER_KEY."""

Refused = Callable[..., list[str]]
"""The same, for a file that is refused: the faults, without the name of the file."""


Mutated = Callable[[str, int], str]
"""A text after one to three slips of the hand, always the same ones for the same seed."""


class Plain(Plugin):
    """Needs no configuration."""


class Limit(Plugin):
    """Limits something."""

    class Config(PluginConfig):
        """How much."""

        by: Literal["key", "ip"]
        """By what."""
        requests: Rate
        """How often."""
        burst: int | None = Field(default=None, ge=1)
        """At once."""
        names: frozenset[str] = frozenset()
        """For whom."""
        enabled: bool = True
        """Whether at all."""
        mode: Literal["soft", "hard"] | int = "soft"
        """How."""


class Strict(Plugin):
    """Has a secret, and a validator that tells what it was given."""

    class Config(PluginConfig):
        """What it is given."""

        token: Secret
        """A secret."""
        region: str = "here"
        """A word."""

        @field_validator("region")
        @classmethod
        def _known(cls, value: str) -> str:
            if value == "nowhere":
                raise KeyError(value)
            if value != "here":
                message = f"{value} is not a region"
                raise ValueError(message)
            return value


PLUGINS: Mapping[str, type[Plugin]] = {"plain": Plain, "limit": Limit, "strict": Strict}


def resolve(use: str) -> type[Plugin]:
    """What the registry does."""
    if use == "broken":
        raise SyntaxError(use)
    if use not in PLUGINS:
        message = f"there is no layer {use!r}{near_miss(use, PLUGINS)}"
        raise LookupError(message)
    return PLUGINS[use]


@pytest.fixture
def plugins() -> Resolve:
    """The tests' own plugins by name."""
    return resolve


@pytest.fixture
def plugin_classes() -> Mapping[str, type[Plugin]]:
    """The same, as a mapping."""
    return PLUGINS


@pytest.fixture
def master_key() -> str:
    """What must not be shown."""
    return MASTER_KEY


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """See :data:`Load`."""

    def load_text(text: str | bytes, environ: Mapping[str, str] | None = None) -> GatewayConfig:
        file = tmp_path / "gateway.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(file, resolve, {"MASTER_KEY": MASTER_KEY, **(environ or {})})

    return load_text


@pytest.fixture
def refused(loaded: Load, tmp_path: Path) -> Refused:
    """See :data:`Refused`."""

    def faults_of(text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, environ)
        assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
        return [str(fault).removeprefix(f"{tmp_path}/gateway.yaml:") for fault in caught.value.faults]

    return faults_of


@pytest.fixture
def working() -> str:
    """A file that is right, with room in its chain: ``working + "      - limit: …"`` adds a layer in line 12."""
    return WORKING


WORKING = """\
listeners:
  public: {bind: 127.0.0.1:8080}
vault: {master_key: "${MASTER_KEY}"}
upstreams:
  house: {base_url: https://models.example/v1, dialect: openai, credential: bearer}
routes:
  - name: api
    listener: public
    path: /v1/
    chain:
      - plain
"""


@pytest.fixture
def mutated() -> Mutated:
    """See :data:`Mutated`."""
    return mutate


WORDS = ("", " ", "\t", "  ", "\n", "- ", ": ", ":", "*a", "&a ", "!x ", "{", "}", "[", "]", '"', "'", "#", "|\n", ">")
SCALARS = ("null", "~", "7", "-1", "0.5", ".inf", "1e999", "true", "on", "[]", "{}", "${NOWHERE}", "${MASTER_KEY}")
ODD = ("\x00", "\x85", "\ufeff", "\\ud800", "\u2028", "é", "%", "@", "`", "\\", "${", "9" * 400, "x" * 300, "..", "a:b")


def mutate(text: str, seed: int) -> str:
    """``text`` after one to three slips of the hand."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines(keepends=True) or [""]
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        line = lines[at]
        column = rng.randint(0, len(line))
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(other, line)
            case 2:
                lines[at], lines[other] = lines[other], line
            case 3:
                lines[at] = line[1:] if rng.random() < 0.5 else f" {line}"
            case 4:
                lines[at] = line[:column] + rng.choice(WORDS + ODD) + line[column:]
            case 5:
                lines[at] = line[:column] + line[column + rng.randint(1, 3) :]
            case 6:
                lines[at] = re.sub(r"[\w./${}-]+", lambda word: rng.choice([word[0], *SCALARS]), line)
            case _:
                lines = lines[: at + 1]
        text = "".join(lines)
    return text
