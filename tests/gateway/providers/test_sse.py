"""Events out of bytes that were cut anywhere."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import sse

PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data: {}",
        b"event: x",
        b": comment",
        b"id: 1",
        b"data",
        b"",
        b"\xef\xbb\xbf",
        b"\xff",
        b"[DONE]",
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r"])
STREAMS = st.lists(st.tuples(PIECES, LINE_ENDS).map(b"".join), max_size=12).map(b"".join)


def cut(stream, places):
    marks = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(marks)]


def framed(*chunks):
    frames = sse.Frames()
    events = [event for chunk in chunks for event in frames.feed(chunk)]
    return events, bytes(frames.rest)


@given(STREAMS, st.lists(st.integers(0, 150), max_size=10))
def test_where_the_network_cuts_a_stream_changes_no_event(stream, places):
    """Guards the carriage return that came last: taken for a whole line end, `\\r\\n` cut in two left a line feed behind."""
    assert framed(*cut(stream, places)) == framed(stream)


@given(STREAMS, st.lists(st.integers(0, 150), max_size=10))
def test_events_and_rest_are_the_stream_byte_for_byte(stream, places):
    events, rest = framed(*cut(stream, places))

    assert b"".join(events) + rest == stream


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_blank_line_ends_an_event_however_lines_end(end):
    first, second = b"data: 1" + end + end, b"event: x" + end + b"data: 2" + end + end

    events, rest = framed(first + second + b"data: 3")

    assert events == [first, second]
    assert rest == b"data: 3"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_events_that_come_together_are_told_apart(number):
    """Guards the short way for a piece that ends with an event: it is taken only for a piece that holds just one."""
    events = [b"data: 1\n\n", b"event: x\ndata: 2\n\n", b"data: 3\n\n"][:number]

    assert framed(b"".join(events)) == (events, b"")


@pytest.mark.parametrize("ends", range(2, 8))
def test_blank_lines_behind_an_event_are_cut_alike_however_they_come(ends):
    """Guards an odd number of line feeds at the end of a piece, of which the last begins the next line."""
    stream = b"data: 1\n\ndata: 2" + b"\n" * ends

    assert framed(stream) == framed(*cut(stream, range(len(stream))))


def test_an_event_that_one_byte_at_a_time_brings_is_whole_with_its_last_byte():
    frames = sse.Frames()

    found = [frames.feed(bytes((byte,))) for byte in b"data: 1\n\n"]

    assert found == [[]] * 8 + [[b"data: 1\n\n"]]


def test_an_event_beyond_the_bound_is_passed_over_and_the_next_one_is_seen(monkeypatch):
    """Guards EVENT_BYTES_MAX: without it, an event without an end fills the memory."""
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 1000)
    frames = sse.Frames()
    longest = 0

    for _ in range(100):
        assert frames.feed(b"x" * 99) == []
        longest = max(longest, len(frames.rest))
    events = frames.feed(b"x\n") + frames.feed(b"\ndata: 2\n\n")

    assert longest <= 1000
    assert events == [b"data: 2\n\n"]


def test_a_long_event_costs_no_more_than_its_length():
    """Guards the place from which is searched: from the beginning each time, this takes minutes."""
    frames = sse.Frames()

    for _ in range(40_000):
        frames.feed(b"x" * 100)
    events = frames.feed(b"\n\n")

    assert len(events[0]) == 4_000_002


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\r\r", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", b"a"),
        (b": a comment\ndata: a\n\n", b"a"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"\ndata: a\n\n", b"a"),
        (b"data: a", b"a"),
        (b"data: a\n", b"a"),
        (b"event: x\n\n", b""),
        (b"database: a\n\n", b""),
        (b"data\n\n", b""),
        (b"", b""),
    ],
)
def test_the_data_of_an_event_is_what_the_standard_says(event, data):
    assert sse.data(event) == data


@pytest.mark.parametrize("size", [100, 4096, 1 << 20])
def test_a_stream_of_any_length_costs_no_more_memory_than_one_of_its_events(size):
    """Guards O(1): whatever kept events, or their beginnings, would keep 64 MiB here."""
    event = b"data: " + b"x" * size + b"\r\n\r\n"
    frames = sse.Frames()
    tracemalloc.start()

    seen = 0
    for start in range(0, 64 << 20, 65_536):
        offset = start % len(event)
        chunk = (event[offset:] + event * (65_536 // len(event) + 1))[:65_536]
        seen += len(frames.feed(chunk))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert abs(seen - (64 << 20) // len(event)) <= 1
    assert peak < 4 * len(event) + (1 << 20)
