"""What Twilio says after the call: what became of a message, a call and a recording, and what it cost. Pure.

Facts from the API reference: a message has its segments once a sender is picked, and a price once it was sent, "which may
not be immediately available"; one that is canceled costs nothing, one that failed has no charge for its segments, and one
that was not delivered is charged like any other. A call has its seconds when it is over, each leg under a name of its
own; one that nobody took has none. The answers to a fetch, an update and a list say all of it in the same words.

The type of the event and the country are not said: they are those of the call that made the message, so that a sender
that is picked later makes no second message of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal

from gateway.messages import ResponseHead
from gateway.providers import decoding
from gateway.providers.api import Endpoint, Meter, Pending, Settles
from gateway.providers.body import WhenOver
from gateway.providers.free import free, reads_back
from gateway.providers.learnt import Late, Prepared, Usage
from gateway.providers.twilio.paths import OLD_VERSION, SID
from gateway.providers.twilio.resources import (
    COUNT,
    Resource,
    matching,
    read,
    read_page,
    text_of,
)
from metering.usage import TOLD_COST, Completeness

BODY_BYTES_MAX = 4 << 20
"""A larger answer that passes by is left to whoever asks for it in the end. A page has at most 1,000 messages."""

ITEMS_MAX = 200
"""So many items of a page are read as it passes by, each of which is up to three facts; the others are asked for."""

MESSAGE_OVER = frozenset({"delivered", "undelivered", "failed", "canceled", "read", "received", "partially_delivered"})
MESSAGE_FREE = frozenset({"failed", "canceled"})
"""What Twilio charges no segment for. Its fee for handling a failed one stands in its usage records alone."""
SENT = "sent"
"""The carrier has it, and may still say what became of it. Of some countries none ever does."""

CALL_OVER = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})
RECORDING_OVER = frozenset({"completed", "absent", "failed"})

ALSO_CALLED = {"read": "delivered"}
"""What is read was delivered before: whichever of the two is seen first, it is the same fact."""

_REPORTED = Completeness.REPORTED

CURRENCY = re.compile(r"[A-Za-z]{3}")
_AMOUNT = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")
_CODE = re.compile(r"[0-9]{1,6}")


def message(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of the message that an answer describes; nothing while it is under way."""
    found = read(body)
    return () if found is None else of_message(found)


def old_message(body: bytes) -> tuple[Late, ...]:
    """The same of a message that is so old that no carrier will say any more what became of it."""
    found = read(body)
    return () if found is None else of_message(found, sent_is_over=True)


def messages(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of those messages of a page that are over."""
    return _of_each(of_message, read_page(body, "messages"))


def call(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of the call that an answer describes; nothing while it is under way."""
    found = read(body)
    return () if found is None else of_call(found)


def calls(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of those calls of a page that are over."""
    return _of_each(of_call, read_page(body, "calls"))


def recording(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of the recording that an answer describes; nothing while it is made."""
    found = read(body)
    return () if found is None else of_recording(found)


def recordings(body: bytes) -> tuple[Late, ...]:
    """What is known in the end of those recordings of a page that are over."""
    return _of_each(of_recording, read_page(body, "recordings"))


def _of_each(of_one: Callable[[Resource], tuple[Late, ...]], page: Iterable[Resource]) -> tuple[Late, ...]:
    return tuple(late for number, found in enumerate(page) if number < ITEMS_MAX for late in of_one(found))


def of_message(found: Resource, *, sent_is_over: bool = False) -> tuple[Late, ...]:
    """What is known in the end of a message."""
    sid, status = matching(found.sid, SID), text_of(found.status)
    if sid is None or status is None or (status not in MESSAGE_OVER and status != SENT):
        return ()
    price = price_of(sid, found)
    if status == SENT and not sent_is_over:
        # Whether it arrives or not, it costs that; which of the two is still to be asked.
        return (*price, open_still(sid)) if price else ()
    free_of_charge = status in MESSAGE_FREE
    segments = matching(found.num_segments, COUNT)
    if segments is None and not free_of_charge:
        return price
    quantities = {}
    if not free_of_charge:
        media = matching(found.num_media, COUNT) or "0"
        counted = {"messages": 1, "segments": int(segments or 0), "media": int(media)}
        quantities = {name: count for name, count in counted.items() if count}
    metadata: dict[str, object] = {"status": ALSO_CALLED.get(status, status)}
    code = str(found.error_code) if isinstance(found.error_code, int) else matching(found.error_code, _CODE)
    if code is not None and _CODE.fullmatch(code) and int(code):
        metadata["error_code"] = code
    usage = Usage(quantities=quantities, completeness=_REPORTED, metadata=metadata)
    return _over(sid, usage, price, priced_later=not free_of_charge)


def of_call(found: Resource) -> tuple[Late, ...]:
    """What is known in the end of a call, which is one of its legs."""
    sid, status = matching(found.sid, SID), text_of(found.status)
    if sid is None or status not in CALL_OVER:
        return ()
    talked = status == "completed"
    seconds = matching(found.duration, COUNT)
    if talked and seconds is None:
        return ()
    usage = Usage(
        quantities={"seconds": int(seconds)} if talked and seconds is not None else {},
        completeness=_REPORTED,
        event_type="call_minutes",
        metadata={"status": status},
    )
    return _over(sid, usage, price_of(sid, found), priced_later=talked)


def of_recording(found: Resource) -> tuple[Late, ...]:
    """What is known in the end of a recording."""
    sid, status = matching(found.sid, SID), text_of(found.status)
    if sid is None or status not in RECORDING_OVER:
        return ()
    made = status == "completed"
    seconds = matching(found.duration, COUNT)
    if made and seconds is None:
        return ()
    usage = Usage(
        quantities={"seconds": int(seconds)} if made and seconds is not None else {},
        completeness=_REPORTED,
        event_type="recording",
        metadata={"status": status},
    )
    return _over(sid, usage, price_of(sid, found), priced_later=made)


def _over(sid: str, usage: Usage, price: tuple[Late, ...], *, priced_later: bool) -> tuple[Late, ...]:
    final = Late(external_id=sid, usage=usage)
    return (final, *(price or ((open_still(sid),) if priced_later else ())))


def price_of(sid: str, found: Resource) -> tuple[Late, ...]:
    """What something cost, where its resource says it: there as a loss, here as a number that is written in one way."""
    amount, currency = matching(found.price, _AMOUNT), matching(found.price_unit, CURRENCY)
    if amount is None or currency is None:
        return ()
    cost = f"{abs(Decimal(amount)):f}"
    if "." in cost:
        cost = cost.rstrip("0").rstrip(".")
    told: dict[str, object] = {TOLD_COST: cost, "currency": currency.upper()}
    return (Late(external_id=sid, phase="price", usage=Usage(quantities={}, completeness=_REPORTED, metadata=told)),)


def open_still(sid: str) -> Late:
    """Says of something that is over that its price is still to come."""
    return Late(external_id=sid, phase="open", usage=Usage(quantities={}, completeness=Completeness.PENDING))


# ---------------------------------------------------------------------------------------------------------------------
# Passing by


TEXTS = ("json", "xml")
"""So end the media types of what describes a resource; below the same paths lie sounds and pictures."""


def reads_final(
    name: str, method: str, path: str, read: Callable[[bytes], tuple[Late, ...]], *, lists: bool = False
) -> Endpoint:
    """An endpoint that reads or changes what a call of before has made: free, but its answer may be the last word on it."""

    def said(body: bytes | None) -> Usage:
        return Usage(quantities={}, completeness=_REPORTED, late=read(body) if body else ())

    def passing_by(head: ResponseHead, prepared: Prepared) -> Meter:
        if not head.media_type.endswith(TEXTS):
            return free(head, prepared)
        return decoding.plain_for(WhenOver(said, BODY_BYTES_MAX), head)

    return replace(reads_back(name, method, path, lists=lists), meter=passing_by)


# ---------------------------------------------------------------------------------------------------------------------
# Asking


def _below(kind: str) -> Callable[[Pending], str | None]:
    """Where the objects of one kind are, below the account."""

    def at(pending: Pending) -> str | None:
        if pending.account is None or not SID.fullmatch(pending.external_id):
            return None
        return f"/{OLD_VERSION}/Accounts/{pending.account}/{kind}/{pending.external_id}.json"

    return at


DAY_S = 86_400.0
INTERVAL_S_MAX = 6 * 3600.0
"""What is open for days, as one that is scheduled, need not be asked for every few minutes."""

SENT_DAYS_MAX = 4
"""A carrier says within three days what became of a message, or never."""

SCHEDULED_DAYS_MAX = 35
"""So far ahead a message can be scheduled."""

MESSAGE = Settles(
    path=_below("Messages"),
    read=message,
    first_s=10,
    days_max=SCHEDULED_DAYS_MAX + SENT_DAYS_MAX + 1,
    gone_s=DAY_S,
    interval_s_max=INTERVAL_S_MAX,
    read_old=old_message,
    old_days=SENT_DAYS_MAX,
)
CALL = Settles(path=_below("Calls"), read=call, first_s=10, days_max=14, gone_s=DAY_S, interval_s_max=INTERVAL_S_MAX)
RECORDING = Settles(
    path=_below("Recordings"), read=recording, first_s=10, days_max=14, gone_s=DAY_S, interval_s_max=INTERVAL_S_MAX
)
