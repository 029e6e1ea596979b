"""Usage by the API: events, sums, pages and tables."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections import Counter

import pytest

from metering.moments import iso
from tests.pricing.ledger_rows import NOON, put, used

SECOND = dt.timedelta(seconds=1)


def table(answer):
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.body.decode())))


async def test_an_event_is_shown_as_promised(api):
    await put(api.database, used("01a1f8d3-0000-7000-8000-000000000000"))

    [event] = (await api.get("/v1/usage/events")).document["data"]

    assert event == {
        "event_id": "01a1f8d3-0000-7000-8000-000000000000",
        "tenant_id": "acme",
        "source": "openai",
        "event_type": "llm_call",
        "channel": "ai",
        "direction": None,
        "endpoint": "chat.completions",
        "resource": "gpt-4o-2024-08-06",
        "external_id": "chatcmpl-1",
        "units": 163,
        "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
        "completeness": "reported",
        "priced": True,
        "kind": "usage",
        "corrects": None,
        "charge": {"amount": "0.000837", "currency": "USD", "credits": None},
        "cost": {"amount": "0.0006975", "currency": "USD"},
        "category": "rag",
        "tags": {},
        "description": "gpt-4o chat completion",
        "metadata": {},
        "key_id": "k1",
        "call_id": "01a1f8d3-0000-7000-8000-000000000000",
        "status": 200,
        "duration_ms": 812,
        "metered": True,
        "occurred_at": "2026-11-20T12:00:00.000Z",
        "recorded_at": "2026-11-20T12:00:00.852Z",
    }


async def test_what_is_not_known_is_null_and_not_zero(api):
    await put(
        api.database,
        used("unpriced", priced=False, charge_nano=None, cost_nano=None, units=None, quantities={}),
        used("free", charge_nano=0, cost_nano=0, occurred_at=NOON - SECOND),
        used("credits", charge_nano=None, currency="credits", credits=2, occurred_at=NOON - 2 * SECOND),
    )

    unpriced, free, credit = (await api.get("/v1/usage/events")).document["data"]

    assert (unpriced["priced"], unpriced["units"], unpriced["quantities"]) == (False, None, {})
    assert unpriced["charge"] == {"amount": None, "currency": "USD", "credits": None}
    assert unpriced["cost"] == {"amount": None, "currency": "USD"}
    assert free["charge"] == {"amount": "0", "currency": "USD", "credits": None}
    assert credit["charge"] == {"amount": None, "currency": None, "credits": 2}


@pytest.mark.parametrize(
    ("window", "seen"),
    [
        ("from=2026-11-20&to=2026-11-21", ["b", "a"]),
        ("from=2026-11-20T12:00:01Z", ["c", "b"]),
        ("from=2026-11-20T15:00:01%2B03:00&to=2026-11-21", ["b"]),
        ("to=2026-11-20T12:00:01Z", ["a"]),
        ("from=2026-11-21", ["c"]),
        ("from=2026-11-21&to=2026-11-21", []),
        ("", ["c", "b", "a"]),
    ],
)
async def test_a_window_begins_with_from_and_ends_before_to(api, window, seen):
    midnight = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    await put(api.database, used("a"), used("b", occurred_at=NOON + SECOND), used("c", occurred_at=midnight))

    found = (await api.get(f"/v1/usage/events?{window}")).document["data"]

    assert [event["event_id"] for event in found] == seen


FILTERS = {
    "tenant_id": "globex",
    "source": "twilio",
    "event_type": "sms_outbound",
    "channel": "sms",
    "category": "campaign",
    "key_id": "k2",
}


@pytest.mark.parametrize(("name", "value"), FILTERS.items())
async def test_each_filter_shows_what_has_the_value_and_counts_it(api, name, value):
    await put(api.database, used("other"), used("wanted", **{name: value}), used("both", **FILTERS))

    found = (await api.get(f"/v1/usage/events?{name}={value}")).document["data"]
    total = (await api.get(f"/v1/usage/summary?{name}={value}")).document["total"]
    everything = "&".join(f"{name}={value}" for name, value in FILTERS.items())

    assert {event["event_id"] for event in found} == {"wanted", "both"}
    assert total["events"] == 2
    assert len((await api.get(f"/v1/usage/events?{everything}")).document["data"]) == 1
    assert (await api.get(f"/v1/usage/events?{name}=")).document["data"] == []


async def test_paging_visits_every_event_once_while_others_are_booked(api):
    there = [used(f"{n:03}", occurred_at=NOON + (n // 4) * SECOND) for n in range(50)]
    await put(api.database, *there)

    seen: list[str] = []
    cursor = ""
    for page in range(1000):
        answer = (await api.get(f"/v1/usage/events?tenant_id=acme&limit=7{cursor}")).document
        seen += [event["event_id"] for event in answer["data"]]
        if answer["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['next_cursor']}"
        await put(api.database, *(used(f"late-{page}-{n}", occurred_at=NOON + n * SECOND) for n in range(0, 13, 3)))

    assert max(Counter(seen).values()) == 1
    assert {row["event_id"] for row in there} <= set(seen)


async def test_the_last_page_says_so_even_if_it_is_full(api):
    await put(api.database, used("a"), used("b"))

    assert (await api.get("/v1/usage/events?limit=2")).document["next_cursor"] is None
    assert (await api.get("/v1/usage/events?limit=1")).document["next_cursor"] is not None


async def test_a_page_has_a_hundred_events_unless_told_otherwise(api):
    await put(api.database, *(used(str(n)) for n in range(101)))

    assert len((await api.get("/v1/usage/events")).document["data"]) == 100
    assert len((await api.get("/v1/usage/events?limit=1000")).document["data"]) == 101


async def test_a_cursor_continues_its_own_question_alone(api):
    for tenant_id in ("acme", "globex"):
        await api.tenant(tenant_id)
    acme, globex = (await api.key("acme")).secret, (await api.key("globex")).secret
    await put(api.database, *(used(f"{n}", tenant_id=tenant) for n in range(3) for tenant in ("acme", "globex")))
    cursor = (await api.get("/v1/usage/events?source=openai&limit=1", key=acme)).document["next_cursor"]
    asked = f"/v1/usage/events?source=openai&cursor={cursor}"

    assert (await api.get(asked, key=acme)).status == 200
    assert (await api.get(f"{asked}&limit=2&format=csv", key=acme)).status == 200
    assert (await api.get(asked, key=globex)).status == 400
    assert (await api.get(asked)).status == 400
    assert (await api.get(f"{asked}&channel=ai", key=acme)).status == 400
    assert (await api.get(f"/v1/usage/events?source=twilio&cursor={cursor}", key=acme)).status == 400
    assert (await api.get(f"/v1/usage/events?cursor={cursor}", key=acme)).status == 400


async def test_a_tenant_that_asks_for_another_is_refused_whether_there_is_one_or_not(api, acme):
    key = (await api.key(acme)).secret
    await api.tenant("globex")

    for route in ("events", "summary"):
        refused = [await api.get(f"/v1/usage/{route}?tenant_id={who}", key=key) for who in ("globex", "nobody")]
        assert [answer.status for answer in refused] == [403, 403]
        assert refused[0].body == refused[1].body


# ---------------------------------------------------------------------------------------------------------------------
# Sums


async def test_a_summary_is_shown_as_promised(api):
    await put(
        api.database,
        used("a"),
        used("b", completeness="unknown", priced=False, charge_nano=None, cost_nano=None, quantities={}, units=None),
        used("c", source="twilio", direction="outbound", quantities={"segments": 2}, units=2, charge_nano=15_000_000),
        used("off", metered=False),
    )

    answer = (await api.get("/v1/usage/summary?group_by=source,direction")).document

    assert answer == {
        "from": "2026-11-01T00:00:00.000Z",
        "to": "2026-12-01T00:00:00.000Z",
        "groups": [
            {
                "source": "openai",
                "direction": None,
                "events": 2,
                "unknown_events": 1,
                "unpriced_events": 1,
                "units": 163,
                "tokens": 163,
                "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
                "charge": {"amount": "0.000837", "currency": "USD", "credits": None},
                "cost": {"amount": "0.0006975", "currency": "USD"},
            },
            {
                "source": "twilio",
                "direction": "outbound",
                "events": 1,
                "unknown_events": 0,
                "unpriced_events": 0,
                "units": 2,
                "tokens": None,
                "quantities": {"segments": 2},
                "charge": {"amount": "0.015", "currency": "USD", "credits": None},
                "cost": {"amount": "0.0006975", "currency": "USD"},
            },
        ],
        "total": {
            "events": 3,
            "unknown_events": 1,
            "unpriced_events": 1,
            "units": 165,
            "tokens": 163,
            "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46, "segments": 2},
            "charge": {"amount": "0.015837", "currency": "USD", "credits": None},
            "cost": {"amount": "0.001395", "currency": "USD"},
        },
    }


async def test_ai_tokens_by_tenant_month_category_and_model_and_in_total_are_one_question(api):
    """The sum of what is told by itself: 73 + 44 + 46 of each call, whatever its headline units are."""
    october = NOON.replace(month=10)
    await put(
        api.database,
        used("a"),
        used("b", category="summary"),
        used("c", resource="gpt-5"),
        used("d", occurred_at=october),
        used("e", event_type="image", units=1, quantities={"images": 1, "input_tokens": 7, "output_tokens_image": 5}),
        used("f", tenant_id="other"),
        used("g", source="twilio", event_type="sms_outbound", quantities={"segments": 2}, units=2),
    )
    question = "group_by=tenant_id,month,category,resource&channel=ai&from=2026-01-01&to=2027-01-01"

    answer = (await api.get(f"/v1/usage/summary?{question}")).document

    assert [
        tuple(group[name] for name in ("tenant_id", "month", "category", "resource", "tokens"))
        for group in answer["groups"]
    ] == [
        ("acme", "2026-10", "rag", "gpt-4o-2024-08-06", 163),
        ("acme", "2026-11", "rag", "gpt-4o-2024-08-06", 163 + 12),
        ("acme", "2026-11", "rag", "gpt-5", 163),
        ("acme", "2026-11", "summary", "gpt-4o-2024-08-06", 163),
        ("other", "2026-11", "rag", "gpt-4o-2024-08-06", 163),
    ]
    assert answer["total"]["tokens"] == 5 * 163 + 12


async def test_a_summary_of_nothing_is_empty_and_not_absent(api):
    answer = (await api.get("/v1/usage/summary?group_by=day")).document

    assert answer["groups"] == []
    assert answer["total"] == {
        "events": 0,
        "unknown_events": 0,
        "unpriced_events": 0,
        "units": None,
        "tokens": None,
        "quantities": {},
        "charge": {"amount": None, "currency": None, "credits": None},
        "cost": {"amount": None, "currency": None},
    }


async def test_currencies_are_never_added_to_each_other_nor_to_credits(api):
    await put(
        api.database,
        used("a", charge_nano=10**9),
        used("b", charge_nano=2 * 10**9, currency="EUR"),
        used("c", charge_nano=None, currency="credits", credits=5),
    )

    answer = (await api.get("/v1/usage/summary?group_by=source")).document

    assert [group["charge"] for group in answer["groups"]] == [
        {"amount": "2", "currency": "EUR", "credits": None},
        {"amount": "1", "currency": "USD", "credits": None},
        {"amount": None, "currency": None, "credits": 5},
    ]
    assert answer["total"]["charge"] == {"amount": None, "currency": None, "credits": 5}
    assert answer["total"]["cost"]["currency"] == "USD"


async def test_one_currency_beside_credits_and_what_has_no_price_is_summed(api):
    await put(
        api.database,
        used("a", charge_nano=10**9),
        used("b", charge_nano=None, currency="credits", credits=5),
        used("c", charge_nano=None, currency="EUR", priced=False),
    )

    total = (await api.get("/v1/usage/summary")).document["total"]

    assert total["charge"] == {"amount": "1", "currency": "USD", "credits": 5}


@pytest.mark.parametrize(
    ("parameters", "start", "end"),
    [
        ("", "2026-11-01", "2026-12-01"),
        ("from=2026-11-19", "2026-11-19", "2026-12-01"),
        ("from=2026-01-31", "2026-01-31", "2026-12-01"),
        ("to=2026-03-15", "2026-03-01", "2026-03-15"),
        ("to=2026-03-01", "2026-02-01", "2026-03-01"),
        ("from=2024-02-29&to=2024-03-01T00:00:00Z", "2024-02-29", "2024-03-01"),
        ("from=2026-11-20T03:00:00%2B03:00&to=2026-11-20", "2026-11-20", "2026-11-20"),
    ],
)
async def test_the_window_is_the_current_month_as_far_as_nothing_else_is_said(api, parameters, start, end):
    answer = (await api.get(f"/v1/usage/summary?{parameters}")).document

    assert (answer["from"], answer["to"]) == (f"{start}T00:00:00.000Z", f"{end}T00:00:00.000Z")


async def test_in_december_the_month_ends_with_the_year(api):
    api.clock.now = dt.datetime(2026, 12, 31, 23, 59, tzinfo=dt.UTC)

    answer = (await api.get("/v1/usage/summary")).document

    assert (answer["from"], answer["to"]) == (iso(dt.datetime(2026, 12, 1, tzinfo=dt.UTC)), "2027-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ("from=2026-11-20T12:00:00Z", "from"),
        ("to=2026-11-20T00:00:00.001Z", "to"),
        ("from=2026-12-02", "from"),
        ("from=2026-11-02&to=2026-11-01", "from"),
        ("group_by=currency", "group_by"),
        ("group_by=source,source", "group_by"),
        ("group_by=source,", "group_by"),
        ("group_by=events;drop", "group_by"),
        ("limit=1", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_what_no_summary_can_be_made_of_is_named(api, parameters, field):
    answer = await api.get(f"/v1/usage/summary?{parameters}")

    assert answer.status == 400
    assert [error["field"] for error in answer.problem["errors"]] == [field]


async def test_a_summary_of_too_many_groups_says_to_ask_for_less(api, monkeypatch):
    monkeypatch.setattr("pricing.queries.GROUPS_MAX", 2)
    await put(api.database, *(used(str(n), key_id=f"k{n}") for n in range(3)))

    answer = await api.get("/v1/usage/summary?group_by=key_id")

    assert answer.status == 400
    assert "ask for less" in answer.problem["detail"]


async def test_the_sum_over_all_tenants_is_the_sum_of_their_sums(api):
    await put(api.database, *(used(str(n), tenant_id=f"t{n % 3}", charge_nano=10**n) for n in range(9)))

    answer = (await api.get("/v1/usage/summary?group_by=tenant_id,month")).document

    alone = [
        (await api.get(f"/v1/usage/summary?tenant_id=t{n}")).document["total"]["charge"]["amount"] for n in range(3)
    ]
    assert [group["charge"]["amount"] for group in answer["groups"]] == alone
    assert {group["month"] for group in answer["groups"]} == {"2026-11"}
    assert answer["total"]["charge"]["amount"] == "0.111111111"


# ---------------------------------------------------------------------------------------------------------------------
# Tables


@pytest.mark.parametrize(
    ("query", "accept"),
    [("format=csv", "application/json"), ("format=csv", "*/*"), ("", "text/csv"), ("", "text/csv, */*;q=0.1")],
)
async def test_lists_are_tables_for_who_asks_for_them(api, query, accept):
    await put(api.database, used("a"))

    for route in ("events", "summary"):
        answer = await api.get(f"/v1/usage/{route}?{query}", headers={"Accept": accept})
        assert len(table(answer)) == 1
        assert answer.headers["Content-Disposition"] == f'attachment; filename="usage-{route}.csv"'


@pytest.mark.parametrize(("query", "accept"), [("format=json", "text/csv"), ("", "*/*"), ("", "application/json")])
async def test_and_json_for_everybody_else(api, query, accept):
    answer = await api.get(f"/v1/usage/events?{query}", headers={"Accept": accept})

    assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_table_has_a_column_for_everything_an_event_has(api):
    await put(api.database, used("a", tags={"team": "search"}, charge_nano=-1, metered=False))

    [row] = table(await api.get("/v1/usage/events?format=csv"))

    wanted = {
        "event_id": "a",
        "input_tokens": "73",
        "images": "",
        "direction": "",
        "priced": "true",
        "metered": "false",
        "charge_amount": "-0.000000001",
        "charge_currency": "USD",
        "charge_credits": "",
        "cost_amount": "0.0006975",
        "tags": '{"team":"search"}',
        "occurred_at": "2026-11-20T12:00:00.000Z",
    }
    assert wanted.items() <= row.items()
    assert not {"quantities", "charge", "cost"} & row.keys()


async def test_a_table_goes_on_where_its_header_says(api):
    await put(api.database, *(used(str(n)) for n in range(3)))

    first = await api.get("/v1/usage/events?format=csv&limit=2")
    rest = await api.get(f"/v1/usage/events?format=csv&limit=2&cursor={first.headers['X-Next-Cursor']}")

    assert sorted(row["event_id"] for row in table(first) + table(rest)) == ["0", "1", "2"]
    assert "X-Next-Cursor" not in rest.headers


async def test_a_table_of_sums_has_a_column_for_each_group(api):
    await put(api.database, used("a"), used("b", source="twilio", quantities={"segments": 2}))

    rows = table(await api.get("/v1/usage/summary?format=csv&group_by=month,source"))

    assert list(rows[0])[:6] == ["month", "source", "events", "unknown_events", "unpriced_events", "units"]
    assert [(row["source"], row["segments"], row["charge_amount"]) for row in rows] == [
        ("openai", "", "0.000837"),
        ("twilio", "2", "0.000837"),
    ]


@pytest.mark.parametrize(
    "evil", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "-2,=3"]
)
async def test_no_cell_of_a_table_is_a_formula_and_none_breaks_out_of_its_cell(api, evil):
    await put(api.database, used("a", category=evil, description=f'x","{evil}'))

    [row] = table(await api.get("/v1/usage/events?format=csv"))
    [sums] = table(await api.get("/v1/usage/summary?format=csv&group_by=category"))

    assert row["category"] == sums["category"] == f"'{evil}"
    assert row["description"] == f'x","{evil}'


async def test_numbers_in_a_table_stay_numbers(api):
    await put(api.database, used("-5", units=-5, charge_nano=-(10**9)))

    [row] = table(await api.get("/v1/usage/events?format=csv"))

    assert (row["units"], row["charge_amount"]) == ("-5", "-1")
