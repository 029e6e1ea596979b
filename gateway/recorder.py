"""From a call to the records of the spool: the intent before it is forwarded, its outcome before it is concluded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from gateway.callers import Caller
from gateway.counters import Counters
from gateway.errors import NotRecordable
from gateway.objects import Objects
from gateway.providers.api import Billed, Made, Record, Told
from gateway.providers.learnt import Late, Prepared, Usage
from gateway.routing import Route
from gateway.telemetry import log
from metering.claims import made_key
from metering.event_types import EVENT_TYPES, OTHER
from metering.intents import Closed, Intent
from metering.late import late_fact
from metering.record_texts import IntentText, OutcomeText
from metering.spool import SpoolFailed, SpoolFull
from metering.spool_records import PAYLOAD_BYTES_MAX, RecordKind
from metering.usage import Kind, UsageEvent, event_id_of

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UsageEvent).decode

UNSEEN_FIELDS_MAX: Final = 256
"""So many unknown fields of providers' usage are said once each; of any further one only the counter tells."""

TOO_LARGE: dict[str, object] = {"dropped": "larger than a record"}
"""Stands for metadata that no record takes."""

_OUTCOME: Final = RecordKind.OUTCOME  # Looking it up in the enumeration is a call.


TEXTS_MAX: Final = 8
"""So many models of one key at one endpoint are known by what their records say; then all are forgotten."""


class CallKind:
    """What calls have in common that one caller makes at one endpoint, and how their records are written."""

    __slots__ = ("_intents", "_outcomes", "billable", "caller", "endpoint", "source", "tenant_id")

    def __init__(self, caller: Caller, route: Route) -> None:
        self.caller = caller
        self.endpoint = route.endpoint
        self.billable = route.endpoint.billable
        self.tenant_id = caller.tenant.tenant_id
        self.source = route.provider.name
        self._intents: dict[tuple[str | None, str | None], IntentText] = {}
        self._outcomes: dict[tuple[str | None, str | None, str | None], OutcomeText] = {}

    def intent(self, told_type: str | None, asked: str | None) -> IntentText:
        """The text of their intents, where the request tells of no event type or of this one, and asks for this."""
        text = self._intents.get((told_type, asked))
        if text is None:
            if len(self._intents) >= TEXTS_MAX:
                self._intents.clear()
            text = self._intents[told_type, asked] = IntentText(self.intended("", 0, told_type, asked, {}))
        return text

    def outcome(self, told_type: str | None, asked: str | None, resource: str | None) -> OutcomeText:
        """The text of their outcomes, where this was used."""
        text = self._outcomes.get((told_type, asked, resource))
        if text is None:
            if len(self._outcomes) >= TEXTS_MAX:
                self._outcomes.clear()
            endpoint = self.endpoint
            event = msgspec.structs.replace(
                self.intended("", 0, told_type, resource, {}).unknown(),
                description=f"{asked or resource or self.source} {endpoint.describes or endpoint.name}",
            )
            text = self._outcomes[told_type, asked, resource] = OutcomeText(event)
        return text

    def event_type(self, told_type: str | None) -> str:
        """What the request or the answer tells, else what the endpoint's calls are."""
        return told_type or self.endpoint.event_type

    def intended(
        self, call_id: str, arrived_ms: int, told_type: str | None, asked: str | None, metadata: dict[str, object]
    ) -> Intent:
        """The intent of one call."""
        caller, event_type = self.caller, self.event_type(told_type)
        return Intent(
            call_id=call_id,
            tenant_id=self.tenant_id,
            source=self.source,
            event_type=event_type,
            endpoint=self.endpoint.name,
            occurred_at_ms=arrived_ms,
            direction=EVENT_TYPES.get(event_type, OTHER).direction,
            resource=asked,
            category=caller.category,
            tags=caller.tags,
            key_id=caller.key.key_id,
            metered=caller.metered,
            metadata=metadata,
        )


class Recording:
    """One call under way, as its records will name it."""

    __slots__ = ("arrived_ms", "call_id", "kind", "prepared")

    def __init__(self, call_id: str, arrived_ms: int, kind: CallKind, prepared: Prepared) -> None:
        self.call_id = call_id
        self.arrived_ms = arrived_ms
        self.kind = kind
        self.prepared = prepared


class Outcome:
    """What became of a call, as it was recorded."""

    __slots__ = ("completeness", "event_type", "quantities", "record", "resource")

    def __init__(self, event_type: str, usage: Usage, record: bytes) -> None:
        self.event_type = event_type
        self.resource = usage.resource
        self.completeness = usage.completeness
        self.quantities = usage.quantities
        self.record = record

    @property
    def event(self) -> UsageEvent:
        """As whoever reads the record will see it."""
        return _decode(self.record)


class Records(Protocol):
    """What takes records: a :class:`metering.spool.Spool`, whose words these are."""

    fsync: bool

    def admit(self, payload: bytes) -> int: ...

    def settle(self, intent: int, kind: RecordKind, payload: bytes) -> None: ...

    def note(self, payload: bytes) -> None: ...

    def keep_room(self) -> None: ...

    def note_kept(self, payload: bytes) -> None: ...

    def give_back_room(self) -> None: ...

    def ensure_room(self) -> None: ...

    def write_gathered(self) -> None: ...

    async def durable(self) -> None: ...


class Recorder:
    """Writes records. Each billable call that began is ended exactly once, by `outcome`, `nothing` or `lost`."""

    def __init__(
        self,
        spool: Records,
        objects: Objects,
        now_ms: Callable[[], int],
        reference: Callable[[str], str],
        counters: Counters,
    ) -> None:
        """`reference` makes the keyed hash that stands in records for a number or an address."""
        self._spool = spool
        self._objects = objects
        self._now_ms = now_ms
        self._reference = reference
        self._counters = counters
        self._unseen: set[str] = set()
        """The unknown fields that the log has been told of."""
        self._open: dict[str, int] = {}
        """Calls under way, each with the sequence of its intent."""

    @property
    def syncs(self) -> bool:
        """True where the settings ask that records survive the death of the machine."""
        return self._spool.fsync

    @property
    def open_calls(self) -> int:
        """How many calls have an intent and no end."""
        return len(self._open)

    async def begin(self, call: Recording) -> None:
        """Record that the call is about to be forwarded. Raises NotRecordable; nothing may then be sent."""
        try:
            if not call.kind.billable:
                self._spool.ensure_room()
                return
            self._open[call.call_id] = self._spool.admit(self._intent(call))
            self._counters.intent()
            if self.syncs:
                try:
                    await self.durable()
                except SpoolFailed:
                    self.nothing(call, "not durable")
                    raise
        except (SpoolFull, SpoolFailed) as error:
            raise not_recordable() from error

    def begun(self) -> None:
        """Have the intent in the spool's file now: the call leaves in a later turn than this. Raises NotRecordable."""
        try:
            self._spool.write_gathered()
        except SpoolFailed as error:
            raise not_recordable() from error

    def ended(self) -> None:
        """Have the outcome in the spool's file now: bytes of the answer leave in later turns than this. Raises SpoolFailed."""
        self._spool.write_gathered()

    async def durable(self) -> None:
        """Wait until what was recorded survives the death of the machine; where that `syncs`. Raises SpoolFailed."""
        await self._spool.durable()

    def outcome(self, call: Recording, usage: Usage, status: int) -> Outcome:
        """Record what the call used, and with it the further events of its usage. Raises SpoolFailed or SpoolFull."""
        if usage.further:
            for number, further in enumerate(usage.further):
                self.further(call, further, status, str(number))
        outcome = self._outcome(call, usage, status, call.call_id)
        # Counted also where the disk refuses it: the spool keeps it until it is taken.
        self._counters.outcome(usage.completeness)
        if call.kind.billable:
            self._settle(call, _OUTCOME, outcome.record)
        else:
            self._spool.note(outcome.record)
        if usage.external_id is not None:
            self._objects.made(call.kind.tenant_id, call.kind.source, usage.external_id)
        return outcome

    def events(self, call: Recording, usage: Usage, status: int) -> list[UsageEvent]:
        """The events that `outcome` records."""
        return [self._outcome(call, one, status, call.call_id).event for one in (usage, *usage.further)]

    def further(
        self, call: Recording, usage: Usage, status: int, name: str, write: Callable[[bytes], None] | None = None
    ) -> None:
        """Record one more event of a call that is under way, which within the call is known by `name`: another response of
        a session, what a tool used at another model's price. Raises SpoolFailed or SpoolFull."""
        outcome = self._outcome(call, usage, status, event_id_of(f"{call.call_id}:{name}"))
        self._counters.outcome(usage.completeness)
        (write or self._spool.note)(outcome.record)
        if usage.external_id is not None:
            self._objects.made(call.kind.tenant_id, call.kind.source, usage.external_id)

    def sitting(self, call: Recording, status: int) -> Sitting:
        """Begin to record what is billed within a session. Raises NotRecordable; it must then not begin."""
        sitting = Sitting(self, self._spool, self._now_ms, call, status)
        sitting.expect(())
        return sitting

    def late(self, call: Recording, found: Sequence[Late]) -> None:
        """Record what the answer of this call says of others before it. That may fail: it will be asked for."""
        for one in found:
            fact = late_event(call.kind.tenant_id, call.kind.source, one)
            try:
                self._spool.note(_encode(fact))
            except (SpoolFailed, SpoolFull) as error:
                log.warning("late_fact_not_recorded", call_id=call.call_id, reason=str(error))
                return

    async def told(self, tenant_id: str, source: str, told: Told) -> None:
        """Record what a provider tells by itself, and wait until that survives what it is to survive. Told once more, it is
        the same fact. Raises SpoolFailed or SpoolFull; what was written of it then is, too."""
        at_ms = self._now_ms()
        for made in told.made:
            event = self._made(tenant_id, source, made, at_ms)
            self._spool.note(_encode(event))
            self._counters.outcome(event.completeness)
            if event.external_id is not None:
                self._objects.made(tenant_id, source, event.external_id)
        for late in told.late:
            self._spool.note(_encode(late_event(tenant_id, source, late)))
        self._spool.write_gathered()
        if self.syncs and (told.made or told.late):
            await self.durable()

    async def noted(self, events: Sequence[UsageEvent]) -> None:
        """Record facts that have no call, and wait until they survive what they are to survive. Raises SpoolFailed or
        SpoolFull; what was written of them then is, too."""
        for event in events:
            self._spool.note(_encode(event))
        self._spool.write_gathered()
        if self.syncs:
            await self.durable()

    def _made(self, tenant_id: str, source: str, made: Made, at_ms: int) -> UsageEvent:
        """Something that was used without a call."""
        usage, key = made.usage, f"{source}:{made.key}"
        event_type = usage.event_type or ""
        event = UsageEvent(
            event_id=event_id_of(key),
            tenant_id=tenant_id,
            source=source,
            event_type=event_type,
            endpoint=made.endpoint,
            occurred_at_ms=at_ms,
            completeness=usage.completeness,
            quantities=usage.quantities,
            resource=usage.resource,
            external_id=usage.external_id,
            direction=EVENT_TYPES.get(event_type, OTHER).direction,
            metadata=self._metadata(usage.metadata, usage.parties),
            dedupe_key=key,
        )
        described = f"{usage.resource or source} {event_type.replace('_', ' ')}"
        return msgspec.structs.replace(event, description=described)

    def _outcome(self, call: Recording, usage: Usage, status: int, event_id: str) -> Outcome:
        """What a call used, as an event of this id."""
        kind, asked = call.kind, call.prepared
        if usage.unseen:
            self._report(kind.endpoint.name, usage.unseen)
        told_type = usage.event_type or asked.event_type
        text = kind.outcome(told_type, asked.resource, usage.resource)
        duration_ms = max(0, self._now_ms() - call.arrived_ms)
        metadata = self._metadata(usage.metadata, usage.parties or asked.parties)
        record = b""
        for kept in (metadata, TOO_LARGE):
            record = text.of(
                event_id,
                call.call_id,
                call.arrived_ms,
                status,
                duration_ms,
                usage.completeness,
                usage.quantities,
                usage.external_id,
                kept,
            )
            # Only the provider's own objects can be larger; the quantities that were read from them stay.
            if len(record) <= PAYLOAD_BYTES_MAX:
                break
        return Outcome(kind.event_type(told_type), usage, record)

    def _report(self, endpoint: str, fields: tuple[str, ...]) -> None:
        """Say, once for each, which fields of a provider's usage nobody here knows: what they count is not charged."""
        self._counters.unknown_fields(len(fields))
        for field in fields:
            if field not in self._unseen and len(self._unseen) < UNSEEN_FIELDS_MAX:
                self._unseen.add(field)
                log.warning("usage_field_unknown", endpoint=endpoint, field=field)

    def nothing(self, call: Recording, reason: str) -> None:
        """Record that the call used nothing: it was never sent, or the provider refused it. Raises SpoolFailed."""
        if call.call_id in self._open:
            self._counters.closed()
            self._settle(call, RecordKind.CLOSED, _encode(Closed(call_id=call.call_id, reason=reason)))

    def lost(self, call: Recording) -> Outcome | None:
        """If the call has not ended, record that it was sent and no answer came: the provider may have acted.

        Raises SpoolFailed.
        """
        if call.call_id not in self._open:
            return None
        event = msgspec.structs.replace(self._intended(call).unknown(), description="no answer came")
        self._counters.outcome(event.completeness)
        outcome = Outcome(
            event.event_type,
            Usage(quantities={}, completeness=event.completeness, resource=event.resource),
            _encode(event),
        )
        self._settle(call, _OUTCOME, outcome.record)
        return outcome

    def _settle(self, call: Recording, kind: RecordKind, payload: bytes) -> None:
        self._spool.settle(self._open.pop(call.call_id), kind, payload)

    def _intent(self, call: Recording) -> bytes:
        """What is written before the call is forwarded."""
        asked = call.prepared
        if asked.parties:
            return _encode(self._intended(call))
        return call.kind.intent(asked.event_type, asked.resource).of(call.call_id, call.arrived_ms)

    def _intended(self, call: Recording) -> Intent:
        asked = call.prepared
        metadata = self._metadata({}, asked.parties)
        return call.kind.intended(call.call_id, call.arrived_ms, asked.event_type, asked.resource, metadata)

    def _metadata(self, told: dict[str, object], parties: Mapping[str, str]) -> dict[str, object]:
        """What is kept besides the quantities, with the keyed hashes of who took part."""
        return told | {role: self._reference(party) for role, party in parties.items()} if parties else told


def not_recordable() -> NotRecordable:
    """What a client is told whose call was not sent, since its use could not have been recorded."""
    return NotRecordable("Usage can not be recorded right now, so the call was not sent. Try again shortly.")


class Sitting:
    """The records of one session that is under way, each of which has its room before what it will tell has begun."""

    __slots__ = ("_began_ms", "_call", "_now_ms", "_recorder", "_rooms", "_spool", "_status")

    def __init__(
        self, recorder: Recorder, spool: Records, now_ms: Callable[[], int], call: Recording, status: int
    ) -> None:
        self._recorder = recorder
        self._spool = spool
        self._now_ms = now_ms
        self._call = call
        self._status = status
        self._rooms = 0
        self._began_ms: dict[str, int] = {}
        """When what is under way was first seen. It is of that moment: a session can last from one month into the next."""

    def record(self, billed: Billed) -> None:
        """Record what was used. Raises SpoolFailed, or SpoolFull where no room was kept for so much at once."""
        write = self._spool.note
        if self._rooms:
            self._rooms -= 1
            write = self._spool.note_kept
        began_ms = self._began_ms.get(billed.name) or self._now_ms()
        call = Recording(self._call.call_id, began_ms, self._call.kind, self._call.prepared)
        self._recorder.further(call, billed.usage, self._status, billed.name, write)
        for number, one in enumerate(billed.usage.further):
            self._recorder.further(call, one, self._status, f"{billed.name}:{number}")

    def expect(self, under_way: Collection[str]) -> None:
        """Have room kept for what is under way, and for one thing more: what begins next is using already when it is seen.
        Raises NotRecordable where there is none; the session must then end."""
        now_ms = self._now_ms()
        self._began_ms = {name: self._began_ms.get(name, now_ms) for name in under_way}
        rooms = len(under_way) + 1
        while self._rooms < rooms:
            try:
                self._spool.keep_room()
            except SpoolFull as error:
                raise not_recordable() from error
            self._rooms += 1
        self._give_back(self._rooms - rooms)

    def close(self) -> None:
        """Nothing more will be said."""
        self._give_back(self._rooms)

    def _give_back(self, rooms: int) -> None:
        for _ in range(rooms):
            self._spool.give_back_room()
        self._rooms -= rooms


def late_event(tenant_id: str, source: str, late: Late) -> UsageEvent:
    """What a provider says of a call that is over, as it is recorded: the same whoever found it."""
    usage = late.usage
    event = late_fact(
        tenant_id,
        source,
        late.external_id,
        late.phase,
        usage.completeness,
        usage.quantities,
        usage.resource,
        usage.event_type or "",
        usage.metadata,
    )
    return event if len(_encode(event)) <= PAYLOAD_BYTES_MAX else msgspec.structs.replace(event, metadata=TOO_LARGE)


FOUND: Final = "found in the provider's list"


def made_event(
    tenant_id: str, source: str, record: Record, reference: Callable[[str], str], description: str = FOUND
) -> UsageEvent:
    """What says of a thing, without a call of ours, that it was made. `reference` is as in :class:`Recorder`."""
    made, key = record.made, made_key(source, record.external_id)
    event_type = made.event_type or OTHER.channel
    parties = {role: reference(party) for role, party in made.parties.items()}
    event = UsageEvent(
        event_id=event_id_of(key),
        tenant_id=tenant_id,
        source=source,
        event_type=event_type,
        endpoint=record.endpoint,
        occurred_at_ms=record.occurred_at_ms,
        completeness=made.completeness,
        quantities=made.quantities,
        resource=made.resource,
        external_id=record.external_id,
        kind=Kind.BACKFILL,
        metadata={**made.metadata, **parties},
        dedupe_key=key,
    )
    direction = EVENT_TYPES.get(event_type, OTHER).direction
    return msgspec.structs.replace(event, direction=direction, description=description)
