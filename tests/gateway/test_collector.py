"""Reading providers' own lists: over sockets, from one that has what the test wants in them, into both engines."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import tracemalloc
from collections import Counter
from email.utils import format_datetime
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp import web
from sqlalchemy import func, select

from gateway import asking
from gateway import collector as collector_module
from gateway.asking import Asker, NotAnswered
from gateway.collector import (
    ASKED,
    DONE,
    HELD_S,
    SWEEP_DAYS,
    TODAY_S,
    WAITING,
    YOUNG_S,
    Collector,
    Credential,
    NoScope,
    Scope,
    Source,
    Wanted,
)
from gateway.provider_lists import ProviderLists
from gateway.providers import sendgrid, twilio
from gateway.providers.twilio import late
from gateway.providers.twilio.resources import Resource
from gateway.reconciler import Reconciler
from gateway.recorder import late_event
from gateway.settings import Collect
from gateway.shipper import Shipper
from gateway.tables import collections, unattributed
from metering.database import DatabaseUnavailable
from metering.tables import late_facts, pending_events, quarantine, usage_events
from metering.usage import EPOCH, Completeness
from pricing.tables import rollups
from tests.builders import NOON, call_id, fact, intent, usage_event
from tests.gateway.served import served
from tests.gateway.shipping import Worker, ship

REAL = "AC" + "5" * 32
OWN = "AC" + "6" * 32
SUB = "AC" + "7" * 32
DAY = NOON.date()
LIVENESS_S_MAX = 120


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


def sid(number, kind="SM"):
    return f"{kind}{number:032x}"


def message(number=1, **changes):
    at = format_datetime(NOON - dt.timedelta(hours=3, seconds=-number % 3600))
    values = {
        "sid": sid(number),
        "account_sid": REAL,
        "to": "+12025550143",
        "from": "+15005550006",
        "messaging_service_sid": None,
        "body": "nobody's business",
        "num_segments": "2",
        "num_media": "0",
        "status": "delivered",
        "error_code": None,
        "direction": "outbound-api",
        "date_created": at,
        "date_sent": at,
        "price": "-0.01660",
        "price_unit": "USD",
    }
    return values | changes


def call(number=1, **changes):
    at = format_datetime(NOON - dt.timedelta(hours=2))
    values = {
        "sid": sid(number, "CA"),
        "account_sid": REAL,
        "to": "+12025550143",
        "from": "+15005550006",
        "parent_call_sid": None,
        "duration": "61",
        "status": "completed",
        "direction": "outbound-api",
        "start_time": at,
        "date_created": at,
        "price": "-0.02800",
        "price_unit": "USD",
    }
    return values | changes


class Lists:
    """A provider with lists, which remembers what it was asked and can fail."""

    def __init__(self):
        self.items = {"Messages": [], "Calls": []}
        self.page_items = 50
        self.asked = []
        self.at = []
        self.before = None
        self.base_url = ""

    async def answer(self, request):
        self.asked.append((request.path_qs, request.headers.get("Authorization")))
        self.at.append(asyncio.get_running_loop().time())
        if self.before is not None and (refused := await self.before(request)) is not None:
            return refused
        _, _, _, account, resource = request.path.split("/")
        resource = resource.removesuffix(".json")
        day = request.query["DateSent" if resource == "Messages" else "StartTime"]
        there = self.items[resource]
        if not callable(there):
            there = [one for one in there if one["account_sid"] == account and day == DAY.isoformat()]
            count, item = len(there), there.__getitem__
        else:
            count, item = (there(None), there) if day == DAY.isoformat() else (0, None)
        start = int(request.query.get("Page", 0)) * self.page_items
        end = min(start + self.page_items, count)
        more = {**request.query, "Page": str(start // self.page_items + 1)}
        return web.json_response(
            {
                resource.lower(): [item(number) for number in range(start, end)],
                "next_page_uri": f"{request.path}?{urlencode(more)}" if end < count else None,
            }
        )


@pytest.fixture
async def lists():
    made = Lists()
    async with served(made.answer) as base_url:
        made.base_url = base_url
        yield made


@pytest.fixture
def clock():
    return Clock()


class World:
    """A ledger, and collectors that know nothing of each other."""

    def __init__(self, database, books, clock, lists, directory):
        self.database, self.clock, self.lists = database, clock, lists
        self.shipper = Shipper(directory, database, books, clock)
        self.owned = {"acme": {"phone_numbers": ["+15005550006"]}, "globex": {}}
        self.credentials = {None: Credential({"Authorization": "Basic platform"}, REAL)}
        self.schedules = Collect.OFF
        self.book = self._book

    async def _book(self, facts):
        return await self.shipper.book(facts, [])

    async def owns(self):
        return self.owned

    def collector(self):
        provider = twilio.PROVIDER
        source = Source(
            self.lists.base_url, provider.records, provider.totals, provider.account_of, self.credentials.get
        )

        async def book(facts):
            return await self.book(facts)

        return Collector(
            self.database,
            book,
            {"twilio": source},
            self.owns,
            "hash of {}".format,
            lambda source: self.clock(),
            self.clock,
            self.schedules,
        )

    def reconciling(self):
        """A collector before which calls that were killed are looked for, as the back office has it."""
        collector = self.collector()
        lists = ProviderLists(self.database, collector)
        reconciler = Reconciler(self.database, self.book, lists, {}, "hash of {}".format, self.clock)

        async def looked_for(scope, first, last):
            await reconciler.resolve_unknown(await lists.account_of(scope), first, last)

        collector.before = looked_for
        return collector

    async def collected(self, tenant_id=None, collector=None, first=DAY, last=DAY, patience_s=LIVENESS_S_MAX):
        """What became of a collection that nothing disturbs."""
        collector = collector or self.collector()
        asked = await collector.ask(Wanted(ASKED, "twilio", tenant_id, first, last, "test"))
        await self.runs(collector, patience_s)
        return await self.collection(asked)

    async def runs(self, collector, patience_s=LIVENESS_S_MAX):
        async with asyncio.timeout(patience_s):
            await collector.look()
            await collector.quiet()
        await collector.close()

    async def collection(self, collection_id):
        [row] = await self.rows(select(collections).where(collections.c.collection_id == collection_id))
        return row

    async def rows(self, statement):
        async with self.database.reading() as connection:
            return (await connection.execute(statement)).all()

    async def used(self):
        """Tenant, type and sums: what is counted in the end."""
        at = rollups.c
        found = await self.rows(
            select(at.tenant_id, at.event_type, func.sum(at.events), func.sum(at.messages), func.sum(at.segments))
            .group_by(at.tenant_id, at.event_type)
            .order_by(at.tenant_id, at.event_type)
        )
        return [
            tuple(int(value) if not isinstance(value, str) and value is not None else value for value in row)
            for row in found
        ]

    async def called(self, number, tenant_id="acme", **changes):
        """Book a call's own event of a message, as the gateway records it."""
        event = usage_event(
            **{
                "event_id": call_id(number),
                "tenant_id": tenant_id,
                "source": "twilio",
                "event_type": "sms_outbound",
                "direction": "outbound",
                "endpoint": "messages.create",
                "external_id": sid(number),
                "completeness": Completeness.PENDING,
                "quantities": {"messages": 1},
                "resource": "US:long_code",
                "occurred_at_ms": round((NOON - dt.timedelta(hours=3)).timestamp() * 1000),
            }
            | changes
        )
        await self._book([fact(event)])


@pytest.fixture
def world(database, books, clock, lists, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "REQUESTS_PER_S", 10_000)
    monkeypatch.setattr(asking, "PAUSE_S", 0.01)
    monkeypatch.setattr(Asker.__init__, "__defaults__", (10_000.0,))
    return World(database, books, clock, lists, tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# What is booked


async def test_what_did_not_cross_the_gateway_is_booked_with_what_became_of_it_and_once(world, lists):
    lists.items["Messages"] = [message(number) for number in range(1, 121)]
    lists.items["Calls"] = [call(1), call(2, status="busy", duration="0", price=None)]

    first = await world.collected()
    again = await world.collected()

    assert (first.status, first.counts["seen"], first.counts["new"]) == ("done", 122, 122)
    assert (again.counts["new"], again.counts["known"], again.counts["corrected"]) == (0, 122, 0)
    assert first.counts["requests"] == 3 + 1
    assert await world.used() == [
        ("acme", "call_minutes", 0, None, None),
        ("acme", "call_outbound", 2, None, None),
        ("acme", "sms_outbound", 120, 120, 240),
    ]
    costs = await world.rows(select(func.sum(rollups.c.cost_nano)).where(rollups.c.event_type == "sms_outbound"))
    assert costs[0][0] == 120 * 16_600_000
    assert await world.rows(select(late_facts)) == []
    assert await world.rows(select(quarantine)) == []


async def test_what_a_call_made_is_not_booked_again_whichever_came_first(world, lists):
    lists.items["Messages"] = [message(1), message(2)]
    await world.called(1)
    await world.collected()
    await world.called(2)
    await world.collected()

    assert await world.used() == [("acme", "sms_outbound", 2, 2, 4)]
    assert await world.rows(select(quarantine)) == []


async def test_what_a_call_made_is_booked_once_where_both_come_at_once(world, lists):
    lists.page_items = 10
    lists.items["Messages"] = [message(number) for number in range(1, 61)]

    async def calls():
        for number in range(1, 61):
            await world.called(number)
            await asyncio.sleep(0)

    await asyncio.gather(world.collected(), world.collected(collector=world.collector()), calls())

    assert await world.used() == [("acme", "sms_outbound", 60, 60, 120)]
    assert await world.rows(select(quarantine)) == []


async def test_numbers_are_kept_as_keyed_hashes_and_contents_not_at_all(world, lists):
    lists.items["Messages"] = [message(1), message(2, **{"from": "+15005550099"})]

    await world.collected()

    kept = repr([await world.rows(select(table)) for table in (usage_events, unattributed, collections)])
    [made] = await world.rows(select(usage_events.c.metadata).where(usage_events.c.kind == "backfill"))
    assert made[0] == {"from": "hash of +15005550006", "to": "hash of +12025550143"}
    assert "nobody's business" not in kept
    assert "5550099" not in kept


def mail(number, recipient):
    return {
        "msg_id": f"mail{number}.filter-{recipient}.0",
        "last_event_time": "2026-11-20T08:00:00Z",
        "status": "delivered",
    }


async def test_the_recipients_of_a_mail_are_parts_of_it_and_said_already_where_it_crossed_the_gateway(world):
    """Also of one that is scheduled, and pending until it is known to have been sent."""
    listing = sendgrid.PROVIDER.records[0]
    collector, scope = world.collector(), Scope("sendgrid", "acme", "", {})
    for number, completeness in ((1, Completeness.REPORTED), (2, Completeness.PENDING)):
        await world.called(
            number,
            source="sendgrid",
            event_type="email_outbound",
            endpoint="mail.send",
            external_id=f"mail{number}",
            quantities={"recipients": 3},
            completeness=completeness,
            metadata={"as_ordered": True},
        )
    sent = [mail(number, recipient) for number in (1, 2, 3) for recipient in range(3)]
    for parts in (sent[:7], sent[4:], sent):
        page = listing.read(listing.first("", DAY), msgspec.json.encode({"messages": parts}))
        await collector.book_records(scope, page.items, Counter(), collector.young_ms("sendgrid"))
    await world.called(
        3, source="sendgrid", event_type="email_outbound", external_id="mail3", quantities={"recipients": 3}
    )

    total = await world.rows(select(func.sum(rollups.c.events), func.sum(rollups.c.recipients)))
    assert tuple(map(int, total[0])) == (3, 9)
    assert [row.external_id for row in await world.rows(select(pending_events).order_by("external_id"))] == ["mail2"]
    assert await world.rows(select(quarantine)) == []


class Described:
    """Answers questions about single messages, and remembers them."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    async def ask(self, url, headers, asked):
        asked()
        name = url.rpartition("/")[2].partition(".")[0]
        self.asked.append(name)
        if name not in self.answers:
            raise NotAnswered("the provider answered 404", again=False)
        return msgspec.json.encode(self.answers[name])


def described(category, at="2026-11-18T08:00:00Z"):
    return {"categories": [category], "events": [{"event_name": "processed", "processed": at}]}


async def closely(world, owned, answers, numbers, *, tenant_id=None, again=False, young_ms=None):
    """Books mails as a collection does; which of them were asked about."""
    world.owned, listing = owned, sendgrid.PROVIDER.records[0]
    collector, scope = world.collector(), Scope("sendgrid", tenant_id, "", {})
    collector.sources = {"sendgrid": Source("http://127.0.0.1:1", (), (), None, world.credentials.get)}
    asker = collector._askers["sendgrid"] = Described(answers)
    body = msgspec.json.encode({"messages": [mail(number, who) for number in numbers for who in range(2)]})
    page = listing.read(listing.first("", DAY), body)
    young_ms = collector.young_ms("sendgrid") if young_ms is None else young_ms
    records = await collector.looked_closer(scope, listing, page.items, young_ms, again=again)
    await collector.book_records(scope, records, Counter(), young_ms)
    return asker.asked


async def test_a_mail_that_is_left_for_being_young_is_not_asked_about_either(world):
    """It would be asked about each time that the list is read, and booked of none of them."""
    listed_ms = round((NOON - dt.timedelta(hours=4)).timestamp() * 1000)

    asked = await closely(world, {"acme": {}}, {"mail1": described("x")}, [1], tenant_id="acme", young_ms=listed_ms)

    assert asked == []
    assert await world.rows(select(rollups.c.recipients)) == []


async def test_a_mail_is_of_the_day_on_which_it_was_processed_and_asked_about_once(world):
    answers = {"mail1": described("x"), "mail2": described("x", "2026-11-20T07:59:00Z")}

    asked = await closely(world, {"acme": {}}, answers, [1, 2, 3], tenant_id="acme")
    again = await closely(world, {"acme": {}}, answers, [1, 2, 3], tenant_id="acme")

    assert (asked, again) == (["mail1", "mail2", "mail3"], [])
    rows = await world.rows(
        select(rollups.c.day, func.sum(rollups.c.recipients)).group_by(rollups.c.day).order_by("day")
    )
    assert [(row[0], int(row[1])) for row in rows] == [("2026-11-18", 2), ("2026-11-20", 4)]


async def test_on_a_shared_account_a_category_says_whose_a_mail_is(world):
    owned = {"acme": {"sendgrid_categories": ["acme-news"]}, "globex": {"sendgrid_categories": ["globex"]}}
    answers = {"mail1": described("acme-news"), "mail2": described("globex"), "mail3": described("nobody's")}

    await closely(world, owned, answers, [1, 2, 3])
    by_itself = await closely(world, owned, answers, [1, 2, 3])
    when_asked = await closely(world, owned, answers, [1, 2, 3], again=True)

    used = await world.rows(select(rollups.c.tenant_id, func.sum(rollups.c.recipients)).group_by(rollups.c.tenant_id))
    assert {row[0]: int(row[1]) for row in used} == {"acme": 2, "globex": 2}
    assert [row.external_id for row in await world.rows(select(unattributed))] == ["mail3"]
    assert (by_itself, when_asked) == ([], ["mail3"])


async def test_where_no_tenant_has_a_category_nobody_is_asked_for_any(world):
    assert await closely(world, {"acme": {}}, {}, [1]) == []


# ---------------------------------------------------------------------------------------------------------------------
# Whose it is


async def test_whose_a_thing_is_the_ledger_knows_best_then_the_integration_and_nobody_guesses(world, lists):
    world.owned = {
        "acme": {"phone_numbers": ["+15005550006", "+15005550009"]},
        "globex": {"twilio_messaging_services": ["MG" + "1" * 32], "phone_numbers": ["+15005550009"]},
    }
    await world.called(1, "globex")
    lists.items["Messages"] = [
        message(1),
        message(2),
        message(3, messaging_service_sid="MG" + "1" * 32),
        message(4, **{"from": "+15005550001"}),
        message(5, **{"from": "+15005550009"}),
        message(6, direction="inbound", to="+15005550006", **{"from": "+12025550143"}),
    ]
    # A leg is its call's, whatever number it shows.
    await world.called(9, "globex", event_type="call_outbound", external_id=sid(9, "CA"), quantities={"requests": 1})
    lists.items["Calls"] = [call(10, direction="outbound-dial", parent_call_sid=sid(9, "CA"))]

    done = await world.collected()

    owners = await world.rows(select(usage_events.c.external_id, usage_events.c.tenant_id).distinct())
    assert {(row.external_id[-2:], row.tenant_id) for row in owners if row.external_id.startswith("SM")} == {
        ("01", "globex"),
        ("02", "acme"),
        ("03", "globex"),
        ("06", "acme"),
    }
    assert (sid(10, "CA"), "globex") in {tuple(row) for row in owners}
    assert done.counts["unattributed"] == 2
    kept = await world.rows(select(unattributed).order_by(unattributed.c.external_id))
    assert [(row.external_id, row.event_type, row.quantities, row.cost) for row in kept] == [
        (sid(4), "sms_outbound", {"messages": 1, "segments": 2}, "0.0166"),
        (sid(5), "sms_outbound", {"messages": 1, "segments": 2}, "0.0166"),
    ]
    assert {row.event_type for row in await world.rows(select(usage_events.c.event_type))} >= {"sms_inbound"}


@pytest.mark.parametrize("page_items", [1, 50])
async def test_a_leg_that_stands_before_its_call_in_the_list_is_its_calls(world, lists, page_items):
    world.owned["globex"] = {"phone_numbers": ["+15005550001"]}
    lists.page_items = page_items
    lists.items["Calls"] = [
        call(3, direction="outbound-dial", parent_call_sid=sid(2, "CA")),
        call(4, direction="outbound-dial", parent_call_sid=sid(99, "CA")),
        call(5, direction="outbound-dial", parent_call_sid=sid(98, "CA"), **{"from": "+15005550777"}),
        call(2, direction="inbound", to="+15005550001"),
        call(1),
    ]

    done = await world.collected()

    owners = await world.rows(select(usage_events.c.external_id, usage_events.c.tenant_id).distinct())
    assert {(row.external_id[-1], row.tenant_id) for row in owners} == {
        ("1", "acme"),
        ("2", "globex"),
        ("3", "globex"),
        ("4", "acme"),
    }
    assert (done.counts["seen"], done.counts["new"], done.counts["unattributed"]) == (5, 4, 1)


async def test_what_was_nobodys_is_booked_once_its_owner_is_known(world, lists):
    lists.items["Messages"] = [message(1, **{"from": "+15005550001"})]
    await world.collected()
    world.owned["globex"] = {"phone_numbers": "+15005550001"}

    await world.collected()

    assert await world.rows(select(unattributed)) == []
    assert await world.used() == [("globex", "sms_outbound", 1, 1, 2)]


async def test_a_tenant_with_an_account_of_its_own_has_all_that_is_in_it(world, lists):
    world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    world.owned["initech"] = {"twilio_subaccount": SUB}
    lists.items["Messages"] = [message(1, account_sid=OWN), message(2, account_sid=SUB), message(3)]

    await world.collected("globex")
    await world.collected("initech")

    assert await world.used() == [("globex", "sms_outbound", 1, 1, 2), ("initech", "sms_outbound", 1, 1, 2)]
    assert {asked[1] for asked in lists.asked if OWN in asked[0]} == {"Basic own"}
    assert {asked[1] for asked in lists.asked if SUB in asked[0]} == {"Basic platform"}


async def test_what_was_made_before_an_account_changed_hands_stays_whose_it_was(world, lists):
    """Guards the bill of both: read for its new tenant, the list has all that the one before was billed for."""
    world.owned = {"acme": {"twilio_subaccount": SUB}, "globex": {}}
    lists.items["Messages"] = [message(1, account_sid=SUB), message(2, account_sid=SUB, status="queued", price=None)]
    await world.collected("acme")
    world.owned = {"acme": {}, "globex": {"twilio_subaccount": SUB}}
    lists.items["Messages"] = [message(1, account_sid=SUB), message(2, account_sid=SUB), message(3, account_sid=SUB)]

    await world.collected("globex")

    assert await world.used() == [("acme", "sms_outbound", 2, 2, 4), ("globex", "sms_outbound", 1, 1, 2)]


async def test_an_account_that_two_tenants_bring_is_told_apart_like_the_platforms(world, lists):
    world.credentials["acme"] = world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    lists.items["Messages"] = [message(1, account_sid=OWN), message(2, account_sid=OWN, **{"from": "+15005550001"})]

    of_globex = await world.collected("globex")
    of_acme = await world.collected("acme")

    assert await world.used() == [("acme", "sms_outbound", 1, 1, 2)]
    assert (of_globex.counts["others"], of_globex.counts["unattributed"]) == (1, 1)
    assert of_acme.counts["new"] == 1


async def test_a_subaccount_that_two_tenants_name_is_nobodys(world):
    world.owned["initech"] = world.owned["globex"] = {"twilio_subaccount": SUB}

    with pytest.raises(NoScope, match="another tenant's as well"):
        await world.collected("globex")


async def test_on_a_shared_account_what_is_young_waits_for_the_record_of_its_call(world, lists, clock):
    lists.items["Messages"] = [message(1, date_sent=format_datetime(NOON - dt.timedelta(seconds=YOUNG_S - 1)))]

    young = await world.collected()
    await world.called(1, "globex")
    clock.now += dt.timedelta(seconds=60)
    later = await world.collected()

    assert (young.counts["young"], young.counts["new"]) == (1, 0)
    assert (later.counts["young"], later.counts["new"]) == (0, 0)
    assert await world.used() == [("globex", "sms_outbound", 1, 1, 2)]


JUST_NOW = NOON - dt.timedelta(seconds=YOUNG_S - 1)


async def test_on_an_account_of_its_own_what_is_young_waits_for_the_record_of_its_call(world, lists, clock):
    """Guards money: a call with metering off would be charged, since the list does not say that it is."""
    world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    at = format_datetime(JUST_NOW)
    lists.items["Messages"] = [message(1, account_sid=OWN, date_sent=at), message(2, account_sid=OWN, date_sent=at)]

    young = await world.collected("globex")
    await world.called(1, "globex", metered=False)
    known = await world.collected("globex")
    clock.now += dt.timedelta(seconds=60)
    later = await world.collected("globex")
    again = await world.collected("globex")

    assert (young.counts["young"], young.counts["new"], young.counts["seen"]) == (2, 0, 2)
    assert (known.counts["young"], known.counts["known"]) == (1, 1)
    assert (later.counts["young"], later.counts["new"]) == (0, 1)
    assert (again.counts["new"], again.counts["corrected"]) == (0, 0)
    assert await world.used() == [("globex", "sms_outbound", 1, 1, 2)]


async def test_what_a_call_made_that_was_killed_a_moment_ago_is_its_and_nobody_elses(world, lists, clock):
    """Guards the bill: listed before it is known that its call was killed, a message would be one that nobody sent."""
    world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    lists.items["Messages"] = [message(1, account_sid=OWN, date_sent=format_datetime(JUST_NOW))]
    collectors = [world.reconciling() for _ in range(2)]
    young = await world.collected("globex", collectors[0])
    killed = intent(
        call_id=call_id(1),
        tenant_id="globex",
        source="twilio",
        event_type="sms_outbound",
        endpoint="messages.create",
        occurred_at_ms=round(JUST_NOW.timestamp() * 1000) - 300,
        category="campaign",
        metadata={"to": "hash of +12025550143", "from": "hash of +15005550006"},
    )

    await world.book([fact(killed.unknown())])
    clock.now += dt.timedelta(seconds=60)
    later = await world.collected("globex", collectors[1])

    assert (young.counts["young"], later.counts["young"], later.counts["new"]) == (1, 0, 0)
    assert await world.used() == [("globex", "sms_outbound", 1, 1, 2)]
    assert {row.category for row in await world.rows(select(rollups.c.category))} == {"campaign"}


async def test_what_was_young_when_calls_that_were_killed_were_looked_for_is_so_to_the_end_of_the_list(
    world, lists, clock
):
    """Guards the bill where a list is long: what is killed while it is read is not among what was looked for."""
    world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    lists.items["Messages"] = [message(1, account_sid=OWN, date_sent=format_datetime(JUST_NOW))]
    collector = world.collector()

    async def looked_for(*_):
        clock.now += dt.timedelta(seconds=60)

    collector.before = looked_for

    found = await world.collected("globex", collector)

    assert (found.counts["young"], found.counts["new"]) == (1, 0)


async def test_before_it_is_known_which_calls_there_were_no_list_is_read(world, lists):
    """Guards what was asked for: begun at once after a restart, all of it would be too young, and the list read to its end."""
    lists.items["Messages"] = [message(1)]
    collector = world.collector()
    known, collector._booked_until = collector._booked_until, lambda source: EPOCH

    waiting = await world.collected(collector=collector)
    collector._booked_until = known
    await world.runs(collector)

    read = await world.collection(waiting.collection_id)
    assert (waiting.status, waiting.pages, waiting.counts.get("young", 0)) == (WAITING, 0, 0)
    assert (read.status, read.counts["new"]) == (DONE, 1)


@pytest.mark.parametrize("order", [("listed", "shipped"), ("shipped", "listed")])
async def test_what_another_hosts_spool_still_holds_is_counted_once_whoever_is_first(world, lists, tmp_path, order):
    """Guards money: a collector knows how far its own host's spools are, and nothing of the others."""
    lists.items["Messages"] = [message(1), message(2, **{"to": "messenger:1", "from": "messenger:2"})]
    lists.items["Calls"] = [call(3)]
    world.owned["acme"]["phone_numbers"].append("2")
    worker = Worker(tmp_path / "other" / "spool", "w0-other")
    at_ms = round((NOON - dt.timedelta(hours=3)).timestamp() * 1000)
    first = {"source": "twilio", "occurred_at_ms": at_ms, "direction": "outbound", "completeness": Completeness.PENDING}
    made = [
        ("sms_outbound", "messages.create", "US:long_code", {"messages": 1}, sid(1)),
        ("message_outbound", "messages.create", "messenger", {"messages": 1, "segments": 1}, sid(2)),
        ("call_outbound", "calls.create", "US:long_code", {"requests": 1}, sid(3, "CA")),
    ]
    for number, (event_type, endpoint, resource, quantities, name) in enumerate(made):
        worker.begins(number, source="twilio")
        said = {"event_type": event_type, "endpoint": endpoint, "resource": resource, "quantities": quantities}
        worker.ends(number, **first, **said, external_id=name)
    for one in (*lists.items["Messages"], *lists.items["Calls"]):
        read = late.of_call if one["sid"].startswith("CA") else late.of_message
        for said in read(msgspec.convert(one, Resource)):
            worker.wrote(msgspec.json.encode(late_event("acme", "twilio", said)))
    worker.dies()
    other = Shipper(tmp_path / "other" / "spool", world.database, world.shipper._books, world.clock)

    for what in order:
        await (ship(other) if what == "shipped" else world.collected())
    again = await world.collected()

    assert (again.counts["new"], again.counts["corrected"], again.counts["conflicting"]) == (0, 0, 0)
    assert await world.used() == [
        ("acme", "call_minutes", 0, None, None),
        ("acme", "call_outbound", 1, None, None),
        ("acme", "message_outbound", 1, 1, 2),
        ("acme", "sms_outbound", 1, 1, 2),
    ]
    [(seconds, cost)] = await world.rows(select(func.sum(rollups.c.seconds), func.sum(rollups.c.cost_nano)))
    assert (seconds, cost) == (61, 2 * 16_600_000 + 28_000_000)
    assert await world.rows(select(quarantine)) == []
    assert await world.rows(select(late_facts)) == []


async def test_what_is_only_sent_is_over_where_it_is_old(world, lists, clock):
    lists.items["Messages"] = [message(1, status="sent")]
    await world.collected()
    assert (await world.used())[0][4] is None

    clock.now += dt.timedelta(days=5)
    await world.collected()

    assert await world.used() == [("acme", "sms_outbound", 1, 1, 2)]


# ---------------------------------------------------------------------------------------------------------------------
# Going on


@pytest.mark.parametrize("broken", ["killed before the booking", "killed after the booking", "the ledger is away"])
@pytest.mark.parametrize("page", range(3))
async def test_whatever_stops_it_it_goes_on_from_there_and_doubles_nothing(world, lists, clock, broken, page):
    lists.page_items = 40
    lists.items["Messages"] = [message(number) for number in range(1, 121)]
    booked = 0

    async def breaks(facts):
        nonlocal booked
        booked += 1
        if booked != page + 1:
            return await world._book(facts)
        if broken == "the ledger is away":
            raise DatabaseUnavailable("cut")
        if broken == "killed after the booking":
            await world._book(facts)
        # As a process that is gone: nothing of it says another word.
        for task in (*collector._running.values(),):
            task.cancel()
        collector._let_go = collector._set = silence
        raise asyncio.CancelledError

    async def silence(*_, **__):
        return False

    world.book = breaks
    collector = world.collector()
    collection_id = await collector.ask(Wanted(ASKED, "twilio", None, DAY, DAY, "test"))
    await world.runs(collector)
    assert (await world.collection(collection_id)).status in ("running", "waiting")
    asked_before = len(lists.asked)

    clock.now += dt.timedelta(seconds=HELD_S + 1)
    await world.runs(world.collector())

    done = await world.collection(collection_id)
    assert done.status == "done"
    assert await world.used() == [("acme", "sms_outbound", 120, 120, 240)]
    # The page that was not kept, those after it, and the list of calls.
    assert len(lists.asked) - asked_before == 3 - page + 1


async def test_what_is_asked_for_is_begun_at_once(world, lists, monkeypatch):
    """Guards the wake-up: what other hosts were asked for is looked for much less often."""
    monkeypatch.setattr(collector_module, "LOOK_S", 1e6)
    monkeypatch.setattr(collector_module, "SEARCH_S", 1e6)
    collector = world.collector()
    running = asyncio.create_task(collector.run())
    await asyncio.sleep(0.1)

    asked = await collector.ask(Wanted(ASKED, "twilio", None, DAY, DAY, "test"))

    async with asyncio.timeout(LIVENESS_S_MAX):
        while (await world.collection(asked)).status != DONE:  # noqa: ASYNC110  It can only be looked at.
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))


async def test_what_is_asked_for_during_a_look_is_looked_for_again(world, monkeypatch):
    """Guards the same where the look has read already what waits: the wake-up was forgotten with the look's end."""
    monkeypatch.setattr(collector_module, "SEARCH_S", 1e6)
    collector = world.collector()
    looks = []

    async def look():
        looks.append(len(looks))
        if len(looks) == 1:
            collector.wake.set()
        return True

    collector.look = look
    running = asyncio.create_task(collector.run())
    async with asyncio.timeout(LIVENESS_S_MAX):
        while len(looks) < 2:  # noqa: ASYNC110  It can only be looked at.
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))


async def test_before_spools_were_read_once_it_is_looked_again_soon(world, lists, monkeypatch):
    monkeypatch.setattr(collector_module, "LOOK_S", 0.01)
    monkeypatch.setattr(collector_module, "SEARCH_S", 1e6)
    collector = world.collector()
    known, collector._booked_until = collector._booked_until, lambda source: EPOCH
    asked = await collector.ask(Wanted(ASKED, "twilio", None, DAY, DAY, "test"))
    running = asyncio.create_task(collector.run())
    await asyncio.sleep(0.1)
    collector._booked_until = known

    async with asyncio.timeout(LIVENESS_S_MAX):
        while (await world.collection(asked)).status != DONE:  # noqa: ASYNC110  It can only be looked at.
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))


async def test_what_somebody_holds_nobody_else_runs(world, lists, clock):
    lists.items["Messages"] = [message(1)]
    release = asyncio.Event()

    async def before(_):
        await release.wait()

    lists.before = before
    first, second = world.collector(), world.collector()
    await first.ask(Wanted(ASKED, "twilio", None, DAY, DAY, "test"))
    await first.look()
    await second.look()
    assert second._running == {}

    release.set()
    await world.runs(first)

    await second.close()
    assert len(lists.asked) == 2


async def test_what_is_cancelled_ends_and_goes_on_when_it_is_asked_for_again(world, lists):
    lists.page_items = 1
    lists.items["Messages"] = [message(number) for number in range(1, 5)]
    collector = world.collector()
    collection_id = await collector.ask(Wanted(ASKED, "twilio", None, DAY, DAY, "test"))

    async def before(request):
        if request.query.get("Page") == "2":
            assert await collector.cancel(collection_id)

    lists.before = before
    await world.runs(collector)
    assert (await world.collection(collection_id)).status == "cancelled"
    assert len(lists.asked) == 3
    lists.before = None

    done = await world.collected()

    assert (done.collection_id, done.status) == (collection_id, "done")
    assert await world.used() == [("acme", "sms_outbound", 4, 4, 8)]


async def test_memory_is_that_of_a_page_however_many_there_are(world, lists):
    count = int(os.environ.get("COLLECTED_MESSAGES", "1500"))
    lists.page_items = min(1000, count // 30)
    held = []

    def there(number):
        return count if number is None else message(number + 1)

    lists.items["Messages"] = there

    async def before(_):
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])

    lists.before = before
    tracemalloc.start()
    try:
        done = await world.collected(patience_s=LIVENESS_S_MAX + count / 20)
    finally:
        tracemalloc.stop()

    assert (done.counts["seen"], done.counts["new"]) == (count, count)
    assert await world.used() == [("acme", "sms_outbound", count, count, 2 * count)]
    assert len(held) > 30
    # The first pages fill caches. A record that is kept has more than a thousand bytes.
    assert held[-1] - held[10] < 300 * (count - 11 * lists.page_items), held


# ---------------------------------------------------------------------------------------------------------------------
# Asking


async def test_a_provider_that_is_asked_too_often_is_left_alone_for_as_long_as_it_says(world, lists):
    lists.items["Messages"] = [message(1)]

    async def before(_):
        return web.Response(status=429, headers={"Retry-After": "1"}) if len(lists.asked) == 1 else None

    lists.before = before

    done = await world.collected()

    assert done.status == "done"
    assert lists.at[1] - lists.at[0] >= 1
    assert done.counts["requests"] == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: web.Response(status=401), "the provider answered 401"),
        (lambda: web.Response(text="<html>"), "the answer is no page of this list"),
        (
            lambda: web.json_response({"messages": [], "next_page_uri": "https://elsewhere.example/"}),
            "the next page is not of this list",
        ),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "the provider answered 302"),
    ],
)
async def test_what_can_not_be_read_fails_and_says_why(world, lists, answer, reason):
    async def before(_):
        return answer()

    lists.before = before

    done = await world.collected()

    assert (done.status, done.reason) == ("failed", reason)


async def test_a_list_that_leads_round_in_a_circle_is_left(world, lists):
    async def before(request):
        return web.json_response({"messages": [], "next_page_uri": request.path_qs})

    lists.before = before

    assert (await world.collected()).status == "failed"


async def test_without_a_credential_there_is_nothing_to_read(world):
    world.credentials = {}

    with pytest.raises(NoScope, match="credential"):
        await world.collected("acme")


# ---------------------------------------------------------------------------------------------------------------------
# By itself


@pytest.mark.parametrize(
    ("schedules", "whose"), [(Collect.OFF, set()), (Collect.OWN, {"globex"}), (Collect.ALL, {"globex", None})]
)
async def test_nobody_has_to_ask_for_today_and_the_week_before(world, clock, schedules, whose):
    world.credentials["globex"] = Credential({"Authorization": "Basic own"}, OWN)
    world.schedules = schedules
    first, second = world.collector(), world.collector()
    for collector in (first, second, first):
        collector._planned = -TODAY_S
        await collector._plan()

    found = await world.rows(select(collections))

    assert {row.tenant_id for row in found} == whose
    assert sorted((row.kind, row.first_day, row.last_day) for row in found) == sorted(
        (kind, first_day.isoformat(), last_day.isoformat())
        for kind, first_day, last_day in (
            ("today", DAY, DAY),
            ("sweep", DAY - dt.timedelta(days=SWEEP_DAYS), DAY - dt.timedelta(days=1)),
        )
        for _ in whose
    )


async def test_what_ran_once_is_forgotten_when_it_runs_again(world, clock):
    world.schedules = Collect.ALL
    for _ in range(5):
        collector = world.collector()
        await collector.plan(clock())
        await world.runs(collector)
        clock.now += dt.timedelta(seconds=TODAY_S)

    found = await world.rows(select(collections.c.kind, func.count()).group_by(collections.c.kind))

    assert dict(map(tuple, found)) == {"sweep": 1, "today": 1}


def test_a_page_says_nothing_of_what_it_does_not_understand():
    listing = next(one for one in twilio.PROVIDER.records if one.name == "messages")
    path = listing.first(REAL, DAY)
    page = listing.read(path, msgspec.json.encode({"messages": [message(1), {"sid": "?"}, {}]}))

    assert (len(page.items), page.unreadable) == (1, 2)
