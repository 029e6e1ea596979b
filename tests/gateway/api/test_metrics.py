"""Metrics in Prometheus' text format, as its own parser reads them: every one explained, none of anybody in particular."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.api.exposition import exposition
from gateway.counters import LAYOUT, Counted, Counters, living
from gateway.monitor import Deliveries, InLedger, OnDisk, Seen
from gateway.providers import PROVIDERS
from gateway.reconciliations import Reconciled
from gateway.shipper import Backlog, Shipped
from metering import ledger
from metering.ledger import Aside
from tests.builders import NOON

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")

LABELS = {
    "worker",
    "provider",
    "class",
    "error",
    "completeness",
    "le",
    "reason",
    "version",
    "outcome",
    "cause",
    "resolution",
}


def counted(**changes):
    """A worker whose every word is another number."""
    numbers = iter(range(1, 1000))
    values = {metric.name: tuple(next(numbers) for _ in metric.series) for metric in LAYOUT}
    return Counted(values | changes, 1_800_000_000.5)


SEEN = Seen(
    OnDisk({"0": counted(), "1": counted()}, Backlog(4711, 1.5), 1 << 40),
    Shipped(batches=3, booked=5, repeated=7, set_aside=Counter({ledger.CONFLICT: 2, "unreadable bytes": 0})),
    failing=True,
    polls={"settled": 11},
    in_ledger=InLedger({ledger.CONFLICT: 9}, {"openai": 13}, 17),
    deliveries=Deliveries(2, 61.5, {"delivered": 3, "refused": 1}, 1, 0),
    reconciled=Reconciled(Counter({"matched": 4}), Counter({("late", "explained"): 6})),
)


def families(text):
    return list(text_string_to_metric_families(text.decode()))


def samples(text):
    """Each sample by its name and its labels, less which worker's it is."""
    found = Counter()
    for family in families(text):
        for name, labels, value, *_ in family.samples:
            found[name, *(labels[label] for label in sorted(labels) if label != "worker")] += value
    return found


def names(seen=SEEN):
    return {family.name for family in families(exposition(seen, "1.2.3"))}


def test_what_was_seen_is_what_is_shown():
    shown = samples(exposition(SEEN, "1.2.3"))

    assert shown["tollkeeper_build_info", "1.2.3"] == 1
    assert shown["tollkeeper_workers_alive",] == 2
    assert shown["tollkeeper_ledger_failing",] == 1
    assert shown["tollkeeper_ledger_lag_seconds",] == 1.5
    assert shown["tollkeeper_spool_backlog_bytes",] == 4711
    assert shown["tollkeeper_spool_room_bytes",] == 1 << 40
    assert shown["tollkeeper_ledger_batches_total",] == 3
    assert shown["tollkeeper_ledger_events_total",] == 5
    assert shown["tollkeeper_ledger_repeated_total",] == 7
    assert shown["tollkeeper_set_aside_total", ledger.CONFLICT] == 2
    assert shown["tollkeeper_ledger_quarantined_records", ledger.CONFLICT] == 9
    assert shown["tollkeeper_polls_total", "settled"] == 11
    assert shown["tollkeeper_pending_events", "openai"] == 13
    assert shown["tollkeeper_late_facts",] == 17
    assert shown["tollkeeper_deliveries_waiting",] == 2
    assert shown["tollkeeper_deliveries_oldest_seconds",] == 61.5
    assert shown["tollkeeper_delivery_attempts_total", "delivered"] == 3
    assert shown["tollkeeper_deliveries_given_up_total",] == 1
    assert shown["tollkeeper_reconciliations_total", "matched"] == 4
    assert shown["tollkeeper_reconciliation_differences_total", "late", "explained"] == 6
    assert shown["tollkeeper_worker_written_timestamp_seconds",] == 2 * 1_800_000_000.5


def test_each_word_of_a_worker_is_shown_under_its_own_name_and_labels():
    shown = samples(exposition(SEEN, "1.2.3"))
    values = SEEN.on_disk.workers["0"].values

    for metric in LAYOUT:
        if metric.name == "tollkeeper_gateway_seconds":
            continue
        for series, value in zip(metric.series, values[metric.name], strict=True):
            in_order = [value for _, value in sorted(zip(metric.labels, series, strict=True))]
            assert shown[metric.name, *in_order] == pytest.approx(2 * value / metric.per)


def test_the_histogram_adds_up():
    """Guards `le`: a bucket holds all that took so long or less, which is not how they are counted."""
    shown = samples(exposition(SEEN, "1.2.3"))
    words = SEEN.on_disk.workers["0"].values["tollkeeper_gateway_seconds"]

    assert shown["tollkeeper_gateway_seconds_bucket", "0.00025"] == 2 * words[0]
    assert shown["tollkeeper_gateway_seconds_bucket", "0.001"] == 2 * sum(words[:3])
    assert shown["tollkeeper_gateway_seconds_bucket", "+Inf"] == 2 * sum(words)
    assert shown["tollkeeper_gateway_seconds_count",] == 2 * sum(words)


def test_every_metric_is_explained_and_of_a_type_and_no_series_comes_twice():
    """Guards the scrape: Prometheus refuses all of an answer in which one series stands twice."""
    text = exposition(SEEN, "1.2.3")

    for family in families(text):
        assert family.documentation, family
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.samples, family
    lines = [line.rpartition(" ")[0] for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len({*lines})
    helped = re.findall(r"^# HELP (\S+)", text.decode(), re.MULTILINE)
    assert len(helped) == len({*helped}) == len(families(text))


def test_no_label_is_of_a_tenant_a_key_or_a_call():
    """Guards Prometheus, which keeps a series for each value of a label; and everybody's business."""
    for family in families(exposition(SEEN, "1.2.3")):
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS, sample


def test_a_ledger_that_does_not_answer_has_no_set_aside_records_rather_than_none():
    absent = {"tollkeeper_ledger_quarantined_records", "tollkeeper_pending_events", "tollkeeper_late_facts"}
    assert names() - names(SEEN._replace(in_ledger=None)) == absent


def test_a_worker_of_another_release_is_alive_and_its_counts_are_absent():
    """Guards rates: zeros would be counts that went back."""
    other = SEEN.on_disk._replace(workers={"0": Counted({}, 1.0), "1": counted()})
    text = exposition(SEEN._replace(on_disk=other), "1.2.3").decode()

    assert "tollkeeper_workers_alive 2.0" in text
    assert 'worker="0"' in text
    assert not re.search(r'^tollkeeper_calls_total{.*worker="0"', text, re.MULTILINE)
    assert re.search(r'^tollkeeper_calls_total{.*worker="1"', text, re.MULTILINE)


async def test_anybody_gets_the_metrics_of_now(api):
    """Guards the route: measured when asked, in the format that Prometheus is told it is."""
    counters = Counters()
    counters.open(api.directory / "counters", 0)
    counters.called(PROVIDERS[0].name, 200, None, 640, 2000)
    counters.write()
    async with api.database.transaction() as connection:
        await ledger.set_aside(connection, [Aside("one", ledger.CONFLICT, "{}")], NOON)
    api.clock.now += dt.timedelta(seconds=90)

    answer = await api.get("/metrics", key=None)
    assert [*living(api.directory / "counters")] == ["0"]
    counters.close()

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    shown = samples(answer.body)
    assert shown["tollkeeper_calls_total", "2xx", PROVIDERS[0].name] == 1
    assert shown["tollkeeper_ledger_quarantined_records", ledger.CONFLICT] == 1
    assert shown["tollkeeper_build_info", "1.2.3"] == 1


# ---------------------------------------------------------------------------------------------------------------------
# What the README says of them


def written():
    """The README's table: the names of metrics, each with its labels."""
    section = README.partition("## Metrics and health")[2].partition("\n## ")[0]
    return section, dict(re.findall(r"^\| `(tollkeeper_\w+)(?:\{([\w,]+)\})?`", section, re.MULTILINE))


def test_the_readme_lists_every_metric_with_its_labels_and_no_other():
    _, told = written()

    shown = {}
    for family in families(exposition(SEEN, "1.2.3")):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown[name] = labels
    assert {name: {*filter(None, labels.split(","))} for name, labels in told.items()} == shown


def test_the_readmes_alerts_ask_for_metrics_that_there_are():
    section, told = written()
    asked = re.findall(r"expr: (.*)", section)

    assert len(asked) >= 3
    for expression in asked:
        named = re.findall(r"tollkeeper_\w+", expression)
        assert named
        assert {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in named} <= told.keys()
