"""The log: one line an event, no secret in it, and no request that ever waits for it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.log import QueueLog, open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "sk-canary-2f9c"


def mask(text: str) -> str:
    """Mask one known secret by value."""
    return text.replace(SECRET, "***")


def lines_of(write: Callable[[QueueLog], None], **options: Any) -> list[dict[str, Any]]:
    """What ``write`` made the log say, parsed. Each line must be whole JSON."""
    stream = io.StringIO()
    with open_log(options.pop("level", "debug"), stream, mask, **options) as log:
        write(log)
    text = stream.getvalue()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def only(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The one line there is."""
    assert len(lines) == 1
    return lines[0]


def test_a_line_is_time_level_event_and_fields() -> None:
    """A line holds when it was said (UTC, milliseconds), how grave it is, what happened, and the fields, in order."""
    line = only(lines_of(lambda log: log.info("started", port=8080, tls=False), now=lambda: 1_767_225_600.5))
    assert line == {
        "timestamp": "2026-01-01T00:00:00.500+00:00",
        "level": "info",
        "event": "started",
        "port": 8080,
        "tls": False,
    }
    assert list(line)[:3] == ["timestamp", "level", "event"]


def test_the_level_is_a_threshold() -> None:
    """Below the configured level nothing is written."""

    def write(log: QueueLog) -> None:
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")

    assert [line["event"] for line in lines_of(write, level="warning")] == ["c", "d"]


def test_lines_keep_their_order() -> None:
    """What was said first stands first, over many slices."""

    def write(log: QueueLog) -> None:
        for number in range(1_000):
            log.info("n", number=number)

    assert [line["number"] for line in lines_of(write)] == list(range(1_000))


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nb", "\x1b[2J", "\u2028", "\u2029", "\x85", "\x7f", "\x00", "\ud800"])
def test_one_event_is_one_printable_line(hostile: str) -> None:
    """F82: whatever a client puts into a path, a name or a header, it cannot begin a line or drive a terminal."""
    stream = io.StringIO()
    with open_log("info", stream, mask) as log:
        log.info(hostile, path=hostile, names=[hostile], labels={hostile: hostile})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text[:-1].isascii()
    assert text[:-1].isprintable()
    line = json.loads(text)
    assert (line["event"], line["path"], line["names"]) == (hostile, hostile, [hostile])


def test_secrets_are_masked_by_value_wherever_they_stand() -> None:
    """F73: in the event, in fields, in what fields contain, in names, in the text of any object."""

    class Shown:
        def __str__(self) -> str:
            return f"Shown({SECRET})"

    def write(log: QueueLog) -> None:
        event = f"refused {SECRET}"
        log.error(event, key=SECRET, nested={"a": [SECRET], SECRET: 1}, shown=Shown(), raw=SECRET.encode())

    text = json.dumps(only(lines_of(write)))
    assert SECRET not in text
    assert text.count("***") == 6


def test_a_secret_is_masked_before_a_long_text_is_cut() -> None:
    """F73: a text that is cut in the middle of a secret does not show its first half."""
    line = only(lines_of(lambda log: log.info("x", body="-" * 1_995 + SECRET + "-" * 100)))
    assert "sk-" not in line["body"]
    assert len(line["body"]) < 2_010


def test_numbers_that_json_lacks_are_text() -> None:
    """A line stays JSON where a value is not a number of JSON."""
    line = only(lines_of(lambda log: log.info("x", a=float("nan"), b=float("inf"))))
    assert (line["a"], line["b"]) == ("nan", "inf")


def test_an_exception_is_told_without_locals() -> None:
    """Type, message, module:line of each frame and the cause are told; the values in the frames are not."""

    def fail() -> None:
        password = "hunter2-in-a-local"  # noqa: F841 - what must not be shown
        try:
            os.stat("/nowhere/at/all")  # noqa: PTH116 - any error of the system
        except OSError as error:
            msg = f"the store is away, said {SECRET}"
            raise StoreUnavailable(msg) from error

    def write(log: QueueLog) -> None:
        try:
            fail()
        except StoreUnavailable as error:
            log.error("failed", error=error)

    error = only(lines_of(write))["error"]
    assert error["type"] == "gateway.errors.StoreUnavailable"
    assert error["message"] == "the store is away, said ***"
    assert len(error["frames"]) == 2
    assert all(frame.rpartition(":")[2].isdigit() for frame in error["frames"])
    assert error["cause"]["type"] == "builtins.FileNotFoundError"
    assert "hunter2" not in json.dumps(error)


def test_a_librarys_exception_is_told_by_type_and_place_only() -> None:
    """F74: a library's message may quote a header, an input or an SQL parameter that no mask knows."""
    foreign = type("BadHeader", (Exception,), {"__module__": "parser.errors"})
    error = only(lines_of(lambda log: log.error("x", error=foreign("Bearer gw_nobody_knows_me"))))["error"]
    assert error == {"type": "parser.errors.BadHeader", "frames": []}


def test_an_exception_group_tells_its_parts() -> None:
    """What failed inside a TaskGroup is not lost."""
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    error = only(lines_of(lambda log: log.error("x", error=group)))["error"]
    assert [each["type"] for each in error["errors"]] == ["builtins.ValueError", "builtins.KeyError"]


def test_a_value_is_what_it_was_at_the_call() -> None:
    """What changes after the call does not change the line, and nothing foreign waits in the queue."""

    def write(log: QueueLog) -> None:
        names = ["a"]
        log.info("x", names=names)
        names.append("b")

    assert only(lines_of(write))["names"] == ["a"]


def test_a_value_that_cannot_be_shown_harms_nobody() -> None:
    """A foreign ``__str__`` that raises is named, the caller goes on, and so does the log."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    def write(log: QueueLog) -> None:
        log.info("x", value=Broken())
        log.info("y")

    first, second = lines_of(write)
    assert "Broken" in first["value"]
    assert second["event"] == "y"


def test_a_mask_that_fails_loses_its_line_and_no_other() -> None:
    """A line that cannot be masked is not written; the loss is told."""
    stream = io.StringIO()

    def picky(text: str) -> str:
        if text == "bad":
            raise ValueError
        return text

    with open_log("info", stream, picky) as log:
        log.info("bad")
        log.info("good")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"good", "log lines were dropped"}


# The stream that fails


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """A pipe: its reading descriptor, and its writing end as a stream."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    try:
        os.close(reader)
    except OSError:
        return


def read_all(fd: int) -> list[dict[str, Any]]:
    """The lines of a pipe up to its end."""
    with os.fdopen(fd, "rb") as reader:
        return [json.loads(line) for line in reader]


def test_a_reader_that_does_not_read_blocks_no_caller(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """F63: with nobody reading the pipe, calls return, lines beyond the queue are dropped and counted, then told."""
    reader, stream = pipe
    said = 20_000
    lines: list[dict[str, Any]] = []
    reading = threading.Thread(target=lambda: lines.extend(read_all(reader)))
    with open_log("info", stream, mask, capacity=64, flush_s=60) as log:
        for number in range(said):
            log.info("n", number=number, padding="x" * 500)
        dropped = log.dropped
        assert dropped > said // 2  # a pipe and a queue hold some hundreds of these
        reading.start()
    stream.close()
    reading.join(60)
    told = sum(line["count"] for line in lines if line["event"] == "log lines were dropped")
    assert told == dropped
    assert sum(line["event"] == "n" for line in lines) == said - dropped


def test_closing_does_not_wait_for_a_reader_for_ever(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """F63: a process with a blocked stderr still ends."""
    _, stream = pipe
    with open_log("info", stream, mask, flush_s=0.01) as log:
        for _ in range(1_000):
            log.info("x", padding="x" * 500)
    assert any(thread.name == "gateway-log" for thread in threading.enumerate())  # it hangs, and we are past it


def test_a_reader_that_left_is_survived(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """F63: on a broken pipe (EPIPE) lines are dropped and counted, and no call raises."""
    reader, stream = pipe
    os.close(reader)
    with open_log("info", stream, mask) as log:
        for _ in range(100):
            log.info("x")
    assert log.dropped == 100


def test_a_process_without_stderr_can_log() -> None:
    """F63: Python's ``sys.stderr`` is None where the descriptor was closed before the start."""
    with open_log("info", None, mask) as log:
        log.info("x")
    assert log.dropped == 1


def test_a_closed_streams_number_is_not_written_to(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """F63: who closes the stream frees its descriptor's number; our lines must not go to its next owner."""
    reader, stream = pipe
    with open_log("info", stream, mask) as log:
        number = stream.fileno()
        other_reader, other_writer = os.pipe()
        stream.close()
        os.dup2(other_writer, number)
        log.info("x")
    os.close(number)
    os.close(other_writer)
    with os.fdopen(other_reader, "rb") as other:
        assert other.read() == b""
    assert [line["event"] for line in read_all(reader)] == ["x"]


def test_calls_after_closing_are_counted() -> None:
    """A straggler of the shutdown neither raises nor piles up."""
    with open_log("info", io.StringIO(), mask) as log:
        pass
    log.info("late")
    assert log.dropped == 1


# The standard library's logging


def test_records_of_libraries_become_lines() -> None:
    """A library's warning is a line like ours; its INFO and DEBUG, which quote what it handles, are not."""

    def write(_: QueueLog) -> None:
        logger = logging.getLogger("some.library")
        logger.info("parameters: %s", SECRET)
        logger.warning("slow: %s", SECRET)

    line = only(lines_of(write))
    assert (line["level"], line["event"], line["logger"]) == ("warning", "slow: ***", "some.library")


def test_a_record_that_does_not_fit_its_format_is_still_a_line() -> None:
    """A library's mistake in a log call is its text, not a traceback on stderr."""

    def write(_: QueueLog) -> None:
        ours = logging.getLogger().handlers[-1]  # pytest's own handler would raise
        ours.handle(logging.LogRecord("some.library", logging.ERROR, "", 0, "%d of %d", (1,), None))

    line = only(lines_of(write))
    assert line["event"] == "%d of %d"


async def test_asyncios_complaint_does_not_quote_the_exception() -> None:
    """F74: the loop's handler adds a task's repr, which quotes the exception; type and place are told instead."""
    stream = io.StringIO()
    foreign = type("Foreign", (Exception,), {"__module__": "somewhere"})
    loop = asyncio.get_running_loop()
    with open_log("info", stream, mask):
        failed = loop.create_future()
        error = foreign("Bearer gw_nobody_knows_me")
        loop.call_exception_handler({"message": "It failed", "exception": error, "future": failed})
    line = json.loads(stream.getvalue())
    assert (line["event"], line["error"]["type"], line["logger"]) == ("It failed", "somewhere.Foreign", "asyncio")
    assert "gw_" not in stream.getvalue()


def test_closing_leaves_the_standard_library_as_it_was() -> None:
    """Two logs after each other, as in tests, do not write each other's lines."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    lines_of(lambda _: None)
    assert (root.level, list(root.handlers)) == before
