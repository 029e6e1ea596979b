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

    assert process.wait() == 1
    assert refused["reason"].endswith("has no port")
    assert noted(supervised, "ready") == noted(supervised, "stopped") if supervised.journal.exists() else True


def test_one_that_dies_before_it_is_ready_is_told_of_by_name(supervised):
    refused = supervised("office:works", "/", "w0:dies").said("refused")

    assert "w0" in refused["reason"]


def test_one_that_is_killed_is_started_again(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")
    opened = psutil.Process(process.popen.pid).num_fds()

    os.kill(latest(supervised)["w0"], signal.SIGKILL)

    eventually(lambda: noted(supervised, "ready").count("w0") == 2, "a second w0")
    assert noted(supervised, "ready").count("office") == 1
    assert process.said("process_died")["process"] == "w0"
    # Guards what others see of it, which it can not take back any more.
    of_w0 = [what for name, what, _ in supervised.notes() if name == "w0"]
    assert of_w0 == ["ready", "over", "ready"]
    # Guards what tied it to the supervisor: sabotaged (the leash of the dead is not closed), each death costs a file.
    eventually(lambda: psutil.Process(process.popen.pid).num_fds() == opened, "as many files as before")
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

    assert process.wait() is not None


def test_a_ctrl_c_at_the_terminal_is_the_supervisor_s_to_act_on(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(latest(supervised)["w0"], number)
    time.sleep(0.2)

    assert noted(supervised, "stopping") == []
    process.popen.send_signal(signal.SIGINT)
    assert process.wait() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Word before the end


def test_all_are_told_that_the_gateway_will_stop_before_the_first_is_told_to(supervised):
    """Guards the word on the leash: without it, the back office would call itself ready until the last worker is gone."""
    process = supervised("office:works", "/", "w0:works", DELAY_S="0.5")
    process.said("serving")

    assert process.stop() == 0

    told = [(name, what) for name, what, _ in supervised.notes()]
    soon = max(told.index((name, "stopping soon")) for name in ("office", "w0"))
    assert soon < told.index(("w0", "stopping"))


def test_nothing_is_told_to_end_before_the_delay_is_over(supervised):
    """Guards the delay: sabotaged (the workers are let go at once), they end within it."""
    process = supervised("office:works", "/", "w0:works", DELAY_S="60")
    process.said("serving")

    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: len(noted(supervised, "stopping soon")) == 2, "the word")
    time.sleep(0.5)

    assert noted(supervised, "stopping") == []
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() is not None


def test_one_that_does_not_end_in_its_time_is_killed_and_the_others_end_well(supervised):
    """Guards the supervisor's own patience: without it, one deaf process would keep all from ending."""
    process = supervised("office:works", "/", "w0:deaf", "w1:works", STOP_MARGIN_S="9")
    process.said("serving")

    assert process.stop() != 0

    assert [json.loads(line)["process"] for line in process.lines if '"process_late"' in line] == ["w0"]
    assert noted(supervised, "stopped") == ["w1", "office"]


# ---------------------------------------------------------------------------------------------------------------------
# One after the other


def reload(process, event="reloaded"):
    """Tell it to reload, and wait for what becomes of it; returns what it said of it."""
    before = len(process.lines)
    process.popen.send_signal(signal.SIGHUP)

    def said():
        lines = [json.loads(line) for line in process.lines[before:] if line.startswith("{")]
        return next((line for line in lines if line["event"] == event), None)

    return eventually(said, f"a line `{event}`")


def test_each_is_replaced_by_a_successor_that_was_ready_before_it_is_told_to_end(supervised):
    """Guards the order: sabotaged (the predecessor is let go when its successor is started), nobody accepts meanwhile."""
    process = supervised("office:works", "/", "w0:works", "w1:works")
    process.said("serving")
    first = latest(supervised)

    reload(process)

    second = latest(supervised)
    assert not set(first.values()) & set(second.values())
    eventually(lambda: len(noted(supervised, "stopped")) == 3, "the end of the first three")
    said = [(what, pid) for _, what, pid in supervised.notes()]
    for name in first:
        assert said.index(("ready", second[name])) < said.index(("stopping", first[name]))
    # They end alone: whoever asks them is not told that the gateway stops.
    assert sorted(noted(supervised, "replaced")) == ["office", "w0", "w1"]
    assert process.stop() == 0


def test_a_reload_makes_more_of_them_and_fewer(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")

    supervised.following("office:works", "/", "w0:works", "w1:works", "w2:works")
    reload(process)
    assert set(latest(supervised)) == {"office", "w0", "w1", "w2"}

    supervised.following("office:works", "/", "w0:works")
    reload(process)

    eventually(lambda: len(running(process)) == 2, "the end of all but two")
    assert process.stop() == 0


def running(process):
    return psutil.Process(process.popen.pid).children()


def test_what_can_not_be_read_is_refused_with_every_reason_and_nothing_is_replaced(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")
    before = latest(supervised)
    supervised.following()

    refused = reload(process, "reload_refused")

    assert refused["reasons"] == ["nothing is to run", "and nobody knows why"]
    assert latest(supervised) == before
    assert noted(supervised, "stopping") == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [("refuses", "w1 has no port"), ("dies", "it ended with 1 before it was ready"), ("hangs", "it ended with -9")],
)
def test_where_a_successor_can_not_begin_all_is_as_it_was_before(supervised, how, reason):
    """Guards the way back: sabotaged (nothing is put back), those replaced before it go on as was planned."""
    process = supervised("office:works", "/", "w0:works", "w1:works", READY_S_MAX="10")
    process.said("serving")
    kept = latest(supervised)["w1"]
    supervised.following("office:works", "/", "w0:marks", f"w1:{how}", "w2:works")

    failed = reload(process, "reload_failed")

    assert (failed["process"], failed["reason"].startswith(reason)) == ("w1", True)
    process.said("reload_undone")
    assert latest(supervised)["w1"] == kept
    assert "w2" not in latest(supervised)
    eventually(lambda: len(running(process)) == 3, "the end of all others")
    # What dies now is started as it was at first.
    os.kill(latest(supervised)["w0"], signal.SIGKILL)
    eventually(lambda: noted(supervised, "ready").count("w0") == 4, "another w0")
    assert noted(supervised, "marked") == ["w0"]
    assert process.stop() == 0


def test_told_to_reload_while_one_fails_it_reloads_once_more(supervised):
    """Guards what was asked meanwhile: sabotaged (nothing wakes the supervisor after the first), it was forgotten."""
    process = supervised("office:works", "/", "w0:works", READY_S_MAX="10")
    process.said("serving")
    supervised.following("office:hangs", "/", "w0:works")
    reload(process, "reloading")

    supervised.following("office:works", "/", "w0:works", "w1:works")
    reload(process)

    assert set(latest(supervised)) == {"office", "w0", "w1"}


def test_one_that_dies_while_it_is_replaced_is_replaced(supervised):
    process = supervised("office:works", "/", "w0:works")
    process.said("serving")
    supervised.following("office:lingers", "/", "w0:works")

    reload(process, "reloading")
    os.kill(latest(supervised)["w0"], signal.SIGKILL)
    process.said("reloaded")

    eventually(lambda: len(running(process)) == 2, "one of each")
    assert process.stop() == 0


def test_told_to_stop_while_it_replaces_it_stops_all_of_them_in_order(supervised):
    process = supervised("office:works", "/", "w0:works", "w1:works")
    process.said("serving")
    supervised.following("office:lingers", "/", "w0:lingers", "w1:hangs")
    reload(process, "reloading")
    eventually(lambda: noted(supervised, "ready").count("w0") == 2, "the second w0")

    # The one that hangs is deaf, too.
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: noted(supervised, "stopped").count("w0") == 2, "the end of both")
    process.popen.send_signal(signal.SIGTERM)

    assert process.wait() is not None
    eventually(lambda: not any(map(psutil.pid_exists, [pid for *_, pid in supervised.notes()])), "the end of all")


def test_however_often_it_is_told_there_are_never_more_than_two_of_each(supervised):
    """Guards the bound: sabotaged (a reload begins while predecessors of the last one leave), they pile up."""
    process = supervised("office:works", "/", "w0:lingers", "w1:lingers")
    process.said("serving")

    most = 0
    for _ in range(200):
        process.popen.send_signal(signal.SIGHUP)
        time.sleep(0.02)
        most = max(most, len(running(process)))

    assert 3 < most <= 6
    eventually(lambda: len(running(process)) == 3, "one of each")
    assert process.popen.poll() is None
    assert process.stop() == 0


def test_twenty_reloads_leave_no_file_open_and_no_process_behind(supervised):
    """Guards the pipes: sabotaged (what a process has spoken through is not closed), each reload leaves some behind."""
    process = supervised("office:works", "/", "w0:works", "w1:works")
    process.said("serving")
    reload(process)
    eventually(lambda: len(running(process)) == 3, "one of each")
    opened = psutil.Process(process.popen.pid).num_fds()

    for _ in range(20):
        reload(process)
        eventually(lambda: len(running(process)) == 3, "one of each")

    assert psutil.Process(process.popen.pid).num_fds() == opened
    assert process.stop() == 0


def test_one_that_dies_each_time_is_started_at_growing_intervals_while_the_others_work(supervised):
    """Guards the pauses: sabotaged (it is started again at once), it would take the processor from the others."""
    process = supervised("office:works", "/", "w0:works", "w1:crashes")
    process.said("serving")
    began = time.monotonic()

    def pauses():
        return [json.loads(line)["again_in_s"] for line in process.lines if '"process_died"' in line]

    eventually(lambda: len(pauses()) >= 3, "three deaths")
    assert pauses()[:3] == [1.0, 2.0, 4.0]
    assert time.monotonic() - began > 2.5
    assert noted(supervised, "ready").count("w0") == 1
    # A reload is a new beginning for it.
    supervised.following("office:works", "/", "w0:works", "w1:works")
    reload(process)
    eventually(lambda: len(running(process)) == 3, "one of each")
    assert process.stop() == 0
