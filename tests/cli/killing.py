"""Runs the command in children that end themselves by SIGKILL at the n-th moment. A program, for one test.

Every line of stdin is a run: ``{"folder": …, "arguments": […], "stdin": …, "at": n}``; every line of stdout is how it
ended, as an exit status, -9 for one that was killed. Moments are counted from when the run has taken the right to
replace keys: after each statement, before each commit, after each transaction, and before each renaming of a file. 0
kills nobody.

Children are forked off a parent that has made and rotated a gateway itself, so that everything is imported: a run takes
a tenth of a second.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from typing import Any

import sqlalchemy as sa

from gateway.cli import main
from gateway.security.vault import KeyVault, new_master_key

# A vault's record says how many rounds of PBKDF2 its master key takes. What is tried here is everything but guessing.
for making_a_record in (KeyVault.create, KeyVault.wrap):
    making_a_record.__kwdefaults__["iterations"] = 1000


class Countdown:
    """Kills this process when it was called so many times."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._counting = False

    def listen(self) -> None:
        """Hear of what this process does with databases and files from now on."""
        sys.addaudithook(self._hear)
        sa.event.listen(sa.Engine, "after_cursor_execute", self._tick)
        sa.event.listen(sa.Engine, "commit", self._tick)
        sa.event.listen(sa.Pool, "checkin", self._tick)

    def _hear(self, event: str, _: object) -> None:
        if event == "fcntl.flock":
            self._counting = True
        elif event == "os.rename":
            self._tick()

    def _tick(self, *_: object) -> None:
        self._left -= self._counting
        if self._left == 0 and self._counting:
            os.kill(os.getpid(), signal.SIGKILL)


def run(*arguments: str, stdin: str = "") -> int:
    """The exit code of one run of the command, in this process and folder."""
    sys.stdin = io.StringIO(stdin)
    with redirect_stdout(io.StringIO()):
        return int(main(arguments, standalone_mode=False) or 0)


def child_of(request: dict[str, Any]) -> int:
    """How a child with this run ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.chdir(request["folder"])
        Countdown(request["at"]).listen()
        code = run(*request["arguments"], stdin=request["stdin"])
    except BaseException as error:  # noqa: BLE001 - the child's rim: it must never return into the parent's loop
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        code = 99
    os._exit(code)


requests = sys.stdin
with tempfile.TemporaryDirectory() as folder, chdir(folder):
    run("init")
    run("vault", "rotate", "data-key")
    run("vault", "rotate", "master-key", "--write-env", stdin=new_master_key().reveal())
for line in requests:
    sys.stdout.write(f"{child_of(json.loads(line))}\n")
    sys.stdout.flush()
