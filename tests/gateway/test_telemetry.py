"""The gateway's own log: what it says of itself, line by line, and what libraries may not say."""

import io
import json
import logging
import sys

import pytest
import structlog

from gateway import telemetry


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


def test_a_traceback_on_a_terminal_says_where_and_not_with_which_values(configured):
    """Guards bodies and keys: structlog's own choice, where rich is installed, prints the variables of each frame."""
    output = configured(as_json=False, level="info")

    def fails(body):
        raise ValueError(len(body))

    try:
        fails("what a tenant " + "said")
    except ValueError:
        structlog.get_logger().critical("process_failed", exc_info=True)

    assert "process_failed" in output.getvalue()
    assert "in fails" in output.getvalue()
    assert "what a tenant said" not in output.getvalue()


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
