"""What SendGrid's event webhook tells: what became of mail, recipient by recipient. Pure.

Facts from the reference: a delivery is an array; an event is delivered at least once, repeated under the same `sg_event_id`
(dozens of times have been seen), in any order and in any company. `sg_message_id` begins with what the sender was told in
`X-Message-Id`, up to its first dot; a bounce that comes long after its mail has none.

A mail is billed by the recipients that SendGrid takes on: whoever bounced, was blocked or deferred is among them. One that is
dropped (its address is suppressed, or is none) was never sent, and is taken off the mail again. No address is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gateway.providers.learnt import Late, Usage
from metering.usage import Completeness

EVENTS_MAX = 100_000
"""So many events of a delivery are read, more than 10 MiB of real ones hold. Those beyond are set aside, as one thing that can
not be read, and passed on like all of it."""

KINDS = frozenset(
    {
        "processed", "dropped", "delivered", "deferred", "bounce", "blocked", "open", "click", "spamreport",
        "unsubscribe", "group_unsubscribe", "group_resubscribe",
    }
)  # fmt: skip
"""What events tell. Of what else there is, accounts' changes among it, only the number is kept."""

ORDER_KEY = "events"
"""Deliveries are passed on in the order in which they came, all of a tenant's in one row: each is about many mails."""


class Told(NamedTuple):
    """One event, as far as it is needed to pass it on."""

    kind: str
    """One of KINDS, or `other`."""
    event_id: str | None
    """By which it is known, however often it comes."""
    external_id: str | None
    """The mail that it is about."""


class Heard(NamedTuple):
    """What a delivery says."""

    late: tuple[Late, ...]
    """Recipients that were taken on and not sent to, each once."""
    told: tuple[Told, ...]
    unreadable: int
    """How many items are no events, or take a recipient off a mail and do not say which; a rest that is no JSON is one."""
    delivery_id: str
    """The same for the same events, in whatever order and form they come again."""
    order_key: str = ORDER_KEY

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many of each kind there are."""
        return Counter(one.kind for one in self.told)


_read_item = json.JSONDecoder(strict=False, parse_int=float).raw_decode
"""Applications add what they like to events, and the standard library reads what others refuse: half of a surrogate pair, a
number of thousands of digits."""

_BETWEEN = re.compile(r"[ \t\r\n,]*")

_EVENT_ID = re.compile(r"[A-Za-z0-9_=+/-]{1,100}")
_MAIL_ID = re.compile(r"[A-Za-z0-9_=-]{1,200}")
_RECIPIENT_CHARACTERS_MAX = 1024


def heard(body: bytes, reference: Callable[[str], str]) -> Heard:
    """Read a delivery, whatever it holds. `reference` makes the keyed hash that stands for an address."""
    told: list[Told] = []
    dropped: dict[tuple[str, str], Late] = {}
    unreadable = 0
    for event in _items_of(body):
        if event is None or not isinstance(event.get("event"), str):
            unreadable += 1
            continue
        one = _told(event)
        told.append(one)
        if one.kind != "dropped":
            continue
        recipient = _recipient(event, reference)
        if one.external_id is None or recipient is None:
            unreadable += 1
        else:
            dropped[one.external_id, recipient] = _not_sent(one.external_id, recipient)
    return Heard(tuple(dropped.values()), tuple(told), unreadable, _delivery_id(body, told, unreadable))


def _items_of(body: bytes) -> Iterator[dict[str, Any] | None]:
    """The objects of an array, one by one; None for whatever else is there, and for the rest where that can not be read."""
    text = body.decode("utf-8", "replace")
    at = _after(text, 0)
    if not text.startswith("[", at):
        yield None
        return
    at = _after(text, at + 1)
    for _ in range(EVENTS_MAX):
        if text.startswith("]", at):
            return
        try:
            item, at = _read_item(text, at)
        except (ValueError, RecursionError):
            break
        yield item if isinstance(item, dict) else None
        at = _after(text, at)
    yield None


def _after(text: str, at: int) -> int:
    """Where the next item begins."""
    found = _BETWEEN.match(text, at)
    return at if found is None else found.end()


def _told(event: Mapping[str, Any]) -> Told:
    kind = "blocked" if (event["event"], event.get("type")) == ("bounce", "blocked") else event["event"]
    known = _EVENT_ID.fullmatch(_text(event, "sg_event_id"))
    mail = _MAIL_ID.fullmatch(_text(event, "sg_message_id").partition(".")[0])
    return Told(
        kind if kind in KINDS else "other", None if known is None else known[0], None if mail is None else mail[0]
    )


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""


def _recipient(event: Mapping[str, Any], reference: Callable[[str], str]) -> str | None:
    """Who of a mail's recipients it is, whatever the event is called: the message that was made for him, and his address,
    for nobody says that a message has one recipient alone. None where it says neither."""
    part, address = _text(event, "sg_message_id").partition(".")[2], _text(event, "email").strip().lower()
    if not (part or address) or len(part) + len(address) > _RECIPIENT_CHARACTERS_MAX:
        return None
    return reference(f"{part} {address}".encode("utf-8", "replace").decode())


def _not_sent(external_id: str, recipient: str) -> Late:
    """Told again, under whatever event's name, it is the same fact, and booked once. Should more be told than the mail had
    recipients, the ledger takes off no more than there were."""
    return Late(
        external_id=external_id,
        phase=f"less:dropped:{recipient}",
        usage=Usage(
            quantities={"recipients": -1},
            completeness=Completeness.REPORTED,
            event_type="email_outbound",
            metadata={"status": "dropped"},
        ),
    )


def _delivery_id(body: bytes, told: list[Told], unreadable: int) -> str:
    ids = {one.event_id for one in told}
    if not told or unreadable or None in ids:
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha256("\n".join(sorted(one for one in ids if one is not None)).encode()).hexdigest()
