"""JSON lines, made off the hot path.

Owns: what a log line looks like, the queue in front of it, the thread that writes it. Nothing else may write to the
log's stream, and nothing here decides what is worth a line.

A call puts plain values on a bounded queue and returns. One thread takes them off in small slices, masks every text by
value, has structlog render them and writes whole lines. Why so:

* Rendering on the caller's side takes a busy loop 10 to 15 % of its time; in large batches it holds the interpreter
  for milliseconds. structlog's bound logger alone costs 2.3 µs a call more than the queue (CPython 3.11, November
  2026), so structlog renders in the thread and does not stand in front of the queue.
* A reader of our stderr that stops reading must not stop a request (faults.md F63): only the thread blocks. What does
  not fit into the queue, or cannot be written, is dropped and counted; the count is itself a line once lines go out
  again.
* Values become plain at the call, not in the thread: an exception or an object that waits in a queue keeps sockets
  and requests alive, may change before it is rendered, and would be finalised in a thread that is not its own.

A line is ASCII with every control character escaped, so one event is one line, whatever a client put into it (F82).

Of an exception the log tells type, place and causes, never locals. Its message is told where the class is the
gateway's own or the standard library's; a library's message may quote what the library was given (SQL parameters,
header lines, invalid input), and a value that nobody knows to be secret cannot be masked.
"""

from __future__ import annotations

import logging
import math
import os
import select
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, TextIO, get_args

from structlog.processors import JSONRenderer

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Level = Literal["debug", "info", "warning", "error"]
"""The least level that is written."""

_RANK = {level: rank for rank, level in enumerate(get_args(Level))}
_Entry = tuple[float, str, str, dict[str, object]]

_SCALARS = frozenset({str, int, float, bool, type(None)})
_MAX_TEXT = 2_000  # characters of one value: a line stays near what a pipe takes in one piece
_MAX_ITEMS = 50
_MAX_DEPTH = 4
_MAX_FRAMES = 12
_SLICE = 8  # lines a write: some 4 KiB, which a pipe takes whole, so that lines of several workers do not mix


@contextmanager
def open_log(
    level: Level,
    stream: TextIO | None,
    mask: Callable[[str], str],
    *,
    capacity: int = 8_192,
    flush_s: float = 2.0,
    now: Callable[[], float] = time.time,
) -> Iterator[QueueLog]:
    """Write lines of at least ``level`` to ``stream``, each text through ``mask``, until the context closes.

    Records of the standard library's ``logging``, from WARNING up, become lines too; more than that libraries fill with
    what they were given. ``capacity`` bounds the lines that wait. Closing waits at most ``flush_s`` seconds for the
    stream to take them. ``stream`` None (a process without stderr) drops and counts every line.
    """
    log = QueueLog(level, stream, mask, capacity=capacity, now=now)
    handler = _Bridge(log)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    try:
        yield log
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        log.close(flush_s)


class QueueLog:
    """The :class:`~gateway.contract.Log` that layers and the engine are given. Safe from any thread."""

    def __init__(
        self,
        level: Level,
        stream: TextIO | None,
        mask: Callable[[str], str],
        *,
        capacity: int,
        now: Callable[[], float],
    ) -> None:
        self._least = _RANK[level]
        self._capacity = capacity
        self._now = now
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._counting = threading.Lock()
        self.dropped = 0
        """Lines lost so far: the queue was full or the stream did not take them."""
        self._reported = 0
        self._mask = mask
        self._render = JSONRenderer()
        self._output = _Output(stream)
        # A daemon: a stream that is never read again must not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name="gateway-log", daemon=True)
        self._thread.start()

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""
        self._put("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What happened."""
        self._put("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What an operator should know of."""
        self._put("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What an operator must look at."""
        self._put("error", event, fields)

    def close(self, flush_s: float) -> None:
        """Write what waits, for at most ``flush_s`` seconds; later calls are dropped."""
        self._capacity = 0
        self._queue.put(None)
        self._thread.join(flush_s)
        if not self._thread.is_alive():
            self._output.close()

    def _put(self, level: str, event: str, fields: dict[str, object]) -> None:
        if _RANK[level] < self._least:
            return
        if self._queue.qsize() >= self._capacity:
            self._lose(1)
            return
        for name, value in fields.items():
            if type(value) not in _SCALARS:
                fields[name] = _plain(value, _MAX_DEPTH)
        self._queue.put((self._now(), level, event, fields))

    def _lose(self, lines: int) -> None:
        with self._counting:
            self.dropped += lines

    # What follows runs in the thread.

    def _write_all(self) -> None:
        ended = False
        while not ended:
            entries = self._take()
            ended = entries[-1] is None
            self._write([self._line(*entry) for entry in entries if entry is not None])

    def _take(self) -> list[_Entry | None]:
        """Wait for an entry; it and what already waits behind it, up to a slice. None is the end and comes last."""
        entries = [self._queue.get()]
        while entries[-1] is not None and len(entries) < _SLICE and not self._queue.empty():
            entries.append(self._queue.get())
        return entries

    def _write(self, lines: list[str]) -> None:
        lost = self.dropped - self._reported
        report = [self._line(self._now(), "warning", "log lines were dropped", {"count": lost})] if lost else []
        text = "".join([*lines, *report])
        if not text:
            return
        try:
            self._output.write(text)
        except (OSError, ValueError):
            self._lose(sum(1 for line in lines if line))
        else:
            self._reported += lost

    def _line(self, when: float, level: str, event: str, fields: dict[str, object]) -> str:
        """One line with its end; empty, and counted as lost, where it cannot be made."""
        try:
            stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
            head: dict[str, object] = {"timestamp": stamp, "level": level, "event": self._clean(event)}
            entry = head | {name: self._clean(value) for name, value in fields.items() if name not in head}
            return f"{self._render(None, level, entry)!s}\n"
        except Exception:  # noqa: BLE001 - the rim: one line that cannot be made must not end the log
            self._lose(1)
            return ""

    def _clean(self, value: object) -> object:
        """Mask first, cut then: half a secret would not be recognised."""
        if isinstance(value, str):
            text = self._mask(value)
            return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON has no such number
        if isinstance(value, dict):
            return {str(self._clean(name)): self._clean(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        return value


class _Output:
    """Whole texts to a stream's descriptor, past Python's buffers and their locks.

    The interpreter ends with a fatal error where a thread that still hangs in a write holds the lock of ``sys.stderr``.
    The descriptor is a duplicate: if somebody closes the stream, its number may come to mean a client's socket.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._fd: int | None = None
        try:
            self._fd = os.dup(stream.fileno()) if stream is not None else None
        except (OSError, ValueError):  # in memory, or closed: write() finds out
            self._fd = None

    def write(self, text: str) -> None:
        """Return when ``text`` is out, however long that takes. Raises OSError or ValueError where it cannot be."""
        if self._fd is not None:
            _write_fully(self._fd, text.encode("ascii"))
        elif self._stream is not None:
            self._stream.write(text)
        else:
            msg = "there is no stream"
            raise ValueError(msg)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _write_fully(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another holder of a shared terminal made it non-blocking
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()


class _Bridge(logging.Handler):
    """Turns records of the standard library's ``logging`` into our lines."""

    def __init__(self, log: QueueLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - foreign code: a library's arguments may not fit its own format
            message = _text(record.msg)
        fields: dict[str, object] = {"logger": record.name}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields["error"] = error
            message = message.partition("\n")[0]  # asyncio goes on with the repr of a task: it quotes the exception
        write = self._log.warning if record.levelno < logging.ERROR else self._log.error
        write(message, **fields)


def _plain(value: object, depth: int) -> object:
    """``value`` as text, numbers, lists and dicts that share nothing with it. Never raises."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, BaseException):
        return _told(value, depth)
    if depth and isinstance(value, dict):
        return {_text(name): _plain(item, depth - 1) for name, item in list(value.items())[:_MAX_ITEMS]}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in list(value)[:_MAX_ITEMS]]
    return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - foreign code; who logs must not fail by it
        return f"<{type(value).__qualname__} that cannot be shown>"


def _told(error: BaseException, depth: int) -> dict[str, object]:
    """Type, message where it may be told, frames outermost first, cause. Holds no reference to the error."""
    kind = type(error)
    told: dict[str, object] = {"type": f"{kind.__module__}.{kind.__qualname__}"}
    if _may_be_quoted(error):
        told["message"] = _text(error)
    told["frames"] = [
        f"{frame.f_globals.get('__name__', '?')}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)
    ][-_MAX_FRAMES:]
    if depth and isinstance(error, BaseExceptionGroup):
        told["errors"] = [_told(each, depth - 1) for each in error.exceptions[:_MAX_ITEMS]]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if depth and cause is not None:
        told["cause"] = _told(cause, depth - 1)
    return told


def _may_be_quoted(error: BaseException) -> bool:
    home = type(error).__module__.partition(".")[0]
    return isinstance(error, GatewayError) or home in sys.stdlib_module_names
