"""Daily sums: what is added is what was used and charged, and what nobody knows is not a zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.event_types import DIMENSIONS
from metering.usage import Completeness, Kind
from pricing.judgement import Rated
from pricing.rollups import DailySums
from pricing.tables import ROLLUP_COUNTS, ROLLUP_KEY, ROLLUP_SUMS
from tests.builders import DAY_MS, NOON_MS, call_id, fact, usage_event

SUMS = (*ROLLUP_COUNTS, *ROLLUP_SUMS)


def rated(**changes) -> Rated:
    """A judgement: the charge and cost of DESIGN's example, in everything that the test does not say."""
    values = {
        "priced": True,
        "currency": "USD",
        "charge_nano": 837_000,
        "credits": None,
        "cost_nano": 697_500,
        "cost_currency": "USD",
        "price_book": "standard-v1",
        "cost_book": "costs-v1",
        "lines": (),
    }
    return Rated(**values | changes)


def fold(judged):
    """The sums of events with their judgements, by their keys, and by name."""
    sums = DailySums()
    for event, of_event in judged:
        sums.add(fact(event), of_event)
    columns = sums.columns()
    rows = [dict(zip(columns, row, strict=True)) for row in sums.rows(columns)]
    return {tuple(row[name] for name in ROLLUP_KEY): {name: row.get(name) for name in SUMS} for row in rows}


def sums(judged):
    """The sums of the only group there is, by name; those that are absent left out."""
    (found,) = fold(judged).values()
    return {name: amount for name, amount in found.items() if amount not in (None, 0)}


def test_one_event_is_its_own_sum():
    event = usage_event(quantities={"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46})

    assert sums([(event, rated())]) == {
        "events": 1,
        "units": 163,
        "input_tokens": 73,
        "input_tokens_cached": 44,
        "output_tokens": 46,
        "charge_nano": 837_000,
        "cost_nano": 697_500,
    }


def test_the_sums_are_kept_by_everything_a_summary_may_be_grouped_by():
    (key,) = fold([(usage_event(direction="outbound"), rated())])

    assert dict(zip(ROLLUP_KEY, key, strict=True)) == {
        "tenant_id": "acme",
        "day": "2026-11-20",
        "source": "openai",
        "event_type": "llm_call",
        "channel": "ai",
        "direction": "outbound",
        "endpoint": "chat.completions",
        "resource": "gpt-4o-2024-08-06",
        "category": "rag",
        "key_id": "k1",
        "currency": "USD",
        "cost_currency": "USD",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "umbrella"},
        {"occurred_at_ms": NOON_MS + DAY_MS},
        {"source": "another"},
        {"event_type": "embedding"},
        {"direction": "inbound"},
        {"endpoint": "embeddings"},
        {"resource": None},
        {"category": "summary"},
        {"key_id": None},
    ],
)
def test_events_that_differ_in_one_of_these_are_summed_apart(changes):
    judged = [(usage_event(), rated()), (usage_event(**changes), rated()), (usage_event(**changes), rated())]

    folded = fold(judged)

    assert sorted(found["events"] for found in folded.values()) == [1, 2]


def test_currencies_are_never_added_up():
    judged = [
        (usage_event(), rated()),
        (usage_event(), rated(currency="EUR")),
        (usage_event(), rated(cost_currency="EUR")),
    ]

    assert len(fold(judged)) == 3


def test_what_nobody_knows_is_absent_and_what_is_known_to_be_zero_is_zero():
    unknown = usage_event(quantities={}, completeness=Completeness.UNKNOWN)
    zero = usage_event(event_id=call_id(2), quantities={"input_tokens": 0}, category="other")
    nothing = rated(priced=False, charge_nano=None, cost_nano=None)

    folded = {key[8]: found for key, found in fold([(unknown, nothing), (zero, rated(charge_nano=0))]).items()}

    assert [folded["rag"][name] for name in ("events", "unknown_events", "unpriced_events")] == [1, 1, 1]
    assert {folded["rag"][name] for name in ROLLUP_SUMS} == {None}
    assert [folded["other"][name] for name in ("input_tokens", "units", "charge_nano")] == [0, 0, 0]
    assert folded["other"]["output_tokens"] is None


def test_an_unknown_amount_does_not_hide_the_known_ones():
    judged = [
        (usage_event(), rated(charge_nano=None)),
        (usage_event(), rated()),
        (usage_event(), rated(charge_nano=None)),
    ]

    assert sums(judged)["charge_nano"] == 837_000


def test_what_was_not_to_be_metered_is_in_no_sum():
    """Watches `X-Gateway-Metering: off`: kept in the ledger, outside all totals."""
    assert fold([(usage_event(metered=False), rated())]) == {}


@pytest.mark.parametrize("kind", Kind)
def test_only_use_counts_as_an_event_and_whatever_is_booked_adds_its_amounts(kind):
    found = sums([(usage_event(kind=kind, completeness=Completeness.UNKNOWN), rated(priced=False))])

    counted = {"events": 1, "unknown_events": 1, "unpriced_events": 1} if kind in ("usage", "backfill") else {}
    assert {name: amount for name, amount in found.items() if name in ROLLUP_COUNTS} == counted
    assert (found["input_tokens"], found["charge_nano"]) == (73, 837_000)


def test_a_correction_takes_back_what_it_corrects():
    judged = [
        (usage_event(quantities={"segments": 3}), rated()),
        (usage_event(quantities={"segments": -2}, kind=Kind.CORRECTION), rated(charge_nano=-500_000, cost_nano=None)),
    ]

    found = sums(judged)
    assert (found["segments"], found["charge_nano"], found["cost_nano"]) == (1, 337_000, 697_500)


def test_credits_are_summed_beside_money():
    judged = [(usage_event(), rated(currency="credits", charge_nano=None, credits=2)) for _ in range(3)]

    assert sums(judged)["credits"] == 6


JUDGED = st.tuples(
    st.builds(
        usage_event,
        tenant_id=st.sampled_from(["acme", "umbrella"]),
        kind=st.sampled_from(Kind),
        metered=st.booleans(),
        quantities=st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(-100, 100), max_size=3),
    ),
    st.builds(rated, charge_nano=st.none() | st.integers(-100, 100), credits=st.none() | st.integers(0, 9)),
)


@given(st.lists(JUDGED), st.lists(JUDGED))
def test_adding_two_sums_is_summing_both(first, second):
    added = fold(first)
    for key, found in fold(second).items():
        before = added.get(key, dict.fromkeys(SUMS))
        added[key] = {
            name: amount if before[name] is None else before[name] if amount is None else before[name] + amount
            for name, amount in found.items()
        }

    assert added == fold(first + second)
