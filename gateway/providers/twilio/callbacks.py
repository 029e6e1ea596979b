"""What Twilio's requests to applications say was used: status callbacks, and what comes in. Pure.

What is told here of a message or a call is also found elsewhere, in its resource or in a list, and whoever finds it must
say the same: so only that is said which all of them know. A message's callback has neither its segments nor its price, and
says no more than that it is time to ask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from urllib.parse import parse_qsl

from gateway.providers.api import Carried, Made, Reply, Told
from gateway.providers.learnt import Late, Usage
from gateway.providers.twilio.late import open_still
from gateway.providers.twilio.paths import SID
from gateway.providers.twilio.resources import COUNT, PLAIN, Resource, come_in, matching, message_type, resource_of
from metering.usage import Completeness

FIELDS_MAX = 1_000
"""Beyond it a form is refused: the largest that Twilio sends, of a message with ten media, has some sixty."""

CALLS = "calls.create"

Form = Sequence[tuple[str, str]]

FINAL_MESSAGE = frozenset({"delivered", "undelivered", "failed", "canceled", "read", "received", "partially_delivered"})
UNANSWERED = frozenset({"busy", "no-answer", "failed", "canceled"})
NO_ANSWER = Reply(502)
"""To a call that goes out: Twilio then asks the URL that the call was made with for this case, as it would without us. And
for what is heard by who waits, which another document would end."""
FINAL_CALL = UNANSWERED | {"completed"}


def form_of(body: bytes) -> Form | None:
    """The fields of a form or a query, in their order; None for what is none."""
    try:
        return parse_qsl(
            body.decode("latin-1"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=FIELDS_MAX
        )
    except ValueError:
        return None


class Fields:
    """The first value of each field of a form."""

    def __init__(self, form: Form) -> None:
        self._fields: dict[str, str] = {}
        for name, value in form:
            self._fields.setdefault(name, value)

    def text(self, *names: str) -> str | None:
        """What stands in the first of these fields that has anything."""
        return next((value for name in names if (value := self._fields.get(name))), None)

    def sid(self, *names: str) -> str | None:
        return matching(self.text(*names), SID)

    def count(self, name: str) -> int | None:
        value = matching(self.text(name), COUNT)
        return None if value is None else int(value)

    def told(self, **names: str) -> dict[str, object]:
        """What is kept of a form: numbers, words and SIDs, by the names that resources have for them."""
        found = {name: matching(self.text(field), PLAIN) for name, field in names.items()}
        return {name: value for name, value in found.items() if value is not None}


def read_status(form: Form) -> Told:
    """A status callback: what became of a message, a call or a recording."""
    fields = Fields(form)
    account = fields.sid("AccountSid")
    recording = fields.sid("RecordingSid")
    if recording is not None:
        made, late = _recording(fields, recording)
        return Told(order_key=fields.sid("CallSid") or recording, account=account, made=made, late=late)
    message, call = fields.sid("MessageSid", "SmsSid"), fields.sid("CallSid")
    if message is not None:
        over = fields.text("MessageStatus", "SmsStatus") in FINAL_MESSAGE
        return Told(order_key=message, account=account, late=(_heard(message),) if over else ())
    if call is not None:
        return Told(order_key=call, account=account, late=_ended(fields, call))
    return Told(order_key="", account=account)


def read_message(form: Form) -> Told | None:
    """A message that came in; None where it does not say which."""
    fields = Fields(form)
    message = fields.sid("MessageSid", "SmsMessageSid", "SmsSid")
    if message is None:
        return None
    quantities = {"messages": 1}
    for dimension, field in (("segments", "NumSegments"), ("media", "NumMedia")):
        count = fields.count(field)
        if count:
            quantities[dimension] = count
    told = _ours(fields)
    usage = Usage(
        quantities=quantities,
        completeness=Completeness.PENDING,
        resource=resource_of(told),
        external_id=message,
        event_type=message_type(told).replace("outbound", "inbound"),
        parties=_parties(fields),
        metadata=fields.told(
            num_segments="NumSegments", num_media="NumMedia", messaging_service_sid="MessagingServiceSid"
        ),
    )
    return Told(
        order_key=message,
        account=fields.sid("AccountSid"),
        addressed=_addressed(fields, "To", "MessagingServiceSid"),
        made=(Made(f"{message}:made", "messages.create", usage),),
    )


def read_voice(form: Form, *, step: str = "", carried: Carried | None = None) -> Told | None:
    """Twilio asks what to do with a call: the first time of one that comes in, or a further one. None where it does not say
    of which.

    A call rings until it is answered, and is answered by the first thing that lets somebody press or say anything: what is
    asked while it still rings is the first question, unless it comes to a URL that an answer of before has named (`carried`).
    That of a call that goes out comes to the URL that it was made with, and is no step either, as long as nobody has pressed or
    said anything there: the call has its own event. Where the application has led on a question by a redirect, it is the same
    question, asked once more. Nor is it a step to hear something as long as one waits, unless something is pressed or said there.
    `step` tells one further question from another: a keyed hash of all that is signed.
    """
    fields = Fields(form)
    call = fields.sid("CallSid")
    heard = carried is not None and carried.heard
    if call is None:
        # What is announced to a whole conference is of no call.
        return Told("", fields.sid("AccountSid"), unanswered=NO_ANSWER) if heard else None
    made: list[Made] = []
    direction = fields.text("Direction") or ""
    inbound = direction == "inbound"
    ringing = fields.text("CallStatus") == "ringing"
    inputs = {name for name in _INPUTS if fields.text(name) is not None}
    if inbound and ringing and carried is None:
        made.append(Made(f"{call}:made", CALLS, _call_usage(fields, call, "call_inbound")))
    elif _is_step(carried, inbound=inbound, inputs=inputs):
        usage = Usage(
            quantities={"requests": 1},
            completeness=Completeness.REPORTED,
            resource=resource_of(_ours(fields)) if inbound else None,
            event_type="ivr_step",
            # Not as what was made: what is said of the call in the end is about the call, and not about this.
            metadata={"call_sid": call},
        )
        made.append(Made(f"{call}:ivr:{step}", CALLS, usage))
    leg = fields.sid("DialCallSid")
    if leg is not None and fields.text("DialCallStatus") == "completed":
        usage = Usage(
            quantities={"requests": 1},
            completeness=Completeness.REPORTED,
            event_type="call_forwarded",
            metadata={"call_sid": leg, "parent_call_sid": call},
        )
        made.append(Made(f"{call}:forwarded:{leg}", CALLS, usage))
        # The leg is a call of its own, which is listed as well, and asked for.
        placed = Usage(
            quantities={"requests": 1},
            completeness=Completeness.PENDING,
            external_id=leg,
            event_type="call_outbound",
            metadata={"parent_call_sid": call},
        )
        made.append(Made(f"{leg}:made", CALLS, placed))
    late = _ended(fields, call)
    recording = fields.sid("RecordingSid")
    if recording is not None:
        recorded, over = _recording(fields, recording)
        made.extend(recorded)
        late += over
    # A call that comes in and is over before it was answered is told of here as well, where a number has one URL for all.
    return Told(
        order_key=call,
        account=fields.sid("AccountSid"),
        addressed=_addressed(fields, "To", "Called") if inbound else (),
        made=tuple(made),
        late=late,
        unanswered=NO_ANSWER if heard or direction.startswith("outbound") else None,
    )


def _is_step(carried: Carried | None, *, inbound: bool, inputs: AbstractSet[str]) -> bool:
    if carried is None:
        return inbound or bool(inputs)
    if carried.redirects:
        # The verb that asks once more submits nothing of what was pressed or said; who comes with that was sent there by another.
        return bool(inputs - {"msg"})
    return bool(inputs) or not (carried.begins or carried.heard)


_INPUTS = (
    *("Digits", "SpeechResult", "DialCallStatus", "RecordingSid", "RecordingUrl", "QueueResult", "PaymentConfirmationCode"),
    *("UnstableSpeechResult", "msg", "ReferTransferTarget", "Result"),
)  # fmt: skip
"""What a further question says of what was done before."""


def _call_usage(fields: Fields, call: str, event_type: str) -> Usage:
    return Usage(
        quantities={"requests": 1},
        completeness=Completeness.PENDING,
        resource=resource_of(_ours(fields)),
        external_id=call,
        event_type=event_type,
        parties=_parties(fields),
    )


def _ended(fields: Fields, call: str) -> tuple[Late, ...]:
    """What a call was in the end: each leg of it has a SID of its own. Its price is told by the call itself, later."""
    status = fields.text("CallStatus")
    seconds = fields.count("CallDuration")
    if status not in FINAL_CALL or (status == "completed" and seconds is None):
        return ()
    usage = Usage(
        quantities={"seconds": seconds} if status == "completed" and seconds is not None else {},
        completeness=Completeness.REPORTED,
        event_type="call_minutes",
        metadata={"status": status},
    )
    final = Late(external_id=call, usage=usage)
    return (final, open_still(call)) if status == "completed" else (final,)


def _heard(external_id: str) -> Late:
    return Late(external_id=external_id, phase="heard", usage=Usage(quantities={}, completeness=Completeness.PENDING))


def _recording(fields: Fields, recording: str) -> tuple[tuple[Made, ...], tuple[Late, ...]]:
    """A recording, once it is over: told to its own callback, and to the question of what comes after it. It may have been
    begun by a call of the application's, which counts it then, and what it came to is a late fact of either. Its price is
    told by the recording itself, later."""
    seconds = fields.count("RecordingDuration")
    if seconds is None or fields.text("RecordingStatus") not in (None, "completed"):
        return (), ()
    final = Usage(
        quantities={"seconds": seconds},
        completeness=Completeness.REPORTED,
        event_type="recording",
        metadata={"status": "completed"},
    )
    made = Usage(
        quantities=final.quantities,
        completeness=Completeness.PENDING,
        external_id=recording,
        event_type="recording",
    )
    return (
        (Made(f"{recording}:made", "calls.recordings.create", made),),
        (Late(external_id=recording, usage=final), open_still(recording)),
    )


def _ours(fields: Fields) -> Resource:
    """What comes in is priced by the number that it comes to."""
    return come_in(Resource(to=fields.text("To", "Called"), num_media=fields.text("NumMedia") or "0"))


def _parties(fields: Fields) -> dict[str, str]:
    found = {"to": fields.text("To", "Called"), "from": fields.text("From", "Caller")}
    return {role: party for role, party in found.items() if party is not None}


def _addressed(fields: Fields, *names: str) -> tuple[str, ...]:
    """The number or the service that something came to, without its channel: whose it is decides for whom it is."""
    found = (fields.text(name) for name in names)
    return tuple(_CHANNEL.sub("", value) for value in found if value is not None)


_CHANNEL = re.compile(r"^[a-z]{1,20}:")
