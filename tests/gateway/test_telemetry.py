"""The gateway's own log: a line for each call, and never a reason for a call to wait."""

import asyncio
import io
import json
import logging
import os
import sys

import pytest
import structlog

from gateway import telemetry
from gateway.telemetry import AccessLog, CallLine


def line(**said):
    """The line of a call that took 1.5 ms."""
    known = {"timestamp": "2023-11-14T22:13:20.123Z", "call_id": "c1", "status": 200, "method": "POST"}
    return CallLine(level="info", **known | {"duration_ms": 1.5} | said)


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

    AccessLog(writing, as_json=True).call(line(usage={"input_tokens": 3}))
    await asyncio.sleep(0.01)

    (written,) = lines(reading)
    assert json.loads(written) == {
        "event": "call",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "call_id": "c1",
        "status": 200,
        "method": "POST",
        "duration_ms": 1.5,
        "usage": {"input_tokens": 3},
    }


async def test_a_terminal_gets_a_line_that_people_read(pipe):
    reading, writing = pipe
    said = line(tenant_id="acme", provider="openai", endpoint="embeddings", usage={"input_tokens": 3})

    log = AccessLog(writing, as_json=False)
    log.call(said)
    log.call(line(status=401, error="missing_key"))
    log.flush()

    whole, short = lines(reading)
    for part in (b"22:13:20.123", b"200", b"acme", b"openai.embeddings", b"1.5 ms", b"input_tokens=3", b"c1"):
        assert part in whole
    assert b"missing_key" in short


async def test_lines_of_one_turn_of_the_loop_leave_together_and_in_order(pipe):
    reading, writing = pipe
    log = AccessLog(writing, as_json=True)

    for number in range(50):
        log.call(line(call_id=str(number)))
    before = lines(reading)
    await asyncio.sleep(0.01)

    assert before == []
    assert [int(json.loads(found)["call_id"]) for found in lines(reading)] == list(range(50))


async def test_a_reader_that_does_not_read_stops_no_call_and_loses_no_line(pipe, monkeypatch):
    """Guards asking whether the pipe is ready: a write to a full one that blocks, as standard output does, never ends."""
    monkeypatch.setattr(telemetry, "RETRY_S", 0.01)
    reading, writing = pipe
    log = AccessLog(writing, as_json=True)
    said = 3000

    for number in range(said):
        log.call(line(call_id=str(number), resource="x" * 100))
        if number % 100 == 0:
            await asyncio.sleep(0)
    found = b""
    os.set_blocking(reading, False)
    async with asyncio.timeout(60):
        while found.count(b"\n") < said:
            try:
                found += os.read(reading, 1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.005)

    assert [int(json.loads(one)["call_id"]) for one in found.splitlines()] == list(range(said))
    assert log.dropped == 0


async def test_what_nobody_reads_has_a_bound_and_is_counted(pipe, monkeypatch):
    """Guards BACKLOG_BYTES_MAX: without it, a stuck reader fills the memory."""
    monkeypatch.setattr(telemetry, "BACKLOG_BYTES_MAX", 100_000)
    _, writing = pipe
    log = AccessLog(writing, as_json=True)

    for _ in range(10_000):
        log.call(line(resource="x" * 100))

    assert log.dropped > 5_000
    assert log._size < 200_000
    log._lines.clear()


async def test_a_reader_that_is_gone_stops_no_call(pipe):
    reading, writing = pipe
    os.close(reading)
    log = AccessLog(writing, as_json=True)

    log.call(line())
    log.flush()
    log.call(line())
    log.flush()

    assert log._lines == []


@pytest.fixture
def configured(monkeypatch):
    """Configure the log for a test, with standard output in hand, and leave it as it was."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("aiohttp", "asyncio")}

    def configure(**how):
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        telemetry.configure(**how)
        return sys.stdout

    yield configure
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, of in levels.items():
        logging.getLogger(name).setLevel(of)


def test_what_the_process_says_is_json_too(configured):
    output = configured(as_json=True, level="info")

    structlog.get_logger().info("started", port=1, path=object)
    structlog.get_logger().debug("not said")

    (line,) = output.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["port"]) == ("started", "info", 1)


def test_a_line_about_the_process_leaves_in_one_piece(configured, monkeypatch):
    """Guards whoever reads the log: where output is not buffered, as in the image, two processes that write a line and
    its end apart write into each other's."""
    output, pieces = configured(as_json=True, level="info"), []
    monkeypatch.setattr(output, "write", pieces.append)
    telemetry.configure(as_json=True, level="info")

    structlog.get_logger().info("started")

    assert [piece[-1:] for piece in pieces] == ["\n"]


def test_libraries_that_quote_what_came_over_the_wire_are_silent(configured, capsys):
    """Guards the levels of those loggers: an unhandled error in a protocol is logged with the bytes that caused it."""
    output = configured(as_json=True, level="debug")

    logging.getLogger("asyncio").error("secret")
    logging.getLogger("aiohttp.server").error("secret")

    assert "secret" not in output.getvalue()
    assert "secret" not in capsys.readouterr().err


def test_a_line_is_written_in_one_piece(monkeypatch):
    """Guards lines of several processes on one pipe: sabotaged (`print`), text and line end are two writes where Python
    does not buffer, and another process's line comes between them."""
    written = []

    class Unbuffered(io.StringIO):
        def write(self, text):
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Unbuffered())
    before = structlog.get_config()
    try:
        telemetry.configure(as_json=True, level="info")
        telemetry.log.info("serving")
    finally:
        structlog.configure(**before)

    assert len(written) == 1
    assert json.loads(written[0])["event"] == "serving"
    assert written[0].endswith("\n")
