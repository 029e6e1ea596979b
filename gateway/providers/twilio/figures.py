"""What Twilio's usage records are in the ledger. Pure.

Categories lie within each other: `sms` has `sms-outbound`, which has `sms-outbound-longcode`. Compared are those of the
middle, which the ledger tells apart; what Twilio charges besides, and what nobody here knows, is the rest of its total
price, less what the ledger holds of types that none of these speaks of. Calls are not counted, since the ledger has
those that nobody answered.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from gateway.providers.api import Total, nanos
from metering.reconciliation import COST, Figure


class Used(NamedTuple):
    """One category of what was used."""

    event_types: tuple[str, ...]
    direction: str | None = None
    counted: str | None = None
    """The dimension that the count of its records is."""
    usage: str | None = None
    """The dimension that the usage of its records is."""
    minutes: bool = False
    """True where the usage is begun minutes."""
    costs_here: bool = False
    """True where nothing but the record says what it cost."""


USED: Mapping[str, Used] = {
    "sms-outbound": Used(("sms_outbound",), counted="messages", usage="segments"),
    "sms-inbound": Used(("sms_inbound",), counted="messages", usage="segments"),
    "mms-outbound": Used(("mms_outbound",), counted="messages"),
    "mms-inbound": Used(("mms_inbound",), counted="messages"),
    "channels-whatsapp-outbound": Used(("whatsapp_outbound",), counted="messages"),
    "channels-whatsapp-inbound": Used(("whatsapp_inbound",), counted="messages"),
    "calls-outbound": Used(("call_outbound", "call_minutes"), "outbound", usage="seconds", minutes=True),
    "calls-inbound": Used(("call_inbound", "call_minutes"), "inbound", usage="seconds", minutes=True),
    "recordings": Used(("recording",), usage="seconds", minutes=True, costs_here=True),
    "lookups": Used(("lookup",), costs_here=True),
    "authy-authentications": Used(("verification",), costs_here=True),
}

CHANNEL = re.compile(r"channels-(?!whatsapp-)[a-z]{1,20}-(outbound|inbound)")
"""Messages of another channel, one category for each: in the ledger they are of one type, and told apart by resource."""

CHANNELS: Mapping[str, Used] = {
    f"channels-others-{way}": Used((f"message_{way}",), counted="messages") for way in ("outbound", "inbound")
}

FEES = ("phonenumbers", "sms-messages-carrierfees", "mms-messages-carrierfees", "failed-message-processing-fee")
"""What costs money, and nobody uses."""

TOTAL, OTHER = "totalprice", "other"


def figures(totals: Sequence[Total]) -> list[Figure]:
    """The figures of one account, of any number of days."""
    days: dict[str, dict[str, Total]] = {}
    for one in totals:
        of_day, channel = days.setdefault(one.day.isoformat(), {}), CHANNEL.fullmatch(one.category)
        if channel is None:
            of_day[one.category] = one
        else:
            name = f"channels-others-{channel[1]}"
            of_day[name] = _with(of_day.get(name), msgspec.structs.replace(one, category=name))
    return [figure for day, found in days.items() for figure in _of_day(day, found)]


def _of_day(day: str, found: Mapping[str, Total]) -> Iterator[Figure]:
    for category, used in {**USED, **CHANNELS}.items():
        if category in found:
            one = found[category]
            yield Figure(
                day=day,
                category=category,
                amounts=_amounts(one, used),
                currency=one.currency,
                event_types=used.event_types,
                direction=used.direction,
                minutes=used.minutes,
                costs_here=used.costs_here,
                settled=_settled(one),
            )
    for category in FEES:
        if category in found and (cost := found[category].cost) is not None:
            yield _fee(category, found[category], cost)
    if TOTAL in found and (whole := found[TOTAL].cost) is not None:
        known = _sum(found[name].cost for name in (*USED, *CHANNELS, *FEES) if name in found)
        # Less than nothing is no fee: the categories are not what they were.
        if whole >= known:
            yield msgspec.structs.replace(_fee(OTHER, found[TOTAL], whole - known), rest=True)


def _with(before: Total | None, one: Total) -> Total:
    """Two categories as one. What one of them does not say, both do not."""
    if before is None:
        return one
    count = None if before.count is None or one.count is None else before.count + one.count
    as_of = min(filter(None, (before.as_of, one.as_of)), default="")
    return msgspec.structs.replace(one, count=count, cost=_sum((before.cost, one.cost)), as_of=as_of)


def _amounts(one: Total, used: Used) -> dict[str, int]:
    found = {}
    if used.counted is not None and one.count is not None:
        found[used.counted] = one.count
    if used.usage is not None and one.usage is not None:
        found[used.usage] = int(one.usage) * (60 if used.minutes else 1)
    if one.cost is not None:
        found[COST] = nanos(one.cost)
    return found


def _fee(category: str, one: Total, cost: Decimal) -> Figure:
    return Figure(
        day=one.day.isoformat(),
        category=category,
        amounts={COST: nanos(cost)},
        currency=one.currency,
        costs_here=True,
        settled=_settled(one),
    )


def _sum(costs: Iterable[Decimal | None]) -> Decimal:
    return sum((cost for cost in costs if cost is not None), Decimal(0))


def _settled(one: Total) -> bool:
    """True where all of the day was in it."""
    try:
        as_of = dt.datetime.fromisoformat(one.as_of)
    except ValueError:
        return True
    if as_of.utcoffset() is None:
        as_of = as_of.replace(tzinfo=dt.UTC)
    return as_of.astimezone(dt.UTC).date() > one.day
