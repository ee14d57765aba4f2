"""Server-sent events are cut as WHATWG HTML 9.2.6 says, whatever the bytes and however they were split."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Relay
from gateway.dialects.sse import Event, EventStream, is_event_stream, subscribe

# Pieces that matter to the format, so that random joins of them reach every corner of it.
PIECES = st.sampled_from(
    [
        b"\n", b"\r", b"\r\n", b"\n\n", b":", b" ", b"data", b"data:", b"data: ", b"event: ", b"event:", b"id: 1",
        b"retry: 5", b": ping", b"\xef\xbb\xbf", b"\xef", b"\xff\xfe", b"x", b"{}", b"data: x\n\n", b"[DONE]",
        b"event: a\ndata: b\n\n", b"a" * 40, b"a" * 200,
    ]
)  # fmt: skip
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


def reference(stream: bytes, limit: int) -> list[Event]:
    """The standard's algorithm on a stream that is all there, plus the bound."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    name, data, size = b"", None, 0
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data is not None:
                events.append(Event(name, b"" if size > limit else data[:-1], size > limit))
            name, data, size = b"", None, 0
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            size += len(line)
            if field == b"event":
                name = line[:128].partition(b":")[2].removeprefix(b" ")
            elif field == b"data":
                data = (data or b"") + value.removeprefix(b" ") + b"\n"
    return events


def cut(stream: bytes, ends: list[int], limit: int = 2**20) -> tuple[list[Event], EventStream]:
    """Feed a stream in the pieces between ``ends``."""
    parser = EventStream(max_event_bytes=limit)
    places = [0, *sorted(end % (len(stream) + 1) for end in ends), len(stream)]
    events: list[Event] = []
    for start, end in pairwise(places):
        events += parser.feed(stream[start:end])
    return events, parser


@given(stream=STREAMS, ends=st.lists(st.integers(0, 4000), max_size=12), limit=st.sampled_from([10, 64, 150, 2**20]))
def test_every_split_gives_the_events_of_the_standard(stream: bytes, ends: list[int], limit: int) -> None:
    """F26: for odd line ends, invalid UTF-8, marks and oversize alike, a split anywhere changes no event."""
    assert cut(stream, ends, limit)[0] == reference(stream, limit)


@given(stream=STREAMS)
def test_every_byte_alone(stream: bytes) -> None:
    """Fed byte by byte, a stream gives the same events as fed whole."""
    assert cut(stream, list(range(len(stream))))[0] == cut(stream, [])[0]


@given(stream=STREAMS, ends=st.lists(st.integers(0, 4000), max_size=12))
def test_at_a_boundary_an_event_can_be_added(stream: bytes, ends: list[int]) -> None:
    """Where the cutter says that it is at a boundary, an event appended there is read as exactly that event."""
    events, parser = cut(stream, ends)
    if parser.at_boundary:
        assert reference(stream + b"event: error\ndata: {}\n\n", 2**20) == [*events, Event(b"error", b"{}")]


@pytest.mark.parametrize(
    ("written", "at_boundary"),
    [
        (b"", True),
        (b"data: a\n\n", True),
        (b"data: a\r\n\r", True),
        (b"data: a\n\n: ping\n", True),
        (b"data: a\n", False),
        (b"event: x\n", False),
        (b"data: a\n\n: pi", False),
        (b"data: a\n\n:", False),
    ],
)
def test_boundaries(written: bytes, at_boundary: bool) -> None:
    """A boundary is where no line and no event has begun; a complete comment does not begin one."""
    assert cut(written, [])[1].at_boundary is at_boundary


@pytest.mark.parametrize(
    ("chunks", "limit", "events"),
    [
        # A line that ends with CR at a chunk's end: the LF belongs to it, however many empty chunks come between.
        ([b"data: a\r", b"", b"\ndata: b\n\n"], 99, [Event(b"", b"a\nb")]),
        # A comment is no part of the event, however long it is.
        ([b"data: a\n: ", b"c" * 500, b"\n\n"], 150, [Event(b"", b"a")]),
        # Name and data count together, in one piece as in several.
        ([b"event: eeee\ndata: dddd\n\n"], 20, [Event(b"eeee", b"", truncated=True)]),
        ([b"event: eeee\ndata: dddd\n\n"], 21, [Event(b"eeee", b"dddd")]),
        ([b"event: eeee\ndata: d", b"ddd\n\n"], 20, [Event(b"eeee", b"", truncated=True)]),
    ],
)
def test_corners(chunks: list[bytes], limit: int, events: list[Event]) -> None:
    """F26: the corners that random streams seldom reach."""
    parser = EventStream(max_event_bytes=limit)
    assert [event for chunk in chunks for event in parser.feed(chunk)] == events


def test_a_huge_line_costs_only_the_bound() -> None:
    """F26: a line of 10 MB, in small pieces, is never held beyond the bound, and the next event is read again."""
    parser = EventStream(max_event_bytes=2**16)
    piece = b"x" * 4096
    events = parser.feed(b"event: huge\ndata: ")
    tracemalloc.start()
    for _ in range(2500):
        events += parser.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    events += parser.feed(b"\n\ndata: small\n\n")
    assert events == [Event(b"huge", b"", truncated=True), Event(b"", b"small")]
    assert peak < 4 * 2**16


@pytest.mark.parametrize("endless", [b": comment", b"data: a\n", b"event: e\n"])
def test_nothing_endless_is_held(endless: bytes) -> None:
    """A comment, or an event of countless short lines, that never ends is not held beyond the bound either."""
    parser = EventStream(max_event_bytes=2**14)
    chunk = endless * (2**15 // len(endless))
    tracemalloc.start()
    parser.feed(chunk)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(8):
        parser.feed(chunk)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2**15


@pytest.mark.parametrize(
    ("headers", "readable"),
    [
        ({"Content-Type": "text/event-stream; charset=utf-8"}, True),
        ({"Content-Type": "Text/Event-Stream"}, True),
        ({"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}, False),
        ({"Content-Type": "application/json"}, False),
        ({}, False),
    ],
)
def test_what_is_an_event_stream(headers: dict[str, str], readable: bool) -> None:
    """Only uncompressed text/event-stream is read."""
    assert is_event_stream(headers) is readable


class TestSubscribe:
    """Many listeners, one cutter."""

    def test_a_stream_is_cut_once_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three listeners get the same events, from one pass over each chunk."""
        fed: list[bytes] = []
        feed = EventStream.feed
        monkeypatch.setattr(EventStream, "feed", lambda self, chunk: fed.append(chunk) or feed(self, chunk))
        relay = Relay()
        heard: list[list[Event]] = [[], [], []]
        streams = [subscribe(relay, listener.append) for listener in heard]
        for chunk in (b"data: 1\n\nda", b"ta: 2\n\n"):
            for tap in relay.taps:
                tap(chunk)
        assert heard == [[Event(b"", b"1"), Event(b"", b"2")]] * 3
        assert len(fed) == 2
        assert streams[0] is streams[1] is streams[2]

    def test_a_broken_listener_is_alone(self) -> None:
        """A listener that raises and is detached takes nothing away from the others, wherever it stood."""
        for position in range(3):
            relay = Relay()
            heard: list[Event] = []
            for number in range(3):
                subscribe(relay, _raise if number == position else heard.append)
            for chunk in (b"data: 1\n\n", b"data: 2\n\n"):
                _show(relay, chunk)
            assert heard == [Event(b"", b"1")] * 2 + [Event(b"", b"2")] * 2

    def test_a_late_listener_hears_what_follows(self) -> None:
        """Who subscribes in mid-stream hears the events from the next chunk on."""
        relay = Relay()
        early: list[Event] = []
        late: list[Event] = []
        subscribe(relay, early.append)
        _show(relay, b"data: 1\n\n")
        subscribe(relay, late.append)
        _show(relay, b"data: 2\n\n")
        assert (len(early), late) == (2, [Event(b"", b"2")])


def _raise(event: Event) -> None:
    raise RuntimeError(event)


def _show(relay: Relay, chunk: bytes) -> None:
    """What the edge does: every tap sees the chunk, one that raises is detached."""
    for tap in list(relay.taps):
        try:
            tap(chunk)
        except RuntimeError:
            relay.taps.remove(tap)
