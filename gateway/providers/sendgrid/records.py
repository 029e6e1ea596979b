"""SendGrid's own lists of what it sent: the statistics of a day, and the activity of its messages. Pure.

Sources: the official OpenAPI description and the API reference (Stats, Email Activity; the latter is a paid addition to an
account, which answers 403 without it). The activity has no pages: it gives up to 1,000 messages of a span of time, so a
span that is full is asked for again up to where it got.
"""

from __future__ import annotations

import datetime as dt
import re
from urllib.parse import parse_qs, urlencode

import msgspec

from gateway.providers.api import Closer, Listing, NotAPage, Page, Record, Total
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Late, Usage
from gateway.providers.sendgrid.mail import TRANSACTIONAL
from metering.usage import Completeness

PAGE_ITEMS = 1000
"""The most that an answer may hold."""

ON_BEHALF_OF = "On-Behalf-Of"

PROCESSED = "processed"
"""The event that says when a message was taken on."""

CATEGORIES = "sendgrid_categories"
"""The field of an integration that holds a tenant's."""


class _Sent(msgspec.Struct):
    """The activity of one recipient of a mail. Its subject and addresses are not read."""

    msg_id: str
    last_event_time: str
    status: str = ""


class _Activity(msgspec.Struct):
    messages: list[_Sent]


class _Event(msgspec.Struct):
    event_name: str
    processed: str = ""


class _Described(msgspec.Struct):
    """A message by itself. Nothing else of it is read."""

    events: list[_Event] = []
    categories: list[str] = []


class _Metrics(msgspec.Struct):
    metrics: dict[str, int]


class _Day(msgspec.Struct):
    date: str
    stats: list[_Metrics]


_read_activity = msgspec.json.Decoder(_Activity).decode
_read_described = msgspec.json.Decoder(_Described).decode
_read_days = msgspec.json.Decoder(list[_Day]).decode

_MSG_ID = re.compile(r"([A-Za-z0-9_=-]{1,200})\.([A-Za-z0-9_.=-]{1,300})")
"""The id of the mail, as its `X-Message-Id` is, and what tells its recipients apart."""

_SPAN = re.compile(r'last_event_time BETWEEN TIMESTAMP "([^"]{20})" AND TIMESTAMP "([^"]{20})"')


def _activity_path(start: str, end: str) -> str:
    span = f'last_event_time BETWEEN TIMESTAMP "{start}" AND TIMESTAMP "{end}"'
    return f"/v3/messages?{urlencode({'query': span, 'limit': PAGE_ITEMS})}"


def first_activity(account: str, day: dt.date) -> str:
    """Where the activity of a day begins."""
    return _activity_path(f"{day}T00:00:00Z", f"{day}T23:59:59Z")


def read_activity(path: str, body: bytes) -> Page[Record]:
    """What was sent in a span of time, newest first. Raises NotAPage."""
    try:
        sent = _read_activity(body).messages
    except UNREADABLE as error:
        raise NotAPage("the answer is no list of messages") from error
    records = tuple(record for record in map(_record, sent) if record is not None)
    return Page(records, _rest(path, sent), len(sent) - len(records))


def _rest(path: str, sent: list[_Sent]) -> str | None:
    """What of a span a full answer has left out: that of its oldest second and before, some of it once more."""
    if len(sent) < PAGE_ITEMS:
        return None
    span = _SPAN.fullmatch(parse_qs(path.partition("?")[2]).get("query", [""])[0])
    oldest = min(one.last_event_time for one in sent)
    if span is None or not span[1] <= oldest < span[2]:
        raise NotAPage("more was sent within a second than one answer names")
    return _activity_path(span[1], oldest)


def _record(sent: _Sent) -> Record | None:
    """A recipient of a mail. The mail is known by its id, and each recipient is a part of what it used; where its call
    crossed the gateway, that has said all of it."""
    named, at_ms = _MSG_ID.fullmatch(sent.msg_id), _moment_ms(sent.last_event_time)
    if named is None or at_ms is None:
        return None
    one = Usage(
        quantities={"recipients": 1},
        completeness=Completeness.REPORTED,
        resource=TRANSACTIONAL,
        event_type="email_outbound",
    )
    return Record(
        external_id=named[1],
        occurred_at_ms=at_ms,
        account="",
        endpoint="mail.send",
        made=Usage(
            quantities={}, completeness=Completeness.PENDING, resource=TRANSACTIONAL, event_type="email_outbound"
        ),
        late=(Late(external_id=named[1], phase=f"final:{named[2]}", usage=one),),
        in_parts=True,
    )


def _described_at(record: Record) -> str:
    """Where a message is described by itself."""
    return f"/v3/messages/{record.external_id}.{record.late[0].phase.partition(':')[2]}"


def _described(record: Record, body: bytes) -> Record:
    """The same message, of the moment at which it was processed, and with its categories. The list tells only when something
    has last become of it, which may be that it was opened, days later. Raises NotAPage."""
    try:
        found = _read_described(body)
    except UNREADABLE as error:
        raise NotAPage("the answer describes no message") from error
    moments = [_moment_ms(event.processed) for event in found.events if event.event_name == PROCESSED]
    known = [moment for moment in moments if moment is not None and 0 < moment <= record.occurred_at_ms]
    return msgspec.structs.replace(
        record,
        occurred_at_ms=min(known, default=record.occurred_at_ms),
        owners=tuple((CATEGORIES, name) for name in found.categories),
    )


def _moment_ms(text: str) -> int | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.utcoffset() is None else round(found.timestamp() * 1000)


def first_stats(account: str, day: dt.date) -> str:
    """Where the statistics of a day are."""
    return f"/v3/stats?{urlencode({'start_date': day, 'end_date': day, 'aggregated_by': 'day'})}"


def read_stats(path: str, body: bytes) -> Page[Total]:
    """What was sent, by day. Raises NotAPage."""
    try:
        days = _read_days(body)
        totals = [
            Total(day=dt.date.fromisoformat(one.date), account="", category=name, count=count)
            for one in days
            for stats in one.stats
            for name, count in stats.metrics.items()
        ]
    except (*UNREADABLE, ValueError) as error:
        raise NotAPage("the answer is no list of statistics") from error
    return Page(tuple(totals))


RECORDS: tuple[Listing[Record], ...] = (
    Listing(
        name="messages",
        first=first_activity,
        read=read_activity,
        account_header=ON_BEHALF_OF,
        closer=Closer(_described_at, _described, CATEGORIES),
    ),
)
TOTALS: tuple[Listing[Total], ...] = (
    Listing(name="stats", first=first_stats, read=read_stats, account_header=ON_BEHALF_OF),
)
