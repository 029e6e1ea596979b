"""What was seen, in Prometheus' text format. The only module that imports `prometheus_client`, when somebody first asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from gateway.counters import BUCKETS, GATEWAY_US, LAYOUT, Counted
from gateway.monitor import Deliveries, Seen

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def exposition(seen: Seen, version: str) -> bytes:
    """All of it as text. No tenant, no key and no name of a customer is in it."""
    return generate_latest(_Families((*_of_the_back_office(seen, version), *_of_workers(seen.on_disk.workers))))


def _of_the_back_office(seen: Seen, version: str) -> Iterator[Family]:
    on_disk, shipped = seen.on_disk, seen.shipped
    yield _gauge("tollkeeper_build_info", "Always 1; the label says which release this is.", {(version,): 1}, "version")
    yield _gauge("tollkeeper_workers_alive", "Workers that live.", {(): len(on_disk.workers)})
    yield _gauge("tollkeeper_ledger_failing", "1 while the ledger can not be written.", {(): seen.failing})
    yield _gauge(
        "tollkeeper_ledger_lag_seconds",
        "How long ago the ledger last had all that was recorded; 0 while it has.",
        {(): on_disk.backlog.age_s},
    )
    yield _gauge(
        "tollkeeper_spool_backlog_bytes",
        "Records in the spools that the ledger does not have.",
        {(): on_disk.backlog.size_bytes},
    )
    yield _gauge("tollkeeper_spool_room_bytes", "Room on the disk that the spools are on.", {(): on_disk.room_bytes})
    yield _counter("tollkeeper_ledger_batches_total", "Transactions that booked something.", {(): shipped.batches})
    yield _counter("tollkeeper_ledger_events_total", "Events that are new in the ledger.", {(): shipped.booked})
    yield _counter(
        "tollkeeper_ledger_repeated_total",
        "Events that the ledger had already, as after a commit whose answer never came.",
        {(): shipped.repeated},
    )
    yield _counter(
        "tollkeeper_set_aside_total",
        "Records that can not be booked, by reason: damage, gaps, conflicts.",
        {(reason,): records for reason, records in shipped.set_aside.items()},
        "reason",
    )
    yield _counter(
        "tollkeeper_polls_total",
        "Questions to providers about events that are pending, by outcome.",
        {(outcome,): polls for outcome, polls in seen.polls.items()},
        "outcome",
    )
    if seen.deliveries is not None:
        yield from _of_deliveries(seen.deliveries)
    if seen.reconciled is not None:
        yield _counter(
            "tollkeeper_reconciliations_total",
            "Times that the ledger was held against a provider's own figures, by outcome.",
            {(outcome,): runs for outcome, runs in seen.reconciled.runs.items()},
            "outcome",
        )
        yield _counter(
            "tollkeeper_reconciliation_differences_total",
            "Differences that were found, by cause and by what became of them.",
            {tuple(key): count for key, count in seen.reconciled.differences.items()},
            "cause",
            "resolution",
        )
    if seen.in_ledger is not None:
        yield _gauge(
            "tollkeeper_ledger_quarantined_records",
            "Records that are set aside in the ledger. Absent while it does not answer.",
            {(reason,): records for reason, records in seen.in_ledger.quarantined.items()},
            "reason",
        )
        yield _gauge(
            "tollkeeper_pending_events",
            "Events of which the provider will say more. Absent while the ledger does not answer.",
            {(source,): events for source, events in seen.in_ledger.pending.items()},
            "provider",
        )
        yield _gauge(
            "tollkeeper_late_facts",
            "What providers said of calls that are not in the ledger. Absent while it does not answer.",
            {(): seen.in_ledger.late_facts},
        )


def _of_deliveries(deliveries: Deliveries) -> Iterator[Family]:
    yield _gauge("tollkeeper_deliveries_waiting", "Deliveries that applications do not have.", {(): deliveries.waiting})
    yield _gauge(
        "tollkeeper_deliveries_oldest_seconds",
        "How long ago the oldest of them came; 0 while there are none.",
        {(): deliveries.oldest_s},
    )
    yield _gauge(
        "tollkeeper_deliveries_unreadable", "Files of deliveries that are set aside.", {(): deliveries.unreadable}
    )
    yield _counter(
        "tollkeeper_delivery_attempts_total",
        "Attempts to deliver to applications, by outcome.",
        {(outcome,): attempts for outcome, attempts in deliveries.attempts.items()},
        "outcome",
    )
    yield _counter(
        "tollkeeper_deliveries_given_up_total",
        "Deliveries that were deleted without having arrived: too old, or not wanted.",
        {(): deliveries.given_up},
    )


def _of_workers(workers: Mapping[str, Counted]) -> Iterator[Family]:
    yield _gauge(
        "tollkeeper_worker_written_timestamp_seconds",
        "When the worker last showed its counters, which it does four times a second.",
        {(slot,): counted.written_s for slot, counted in workers.items()},
        "worker",
    )
    told = {slot: counted.values for slot, counted in workers.items() if counted.values}
    gateway_seconds = HistogramMetricFamily(BUCKETS.name, BUCKETS.help, labels=("worker",))
    bounds = [bound for (bound,) in BUCKETS.series]
    for slot, values in told.items():
        (took,) = values[GATEWAY_US.name]
        buckets = list(zip(bounds, accumulate(values[BUCKETS.name]), strict=True))
        gateway_seconds.add_metric((slot,), buckets, took / GATEWAY_US.per)
    yield gateway_seconds
    for metric in LAYOUT:
        if metric not in (BUCKETS, GATEWAY_US):
            family = _gauge if metric.gauge else _counter
            values_of = {
                (slot, *series): value / metric.per if metric.per > 1 else value
                for slot, values in told.items()
                for series, value in zip(metric.series, values[metric.name], strict=True)
            }
            yield family(metric.name, metric.help, values_of, "worker", *metric.labels)


def _gauge(name: str, said: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Family:
    return _filled(GaugeMetricFamily(name, said, labels=labels), values)


def _counter(name: str, said: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Family:
    return _filled(CounterMetricFamily(name, said, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[tuple[str, ...], float]) -> Family:
    for series, value in values.items():
        family.add_metric(series, value)
    return family
