"""From a call to the records of the spool: the intent before it is forwarded, its outcome before it is concluded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from gateway.callers import Caller
from gateway.counters import Counters
from gateway.errors import NotRecordable
from gateway.objects import Objects
from gateway.providers.api import Billed, Late, Made, Prepared, Record, Told, Usage
from gateway.routing import Route
from gateway.telemetry import log
from metering.claims import made_key
from metering.event_types import EVENT_TYPES, OTHER
from metering.intents import Closed, Intent
from metering.late import late_fact
from metering.spool import SpoolFailed, SpoolFull
from metering.spool_records import PAYLOAD_BYTES_MAX, RecordKind
from metering.usage import Kind, UsageEvent, event_id_of

_encode: Final = msgspec.json.Encoder().encode

UNSEEN_FIELDS_MAX: Final = 256
"""So many unknown fields of providers' usage are said once each; of any further one only the counter tells."""

TOO_LARGE: dict[str, object] = {"dropped": "larger than a record"}
"""Stands for metadata that no record takes."""

_OUTCOME: Final = RecordKind.OUTCOME  # Looking it up in the enumeration is a call.


class Recording(NamedTuple):
    """One call under way, as its records will name it."""

    call_id: str
    arrived_ms: int
    caller: Caller
    route: Route
    prepared: Prepared


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
            if not call.route.endpoint.billable:
                self._spool.ensure_room()
                return
            self._open[call.call_id] = self._spool.admit(_encode(self._intent(call)))
            self._counters.intent()
            if self.syncs:
                try:
                    await self.durable()
                except SpoolFailed:
                    self.nothing(call, "not durable")
                    raise
        except (SpoolFull, SpoolFailed) as error:
            raise _not_recordable() from error

    async def durable(self) -> None:
        """Wait until what was recorded survives the death of the machine; where that `syncs`. Raises SpoolFailed."""
        await self._spool.durable()

    def outcome(self, call: Recording, usage: Usage, status: int) -> UsageEvent:
        """Record what the call used, and with it the further events of its usage. Raises SpoolFailed or SpoolFull."""
        for number, further in enumerate(usage.further):
            self.further(call, further, status, str(number))
        event, payload = self._event(call, usage, status, call.call_id)
        # Counted also where the disk refuses it: the spool keeps it until it is taken.
        self._counters.outcome(event.completeness)
        if call.route.endpoint.billable:
            self._settle(call, _OUTCOME, payload)
        else:
            self._spool.note(payload)
        if event.external_id is not None:
            self._objects.made(event.tenant_id, event.source, event.external_id)
        return event

    def events(self, call: Recording, usage: Usage, status: int) -> list[UsageEvent]:
        """The events that `outcome` records."""
        return [self._event(call, one, status, call.call_id)[0] for one in (usage, *usage.further)]

    def further(
        self, call: Recording, usage: Usage, status: int, name: str, write: Callable[[bytes], None] | None = None
    ) -> UsageEvent:
        """Record one more event of a call that is under way, which within the call is known by `name`: another response of
        a session, what a tool used at another model's price. Raises SpoolFailed or SpoolFull."""
        event, payload = self._event(call, usage, status, event_id_of(f"{call.call_id}:{name}"))
        self._counters.outcome(event.completeness)
        (write or self._spool.note)(payload)
        if event.external_id is not None:
            self._objects.made(event.tenant_id, event.source, event.external_id)
        return event

    def sitting(self, call: Recording, status: int) -> Sitting:
        """Begin to record what is billed within a session. Raises NotRecordable; it must then not begin."""
        sitting = Sitting(self, self._spool, self._now_ms, call, status)
        sitting.expect(())
        return sitting

    def late(self, call: Recording, found: Sequence[Late]) -> None:
        """Record what the answer of this call says of others before it. That may fail: it will be asked for."""
        for one in found:
            fact = late_event(call.caller.tenant.tenant_id, call.route.provider.name, one)
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
        if self.syncs and (told.made or told.late):
            await self.durable()

    async def noted(self, events: Sequence[UsageEvent]) -> None:
        """Record facts that have no call, and wait until they survive what they are to survive. Raises SpoolFailed or
        SpoolFull; what was written of them then is, too."""
        for event in events:
            self._spool.note(_encode(event))
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

    def _event(self, call: Recording, usage: Usage, status: int, event_id: str) -> tuple[UsageEvent, bytes]:
        """An event of a call, and how it is recorded."""
        endpoint = call.route.endpoint
        asked, source = call.prepared.resource, call.route.provider.name
        event_type = usage.event_type or call.prepared.event_type or endpoint.event_type
        caller = call.caller
        if usage.unseen:
            self._report(endpoint.name, usage.unseen)
        # In two steps: Python puts more than fifteen named arguments into a dictionary, which costs more than the event.
        event = UsageEvent(
            event_id=event_id,
            tenant_id=caller.tenant.tenant_id,
            source=source,
            event_type=event_type,
            endpoint=endpoint.name,
            occurred_at_ms=call.arrived_ms,
            completeness=usage.completeness,
            quantities=usage.quantities,
            category=caller.category,
            tags=caller.tags,
            key_id=caller.key.key_id,
            call_id=call.call_id,
            metered=caller.metered,
        )
        event = msgspec.structs.replace(
            event,
            resource=usage.resource,
            external_id=usage.external_id,
            direction=EVENT_TYPES.get(event_type, OTHER).direction,
            description=f"{asked or usage.resource or source} {endpoint.describes or endpoint.name}",
            metadata=self._metadata(usage.metadata, usage.parties or call.prepared.parties),
            status=status,
            duration_ms=max(0, self._now_ms() - call.arrived_ms),
        )
        payload = _encode(event)
        if len(payload) > PAYLOAD_BYTES_MAX:
            # Only the provider's own objects can be this large; the quantities that were read from them stay.
            event = msgspec.structs.replace(event, metadata=TOO_LARGE)
            payload = _encode(event)
        return event, payload

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

    def lost(self, call: Recording) -> UsageEvent | None:
        """If the call has not ended, record that it was sent and no answer came: the provider may have acted.

        Raises SpoolFailed.
        """
        if call.call_id not in self._open:
            return None
        event = msgspec.structs.replace(self._intent(call).unknown(), description="no answer came")
        self._counters.outcome(event.completeness)
        self._settle(call, RecordKind.OUTCOME, _encode(event))
        return event

    def _settle(self, call: Recording, kind: RecordKind, payload: bytes) -> None:
        self._spool.settle(self._open.pop(call.call_id), kind, payload)

    def _intent(self, call: Recording) -> Intent:
        event_type = call.prepared.event_type or call.route.endpoint.event_type
        return Intent(
            call_id=call.call_id,
            tenant_id=call.caller.tenant.tenant_id,
            source=call.route.provider.name,
            event_type=event_type,
            endpoint=call.route.endpoint.name,
            occurred_at_ms=call.arrived_ms,
            direction=EVENT_TYPES.get(event_type, OTHER).direction,
            resource=call.prepared.resource,
            category=call.caller.category,
            tags=call.caller.tags,
            key_id=call.caller.key.key_id,
            metered=call.caller.metered,
            metadata=self._metadata({}, call.prepared.parties),
        )

    def _metadata(self, told: dict[str, object], parties: Mapping[str, str]) -> dict[str, object]:
        """What is kept besides the quantities, with the keyed hashes of who took part."""
        return told | {role: self._reference(party) for role, party in parties.items()} if parties else told


def _not_recordable() -> NotRecordable:
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
        call = self._call._replace(arrived_ms=self._began_ms.get(billed.name) or self._now_ms())
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
                raise _not_recordable() from error
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
