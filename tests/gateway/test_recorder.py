"""From a call to the records of the spool."""

from dataclasses import replace

import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.callers import Caller
from gateway.counters import Counters, living
from gateway.errors import NotRecordable
from gateway.providers import PROVIDERS
from gateway.providers.api import Billed, Made, Told
from gateway.providers.learnt import Late, Prepared, Usage
from gateway.recorder import TEXTS_MAX, UNSEEN_FIELDS_MAX, CallKind, Recorder, Recording, late_event
from gateway.routing import Routes
from gateway.snapshot import KeyRecord, TenantRecord
from metering.facts import validated
from metering.intents import Closed, Intent
from metering.spool import Spool, SpoolFailed, SpoolFull, segment_path
from metering.spool_records import PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, RecordKind, scan, seed_of
from metering.usage import Completeness, UsageEvent, event_id_of

ROUTES = Routes(PROVIDERS)
ARRIVED_MS = 1_795_176_000_000
CALLER = Caller(
    key=KeyRecord(key_id="k1", digest="", tenant_id="acme", scopes=frozenset()),
    tenant=TenantRecord(tenant_id="acme", status="active", account_sid=""),
    category="rag",
    tags={"team": "a"},
    metered=True,
    brings_credential=False,
)
USAGE = Usage(
    quantities={"input_tokens": 3},
    completeness=Completeness.REPORTED,
    resource="gpt-4o-2024-08-06",
    external_id="chatcmpl-1",
    metadata={"usage": {"prompt_tokens": 3}},
)


MESSAGES = "/twilio/2010-04-01/Accounts/AC1/Messages.json"
TO, FROM = "+12025550143", "whatsapp:+12025550199"


def hashed(party):
    """Stands for the keyed hash: the same for the same, and without a digit of it."""
    return "h" + party.translate(str.maketrans("0123456789+:", "abcdefghijkl"))


class Remembering:
    """The Objects of a gateway without a ledger."""

    def __init__(self):
        self.told = []

    def made(self, *made):
        self.told.append(made)

    async def owns(self, *made):
        return made in self.told


def recording(call_id="c1", method="POST", path="/openai/v1/chat/completions", **prepared):
    route = ROUTES.match(method, path)
    return Recording(
        call_id, ARRIVED_MS, CallKind(CALLER, route), Prepared(body=b"", **({"resource": "gpt-4o"} | prepared))
    )


class Recorded:
    """A recorder over a spool of its own, and what the spool holds."""

    def __init__(self, directory, **how):
        self.directory = directory
        self.spool = Spool(directory, "s", **{"fsync": False, "segment_bytes": 1 << 20} | how)
        self.spool.open()
        self.objects = Remembering()
        self.counters = Counters()
        self.recorder = Recorder(self.spool, self.objects, lambda: ARRIVED_MS + 812, hashed, self.counters)

    def counted(self, name):
        """What the metrics show, as the back office reads it."""
        self.counters.open(self.directory / "counters", 0)
        return living(self.directory / "counters")["0"].values[name]

    @property
    def records(self):
        types = {RecordKind.INTENT: Intent, RecordKind.OUTCOME: UsageEvent, RecordKind.CLOSED: Closed}
        found = []
        for path in sorted(self.directory.glob("*.spool")):
            found += [
                msgspec.json.decode(record.payload, type=types[record.kind])
                for record in scan(path.read_bytes(), 0, seed_of("s"))
                if record.kind in types
            ]
        return found


@pytest.fixture
def made(tmp_path):
    opened = []

    def make(**how):
        opened.append(Recorded(tmp_path / str(len(opened)), **how))
        return opened[-1]

    yield make
    for recorded in opened:
        recorded.spool.close()


TOLD = Told(
    order_key="SM1",
    made=(
        Made(
            "SM1:made",
            "messages.create",
            Usage(
                quantities={"messages": 1},
                completeness=Completeness.PENDING,
                resource="US:long_code",
                external_id="SM1",
                event_type="sms_inbound",
                parties={"from": "+12025550143"},
            ),
        ),
    ),
    late=(Late(external_id="SM0", phase="heard", usage=Usage(quantities={}, completeness=Completeness.PENDING)),),
)


async def test_what_a_provider_tells_by_itself_is_events_of_no_call(made):
    recorded = made()

    await recorded.recorder.told("acme", "twilio", TOLD)

    event, late = recorded.records
    assert event == validated(event)
    assert (event.event_id, event.dedupe_key) == (event_id_of("twilio:SM1:made"), "twilio:SM1:made")
    assert (event.tenant_id, event.source, event.endpoint) == ("acme", "twilio", "messages.create")
    assert (event.direction, event.call_id, event.key_id) == ("inbound", None, None)
    assert event.metadata == {"from": hashed("+12025550143")}
    assert event.occurred_at_ms == ARRIVED_MS + 812
    assert late.dedupe_key == "twilio:SM0:heard"
    assert ("acme", "twilio", "SM1") in recorded.objects.told


async def test_what_a_provider_tells_survives_the_machine_where_records_do(made):
    recorded = made(fsync=True)
    waited = []
    durable = recorded.spool.durable

    async def watched():
        waited.append(len(recorded.records))
        await durable()

    recorded.spool.durable = watched
    await recorded.recorder.told("acme", "twilio", TOLD)

    assert waited == [2]


async def test_a_call_is_an_intent_and_an_outcome(made):
    recorded = made()

    await recorded.recorder.begin(recording())
    event = recorded.recorder.outcome(recording(), USAGE, 200).event

    intent, outcome = recorded.records
    assert (intent.call_id, intent.tenant_id, intent.endpoint, intent.resource) == (
        "c1",
        "acme",
        "chat.completions",
        "gpt-4o",
    )
    assert outcome == event == validated(event)
    assert (event.event_id, event.call_id, event.tenant_id, event.source) == ("c1", "c1", "acme", "openai")
    assert (event.event_type, event.endpoint, event.status, event.duration_ms) == (
        "llm_call",
        "chat.completions",
        200,
        812,
    )
    assert (event.resource, event.quantities, event.external_id) == (
        "gpt-4o-2024-08-06",
        {"input_tokens": 3},
        "chatcmpl-1",
    )
    assert (event.category, event.tags, event.key_id) == ("rag", {"team": "a"}, "k1")
    assert event.description == "gpt-4o chat completion"
    assert event.metadata == {"usage": {"prompt_tokens": 3}}


async def test_a_call_that_used_nothing_closes_its_intent(made):
    recorded = made()

    await recorded.recorder.begin(recording())
    recorded.recorder.nothing(recording(), "status 429")

    assert recorded.records[1:] == [Closed(call_id="c1", reason="status 429")]


async def test_a_call_of_which_nothing_was_heard_is_an_unknown_event(made):
    recorded = made()

    await recorded.recorder.begin(recording())
    event = recorded.recorder.lost(recording()).event

    assert recorded.records[1:] == [event]
    assert (event.completeness, event.quantities, event.resource) == (Completeness.UNKNOWN, {}, "gpt-4o")


@pytest.mark.parametrize("ending", ["outcome", "nothing", "lost"])
async def test_a_call_ends_once(made, ending):
    """Guards the set of calls that are open: two endings would count one call twice, and free room that is needed."""
    recorded = made()
    await recorded.recorder.begin(recording())
    if ending == "outcome":
        recorded.recorder.outcome(recording(), USAGE, 200)
    elif ending == "nothing":
        recorded.recorder.nothing(recording(), "unreachable")
    else:
        recorded.recorder.lost(recording())

    assert recorded.recorder.lost(recording()) is None
    recorded.recorder.nothing(recording(), "again")

    assert len(recorded.records) == 2


async def test_what_costs_nothing_needs_no_intent_and_is_an_event_all_the_same(made):
    recorded = made()
    call = recording(method="GET", path="/openai/v1/responses/resp_1", resource=None)

    await recorded.recorder.begin(call)
    before = recorded.records
    event = recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.REPORTED), 200).event

    assert before == []
    assert recorded.records == [event]
    assert (event.event_type, event.endpoint, event.description) == (
        "api_call",
        "responses.retrieve",
        "openai responses.retrieve",
    )
    assert recorded.recorder.lost(call) is None


async def test_the_answer_may_tell_the_type_of_an_event(made):
    recorded = made()
    call = recording(path="/openai/v1/new/thing")
    await recorded.recorder.begin(call)

    event = recorded.recorder.outcome(
        call, Usage(quantities={}, completeness=Completeness.REPORTED, event_type="llm_call"), 200
    ).event

    assert event.event_type == "llm_call"


async def test_the_request_may_tell_the_type_of_an_event(made):
    recorded = made()
    call = recording(path=MESSAGES, resource="US:whatsapp", event_type="whatsapp_outbound")

    await recorded.recorder.begin(call)
    event = recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.UNKNOWN), 201).event

    assert [record.event_type for record in recorded.records] == ["whatsapp_outbound"] * 2
    assert event.description == "US:whatsapp message"


async def test_what_the_answer_tells_of_the_type_counts_before_what_the_request_told(made):
    recorded = made()
    call = recording(path=MESSAGES, event_type="sms_outbound")
    usage = Usage(quantities={"media": 1}, completeness=Completeness.PENDING, event_type="mms_outbound")
    await recorded.recorder.begin(call)

    assert recorded.recorder.outcome(call, usage, 201).event_type == "mms_outbound"


async def test_of_numbers_and_addresses_only_keyed_hashes_are_kept(made):
    """Guards the hashing in both records: a number in a spool is a number in the ledger, and its erasure breaks that."""
    recorded = made()
    call = recording(path=MESSAGES, resource="US:long_code", parties={"to": TO, "from": FROM})
    usage = Usage(
        quantities={"messages": 1},
        completeness=Completeness.PENDING,
        parties={"to": TO, "from": FROM},
        metadata={"num_segments": "1"},
    )

    await recorded.recorder.begin(call)
    recorded.recorder.outcome(call, usage, 201)

    parties = {"to": hashed(TO), "from": hashed(FROM)}
    assert [record.metadata for record in recorded.records] == [parties, {"num_segments": "1"} | parties]
    kept = b"".join(path.read_bytes() for path in recorded.directory.glob("*.spool"))
    assert TO[1:].encode() not in kept
    assert FROM[-11:].encode() not in kept


async def test_where_the_answer_tells_nobody_the_request_s_parties_are_kept(made):
    recorded = made()
    call = recording(path="/sendgrid/v3/mail/send", parties={"from": "toll@example.com"})
    await recorded.recorder.begin(call)

    event = recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.REPORTED), 202).event

    assert event.metadata == {"from": hashed("toll@example.com")}


async def test_a_call_of_which_nothing_was_heard_can_be_looked_for_by_its_parties(made):
    recorded = made()
    call = recording(path=MESSAGES, parties={"to": TO})
    await recorded.recorder.begin(call)

    event = recorded.recorder.lost(call).event

    assert (event.metadata, event.direction) == ({"to": hashed(TO)}, "outbound")


@pytest.mark.parametrize(
    ("path", "direction"),
    [
        ("/openai/v1/chat/completions", None),
        (MESSAGES, "outbound"),
        ("/twilio/2010-04-01/Accounts/AC1/Calls.json", "outbound"),
        ("/sendgrid/v3/mail/send", "outbound"),
        ("/sendgrid/v3/templates", None),
    ],
)
async def test_both_records_say_which_way_it_went(made, path, direction):
    recorded = made()
    call = recording(path=path)
    await recorded.recorder.begin(call)
    recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.REPORTED), 200)

    assert [record.direction for record in recorded.records] == [direction] * 2


async def test_a_type_that_is_not_in_the_table_goes_no_way(made):
    recorded = made()
    call = recording(event_type="something_else")
    await recorded.recorder.begin(call)

    assert recorded.recorder.lost(call).event.direction is None


async def test_what_was_made_is_remembered_for_its_tenant(made):
    recorded = made()
    await recorded.recorder.begin(recording())

    recorded.recorder.outcome(recording(), USAGE, 200)

    assert recorded.objects.told == [("acme", "openai", "chatcmpl-1")]


async def test_an_object_larger_than_a_record_costs_its_metadata_and_not_the_event(made):
    """Guards the bound of a payload: the spool raises for a larger one, and the call would be unknown."""
    recorded = made()
    await recorded.recorder.begin(recording())
    usage = Usage(
        quantities={"input_tokens": 3},
        completeness=Completeness.REPORTED,
        metadata={"usage": {f"k{n}": n for n in range(5000)}},
    )

    event = recorded.recorder.outcome(recording(), usage, 200).event

    assert event.quantities == {"input_tokens": 3}
    assert recorded.records[1] == event
    assert len(msgspec.json.encode(event)) < RECORD_BYTES_MAX


async def test_a_spool_without_room_refuses_before_anything_is_sent(made):
    """Guards the room that is kept for each outcome: every call that began can be ended."""
    recorded = made(segment_bytes=8 * RECORD_BYTES_MAX)
    begun = []

    async def begin_as_many_as_there_is_room_for():
        for number in range(100):
            call = recording(call_id=f"c{number}")
            await recorded.recorder.begin(call)
            begun.append(call)

    with pytest.raises(NotRecordable):
        await begin_as_many_as_there_is_room_for()
    for call in begun:
        recorded.recorder.outcome(call, USAGE, 200)
    await recorded.recorder.begin(recording(call_id="later"))

    assert 0 < len(begun) < 100
    assert sum(isinstance(record, UsageEvent) for record in recorded.records) == len(begun)


async def test_a_refused_call_has_nothing_to_end(made):
    recorded = made(segment_bytes=3 * RECORD_BYTES_MAX)
    await recorded.recorder.begin(recording())
    refused = recording(call_id="refused")

    with pytest.raises(NotRecordable):
        await recorded.recorder.begin(refused)

    assert recorded.recorder.lost(refused) is None
    recorded.recorder.nothing(refused, "refused")
    assert len(recorded.records) == 1


async def test_a_disk_that_refuses_stops_new_calls_and_is_not_taken_for_success(made, monkeypatch):
    recorded = made()
    await recorded.recorder.begin(recording())

    def full():
        raise SpoolFull("no space left on device")

    monkeypatch.setattr(recorded.spool, "_begin_segment", full)
    recorded.spool.failed = True

    with pytest.raises(SpoolFailed):
        recorded.recorder.outcome(recording(), USAGE, 200)
    with pytest.raises(NotRecordable):
        await recorded.recorder.begin(recording(call_id="c2"))


async def test_where_it_is_asked_for_a_record_survives_the_machine(made, monkeypatch):
    """Guards waiting in begin: without it, the intent is on its way to the disk when the call already is to the provider."""
    recorded = made(fsync=True)
    synced = []
    durable = recorded.spool.durable

    async def watched():
        await durable()
        synced.append(len(recorded.records))

    monkeypatch.setattr(recorded.spool, "durable", watched)

    await recorded.recorder.begin(recording())
    recorded.recorder.outcome(recording(), USAGE, 200)
    await recorded.recorder.durable()

    assert synced == [1, 2]
    assert segment_path(recorded.directory, "s", 0).exists()


async def test_a_call_that_is_not_metered_says_so_in_both_records(made):
    recorded = made()
    plain = recording()
    kind = CallKind(CALLER._replace(metered=False), ROUTES.match("POST", "/openai/v1/chat/completions"))
    call = Recording(plain.call_id, plain.arrived_ms, kind, plain.prepared)

    await recorded.recorder.begin(call)
    recorded.recorder.outcome(call, USAGE, 200)

    assert [record.metered for record in recorded.records] == [False, False]


async def test_the_clock_may_go_backwards(made):
    recorded = made()
    early = Recorder(recorded.spool, recorded.objects, lambda: ARRIVED_MS - 5, hashed, Counters())
    await early.begin(recording())

    assert early.outcome(recording(), USAGE, 200).event.duration_ms == 0


async def test_a_call_whose_intent_could_not_be_made_durable_leaves_nothing_open(made, monkeypatch):
    """Guards the end of a call that was admitted and not sent: else its room is gone, and it is an unknown one day."""
    recorded = made(fsync=True, segment_bytes=6 * RECORD_BYTES_MAX)
    durable = recorded.spool.durable

    async def refusing():
        raise SpoolFailed("no descriptor is free")

    monkeypatch.setattr(recorded.spool, "durable", refusing)
    for number in range(50):
        with pytest.raises(NotRecordable):
            await recorded.recorder.begin(recording(call_id=f"c{number}"))
    monkeypatch.setattr(recorded.spool, "durable", durable)
    await recorded.recorder.begin(recording(call_id="later"))

    intents = {record.call_id for record in recorded.records if isinstance(record, Intent)}
    closed = {record.call_id for record in recorded.records if isinstance(record, Closed)}
    assert intents - closed == {"later"}


async def test_a_field_of_the_usage_that_nobody_knows_is_said_once_and_counted_each_time(made):
    """Guards the provider's new dimensions: a kind of use that is not known here must not pass in silence. And no more of
    it is said than its name, and not with each call."""
    recorded = made()
    usage = replace(USAGE, unseen=("input_tokens_details.video_tokens", "scent_tokens"))

    with capture_logs() as said:
        for number in range(3):
            call = recording(f"c{number}")
            await recorded.recorder.begin(call)
            recorded.recorder.outcome(call, usage, 200)

    named = {"log_level": "warning", "event": "usage_field_unknown", "endpoint": "chat.completions"}
    assert said == [named | {"field": "input_tokens_details.video_tokens"}, named | {"field": "scent_tokens"}]
    assert recorded.counted("tollkeeper_usage_fields_unknown_total") == (6,)


async def test_so_many_unknown_fields_are_said_and_no_more(made):
    """Guards the memory and the log: a provider that makes its names up could fill both."""
    recorded = made()
    with capture_logs() as said:
        for number in range(2 * UNSEEN_FIELDS_MAX):
            call = recording(f"c{number}")
            await recorded.recorder.begin(call)
            recorded.recorder.outcome(call, replace(USAGE, unseen=(f"field_{number}",)), 200)

    assert len(said) == UNSEEN_FIELDS_MAX


async def session_begun(recorded):
    call = recording(method="GET", path="/openai/v1/realtime")
    await recorded.recorder.begin(call)
    return call, recorded.recorder.sitting(call, 101)


async def test_what_is_billed_within_a_session_is_an_event_each_that_its_name_tells_from_others(made):
    recorded = made()
    call, sitting = await session_begun(recorded)

    for name in ("resp_1", "resp_2", "resp_1"):
        sitting.record(Billed(name, replace(USAGE, external_id=name)))
    sitting.close()
    recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.REPORTED), 101)

    _, first, second, again, session = recorded.records
    assert (first.call_id, first.status, first.quantities) == ("c1", 101, USAGE.quantities)
    assert first.event_id == again.event_id
    assert len({first.event_id, second.event_id, session.event_id}) == 3
    assert session.event_id == "c1"
    assert ("acme", "openai", "resp_2") in recorded.objects.told


async def test_what_is_billed_within_a_session_is_of_the_moment_at_which_it_began(made):
    """Guards the month that it is billed in: sabotaged (the session's own moment), a response of the 1st is of the 31st."""
    recorded = made()
    now_ms = [ARRIVED_MS + 1_000]
    recorded.recorder._now_ms = lambda: now_ms[0]
    _, sitting = await session_begun(recorded)

    sitting.expect(("resp_1",))
    now_ms[0] += 5_000
    sitting.expect(("resp_1", "resp_2"))
    now_ms[0] += 700
    for name in ("resp_1", "resp_2", "resp_3"):
        sitting.record(Billed(name, USAGE))

    assert [(event.occurred_at_ms - ARRIVED_MS, event.duration_ms) for event in recorded.records[1:]] == [
        (1_000, 5_700),
        (6_000, 700),
        (6_700, 0),
    ]


async def test_what_a_session_will_say_has_its_room_before_it_is_said(made):
    """Guards the room that is kept: sabotaged (a session keeps none), its next response can not be recorded."""
    recorded = made(segment_bytes=16 * RECORD_BYTES_MAX)
    call, sitting = await session_begun(recorded)
    sitting.expect(("resp_0", "resp_1"))
    others = []

    async def begin_as_many_as_there_is_room_for():
        while True:
            call = recording(call_id=f"other {len(others)}")
            await recorded.recorder.begin(call)
            others.append(call)

    with pytest.raises(NotRecordable):
        await begin_as_many_as_there_is_room_for()
    recorded.spool._begin_segment = None  # It may not even try.

    for number in range(3):
        sitting.record(Billed(f"resp_{number}", USAGE))
    recorded.recorder.outcome(call, USAGE, 101)

    assert sum(isinstance(record, UsageEvent) for record in recorded.records) == 4
    for other in others:
        recorded.recorder.nothing(other, "over")


async def test_a_session_for_whose_records_there_is_no_room_does_not_begin_and_takes_none(made):
    recorded = made(segment_bytes=4 * RECORD_BYTES_MAX)
    await recorded.recorder.begin(recording(call_id="other"))
    call = recording(method="GET", path="/openai/v1/realtime")
    await recorded.recorder.begin(call)
    first = recorded.recorder.sitting(call, 101)

    with pytest.raises(NotRecordable):
        recorded.recorder.sitting(call, 101)
    first.close()
    recorded.recorder.sitting(call, 101).close()

    assert recorded.spool._under_way == 2


FINAL = Late(external_id="resp_1", usage=replace(USAGE, external_id=None))


def test_what_an_answer_says_of_another_call_is_the_same_whichever_call_and_worker_recorded_it(made):
    """Guards that it is booked once: the ledger tells a repetition from a contradiction by the content."""
    found = []
    for call_id in ("c1", "c2"):
        recorded = made()
        reading = recording(call_id, "GET", "/openai/v1/responses/resp_1", resource=None)
        recorded.recorder.late(reading, [FINAL])
        found += recorded.records

    assert found == [late_event("acme", "openai", FINAL)] * 2
    fact = validated(found[0])
    assert (fact.kind, fact.corrects, fact.dedupe_key) == ("correction", None, "openai:resp_1:final")
    assert (fact.tenant_id, fact.call_id, fact.key_id, fact.quantities) == ("acme", None, None, {"input_tokens": 3})


def test_a_late_fact_that_the_disk_does_not_take_breaks_no_answer(made, monkeypatch):
    recorded = made()

    def full(payload):
        raise SpoolFull("no space left on device")

    monkeypatch.setattr(recorded.spool, "note", full)

    recorded.recorder.late(recording("c1", "GET", "/openai/v1/responses/resp_1"), [FINAL])

    assert recorded.records == []


def test_a_late_fact_fits_into_a_record_whatever_the_provider_says():
    usage = replace(USAGE, metadata={"usage": {f"n{number}": number for number in range(100_000)}})

    fact = late_event("acme", "openai", FINAL._replace(usage=usage))

    assert len(msgspec.json.encode(fact)) <= PAYLOAD_BYTES_MAX
    assert fact.quantities == USAGE.quantities


async def test_what_tools_used_within_a_session_is_recorded_beside_their_response(made):
    """Guards money: pictures and containers of a response cost the same however the response is asked for."""
    recorded = made()
    _, sitting = await session_begun(recorded)
    picture = replace(USAGE, quantities={"output_tokens_image": 4_000}, resource="gpt-image-1")

    sitting.record(Billed("resp_1", replace(USAGE, further=(picture,))))

    _, response, drawn = recorded.records
    assert response.quantities == USAGE.quantities
    assert (drawn.resource, drawn.quantities) == ("gpt-image-1", {"output_tokens_image": 4_000})
    assert drawn.event_id != response.event_id


async def test_models_are_as_many_as_applications_make_up(made):
    """Guards the bound of the texts that are kept for one key: names of models are whatever an application writes."""
    recorded = made()
    kind = CallKind(CALLER, ROUTES.match("POST", "/openai/v1/chat/completions"))
    models = [f"model-{number}" for number in range(3 * TEXTS_MAX)]
    for model in models:
        call = Recording(model, ARRIVED_MS, kind, Prepared(body=b"", resource=model))
        await recorded.recorder.begin(call)
        recorded.recorder.outcome(call, USAGE, 200)
        assert len(kind._intents) <= TEXTS_MAX
        assert len(kind._outcomes) <= TEXTS_MAX

    said = [record for record in recorded.records if isinstance(record, Intent)]
    assert [(intent.call_id, intent.resource) for intent in said] == [(model, model) for model in models]
