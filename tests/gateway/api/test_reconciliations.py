"""/v1/reconciliations: having it done, and what was found, for whom it is."""

from __future__ import annotations

import csv
import io

import pytest
from structlog.testing import capture_logs

from metering.reconciliation import Figure

FEE = Figure(
    day="2026-11-01", category="phonenumbers", amounts={"cost_nano": 1_150_000_000}, currency="USD", costs_here=True
)
MORE = Figure(
    day="2026-11-01",
    category="sms-outbound",
    amounts={"messages": 3, "segments": 5, "cost_nano": 39_500_000},
    currency="USD",
    event_types=("sms_outbound",),
)


@pytest.fixture
def wanted():
    return {"source": "twilio", "from": "2026-11-01", "to": "2026-11-02"}


async def shown(api, reconciliation_id, query="", **more):
    return (await api.get(f"/v1/reconciliations/{reconciliation_id}{query}", **more)).document


async def test_it_is_done_after_the_answer_and_what_was_found_is_told(api, wanted):
    api.lists.said = [FEE]

    asked = await api.post("/v1/reconciliations", wanted)
    assert (asked.status, asked.document["status"]) == (202, "waiting")
    await api.reconciliations.look()
    run = await shown(api, asked.document["reconciliation_id"])

    assert (run["status"], run["from"], run["to"], run["tolerance"]) == ("matched", "2026-11-01", "2026-11-02", "0.5%")
    [one] = run["differences"]["data"]
    assert (one["cause"], one["resolution"], one["cost"]) == (
        "not_usage",
        "corrected",
        {"amount": "1.15", "currency": "USD"},
    )
    assert run["totals"][0]["told"]["cost"] == run["totals"][0]["held"]["cost"] == {"amount": "1.15", "currency": "USD"}
    events = (await api.get("/v1/usage/events?event_type=provider_cost")).document["data"]
    assert [event["event_id"] for event in events] == [one["event_id"]]
    assert events[0]["charge"]["amount"] == "0"


async def test_more_than_is_tolerated_is_said_in_the_log_and_counted(api):
    api.lists.said = [MORE]

    with capture_logs() as logs:
        reconciliation_id = await api.reconciled()
    run = await shown(api, reconciliation_id)

    [line] = [one for one in logs if one["event"] == "reconciliation_beyond_tolerance"]
    assert (line["log_level"], line["category"], line["figures"]) == ("error", "sms-outbound", 3)
    assert run["status"] == "beyond_tolerance"
    assert {one["measure"] for one in run["beyond"]} == {"messages", "segments", "cost_nano"}
    assert api.reconciliations.done.runs["beyond_tolerance"] == 1
    assert api.reconciliations.done.differences["not_proxied", "open"] == 1


async def test_what_is_tolerated_can_be_said(api):
    api.lists.said = [MORE]

    run = await shown(api, await api.reconciled(tolerance="100%"))

    assert (run["status"], run["tolerance"]) == ("matched", "100%")


async def test_differences_page_and_are_a_table(api):
    api.lists.said = [FEE, MORE]
    reconciliation_id = await api.reconciled()

    first = (await shown(api, reconciliation_id, "?limit=1"))["differences"]
    second = (await shown(api, reconciliation_id, f"?limit=1&cursor={first['next_cursor']}"))["differences"]
    table = await api.get(f"/v1/reconciliations/{reconciliation_id}.csv")
    asked_for = await api.get(f"/v1/reconciliations/{reconciliation_id}", headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(table.body.decode())))

    assert [first["data"][0]["category"], second["data"][0]["category"]] == ["phonenumbers", "sms-outbound"]
    assert second["next_cursor"] is None
    assert [(row["category"], row["cause"], row["segments"], row["cost_amount"]) for row in rows] == [
        ("phonenumbers", "not_usage", "", "1.15"),
        ("sms-outbound", "not_proxied", "5", "0.0395"),
    ]
    assert asked_for.body == table.body


@pytest.mark.parametrize(("query", "found"), [("?cause=not_usage", 1), ("?resolution=open", 1), ("?cause=late", 0)])
async def test_differences_are_found_by_cause_and_by_what_became_of_them(api, query, found):
    api.lists.said = [FEE, MORE]

    run = await shown(api, await api.reconciled(), query)

    assert len(run["differences"]["data"]) == found


async def test_a_tenant_sees_what_is_about_it_and_no_cost(api, acme):
    await api.tenant("globex")
    api.lists.said = [MORE]
    mine, theirs, everybodys = await api.reconciled(acme), await api.reconciled("globex"), await api.reconciled()
    key = (await api.key(acme)).secret

    listed = (await api.get("/v1/reconciliations", key=key)).document["data"]
    own, all_of_them = await shown(api, mine, key=key), await shown(api, everybodys, key=key)

    assert {one["reconciliation_id"] for one in listed} == {mine, everybodys}
    assert (await api.get(f"/v1/reconciliations/{theirs}", key=key)).status == 404
    assert [one["quantities"] for one in own["differences"]["data"]] == [{"messages": 3, "segments": 5}]
    assert (
        own["differences"]["data"][0]["cost"] == own["totals"][0]["told"]["cost"] == {"amount": None, "currency": None}
    )
    assert own["asked_by"] is None
    assert (all_of_them["totals"], all_of_them["differences"]["data"], all_of_them["beyond"]) == ([], [], [])
    assert all_of_them["status"] == "matched"


async def test_what_can_not_be_done_is_said(api, wanted):
    api.lists.refuses = "Nobody has a credential with twilio: set the platform's, or a tenant's."

    run = await shown(api, await api.reconciled())

    assert (run["status"], run["reason"]) == ("failed", api.lists.refuses)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": "elsewhere"}, "source"),
        ({"to": "2026-11-01"}, "to"),
        ({"from": "2027-01-01", "to": "2027-01-02"}, "to"),
        ({"from": "2026-01-01"}, "from"),
        ({"tolerance": "a lot"}, "tolerance"),
        ({"tolerance": "101%"}, "tolerance"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_field(api, wanted, change, field):
    answer = await api.post("/v1/reconciliations", wanted | change)

    assert (answer.status, [one["field"] for one in answer.problem["errors"]]) == (400, [field])


async def test_the_nights_run_is_noted_once_and_not_before_its_hour(api):
    await api.reconciliations.plan(api.clock.now.replace(hour=3))
    before = (await api.get("/v1/reconciliations")).document["data"]
    for _ in range(2):
        await api.reconciliations.plan(api.clock.now.replace(hour=4))

    [run] = (await api.get("/v1/reconciliations")).document["data"]

    assert before == []
    assert (run["from"], run["to"], run["asked_by"]) == ("2026-11-13", "2026-11-20", "schedule")


async def test_where_nobody_has_a_credential_the_night_is_quiet(api):
    api.lists.refuses = "Nobody has a credential with twilio: set the platform's, or a tenant's."

    await api.reconciliations.plan(api.clock.now)

    assert (await api.get("/v1/reconciliations")).document["data"] == []


async def test_a_run_that_was_broken_off_is_begun_again_when_its_time_is_over(api, wanted):
    api.lists.said = [FEE]
    await api.post("/v1/reconciliations", wanted)
    taken = await api.reconciliations._taken()
    assert await api.reconciliations.look() is False

    api.clock.now = api.clock.now.replace(minute=2)
    assert await api.reconciliations.look() is True

    assert (await shown(api, taken.reconciliation_id))["status"] == "matched"
