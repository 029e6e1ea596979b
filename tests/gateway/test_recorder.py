"""From a call to the records of the spool."""

import msgspec
import pytest

from gateway.callers import Caller
from gateway.errors import NotRecordable
from gateway.providers import openai
from gateway.providers.api import Prepared, Usage
from gateway.recorder import Recorder, Recording
from gateway.routing import Routes
from gateway.snapshot import KeyRecord, TenantRecord
from metering.intents import Closed, Intent
from metering.spool import Spool, SpoolFailed, segment_path
from metering.spool_records import RECORD_BYTES_MAX, RecordKind, scan
from metering.usage import Completeness, UsageEvent, validated

ROUTES = Routes((openai.PROVIDER,))
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
    return Recording(call_id, ARRIVED_MS, CALLER, route, Prepared(body=b"", **({"resource": "gpt-4o"} | prepared)))


class Recorded:
    """A recorder over a spool of its own, and what the spool holds."""

    def __init__(self, directory, **how):
        self.directory = directory
        self.spool = Spool(directory, "s", **{"fsync": False, "segment_bytes": 1 << 20} | how)
        self.spool.open()
        self.objects = Remembering()
        self.recorder = Recorder(self.spool, self.objects, lambda: ARRIVED_MS + 812)

    @property
    def records(self):
        types = {RecordKind.INTENT: Intent, RecordKind.OUTCOME: UsageEvent, RecordKind.CLOSED: Closed}
        found = []
        for path in sorted(self.directory.glob("*.spool")):
            found += [
                msgspec.json.decode(record.payload, type=types[record.kind]) for record in scan(path.read_bytes())
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


async def test_a_call_is_an_intent_and_an_outcome(made):
    recorded = made()

    await recorded.recorder.begin(recording())
    event = recorded.recorder.outcome(recording(), USAGE, 200)

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
    event = recorded.recorder.lost(recording())

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
    event = recorded.recorder.outcome(call, Usage(quantities={}, completeness=Completeness.REPORTED), 200)

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
    )

    assert event.event_type == "llm_call"


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

    event = recorded.recorder.outcome(recording(), usage, 200)

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
    recorded = made(segment_bytes=2 * RECORD_BYTES_MAX)
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
    call = recording()._replace(caller=CALLER._replace(metered=False))

    await recorded.recorder.begin(call)
    recorded.recorder.outcome(call, USAGE, 200)

    assert [record.metered for record in recorded.records] == [False, False]


async def test_the_clock_may_go_backwards(made):
    recorded = made()
    early = Recorder(recorded.spool, recorded.objects, lambda: ARRIVED_MS - 5)
    await early.begin(recording())

    assert early.outcome(recording(), USAGE, 200).duration_ms == 0


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
