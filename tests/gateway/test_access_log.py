"""What the log says of calls: a line for each, and never a reason for a call to wait."""

from __future__ import annotations

import asyncio
import json
import os
import select

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import access_log
from gateway.access_log import AccessLog
from gateway.providers.learnt import Usage
from gateway.recorder import Outcome
from metering.moments import iso_ms
from metering.usage import Completeness

ARRIVED_MS = 1_700_000_000_123


class Line(msgspec.Struct, tag_field="event", tag="call", omit_defaults=True):
    """The line as it is to be, written by msgspec; what is None is not said."""

    level: str
    timestamp: str
    call_id: str
    status: int
    method: str
    provider: str | None = None
    endpoint: str | None = None
    tenant_id: str | None = None
    key_id: str | None = None
    duration_ms: float | None = None
    upstream_ms: float | None = None
    gateway_ms: float | None = None
    event_type: str | None = None
    resource: str | None = None
    completeness: str | None = None
    usage: dict[str, int] | None = None
    error: str | None = None


def call(log, **said):
    """Have it say of a call that it took 1.5 ms, and the provider half a millisecond of them."""
    named = dict.fromkeys(("provider", "endpoint", "tenant_id", "key_id", "outcome", "error"))
    took = {"took_us": 1500, "upstream_us": 500}
    log.call(**{"arrived_ms": ARRIVED_MS, "call_id": "c1", "status": 200, "method": "POST"} | named | took | said)


def used(resource=None, event_type="tokens", completeness=Completeness.REPORTED, **quantities):
    """What was used in a call, as far as the log says it."""
    return Outcome(event_type, Usage(quantities=quantities, completeness=completeness, resource=resource), b"")


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def lines(fd):
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 20).splitlines()
    except BlockingIOError:
        return []


async def test_a_call_is_one_line_of_json(pipe):
    reading, writing = pipe

    call(AccessLog(writing, as_json=True), outcome=used(input_tokens=3))
    await asyncio.sleep(5 * access_log.GATHERED_S)

    (written,) = lines(reading)
    assert json.loads(written) == {
        "event": "call",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "call_id": "c1",
        "status": 200,
        "method": "POST",
        "duration_ms": 1.5,
        "upstream_ms": 0.5,
        "gateway_ms": 1.0,
        "event_type": "tokens",
        "completeness": "reported",
        "usage": {"input_tokens": 3},
    }


said = st.text() | st.none()
microseconds = st.integers(0, 5000) | st.integers(0, 1 << 45)
DAY_MS = 86_400_000
calls = st.fixed_dictionaries(
    {
        "arrived_ms": st.integers(0, 100_000 * DAY_MS) | st.integers(ARRIVED_MS, ARRIVED_MS + 3000),
        "call_id": st.uuids().map(str),
        "status": st.integers(0, 599),
        "method": st.text(),
        "provider": said,
        "endpoint": said,
        "tenant_id": said,
        "key_id": said,
        "upstream_us": microseconds,
        "error": said,
        "outcome": st.none()
        | st.builds(
            used,
            said | st.text(min_size=access_log.PIECE_BYTES_MAX),
            st.text(),
            st.sampled_from(Completeness),
        ).flatmap(
            lambda outcome: st.dictionaries(st.text(), st.integers(-(1 << 53), 1 << 53)).map(
                lambda quantities: Outcome(
                    outcome.event_type,
                    Usage(quantities=quantities, completeness=outcome.completeness, resource=outcome.resource),
                    b"",
                )
            )
        ),
    }
)


@given(st.lists(st.tuples(calls, microseconds), min_size=1, max_size=5))
def test_a_line_is_byte_for_byte_what_msgspec_would_write(of_calls):
    """Guards the pieces that are remembered, and how moments, times and names are written. Each call comes twice, so that what
    was remembered is used."""
    reading, writing = os.pipe()
    log = AccessLog(writing, as_json=True)
    written = expected = b""

    async def say_all():
        nonlocal written, expected
        for made, gateway_us in of_calls * 2:
            took_us, outcome = made["upstream_us"] + gateway_us, made["outcome"]
            log.call(**made, took_us=took_us)
            log.flush()
            while select.select([reading], [], [], 0)[0]:
                written += os.read(reading, 1 << 16)
                log.flush()
            line = Line(
                level="info",
                timestamp=iso_ms(made["arrived_ms"]),
                **{name: made[name] for name in ("call_id", "status", "method", "provider", "endpoint")},
                **{name: made[name] for name in ("tenant_id", "key_id", "error")},
                duration_ms=took_us / 1000,
                upstream_ms=made["upstream_us"] / 1000,
                gateway_ms=gateway_us / 1000,
            )
            if outcome is not None:
                line.event_type, line.resource = outcome.event_type, outcome.resource
                line.completeness, line.usage = outcome.completeness, outcome.quantities
            expected += msgspec.json.encode(line) + b"\n"

    try:
        asyncio.run(say_all())
    finally:
        os.close(reading)
        os.close(writing)

    assert written == expected


async def test_what_is_remembered_has_a_bound(pipe):
    """Guards the memory of a worker against clients that name ever other models, and models of any length."""
    reading, writing = pipe
    log = AccessLog(writing, as_json=True)

    for number in range(3 * access_log.PIECES_MAX):
        call(log, outcome=used(f"model {number}"))
        log.flush()
        (written,) = lines(reading)
        assert json.loads(written)["resource"] == f"model {number}"
    assert len(log._pieces) <= access_log.PIECES_MAX
    remembered = len(log._pieces)
    call(log, outcome=used("m" * 2000))
    assert len(log._pieces) == remembered


async def test_a_terminal_gets_a_line_that_people_read(pipe):
    reading, writing = pipe
    log = AccessLog(writing, as_json=False)

    call(log, tenant_id="acme", provider="openai", endpoint="embeddings", outcome=used(input_tokens=3))
    call(log, status=401, error="missing_key")
    log.flush()

    whole, short = lines(reading)
    for part in (
        b"22:13:20.123",
        b"200",
        b"acme",
        b"openai.embeddings",
        b"1.5 ms (gateway 1.0 ms)",
        b"input_tokens=3",
        b"c1",
    ):
        assert part in whole
    assert b"missing_key" in short


async def test_lines_of_one_moment_leave_together_and_in_order(pipe):
    reading, writing = pipe
    log = AccessLog(writing, as_json=True)

    for number in range(50):
        call(log, call_id=str(number))
    before = lines(reading)
    await asyncio.sleep(5 * access_log.GATHERED_S)

    assert before == []
    assert [int(json.loads(found)["call_id"]) for found in lines(reading)] == list(range(50))


@pytest.mark.parametrize(("to_a_file", "most"), [(True, access_log.BACKLOG_BYTES_MAX), (False, select.PIPE_BUF)])
async def test_whole_lines_leave_in_pieces_that_nobody_s_lines_come_between(
    tmp_path, pipe, monkeypatch, to_a_file, most
):
    """Guards lines of several workers: a pipe takes PIPE_BUF bytes in one piece and no more. A file takes any amount, and
    in one piece at less cost."""
    written, write = [], os.write

    def noted(fd, data):
        written.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", noted)
    with (tmp_path / "log").open("ab") as file:
        log = AccessLog(file.fileno() if to_a_file else pipe[1], as_json=True)
        for number in range(100):
            call(log, call_id=f"c{number}")
        log.flush()

    assert max(map(len, written)) <= most
    assert len(written) == 1 if to_a_file else len(written) > 1
    assert all(piece.endswith(b"\n") for piece in written)
    assert [json.loads(line)["call_id"] for line in b"".join(written).splitlines()] == [f"c{n}" for n in range(100)]


async def test_a_reader_that_does_not_read_stops_no_call_and_loses_no_line(pipe):
    """Guards asking whether the pipe is ready: a write to a full one that blocks, as standard output does, never ends."""
    reading, writing = pipe
    log = AccessLog(writing, as_json=True)
    count = 3000

    for number in range(count):
        call(log, call_id=str(number), outcome=used("x" * 100))
        if number % 100 == 0:
            await asyncio.sleep(0)
    found = b""
    os.set_blocking(reading, False)
    async with asyncio.timeout(60):
        while found.count(b"\n") < count:
            try:
                found += os.read(reading, 1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.005)

    assert [int(json.loads(one)["call_id"]) for one in found.splitlines()] == list(range(count))
    assert log.dropped == 0


async def test_what_nobody_reads_has_a_bound_and_is_counted(pipe):
    """Guards BACKLOG_BYTES_MAX: without it, a stuck reader fills the memory."""
    _, writing = pipe
    log = AccessLog(writing, as_json=True)

    for _ in range(10_000):
        call(log, outcome=used("x" * 3000))

    assert log.dropped > 5_000
    assert log._size < access_log.BACKLOG_BYTES_MAX + 10_000
    log._lines.clear()


async def test_a_reader_that_is_gone_stops_no_call(pipe):
    reading, writing = pipe
    os.close(reading)
    log = AccessLog(writing, as_json=True)

    call(log)
    log.flush()
    call(log)
    log.flush()

    assert log._lines == []
