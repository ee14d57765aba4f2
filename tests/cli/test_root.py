"""The command as a whole: what it lists, how it completes, how fast it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from gateway import __version__

if TYPE_CHECKING:
    from tests.cli.conftest import Gateway

VERBS = ["init", "serve", "check", "explain", "plugins", "schema", "key", "provider-key", "vault", "user", "completion"]
ROOT = Path(__file__).parent.parent.parent


def test_help_lists_every_verb(gateway: Gateway) -> None:
    """In the order in which a newcomer needs them."""
    lines = gateway("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == VERBS
    assert not any(line.endswith("...") for line in lines)


def test_the_version_is_the_packages(gateway: Gateway) -> None:
    """One line, for bug reports."""
    assert gateway("--version").stdout == f"gateway {__version__}\n"


def test_a_misspelt_verb_is_a_usage_error(gateway: Gateway) -> None:
    """Exit 2."""
    assert gateway("sevre").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, gateway: Gateway) -> None:
    """The script calls back for this command."""
    script = gateway("completion", shell).stdout
    assert f"_GATEWAY_COMPLETE={shell}_complete" in script


def test_verbs_and_options_complete() -> None:
    """What the script asks for when the user presses Tab."""
    env = {**os.environ, "_GATEWAY_COMPLETE": "bash_complete", "COMP_WORDS": "gateway key cr", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from gateway.cli import main; main(prog_name='gateway')"]
    completed = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert completed.stdout == "plain,create\n"


def test_help_and_completion_wait_for_no_library() -> None:
    """What takes a second to import (aiohttp, SQLAlchemy) is imported by the verb that runs."""
    program = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'aiohttp', 'sqlalchemy', 'alembic', 'cryptography'} & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


def test_plugins_says_what_is_there(gateway: Gateway) -> None:
    """Each layer with its package, its promise, and what it needs and provides."""
    rows = {row["name"]: row for row in json.loads(gateway("plugins", "--json").stdout)}
    assert rows["vault"]["needs"] == ["PRINCIPAL"]
    assert rows["vault"]["provides"] == ["CREDENTIAL"]
    assert rows["vault"]["package"] == f"llm-gateway {__version__}"
    assert all(row["promise"] for row in rows.values())
    assert "vault" in gateway("plugins").stdout


def test_the_schema_is_one_that_accepts_the_template(gateway: Gateway) -> None:
    """What ``gateway schema`` prints is the file in the repository, and editors find no fault with gateway.yaml."""
    printed = gateway("schema").stdout
    assert printed == (ROOT / "config" / "gateway.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("verb", [("plugins",), ("schema",), ("completion", "bash")])
def test_every_verb_takes_a_configuration(verb: tuple[str, ...], gateway: Gateway) -> None:
    """Also those that do not read it, so that a script can give it to all."""
    assert gateway(*verb, "-c", "other.yaml").exit_code == 0
