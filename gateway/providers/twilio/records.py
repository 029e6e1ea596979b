"""Twilio's own lists of what it did: Messages, Calls and Usage Records, page by page. Pure.

Sources: the official OpenAPI description (twilio-oai 2.6.7) and the API reference. A list names what never crossed the
gateway as well: what came in, replies and dialled legs that TwiML made, and what was sent around it. Messages are listed
by the day on which they were sent, calls by that on which they began, in UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from gateway.providers.api import Listing, NotAPage, Page, Record, Total
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Usage
from gateway.providers.twilio.late import SENT_DAYS_MAX, of_call, of_message
from gateway.providers.twilio.paths import OLD_VERSION, SID
from gateway.providers.twilio.resources import (
    Resource,
    come_in,
    matching,
    message_type,
    parties_of,
    resource_of,
    text_of,
)
from metering.usage import Completeness

PAGE_ITEMS = 1000
"""The most that a page may hold: fewest requests for a day."""

Item = TypeVar("Item")


class Listed(Resource):
    """What is read of a message or a call in a list, beyond what is read of one alone."""

    account_sid: object = None
    date_sent: object = None
    date_created: object = None
    start_time: object = None
    parent_call_sid: object = None


class _Messages(msgspec.Struct):
    messages: list[Listed]
    next_page_uri: str | None = None


class _Calls(msgspec.Struct):
    calls: list[Listed]
    next_page_uri: str | None = None


class _Used(msgspec.Struct):
    """A usage record, of which there is one for each category and day."""

    account_sid: str
    category: str
    start_date: str
    count: object = None
    usage: object = None
    usage_unit: object = None
    price: object = None
    price_unit: object = None
    as_of: object = None


class _Records(msgspec.Struct):
    usage_records: list[_Used]
    next_page_uri: str | None = None


_read_messages = msgspec.json.Decoder(_Messages).decode
_read_calls = msgspec.json.Decoder(_Calls).decode
_read_records = msgspec.json.Decoder(_Records).decode


# ---------------------------------------------------------------------------------------------------------------------
# Messages and calls


def read_messages(path: str, body: bytes) -> Page[Record]:
    """A page of messages. Raises NotAPage."""
    page = _decoded(_read_messages, body)
    return _page(path, [_message(one) for one in page.messages], page.next_page_uri)


def read_calls(path: str, body: bytes) -> Page[Record]:
    """A page of calls. Raises NotAPage."""
    page = _decoded(_read_calls, body)
    return _page(path, [_call(one) for one in page.calls], page.next_page_uri)


def _message(found: Listed) -> Record | None:
    sid, at_ms = matching(found.sid, SID), _moment_ms(found.date_sent) or _moment_ms(found.date_created)
    if sid is None or at_ms is None:
        return None
    inbound = found.direction == "inbound"
    event_type = message_type(found)
    if inbound:
        event_type = event_type.replace("_outbound", "_inbound")
    ours = text_of(found.to if inbound else found.from_)
    return Record(
        external_id=sid,
        occurred_at_ms=at_ms,
        account=text_of(found.account_sid) or "",
        endpoint="messages.create",
        made=Usage(
            quantities={"messages": 1},
            completeness=Completeness.PENDING,
            resource=resource_of(come_in(found) if inbound else found),
            event_type=event_type,
            parties=parties_of(found),
        ),
        owners=_owners(found, ours, matching(found.messaging_service_sid, SID)),
        late=of_message(found),
        late_if_old=of_message(found, sent_is_over=True),
        old_days=SENT_DAYS_MAX,
    )


def _call(found: Listed) -> Record | None:
    sid, at_ms = matching(found.sid, SID), _moment_ms(found.start_time) or _moment_ms(found.date_created)
    if sid is None or at_ms is None:
        return None
    inbound = found.direction == "inbound"
    return Record(
        external_id=sid,
        occurred_at_ms=at_ms,
        account=text_of(found.account_sid) or "",
        endpoint="calls.create",
        made=Usage(
            quantities={"requests": 1},
            completeness=Completeness.PENDING,
            resource=resource_of(come_in(found) if inbound else found),
            event_type="call_inbound" if inbound else "call_outbound",
            parties=parties_of(found),
        ),
        owners=_owners(found, text_of(found.to if inbound else found.from_), None),
        parent=matching(found.parent_call_sid, SID),
        late=of_call(found),
    )


def _owners(found: Listed, number: str | None, service_sid: str | None) -> tuple[tuple[str, str], ...]:
    named = (
        ("twilio_subaccount", text_of(found.account_sid)),
        ("twilio_messaging_services", service_sid),
        ("phone_numbers", None if number is None else number.rpartition(":")[2]),
    )
    return tuple((field, value) for field, value in named if value is not None)


def _moment_ms(value: object) -> int | None:
    """A moment as the API of 2010 writes it: `Mon, 16 Aug 2010 03:45:01 +0000`."""
    try:
        found = parsedate_to_datetime(value) if isinstance(value, str) else None
        return None if found is None else round(found.replace(tzinfo=found.tzinfo or dt.UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Usage records


def read_usage(path: str, body: bytes) -> Page[Total]:
    """A page of usage records by day. Raises NotAPage."""
    page = _decoded(_read_records, body)
    return _page(path, [_total(one) for one in page.usage_records], page.next_page_uri)


def _total(found: _Used) -> Total | None:
    try:
        day = dt.date.fromisoformat(found.start_date)
    except ValueError:
        return None
    count, cost = _number(found.count), _number(found.price)
    return Total(
        day=day,
        account=found.account_sid,
        category=found.category,
        count=None if count is None else int(count),
        usage=_number(found.usage),
        usage_unit=text_of(found.usage_unit) or "",
        cost=None if cost is None else abs(cost),
        currency=(text_of(found.price_unit) or "").upper(),
        as_of=text_of(found.as_of) or "",
    )


_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,12})?")


def _number(value: object) -> Decimal | None:
    """An amount, which this API writes as a text, or as a number."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else matching(value, _NUMBER)
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def _decoded(read: Callable[[bytes], Item], body: bytes) -> Item:
    try:
        return read(body)
    except UNREADABLE as error:
        raise NotAPage("the answer is no page of this list") from error


def _page(path: str, items: Sequence[Item | None], next_page_uri: str | None) -> Page[Item]:
    """A page whose next one is of the same list: no answer leads to another account, nor round in a circle."""
    known = tuple(one for one in items if one is not None)
    if next_page_uri is not None and (
        next_page_uri.partition("?")[0] != path.partition("?")[0] or next_page_uri == path
    ):
        raise NotAPage("the next page is not of this list")
    return Page(known, next_page_uri, len(items) - len(known))


def _first(resource: str, **asked: str) -> Callable[[str, dt.date], str]:
    """The first page of what was on a day, which stands for every parameter that is empty."""

    def first(account: str, day: dt.date) -> str:
        query = {name: value or day.isoformat() for name, value in asked.items()} | {"PageSize": PAGE_ITEMS}
        return f"/{OLD_VERSION}/Accounts/{account}/{resource}.json?{urlencode(query)}"

    return first


RECORDS: tuple[Listing[Record], ...] = (
    Listing(name="messages", product="api", first=_first("Messages", DateSent=""), read=read_messages),
    Listing(name="calls", product="api", first=_first("Calls", StartTime=""), read=read_calls),
)

TOTALS: tuple[Listing[Total], ...] = (
    # Each account by itself: a subaccount has a list of its own.
    Listing(
        name="usage",
        product="api",
        first=_first("Usage/Records/Daily", StartDate="", EndDate="", IncludeSubaccounts="false"),
        read=read_usage,
    ),
)
