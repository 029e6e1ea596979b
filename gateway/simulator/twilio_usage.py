"""What Twilio's accounts used and what it cost, simulated: tallies by day, Usage Records, the balance. No I/O.

Everything is counted when it is made, by what it will be in the end, on the UTC day on which it was sent or answered; what
is called off is counted back, and what is deleted stays. Usage Records and the simulator's own bill tell the same tallies:
the records as an account sees them, the bill as tests need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from gateway.simulator.twilio_accounts import Accounts, Number
from gateway.simulator.twilio_asked import BAD_REQUEST, ApiError, Asking, NotFound
from gateway.simulator.twilio_told import API_VERSION, Told, uri_of, uri_page

OPENING_BALANCE = Decimal("1000.00")
DAY = timedelta(days=1)

MESSAGES = ("messages", "messages")
CATEGORIES: Mapping[str, tuple[str, str, str]] = {
    "sms-outbound": ("Outbound SMS", "messages", "segments"),
    "sms-inbound": ("Inbound SMS", "messages", "segments"),
    "mms-outbound": ("Outbound MMS", *MESSAGES),
    "mms-inbound": ("Inbound MMS", *MESSAGES),
    **{
        f"channels-{channel}-{direction}": (f"{channel.capitalize()} {direction.capitalize()}", *MESSAGES)
        for channel in ("whatsapp", "messenger", "rcs")
        for direction in ("outbound", "inbound")
    },
    "sms-messages-carrierfees": ("SMS Carrier Fees", "messages", "segments"),
    "mms-messages-carrierfees": ("MMS Carrier Fees", *MESSAGES),
    "failed-message-processing-fee": ("Failed Message Processing Fee", *MESSAGES),
    "calls-outbound": ("Outbound Voice Minutes", "calls", "minutes"),
    "calls-inbound": ("Inbound Voice Minutes", "calls", "minutes"),
    "recordings": ("Call Recordings", "recordings", "minutes"),
    "phonenumbers": ("Phone Numbers", "numbers", "numbers"),
    "authy-authentications": ("Verifications", "authentications", "authentications"),
    "lookups": ("Lookups", "lookups", "lookups"),
}
"""The categories of usage: what each is called, what is counted in it, and what is billed."""

SUMS: Mapping[str, tuple[tuple[str, str, str], frozenset[str]]] = {
    "sms": (("SMS", "messages", "segments"), frozenset({"sms-outbound", "sms-inbound"})),
    "mms": (("MMS", *MESSAGES), frozenset({"mms-outbound", "mms-inbound"})),
    "calls": (("Voice Minutes", "calls", "minutes"), frozenset({"calls-outbound", "calls-inbound"})),
    "totalprice": (("Total Price", "", "usd"), frozenset(CATEGORIES)),
}
"""The categories that add up others."""
TOTAL = "totalprice"

RENTAL = Decimal("1.15")
"""Of a number, for each month that has begun."""


class Line(NamedTuple):
    """Whose traffic it is."""

    account_sid: str
    number: str
    """The account's own: who sends or calls, or inbound who is sent to or called. Empty where there is none."""
    service_sid: str
    """The messaging or Verify service; empty where there is none."""


class Amount(NamedTuple):
    """What was used."""

    counted: int
    usage: int
    price: Decimal
    seconds: int = 0
    """Of calls and recordings, before minutes are made of them."""

    def plus(self, other: Amount) -> Amount:
        return Amount(
            self.counted + other.counted,
            self.usage + other.usage,
            self.price + other.price,
            self.seconds + other.seconds,
        )

    def times(self, factor: int) -> Amount:
        return Amount(self.counted * factor, self.usage * factor, self.price * factor, self.seconds * factor)


NOTHING = Amount(0, 0, Decimal(0))


class Tally(NamedTuple):
    """What a line used of one category on a day."""

    line: Line
    category: str
    day: date
    amount: Amount


class Period(NamedTuple):
    """A record of a category, from and to a day, both included."""

    sid: str
    category: str
    begin: date
    end: date


class Usage:
    """What everybody used, by line, category and day."""

    def __init__(self, accounts: Accounts, now: Callable[[], float]) -> None:
        self._accounts = accounts
        self._now = now
        self._tallies: dict[tuple[Line, str, date], Amount] = {}

    def tally(self, line: Line, category: str, at: float, amount: Amount) -> None:
        """Count what was used, or count it back."""
        key = (line, category, day_at(at))
        self._tallies[key] = self._tallies.get(key, NOTHING).plus(amount)

    def tallies(self, account_sids: frozenset[str] | None = None) -> Iterator[Tally]:
        """All that was used by now, by these accounts or by everybody; numbers cost from the day on which they were
        bought."""
        for (line, category, day), amount in self._tallies.items():
            if account_sids is None or line.account_sid in account_sids:
                yield Tally(line, category, day, amount)
        for number in self._accounts.numbers():
            if account_sids is None or number.account_sid in account_sids:
                line = Line(number.account_sid, number.number, "")
                yield from (
                    Tally(line, "phonenumbers", day, Amount(1, 1, RENTAL)) for day in rents(number, self._now())
                )

    def bill(self, first: date, last: date) -> list[dict[str, Any]]:
        """What everybody used on these days, both included: a line of it for each of its own."""
        owners = self._accounts.all_sids()
        return [
            {
                "account_sid": tally.line.account_sid,
                "owner_account_sid": owners.get(tally.line.account_sid),
                "number": tally.line.number,
                "service_sid": tally.line.service_sid,
                "day": tally.day.isoformat(),
                "category": tally.category,
                "count": tally.amount.counted,
                "usage": tally.amount.usage,
                "seconds": tally.amount.seconds,
                "cost": f"{tally.amount.price:f}",
            }
            for tally in sorted(self.tallies(), key=lambda tally: (tally.day, tally.line, tally.category))
            if first <= tally.day <= last and tally.amount.counted
        ]

    def records(self, asking: Asking, period: str = "AllTime") -> Told:
        today = day_at(asking.now)
        first, last = (day_of(asking, name) for name in ("StartDate", "EndDate"))
        whose = {asking.account.sid}
        if asking.query.one("IncludeSubaccounts") != "false":
            whose |= self._accounts.subaccount_sids(asking.account)
        days: dict[date, dict[str, Amount]] = {}
        for tally in self.tallies(frozenset(whose)):
            amounts = days.setdefault(tally.day, {})
            amounts[tally.category] = amounts.get(tally.category, NOTHING).plus(tally.amount)
        # Nothing was used before there was an account, but for what was put in afterwards; nothing is told of tomorrow.
        begun = min((day_at(asking.account.created), *days))
        asked_for = asking.query.one("Category")
        if asked_for is not None and asked_for not in {*CATEGORIES, *SUMS}:
            raise ApiError(BAD_REQUEST, f"Category is not a usage category: {asked_for[:40]}")
        rows = [
            Period(f"{category}-{begin}", category, begin, end)
            for begin, end in windows(period, max(first or begun, begun), min(last or today, today), today)
            for category in ([asked_for] if asked_for else (*CATEGORIES, *SUMS))
        ]

        def tell(row: Period) -> dict[str, Any]:
            wanted = SUMS[row.category][1] if row.category in SUMS else frozenset({row.category})
            within = (
                amount
                for day, amounts in days.items()
                if row.begin <= day <= row.end
                for category, amount in amounts.items()
                if category in wanted
            )
            return record_fields(asking, row, total(within))

        return uri_page(asking, "UsageRecords", "UsageRecord", rows, tell)

    def balance(self, asking: Asking) -> Told:
        spent = total(tally.amount for tally in self.tallies(frozenset({asking.account.sid}))).price
        fields = {"account_sid": asking.account.sid, "balance": f"{OPENING_BALANCE - spent:.4f}", "currency": "USD"}
        return Told(fields=fields, kind="Balance")

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("GET", "/Accounts/{account}/Usage/Records", records),
        ("GET", "/Accounts/{account}/Usage/Records/{id}", records),
        ("GET", "/Accounts/{account}/Balance", balance),
    )


def total(amounts: Iterable[Amount]) -> Amount:
    whole = NOTHING
    for amount in amounts:
        whole = whole.plus(amount)
    return whole


def day_at(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()


def rents(number: Number, now: float) -> Iterator[date]:
    """The days on which a number costs: that on which it was bought, and the same of every month while it was there."""
    bought, last = day_at(number.since), day_at(min(now, now if number.until is None else number.until))
    months = 0
    while True:
        year, month = divmod(bought.month - 1 + months, 12)
        day = date(bought.year + year, month + 1, min(bought.day, 28) if months else bought.day)
        if day > last:
            return
        yield day
        months += 1


def day_of(asking: Asking, name: str) -> date | None:
    """A day as usage records are asked for it: itself, or so many days from today."""
    value = asking.query.one(name)
    if value is None:
        return None
    try:
        if value.endswith("days"):
            return day_at(asking.now) + timedelta(days=int(value.removesuffix("days")))
        return date.fromisoformat(value)
    except (ValueError, OverflowError):
        raise ApiError(BAD_REQUEST, f"{name} is not a valid date") from None


def windows(period: str, first: date, last: date, today: date) -> Iterator[tuple[date, date]]:
    """The days from and to which each record reaches, both included. Raises NotFound for a period that there is not."""
    month_begin = today.replace(day=1)
    match period:
        case "AllTime":
            return iter([(first, last)])
        case "Today":
            return iter([(today, today)])
        case "Yesterday":
            return iter([(today - DAY, today - DAY)])
        case "ThisMonth":
            return iter([(month_begin, today)])
        case "LastMonth":
            end = month_begin - DAY
            return iter([(end.replace(day=1), end)])
        case "Daily":
            return parts(first, last, lambda day: day)
        case "Monthly":
            return parts(first, last, lambda day: (day.replace(day=28) + timedelta(days=4)).replace(day=1) - DAY)
        case "Yearly":
            return parts(first, last, lambda day: day.replace(month=12, day=31))
        case _:
            raise NotFound


def parts(first: date, last: date, end_of: Callable[[date], date]) -> Iterator[tuple[date, date]]:
    """The parts of a time, newest first; each ends where `end_of` one of its days says."""
    cuts: list[tuple[date, date]] = []
    while first <= last:
        end = min(end_of(first), last)
        cuts.append((first, end))
        first = end + DAY
    return reversed(cuts)


def record_fields(asking: Asking, row: Period, amount: Amount) -> dict[str, Any]:
    category, begin, end = row.category, row.begin, row.end
    title, count_unit, usage_unit = CATEGORIES[category] if category in CATEGORIES else SUMS[category][0]
    account_sid = asking.account.sid
    uri = uri_of(account_sid, "Usage", "Records")
    return {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "as_of": datetime.fromtimestamp(int(asking.now), UTC).isoformat(),
        "category": category,
        "count": "" if category == TOTAL else str(amount.counted),
        "count_unit": count_unit,
        "description": title,
        "end_date": end.isoformat(),
        "price": f"{amount.price:f}",
        "price_unit": "usd",
        "start_date": begin.isoformat(),
        "subresource_uris": {
            period.lower(): uri_of(account_sid, "Usage", "Records", period) + f"?Category={category}"
            for period in ("Daily", "Monthly", "Today", "Yesterday")
        },
        "uri": f"{uri}?Category={category}&StartDate={begin}&EndDate={end}",
        "usage": f"{amount.price:f}" if category == TOTAL else str(amount.usage),
        "usage_unit": usage_unit,
    }
