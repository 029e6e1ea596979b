"""What a worker counts: each thing in a place of its own, shown to others whole or not at all, and never going back."""

from __future__ import annotations

import ast
import fcntl
import os
import stat
from pathlib import Path

import pytest

from gateway import counters, proxy, switch_records, webhooks
from gateway.counters import (
    CALLS,
    ERRORS,
    GATEWAY_US_BOUNDS,
    LAYOUT,
    NONE,
    OTHER,
    WEBHOOK_OUTCOMES,
    Counters,
    living,
)
from gateway.providers import PROVIDERS
from metering.usage import Completeness

PROVIDER = PROVIDERS[0].name

IDLE = {
    "log_dropped": 0,
    "segments_given_up": 0,
    "spool_failed": False,
    "under_way": 0,
    "open_calls": 0,
    "clients": 0,
    "upstreams": 0,
}


@pytest.fixture
def opened(tmp_path):
    """Workers of that number, in a directory that is not there before the first."""
    there = []

    def open_one(number=0):
        one = Counters()
        one.open(tmp_path / "counters", number)
        there.append(one)
        return one

    yield open_one
    for one in there:
        one.close()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "counters"


def dies(worker):
    """As a worker does that is killed: the lock is let go, and nothing is written any more."""
    os.close(worker._fd)
    worker._fd = -1


def told(directory, slot="0"):
    """What is not zero, by metric and series."""
    values = living(directory)[slot].values
    return {
        (metric.name, *series): value
        for metric in LAYOUT
        for series, value in zip(metric.series, values[metric.name], strict=True)
        if value
    }


def bucket(gateway_us):
    """The bucket that a call of so many microseconds belongs to, by the definition of a histogram."""
    return next((str(bound / 1e6) for bound in GATEWAY_US_BOUNDS if gateway_us <= bound), "+Inf")


@pytest.mark.parametrize("provider", [*(one.name for one in PROVIDERS), None])
@pytest.mark.parametrize("status", [0, 101, 200, 204, 304, 404, 503, 599])
def test_a_call_is_counted_by_its_provider_and_its_status_and_nowhere_else(opened, directory, provider, status):
    """Guards the layout: two things that shared a word would both be wrong."""
    worker = opened()
    worker.called(provider, status, None, 0, 0)
    worker.write()

    of_class = f"{status // 100}xx" if status else NONE
    assert told(directory) == {
        ("tollkeeper_calls_total", provider or NONE, of_class): 1,
        ("tollkeeper_gateway_seconds", "0.00025"): 1,
    }


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_counted_by_its_name(opened, directory, error):
    worker = opened()
    worker.called(None, 500, error, 0, 0)
    worker.write()

    assert [key for key in told(directory) if key[0] == "tollkeeper_call_errors_total"] == [
        ("tollkeeper_call_errors_total", error)
    ]


def test_an_error_that_nobody_thought_of_is_counted_as_another_one(opened, directory):
    worker = opened()
    worker.called(None, 500, "flood", 0, 0)
    worker.write()

    assert told(directory)["tollkeeper_call_errors_total", OTHER] == 1


def test_every_error_that_the_path_of_a_call_names_is_known():
    """Guards the list: what `proxy` says beside the refusals' own codes stands in two places."""
    assigned = {
        said.value
        for node in ast.walk(ast.parse(Path(proxy.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "call.error"
        for said in ast.walk(node.value)
        if isinstance(said, ast.Constant)
    }

    assert assigned >= {"client_gone", "internal"}
    assert assigned <= {*ERRORS}


@pytest.mark.parametrize(
    "gateway_us", [0, *(bound + more for bound in GATEWAY_US_BOUNDS for more in (0, 1)), 3_600_000_000]
)
def test_the_time_of_a_call_is_in_the_bucket_that_begins_below_it(opened, directory, gateway_us):
    """Guards the histogram: `le` is less or equal."""
    worker = opened()
    worker.called(PROVIDER, 200, None, gateway_us, 7)
    worker.write()

    assert told(directory) == {
        ("tollkeeper_calls_total", PROVIDER, "2xx"): 1,
        ("tollkeeper_gateway_seconds", bucket(gateway_us)): 1,
        **({("tollkeeper_gateway_seconds_sum",): gateway_us} if gateway_us else {}),
        ("tollkeeper_upstream_seconds_total",): 7,
    }


def test_records_are_counted_by_what_they_say(opened, directory):
    worker = opened()
    for _ in range(7):
        worker.intent()
    for times, completeness in enumerate(Completeness, 1):
        for _ in range(times):
            worker.outcome(completeness)
    worker.closed()
    worker.unknown_fields(3)
    worker.write()

    assert told(directory) == {
        ("tollkeeper_usage_fields_unknown_total",): 3,
        ("tollkeeper_intents_total",): 7,
        **{("tollkeeper_outcomes_total", str(one)): times for times, one in enumerate(Completeness, 1)},
        ("tollkeeper_intents_closed_total",): 1,
    }


def test_what_providers_tell_is_counted_by_what_became_of_it(opened, directory):
    worker = opened()
    for error in (None, "forged", "internal: KeyError"):
        worker.webhook(error)
    worker.write()

    assert told(directory) == {
        ("tollkeeper_webhooks_total", "taken"): 1,
        ("tollkeeper_webhooks_total", "forged"): 1,
        ("tollkeeper_webhooks_total", OTHER): 1,
    }


def test_every_reason_for_which_a_delivery_goes_no_further_is_known():
    """Guards the list: what `webhooks` says stands in two places."""
    source = ast.parse(Path(webhooks.__file__).read_text(encoding="utf-8"))
    raised = {
        node.args[1].value
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Refused"
        and len(node.args) == 2
        and isinstance(node.args[1], ast.Constant)
    }
    of_switches = {
        node.value.elts[1].value
        for node in ast.walk(ast.parse(Path(switch_records.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    }

    assert raised >= {"forged", "too_large", "method_of_shared_account"}
    assert of_switches >= {"unknown_key", "scope_missing"}
    assert (raised | of_switches) - {"internal"} <= {*WEBHOOK_OUTCOMES}


def test_what_others_count_is_looked_at_before_it_is_written(opened, directory):
    worker = opened()
    worker.look = lambda: worker.saw(**{name: number for number, name in enumerate(IDLE, 1)} | {"spool_failed": True})
    worker.write()

    assert told(directory) == {
        ("tollkeeper_access_log_lines_dropped_total",): 1,
        ("tollkeeper_spool_segments_given_up_total",): 2,
        ("tollkeeper_spool_failed",): 1,
        ("tollkeeper_calls_under_way",): 4,
        ("tollkeeper_calls_open",): 5,
        ("tollkeeper_client_connections",): 6,
        ("tollkeeper_upstream_connections",): 7,
    }


def test_nothing_is_counted_before_anything_happened(opened, directory):
    opened().write()

    assert told(directory) == {}


# ---------------------------------------------------------------------------------------------------------------------
# One worker after another


def test_a_worker_goes_on_from_what_the_one_before_it_has_counted(opened, directory):
    """Guards rates: a count that goes back, or is lost with the worker, would be read as one that was never there."""
    killed = opened()
    killed.called(PROVIDER, 200, None, 0, 0)
    killed.look = lambda: killed.saw(**IDLE | {"log_dropped": 3, "under_way": 5, "spool_failed": True})
    killed.write()
    dies(killed)

    successor = opened()
    at_once = told(directory)
    successor.called(PROVIDER, 200, None, 0, 0)
    successor.look = lambda: successor.saw(**IDLE | {"log_dropped": 1, "under_way": 2})
    successor.write()

    # What is so many at a moment died with who had it.
    assert at_once["tollkeeper_calls_total", PROVIDER, "2xx"] == 1
    assert at_once["tollkeeper_access_log_lines_dropped_total",] == 3
    assert not {("tollkeeper_calls_under_way",), ("tollkeeper_spool_failed",)} & at_once.keys()
    later = told(directory)
    assert later["tollkeeper_calls_total", PROVIDER, "2xx"] == 2
    assert later["tollkeeper_access_log_lines_dropped_total",] == 4
    assert later["tollkeeper_calls_under_way",] == 2


def test_a_worker_that_ends_in_order_leaves_all_that_it_counted(opened, directory):
    worker = opened()
    worker.called(PROVIDER, 200, None, 0, 0)
    worker.close()

    opened()

    assert told(directory)["tollkeeper_calls_total", PROVIDER, "2xx"] == 1


def test_a_worker_that_was_killed_is_not_among_the_living(opened, directory):
    """Guards `alive`: the file stays, and only the lock says whose it is."""
    first, _second = opened(0), opened(1)
    before = [*living(directory)]
    dies(first)

    assert before == ["0", "1"]
    assert [*living(directory)] == ["1"]


def test_two_workers_of_one_number_count_apart(opened, directory):
    """Guards slots: while one server takes over from another, both have a worker of each number."""
    old, new = opened(0), opened(0)
    old.called(PROVIDER, 200, None, 0, 0)
    new.called(PROVIDER, 404, None, 0, 0)
    old.write()
    new.write()

    assert told(directory, "0")["tollkeeper_calls_total", PROVIDER, "2xx"] == 1
    assert told(directory, "1")["tollkeeper_calls_total", PROVIDER, "4xx"] == 1


def test_who_is_reading_just_then_takes_no_slot_away(opened, directory, monkeypatch):
    """Guards slots: finding out whether a worker lives holds its lock for a moment."""
    dies(opened(0))
    reader = os.open(directory / "0.counters", os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    monkeypatch.setattr(counters.time, "sleep", lambda _: fcntl.flock(reader, fcntl.LOCK_UN))

    opened(0)
    os.close(reader)

    assert [*living(directory)] == ["0"]


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_what_was_counted_is_for_the_gateway_alone(opened, directory):
    opened()

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "0.counters").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"x", bytes(8), bytes(4096)])
def test_a_worker_of_another_release_lives_and_says_nothing_and_its_successor_begins_anew(opened, directory, content):
    """Guards upgrades: words in another order would be shown under the wrong names."""
    worker = opened()
    worker.called(PROVIDER, 200, None, 0, 0)
    worker.write()
    (directory / "0.counters").write_bytes(content)

    assert living(directory)["0"].values == {}

    dies(worker)
    opened()
    assert told(directory) == {}


def test_a_file_of_another_layout_is_not_read(opened, directory, monkeypatch):
    """Guards upgrades: a file of the same length need not mean the same."""
    opened()
    monkeypatch.setattr(counters, "_KIND", counters._KIND ^ 1)

    assert living(directory)["0"].values == {}


def test_what_is_read_while_it_is_written_is_read_again(opened, directory, monkeypatch):
    """Guards the checksum: half of one moment and half of the next are no counts."""
    worker = opened()
    before = (directory / "0.counters").read_bytes()
    for _ in range(300):
        worker.called(PROVIDER, 200, None, 1000, 1000)
    worker.write()
    after = (directory / "0.counters").read_bytes()
    half = len(after) // 2
    reads = [before[:half] + after[half:], after[:half] + before[half:], after]
    assert reads[0] != after != reads[1]
    monkeypatch.setattr(counters.os, "pread", lambda *_: reads.pop(0))

    (calls,) = [value for key, value in told(directory).items() if key[0] == CALLS.name]

    assert calls == 300


def test_a_disk_that_refuses_stops_no_worker_and_shows(opened, directory, monkeypatch):
    """Guards calls: counting is not worth one of them. How old it is tells whoever reads."""
    worker = opened()
    written_s = living(directory)["0"].written_s
    worker.called(PROVIDER, 200, None, 0, 0)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(counters.os, "pwrite", refuse)
        worker.write()

    assert told(directory) == {}
    assert living(directory)["0"].written_s == written_s
    worker.write()
    assert told(directory)["tollkeeper_calls_total", PROVIDER, "2xx"] == 1
