"""Programs that tests start: foreign upstreams, the gateway's own command, the naive proxy.

A program is ready when it says so on its output; nobody sleeps or probes ports. What it printed is kept in a file, and
shown when it does not start. Only the process that was started is ended, through its own handle.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Program:
    """A running program. ``said`` is the match of the line with which it declared itself ready."""

    def __init__(self, process: subprocess.Popen[bytes], ready: str, output: Path) -> None:
        self.process = process
        self.output = output
        self._ready = re.compile(ready.encode())
        self._said: re.Match[bytes] | None = None
        self._decided = threading.Event()
        self._reader = threading.Thread(target=self._follow, name=f"output of {process.pid}")
        self._reader.start()

    def _follow(self) -> None:
        """Keep the output and look for the ready line, until the program closes its output."""
        assert self.process.stdout is not None
        with self.output.open("wb", buffering=0) as kept:
            for line in self.process.stdout:
                kept.write(line)
                if self._said is None and (match := self._ready.search(line)):
                    self._said = match
                    self._decided.set()
        self._decided.set()

    def await_ready(self, deadline_s: float) -> None:
        """Raise RuntimeError with what it printed, where it ends or says nothing in time."""
        if not self._decided.wait(deadline_s) or self._said is None:
            raise RuntimeError(f"{self.process.args!r} did not start:\n{self.text()}")

    def said(self, group: int = 1) -> str:
        """That group of the ready line."""
        assert self._said is not None
        return self._said[group].decode()

    def text(self) -> str:
        """All that it has printed, on both streams."""
        return self.output.read_text(errors="replace")

    def resident_bytes(self, *, peak: bool = False) -> int:
        """How much memory it holds (Linux), or the most that it held since :meth:`forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmHWM:\s+(\d+) kB" if peak else r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return 1024 * int(match[1])

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def end(self) -> int:
        """Ask it to end, insist after 10 s, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reader.join()
        return self.process.wait()


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    ready: str,
    output: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    deadline_s: float = 60.0,
) -> Iterator[Program]:
    """Start ``command``, wait until a line of its output matches ``ready``, and end it after the block."""
    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=cwd,
    )
    with popen:
        program = Program(popen, ready, output)
        try:
            program.await_ready(deadline_s)
            yield program
        finally:
            program.end()
