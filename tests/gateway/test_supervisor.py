"""Several processes as one gateway: started in order, watched, started again, and stopped in the other order."""

import json
import os
import signal
import sys
import time

import psutil
import pytest

from tests.walks.harness import Process, eventually


@pytest.fixture
def supervised(tmp_path):
    """Starts a supervisor of some roles."""
    started = []

    def start(*roles, **environment):
        command = [sys.executable, "-m", "tests.gateway.supervised", str(tmp_path / "journal"), *roles]
        started.append(Process(command, environment))
        started[-1].start()
        return started[-1]

    start.journal = tmp_path / "journal"
    start.notes = lambda: [json.loads(line) for line in start.journal.read_text().splitlines()]
    start.following = lambda *roles: (tmp_path / "journal.next").write_text(" ".join(roles))
    yield start
    for process in started:
        if process.popen.poll() is None:
            process.kill()


def noted(supervised, what):
    return [name for name, said, _ in supervised.notes() if said == what]


def latest(supervised):
    """The process of each role that was ready last."""
    return {name: pid for name, what, pid in supervised.notes() if what == "ready"}


def test_a_stage_begins_when_the_one_before_is_ready_and_ends_before_it(supervised):
    process = supervised("office:works", "/", "w0:works", "w1:works")
    process.said("serving")

    assert process.stop() == 0

    assert noted(supervised, "ready")[0] == "office"
    assert sorted(noted(supervised, "ready")) == ["office", "w0", "w1"]
    told = [(name, what) for name, what, _ in supervised.notes()]
    for worker in ("w0", "w1"):
        # Guards the order of stopping: what workers record while they end is booked by an office that still works.
        assert told.index((worker, "stopped")) < told.index(("office", "stopping"))


def test_it_serves_when_all_are_ready(supervised):
    supervised("office:works", "/", "w0:works").said("serving")

    assert noted(supervised, "ready") == ["office", "w0"]


@pytest.mark.parametrize("stage", [("office:refuses", "/", "w0:works"), ("office:works", "/", "w0:refuses")])
def test_one_that_can_not_start_says_why_and_the_others_end(supervised, stage):
    process = supervised(*stage)

    refused = process.said("refused")

    assert process.popen.wait(30) == 1
    assert refused["reason"].endswith("has no port")
    assert noted(supervised, "ready") == noted(supervised, "stopped") if supervised.journal.exists() else True


def test_one_that_dies_before_it_is_ready_is_told_of_by_name(supervised):
    refused = supervised("office:works", "/", "w0:dies").said("refused")

    assert "w0" in refused["reason"]


def test_one_that_is_killed_is_started_again(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")

    os.kill(latest(supervised)["w0"], signal.SIGKILL)

    eventually(lambda: noted(supervised, "ready").count("w0") == 2, "a second w0")
    assert noted(supervised, "ready").count("office") == 1
    assert process.said("process_died")["process"] == "w0"
    assert process.stop() == 0


def test_one_that_gives_up_later_says_why_in_the_log_and_is_started_again(supervised):
    """Guards the way up, which is closed by then: sabotaged (what it says is written all the same) its number may be
    that of another file."""
    process = supervised("office:gives-up", "/", "w0:works")
    process.said("serving")

    eventually(lambda: noted(supervised, "ready").count("office") == 2, "a second office")
    assert process.said("process_gave_up")["reason"] == "office has no more to do"
    assert process.stop() == 0


def test_when_it_is_killed_itself_the_others_stop_in_good_order(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")
    pids = [pid for _, _, pid in supervised.notes()]

    process.kill()

    eventually(lambda: not any(map(psutil.pid_exists, pids)), "their end")
    assert sorted(noted(supervised, "stopped")) == ["office", "w0"]


def test_told_twice_it_does_not_wait(supervised):
    process = supervised("office:works", "/", "w0:deaf")
    process.said("serving")

    process.popen.send_signal(signal.SIGTERM)
    process.said("stopping")
    time.sleep(0.2)
    assert process.popen.poll() is None
    process.popen.send_signal(signal.SIGTERM)

    assert process.popen.wait(30) is not None


def test_a_ctrl_c_at_the_terminal_is_the_supervisor_s_to_act_on(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(latest(supervised)["w0"], number)
    time.sleep(0.2)

    assert noted(supervised, "stopping") == []
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(30) == 0
