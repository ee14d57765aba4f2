"""What is shipped: the wheel, the locks, and the first minute of ``make``."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
OURS = {*sys.stdlib_module_names, "compression", "gateway"}  # compression: the standard library's since 3.14
LOCKS = ("pip.txt", "run.txt", "dev.txt", "model.txt")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end, outside the tree's import paths."""
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


# The wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment outside the tree that has the wheel, and its dependencies from this environment."""
    where = tmp_path_factory.mktemp("wheel")
    source = where / "source"
    source.mkdir()
    for name in ("gateway", "plugins"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", where, source], check=True, cwd=where)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where / "env"], check=True)
    python = where / "env" / "bin" / "python"
    wheel = next(where.glob("*.whl"))
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, cwd=where)
    site = next((where / "env" / "lib").glob("python*/site-packages"))
    # A path is added without its own .pth files, so the editable installation that may be there stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return where / "env" / "bin"


def test_the_wheel_runs_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    """What is installed is the wheel, and the command says its version."""
    where = run(installed / "python", "-P", "-c", "import gateway; print(gateway.__file__)", cwd=tmp_path)
    assert str(installed.parent) in where.stdout
    assert run(installed / "gateway", "--version", cwd=tmp_path).stdout == f"gateway {gateway.__version__}\n"


def test_the_wheel_has_every_module(installed: Path) -> None:
    """A subpackage that setup.cfg forgets works in an editable installation and is missing here."""
    site = next((installed.parent / "lib").glob("python*/site-packages"))
    shipped = {path.relative_to(site / "gateway") for path in (site / "gateway").rglob("*.py")}
    engine = {
        path.relative_to(ROOT / "gateway")
        for path in (ROOT / "gateway").rglob("*.py")
        if not path.is_relative_to(ROOT / "gateway" / "plugins")
    }
    layers = {Path("plugins") / path.relative_to(ROOT / "plugins") for path in (ROOT / "plugins").rglob("*.py")}
    assert shipped == engine | layers
    assert (site / "gateway" / "py.typed").exists()


def test_the_wheel_finds_its_layers_and_proves_a_chain(installed: Path, tmp_path: Path) -> None:
    """``gateway plugins`` lists every built-in layer, and ``gateway check`` accepts the file that ``init`` writes."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["gateway.plugins"]
    listed = run(installed / "gateway", "plugins", cwd=tmp_path)
    assert listed.stderr == ""
    assert {line.split()[0] for line in listed.stdout.splitlines()[1:]} >= set(entry_points)
    shutil.copy(ROOT / "gateway.yaml", tmp_path)
    env = {**os.environ, "GATEWAY_MASTER_KEY": "t1Vq8_Zr4mXw0Pk7sLd2Hy9BnCf6JgAeQuTiRo3E"}
    checked = run(installed / "gateway", "check", cwd=tmp_path, env=env)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("ok\n")


def test_setup_cfg_lists_every_package() -> None:
    """Also those without a module of their own yet."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    folders = [*(ROOT / "gateway").rglob("__init__.py"), *(ROOT / "plugins").rglob("__init__.py")]
    inside = {path.parent.relative_to(ROOT).parts for path in folders}
    names = {".".join(("gateway", *parts) if parts[0] == "plugins" else parts) for parts in inside}
    assert set(parser["options"]["packages"].split()) == names


def imported() -> dict[str, Path]:
    """Each module that the shipped code imports from elsewhere, by its first name, and a file that does."""
    found: dict[str, Path] = {}
    for path in (*(ROOT / "gateway").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.partition(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in OURS}


def test_what_is_imported_is_declared() -> None:
    """A package that happens to be here, because a test or another package wants it, is missing where only we are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = (*project["dependencies"], *project["optional-dependencies"]["speed"])
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    owners = packages_distributions()
    undeclared = {
        f"{name} in {path}"
        for name, path in imported().items()
        if declared.isdisjoint(map(canonicalize_name, owners.get(name, [])))
    }
    assert undeclared == set()


# The locks


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in a lock."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    found = [re.match(r"([a-z0-9-]+)==(\S+)", line) for line in lines]
    return {
        match[1]: (match[2], line.count("--hash=sha256:")) for match, line in zip(found, lines, strict=True) if match
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock: str) -> None:
    """Which index is asked is the machine's configuration; what may come from it is the lock's."""
    text = (ROOT / "requirements" / lock).read_text()
    assert not re.search(r"://|--index|--extra-index|--find-links|--trusted|^/|@ ", text, re.MULTILINE)
    packages = locked(lock)
    assert packages
    assert all(hashes for _, hashes in packages.values())


def test_the_lock_serves_other_machines_too() -> None:
    """A compiled package is locked with the wheels of other systems and interpreters, not with this machine's."""
    packages = locked("run.txt")
    assert all(packages[name][1] > 30 for name in ("aiohttp", "asyncpg", "cffi", "httptools", "pydantic-core"))


def test_the_locks_agree() -> None:
    """The tests run with the versions that serve."""
    serving, testing = locked("run.txt"), locked("dev.txt")
    assert {name: testing[name] for name in serving} == serving


def test_the_lock_satisfies_what_the_package_asks_for() -> None:
    """Whoever changes pyproject.toml runs ``make lock``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = locked("run.txt")
    for text in (*project["dependencies"], *project["optional-dependencies"]["speed"]):
        wanted = Requirement(text)
        version, _ = packages[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), text


# make


def make(*arguments: str | Path, path: str | Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in the tree, with the programs of ``path`` only where one is given."""
    command = shutil.which("make")
    assert command is not None
    env = dict(os.environ) if path is None else {"PATH": str(path)}
    return run(command, "--no-print-directory", *arguments, cwd=ROOT, env=env)


def pythons(folder: Path, *, version: Sequence[int], complete: bool) -> Path:
    """A folder with one ``python3``: this interpreter, claiming a version and, maybe, to lack its venv module."""
    folder.mkdir()
    script = folder / "python3"
    missing = "" if complete else 'sys.modules["ensurepip"] = None\n'
    fake = folder / "fake.py"
    fake.write_text(f"import sys\nsys.version_info = {tuple(version)}\n{missing}exec(sys.argv[2])\n")
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    script.chmod(0o755)
    return folder


def test_make_alone_explains_every_target() -> None:
    """A newcomer types ``make`` and sees what there is."""
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    said = [line.split()[1] for line in make().stdout.splitlines()]
    assert sorted(said) == sorted(declared[1].split())


@pytest.mark.parametrize("version", [None, (3, 10)])
def test_make_says_that_a_python_is_missing(version: Sequence[int] | None, tmp_path: Path) -> None:
    """Without a Python of 3.11 or newer there is one clear sentence, and no traceback."""
    path = pythons(tmp_path / "bin", version=version, complete=True) if version else tmp_path
    result = make(f"VENV={tmp_path}/env", f"{tmp_path}/env/.python", path=path)
    assert result.returncode != 0
    assert result.stderr.startswith("Python 3.11 or newer is needed, and none of these is: python3.13")


def test_make_says_what_a_python_lacks(tmp_path: Path) -> None:
    """Debian splits venv off its Python: the sentence names the package to install."""
    path = pythons(tmp_path / "bin", version=(3, 12), complete=False)
    result = make(f"VENV={tmp_path}/env", f"{tmp_path}/env/.python", path=path)
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr
