"""What a provider did is in the ledger once, to the last unit and nano, whoever tells of it, in whatever order and however
often: a call's own record, a callback, an answer, the provider's list, a killed call that is found again."""

from __future__ import annotations

import asyncio
from collections import Counter
from email.utils import format_datetime
from typing import NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gateway.collector import Collector, Scope
from gateway.counters import Counters
from gateway.providers.api import Carried
from gateway.providers.learnt import Late, Prepared, Usage
from gateway.providers.twilio import callbacks, late, records
from gateway.providers.twilio.answers import judge_call, judge_message, judge_recording
from gateway.providers.twilio.resources import Resource
from gateway.recorder import Recorder, late_event
from gateway.unknown_outcomes import resolve
from metering.late import LOST, ready
from metering.tables import late_facts, pending_events, quarantine, usage_events
from metering.usage import Completeness, UsageEvent
from pricing.catalogue import load_books
from pricing.held import Whose
from pricing.ledger import book
from pricing.tables import rollups
from tests.builders import NOON, call_id, fact, intent, usage_event
from tests.gateway.proxied import Remembered

ACCOUNT = "AC" + "5" * 32
OURS, THEIRS = "+18005550199", "+12025550143"
DAY = NOON.date()
AT_MS = round(NOON.timestamp() * 1000)
NEXT = Carried("https://app.example/next")
SUMS = ("messages", "segments", "media", "seconds", "requests")
NANO = 10**9


class Notes:
    """Stands for a spool: keeps what is recorded."""

    fsync = False

    def __init__(self):
        self.events = []

    def note(self, payload):
        self.events.append(msgspec.json.decode(payload, type=UsageEvent))

    def write_gathered(self):
        """Nothing is gathered."""


class Thing(NamedTuple):
    """Something that the provider did, and how it came about."""

    kind: str
    """message, call, leg, recording."""
    way: str
    """`through` the gateway, `around` it, or it came `in`."""
    channel: str
    status: str
    used: int
    """Segments or seconds."""
    media: int
    told_segments: int
    """What the first answer says of them."""
    price_nano: int
    fate: str
    """What became of the call's own record: `recorded`, `killed` and never found, or `late`, after it was taken for killed."""
    metered: bool


MESSAGE_ENDS = ["delivered", "read", "undelivered", "failed", "canceled", "partially_delivered"]
CALL_ENDS = ["completed", "completed", "busy", "no-answer", "failed", "canceled"]
FREE = {"failed", "canceled", "busy", "no-answer"}


@st.composite
def things(draw):
    kind = draw(st.sampled_from(["message", "message", "call", "leg", "recording"]))
    ways = {"message": ["through", "around", "in"], "call": ["through", "around", "in"], "recording": ["through", "in"]}
    way = draw(st.sampled_from(ways.get(kind, ["in"])))
    ends = {"message": ["received"] if way == "in" else MESSAGE_ENDS, "call": CALL_ENDS}
    through = way == "through"
    # A killed recording is in no list that is read.
    fates = ["recorded", "recorded", "killed", "late"] if through and kind != "recording" else ["recorded"]
    fate = draw(st.sampled_from(fates))
    return Thing(
        kind,
        way,
        draw(st.sampled_from(["sms", "sms", "mms", "whatsapp", "messenger", "rcs"])),
        draw(st.sampled_from(ends.get(kind, ["completed"]))),
        draw(st.integers(1, 130)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([0, 0, 1, 5])),
        draw(st.integers(0, 5000)) * 10_000,
        fate,
        metered=not (through and fate == "recorded") or draw(st.sampled_from([True, True, True, False])),
    )


class World:
    """A ledger, and the things that are told to it."""

    def __init__(self, database, things):
        self.database, self.things, self.books = database, things, load_books()
        self.notes = Notes()
        self.recorder = Recorder(self.notes, Remembered(), lambda: AT_MS, "hash of {}".format, Counters())
        self.collector = Collector(database, self.booked, {}, self.owned, "hash of {}".format, None, lambda: NOON)
        self.done = set()

    async def owned(self):
        return {"acme": {}}

    async def booked(self, facts):
        async with self.database.transaction() as connection:
            return [await book(connection, facts, self.books, NOON)]

    async def book(self, events):
        await self.booked([fact(event) for event in events])

    # -- what there is

    def sid(self, number):
        kind = {"message": "SM", "recording": "RE"}.get(self.things[number].kind, "CA")
        return f"{kind}{number:032x}"

    def resource(self, number, *, first=False):
        """What the provider says of a thing, at first or in the end."""
        thing = self.things[number]
        prefix = "" if thing.channel in ("sms", "mms") else f"{thing.channel}:"
        # What came in from each has its own sender, so that a killed call's is told from others.
        theirs = f"{prefix}+1202555{1000 + number}" if thing.channel != "messenger" else f"messenger:{1000 + number}"
        ours = f"{prefix}{OURS}" if thing.channel != "messenger" else "messenger:7"
        free = thing.status in FREE
        found = {
            "sid": self.sid(number),
            "account_sid": ACCOUNT,
            "to": ours if thing.way == "in" and thing.kind != "leg" else theirs,
            "from": theirs if thing.way == "in" and thing.kind != "leg" else ours,
            "status": thing.status,
            "direction": "inbound" if thing.way == "in" and thing.kind != "leg" else "outbound-api",
            "price": None if free else f"-{thing.price_nano / NANO:.9f}",
            "price_unit": "USD",
            "date_created": format_datetime(NOON),
        }
        if thing.kind == "message":
            media = str(thing.media) if thing.channel == "mms" else "0"
            found |= {"num_segments": str(thing.used), "num_media": media, "error_code": None}
        else:
            found |= {"duration": "0" if free else str(thing.used), "parent_call_sid": None}
            found |= {"parent_call_sid": "CA" + "f" * 32} if thing.kind == "leg" else {}
        if first:
            found |= {"status": "queued", "price": None, "duration": None}
            found |= {"num_segments": str(thing.told_segments)} if thing.kind == "message" else {}
        return found

    def sources(self, number):
        """Who tells of a thing. What is unknown or lost is told by nobody for certain."""
        thing = self.things[number]
        found = {"answer"}
        if thing.kind != "recording":
            found.add("list")
        if thing.kind != "leg":
            found.add("callback")
        if thing.way == "in":
            found.add("webhook")
        if thing.way == "through" and thing.fate != "killed":
            found.add("own")
        return sorted(found)

    # -- what is told

    async def step(self, number, what):
        thing = self.things[number]
        says_it_was_made = what in ("list", "resolve") or (what == "callback" and thing.kind == "recording")
        if says_it_was_made and not thing.metered and (number, "own") not in self.done:
            # Nothing but the call's own record says that its metering was off. Lists wait for it; that of a recording is
            # there long before the callback in all that is not an outage.
            return
        self.done.add((number, what))
        await getattr(self, f"_{what}")(number, thing)

    async def _own(self, number, thing):
        found = msgspec.convert(self.resource(number, first=True), Resource)
        prepared = Prepared(body=b"", event_type="sms_outbound")
        judge = {"message": judge_message, "call": judge_call}.get(thing.kind, judge_recording)
        usage = judge(found, prepared)
        event_type = {"call": "call_outbound", "recording": "recording"}.get(thing.kind, usage.event_type)
        await self.book(
            [
                usage_event(
                    event_id=call_id(number),
                    source="twilio",
                    event_type=event_type,
                    endpoint=self.endpoint(thing),
                    direction=None if thing.kind == "recording" else "outbound",
                    completeness=usage.completeness,
                    quantities=usage.quantities,
                    resource=usage.resource,
                    external_id=usage.external_id,
                    metered=thing.metered,
                    metadata=usage.metadata,
                )
            ]
        )

    def endpoint(self, thing):
        return {"message": "messages.create", "recording": "calls.recordings.create"}.get(thing.kind, "calls.create")

    async def _unknown(self, number, thing):
        if thing.fate == "recorded":
            return
        found = self.resource(number)
        made = judge_message(msgspec.convert(found, Resource), Prepared(body=b""))
        killed = intent(
            call_id=call_id(number),
            source="twilio",
            event_type=made.event_type if thing.kind == "message" else "call_outbound",
            endpoint=self.endpoint(thing),
            direction="outbound",
            metadata={"to": f"hash of {found['to']}", "from": f"hash of {found['from']}"},
        )
        await self.book([killed.unknown()])

    async def _resolve(self, number, thing):
        if thing.kind == "recording":
            return
        whose = Whose("twilio", DAY.isoformat(), DAY.isoformat(), "acme")
        page = self.page(number, thing)

        async def listed(day):
            yield page.items

        await resolve(self.database, self.booked, whose, listed, "hash of {}".format)

    async def _callback(self, number, thing):
        said = self.resource(number)
        if thing.kind == "message":
            form = {"MessageSid": said["sid"], "MessageStatus": thing.status}
        elif thing.kind == "recording":
            form = {"RecordingSid": said["sid"], "RecordingStatus": "completed", "RecordingDuration": str(thing.used)}
        else:
            form = {"CallSid": said["sid"], "CallStatus": thing.status, "CallDuration": said["duration"]}
        await self._told(callbacks.read_status(list(form.items())))

    async def _webhook(self, number, thing):
        said = self.resource(number)
        if thing.kind == "message":
            form = {"MessageSid": said["sid"], "To": said["to"], "From": said["from"]}
            form |= {"NumMedia": said["num_media"], "NumSegments": said["num_segments"]}
            told = callbacks.read_message(list(form.items()))
        elif thing.kind == "recording":
            form = {"CallSid": "CA" + "e" * 32, "Direction": "outbound-api"}
            form |= {"RecordingSid": said["sid"], "RecordingDuration": str(thing.used)}
            told = callbacks.read_voice(list(form.items()), step=str(number))
        elif thing.kind == "leg":
            form = {"CallSid": f"CA{'d' * 24}{number:08x}", "Direction": "inbound", "CallStatus": "in-progress"}
            form |= {"DialCallSid": said["sid"], "DialCallStatus": "completed"}
            told = callbacks.read_voice(list(form.items()), step=str(number), carried=NEXT)
        else:
            form = {"CallSid": said["sid"], "Direction": "inbound", "CallStatus": "ringing"}
            form |= {"To": said["to"], "From": said["from"]}
            told = callbacks.read_voice(list(form.items()), step=str(number))
        await self._told(told)

    async def _told(self, told):
        self.notes.events.clear()
        await self.recorder.told("acme", "twilio", told)
        await self.book(self.notes.events)

    async def _answer(self, number, thing):
        read = {"message": late.message, "recording": late.recording}.get(thing.kind, late.call)
        found = read(msgspec.json.encode(self.resource(number)))
        await self.book([late_event("acme", "twilio", one) for one in found])

    async def _lost(self, number, thing):
        lost = Usage(quantities={}, completeness=Completeness.UNKNOWN)
        await self.book([late_event("acme", "twilio", Late(external_id=self.sid(number), phase=LOST, usage=lost))])

    def page(self, number, thing):
        kind = "messages" if thing.kind == "message" else "calls"
        read = records.read_messages if thing.kind == "message" else records.read_calls
        return read("/", msgspec.json.encode({kind: [self.resource(number)]}))

    async def _list(self, number, thing):
        page = self.page(number, thing)
        assert page.unreadable == 0
        counts = Counter()
        await self.collector.book_records(Scope("twilio", "acme", ACCOUNT, {}), page.items, counts, AT_MS + 1)
        assert counts["unreadable"] == counts["unattributed"] == counts["young"] == 0

    async def sweep(self):
        """Book what waited for its event, as the back office does now and then."""
        async with self.database.reading() as connection:
            facts = await ready(connection, 100)
        await self.booked(facts)

    # -- what is in the ledger

    async def sums(self):
        at = rollups.c
        columns = [func.sum(at[name]) for name in (*SUMS, "cost_nano", "charge_nano", "events")]
        async with self.database.reading() as connection:
            row = (await connection.execute(select(*columns))).one()
        return {name: int(value or 0) for name, value in zip((*SUMS, "cost", "charge", "events"), row, strict=True)}

    async def rows(self, table):
        async with self.database.reading() as connection:
            return sorted(map(str, (await connection.execute(select(table))).all()))


PRICES = {"sms": 7_500_000, "mms": 20_000_000, "whatsapp": 5_000_000}


def truth(thing):
    """What the provider did for a thing, what it costs, and what the standard book charges for it."""
    found = Counter()
    if not thing.metered:
        return found
    free = thing.status in FREE
    found["cost"] = 0 if free else thing.price_nano
    found["events"] = 1
    if thing.kind == "message":
        if not free:
            media = thing.media if thing.channel == "mms" else 0
            found |= Counter(messages=1, segments=thing.used, media=media)
            if thing.way != "in":
                found["charge"] = PRICES.get(thing.channel, 0) * (thing.used if thing.channel == "sms" else 1)
        return found
    if thing.kind == "recording":
        return found | Counter(seconds=thing.used, requests=thing.way == "in")
    found["requests"] = 1
    if not free:
        found |= Counter(seconds=thing.used, charge=-(-thing.used // 60) * 15_000_000)
    return found


STEPS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["own", "unknown", "resolve", "callback", "webhook", "answer", "list", "lost", "sweep"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(things(), min_size=1, max_size=3), st.lists(STEPS, max_size=14), st.randoms(use_true_random=False))
def test_whatever_is_told_in_whatever_order_the_ledger_is_the_truth(ledgers, made, steps, dice):
    """Guards money on both sides: nothing is counted twice, and nothing is left out."""

    async def live():
        async with ledgers.reused() as database:
            world = World(database, made)
            for number, what in steps:
                if what == "sweep":
                    await world.sweep()
                elif number < len(made) and what in (*world.sources(number), "unknown", "resolve", "lost"):
                    if what in ("unknown", "resolve") and made[number].way != "through":
                        continue
                    await world.step(number, what)
            # In the end each of those who know has said it.
            rest = [(number, what) for number in range(len(made)) for what in world.sources(number)]
            dice.shuffle(rest)
            for number, what in (*rest, *rest):
                await world.step(number, what)
            await world.sweep()
            first = await world.sums(), await world.rows(usage_events)
            for number, what in rest:
                await world.step(number, what)
            await world.sweep()
            again = await world.sums(), await world.rows(usage_events)
            left = [await world.rows(table) for table in (quarantine, late_facts, pending_events)]
            return first, again, left

    first, again, left = asyncio.run(live())

    expected = sum((truth(thing) for thing in made), Counter())
    expected["events"] += sum(2 for thing in made if thing.kind == "leg") + sum(
        thing.kind == "recording" and thing.way == "in" for thing in made
    )
    expected["requests"] += sum(2 for thing in made if thing.kind == "leg")
    found = {name: amount for name, amount in first[0].items() if amount}
    if any(thing.fate != "recorded" for thing in made):
        # A killed call that was listed before it was known to be one is an event beside what was listed.
        found.pop("events", None)
        expected.pop("events", None)
    assert found == {name: amount for name, amount in expected.items() if amount}
    assert again == first
    assert left == [[], [], []]
