"""Twilio's accounts, simulated: subaccounts, keys, numbers, applications, and what was used. No I/O."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from gateway.simulator.store import Newest
from gateway.simulator.twilio_asked import (
    ACCOUNT_SID,
    AUTHENTICATE,
    BAD_REQUEST,
    NOT_ACTIVE,
    Account,
    ApiError,
    Asking,
    NotFound,
    is_url,
)
from gateway.simulator.twilio_objects import Ids, Thing, things
from gateway.simulator.twilio_told import API_VERSION, Told, gone, newest_first, rfc_2822, uri_of, uri_page

OPENING_BALANCE = Decimal("1000.00")
THE_NUMBER = "+15017122661"
"""Every account has this one, and sends from it where a messaging service picks; it may send from any other too."""

DAY = timedelta(days=1)

CATEGORIES: Mapping[str, tuple[str, str, str]] = {
    "calls": ("Voice Minutes", "calls", "minutes"),
    "mms-outbound": ("Outbound MMS", "messages", "messages"),
    "sms-outbound": ("Outbound SMS", "messages", "segments"),
}
"""The categories of usage: what each is called, what is counted in it, and what is billed."""
ALL_MESSAGES, TOTAL = "sms", "totalprice"

SUBRESOURCES = (
    *("applications", "available_phone_numbers", "balance", "calls", "conferences", "incoming_phone_numbers", "keys"),
    *("messages", "notifications", "outgoing_caller_ids", "queues", "recordings", "transcriptions", "usage"),
)
APPLICATION_FIELDS = (
    *("message_status_callback", "sms_fallback_method", "sms_fallback_url", "sms_method", "sms_status_callback"),
    *("sms_url", "status_callback", "status_callback_method", "voice_fallback_method", "voice_fallback_url"),
    *("voice_method", "voice_url"),
)


class Tally(msgspec.Struct, frozen=True):
    """What an account used of one category in a day."""

    account_sid: str
    category: str
    day: date
    count: int
    usage: int
    price: Decimal


class Accounts:
    """Who may call, and what belongs to an account as a whole."""

    def __init__(self, keys: Iterable[str], ids: Ids, now: Callable[[], float]) -> None:
        self._ids = ids
        self._now = now
        self._roots: dict[str, Account] = {}
        self._subaccounts = Newest[Account](lambda account: len(account.friendly_name))
        self._keys = things()
        self._secrets = Newest[str](len)
        """Of keys, by sid."""
        self._applications = things()
        self._tallies = Newest[Tally](lambda tally: len(tally.category))
        begun = now()
        for key in keys:
            sid, _, token = key.partition(":")
            if ACCOUNT_SID.fullmatch(sid) and token:
                self._roots[sid] = Account(sid, token, "Simulated", sid, "active", begun, begun)

    # Who asks.

    def admitted(self, credential: str | None) -> tuple[Account, bool]:
        """The account that a credential belongs to, and whether it is an API key. Raises ApiError."""
        user, _, password = (credential or "").partition(":")
        key = self._keys.anybodys(user)
        account = self._by_sid(key.account_sid if key else user)
        expected = self._secrets.get(user) if key else account.auth_token if account else None
        if account is None or expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
            raise ApiError(AUTHENTICATE, "Authenticate", status=401)
        if account.status != "active":
            raise ApiError(NOT_ACTIVE, "Account not active", status=403)
        return account, key is not None

    def visible(self, caller: Account, sid: str) -> Account:
        """An account as its owner sees it. Raises NotFound."""
        account = self._by_sid(sid)
        if account is None or caller.sid not in (account.sid, account.owner_sid):
            raise NotFound
        return account

    def by_sid(self, sid: str) -> Account | None:
        """The account as it is now."""
        return self._by_sid(sid)

    def _by_sid(self, sid: str) -> Account | None:
        return self._roots.get(sid) or self._subaccounts.get(sid)

    # Accounts.

    def listing(self, asking: Asking) -> Told:
        no_keys(asking)
        own = newest_first(account for account in self._subaccounts if account.owner_sid == asking.caller.sid)
        wanted = [
            account
            for account in (*own, asking.caller)
            if asking.query.one("Status") in (None, account.status)
            and asking.query.one("FriendlyName") in (None, account.friendly_name)
        ]
        return uri_page(asking, "Accounts", "Account", wanted, account_fields)

    def create(self, asking: Asking) -> Told:
        no_keys(asking)
        if asking.caller.owner_sid != asking.caller.sid:
            raise ApiError(20403, "A subaccount cannot create subaccounts", status=403)
        name = asking.form.one("FriendlyName") or f"SubAccount Created at {rfc_2822(asking.now)}"
        made = Account(
            sid=self._ids.sid("AC"),
            auth_token=self._ids.token(),
            friendly_name=name[:64],
            owner_sid=asking.caller.sid,
            status="active",
            created=asking.now,
            updated=asking.now,
        )
        self._subaccounts.put(made.sid, made)
        return Told(fields=account_fields(made), kind="Account", status=201, object_id=made.sid)

    def fetch(self, asking: Asking) -> Told:
        no_keys(asking)
        return Told(fields=account_fields(asking.account), kind="Account", object_id=asking.account.sid)

    def update(self, asking: Asking) -> Told:
        no_keys(asking)
        status = asking.form.one("Status") or asking.account.status
        if status not in ("active", "suspended", "closed") or asking.account.status == "closed":
            raise ApiError(BAD_REQUEST, f"Status cannot become {status[:20]}")
        if status != asking.account.status and asking.account.owner_sid == asking.account.sid:
            raise ApiError(BAD_REQUEST, "Only the status of a subaccount can be changed")
        name = asking.form.one("FriendlyName") or asking.account.friendly_name
        changed = asking.account._replace(status=status, friendly_name=name[:64], updated=asking.now)
        if changed.sid in self._roots:
            self._roots[changed.sid] = changed
        else:
            self._subaccounts.put(changed.sid, changed)
        return Told(fields=account_fields(changed), kind="Account", object_id=changed.sid)

    # Keys.

    def key_list(self, asking: Asking) -> Told:
        no_keys(asking)
        return uri_page(asking, "Keys", "Key", self._keys.of(asking.account), lambda key: key.fields)

    def key_create(self, asking: Asking) -> Told:
        no_keys(asking)
        sid, secret, at = self._ids.sid("SK"), self._ids.token(), rfc_2822(asking.now)
        name = asking.form.one("FriendlyName")
        fields = {"sid": sid, "friendly_name": name, "date_created": at, "date_updated": at}
        self._keys.put(Thing(sid, asking.account.sid, fields))
        self._secrets.put(sid, secret)
        # It is told now, and never again.
        return Told(fields={**fields, "secret": secret}, kind="Key", status=201, object_id=sid)

    def key_fetch(self, asking: Asking, sid: str) -> Told:
        no_keys(asking)
        return Told(fields=self._keys.get(asking.account, sid).fields, kind="Key", object_id=sid)

    def key_delete(self, asking: Asking, sid: str) -> Told:
        no_keys(asking)
        self._keys.pop(asking.account, sid)
        self._secrets.pop(sid)
        return gone(sid)

    # Numbers.

    def number_list(self, asking: Asking) -> Told:
        number = number_of(asking.account)
        numbers = [number] if asking.query.one("PhoneNumber") in (None, THE_NUMBER) else []
        return uri_page(asking, "IncomingPhoneNumbers", "IncomingPhoneNumber", numbers, lambda number: number.fields)

    def number_fetch(self, asking: Asking, sid: str) -> Told:
        number = number_of(asking.account)
        if number.sid != sid:
            raise NotFound
        return Told(fields=number.fields, kind="IncomingPhoneNumber", object_id=sid)

    # Applications.

    def application(self, sid: str | None, account_sid: str) -> Mapping[str, Any]:
        """An application's fields; none of one that was not made here, or not by this account."""
        found = self._applications.anybodys(sid) if sid else None
        return found.fields if found and found.account_sid == account_sid else {}

    def application_list(self, asking: Asking) -> Told:
        own = self._applications.of(asking.account)
        return uri_page(asking, "Applications", "Application", own, lambda made: made.fields)

    def application_create(self, asking: Asking) -> Told:
        sid, at, account_sid = self._ids.sid("AP"), rfc_2822(asking.now), asking.account.sid
        fields: dict[str, Any] = {
            "account_sid": account_sid,
            "api_version": API_VERSION,
            "date_created": at,
            "date_updated": at,
            "friendly_name": asking.form.one("FriendlyName"),
            "sid": sid,
            "uri": uri_of(account_sid, "Applications", sid),
            "voice_caller_id_lookup": asking.form.one("VoiceCallerIdLookup") == "true",
            "public_application_connect_enabled": asking.form.one("PublicApplicationConnectEnabled") == "true",
        }
        for name in APPLICATION_FIELDS:
            given = asking.form.one("".join(part.capitalize() for part in name.split("_")))
            if given is not None and not name.endswith("_method") and not is_url(given):
                raise ApiError(21502, f"{name} is not a valid URL")
            fields[name] = given if given is not None or not name.endswith("_method") else "POST"
        self._applications.put(Thing(sid, account_sid, fields))
        return Told(fields=fields, kind="Application", status=201, object_id=sid)

    def application_fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self._applications.get(asking.account, sid).fields, kind="Application", object_id=sid)

    def application_delete(self, asking: Asking, sid: str) -> Told:
        self._applications.pop(asking.account, sid)
        return gone(sid)

    # What was used.

    def tally(self, account_sid: str, category: str, count: int, usage: int, price: Decimal) -> None:
        """Count what was used, as soon as it is asked for; what is called off is counted back."""
        day = datetime.fromtimestamp(self._now(), UTC).date()
        key = f"{account_sid} {category} {day}"
        before = self._tallies.get(key) or Tally(account_sid, category, day, 0, 0, Decimal(0))
        after = msgspec.structs.replace(
            before, count=before.count + count, usage=before.usage + usage, price=before.price + price
        )
        self._tallies.put(key, after)

    def usage(self, asking: Asking, period: str = "AllTime") -> Told:
        today = datetime.fromtimestamp(asking.now, UTC).date()
        first, last = (day_of(asking, name) for name in ("StartDate", "EndDate"))
        whose = {asking.account.sid}
        if asking.query.one("IncludeSubaccounts") != "false":
            whose |= {account.sid for account in self._subaccounts if account.owner_sid == asking.account.sid}
        own = [tally for tally in self._tallies if tally.account_sid in whose]
        begun = datetime.fromtimestamp(asking.account.created, UTC).date()
        asked_for = asking.query.one("Category")
        records: list[Thing] = []
        # Nothing was used before there was an account, and nothing will be told of tomorrow.
        for begin, end in windows(period, max(first or begun, begun), min(last or today, today), today):
            within = [tally for tally in own if begin <= tally.day <= end]
            records.extend(
                usage_record(asking, category, begin, end, within)
                for category in (*CATEGORIES, ALL_MESSAGES, TOTAL)
                if asked_for in (None, category)
            )
        return uri_page(asking, "UsageRecords", "UsageRecord", records, lambda record: record.fields)

    def balance(self, asking: Asking) -> Told:
        spent = sum((tally.price for tally in self._tallies if tally.account_sid == asking.account.sid), Decimal(0))
        fields = {"account_sid": asking.account.sid, "balance": f"{OPENING_BALANCE - spent:.4f}", "currency": "USD"}
        return Told(fields=fields, kind="Balance")

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("GET", "/Accounts", listing),
        ("POST", "/Accounts", create),
        ("GET", "/Accounts/{account}", fetch),
        ("POST", "/Accounts/{account}", update),
        ("GET", "/Accounts/{account}/Keys", key_list),
        ("POST", "/Accounts/{account}/Keys", key_create),
        ("GET", "/Accounts/{account}/Keys/{id}", key_fetch),
        ("DELETE", "/Accounts/{account}/Keys/{id}", key_delete),
        ("GET", "/Accounts/{account}/IncomingPhoneNumbers", number_list),
        ("GET", "/Accounts/{account}/IncomingPhoneNumbers/{id}", number_fetch),
        ("GET", "/Accounts/{account}/Applications", application_list),
        ("POST", "/Accounts/{account}/Applications", application_create),
        ("GET", "/Accounts/{account}/Applications/{id}", application_fetch),
        ("DELETE", "/Accounts/{account}/Applications/{id}", application_delete),
        ("GET", "/Accounts/{account}/Usage/Records", usage),
        ("GET", "/Accounts/{account}/Usage/Records/{id}", usage),
        ("GET", "/Accounts/{account}/Balance", balance),
    )


def no_keys(asking: Asking) -> None:
    """Accounts and keys are for those who hold an auth token."""
    if asking.with_key:
        raise ApiError(AUTHENTICATE, "Authenticate", status=401)


def account_fields(account: Account) -> dict[str, Any]:
    uris = {name: uri_of(account.sid, "".join(map(str.capitalize, name.split("_")))) for name in SUBRESOURCES}
    return {
        "auth_token": account.auth_token,
        "date_created": rfc_2822(account.created),
        "date_updated": rfc_2822(account.updated),
        "friendly_name": account.friendly_name,
        "owner_account_sid": account.owner_sid,
        "sid": account.sid,
        "status": account.status,
        "subresource_uris": uris,
        "type": "Full",
        "uri": uri_of(account.sid),
    }


def number_of(account: Account) -> Thing:
    """The one number that every account has."""
    sid, at = f"PN{account.sid[2:]}", rfc_2822(account.created)
    urls = ("sms_fallback_url", "sms_url", "status_callback", "voice_fallback_url", "voice_url")
    methods = ("sms_fallback_method", "sms_method", "status_callback_method", "voice_fallback_method", "voice_method")
    sids = (
        *("address_sid", "bundle_sid", "emergency_address_sid", "identity_sid", "sms_application_sid", "trunk_sid"),
        "voice_application_sid",
    )
    fields = {
        "account_sid": account.sid,
        "address_requirements": "none",
        "api_version": API_VERSION,
        "beta": False,
        "capabilities": {"voice": True, "sms": True, "mms": True, "fax": False},
        "date_created": at,
        "date_updated": at,
        "emergency_status": "Inactive",
        "friendly_name": "(501) 712-2661",
        "origin": "twilio",
        "phone_number": THE_NUMBER,
        "sid": sid,
        "status": "in-use",
        "type": "local",
        "uri": uri_of(account.sid, "IncomingPhoneNumbers", sid),
        "voice_caller_id_lookup": False,
        "voice_receive_mode": "voice",
        **dict.fromkeys(sids),
        **dict.fromkeys(urls, ""),
        **dict.fromkeys(methods, "POST"),
    }
    return Thing(sid, account.sid, fields)


def day_of(asking: Asking, name: str) -> date | None:
    """A day as usage records are asked for it: itself, or so many days from today."""
    value = asking.query.one(name)
    if value is None:
        return None
    try:
        if value.endswith("days"):
            return datetime.fromtimestamp(asking.now, UTC).date() + timedelta(days=int(value.removesuffix("days")))
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
            return iter([(today - timedelta(days=1), today - timedelta(days=1))])
        case "ThisMonth":
            return iter([(month_begin, today)])
        case "LastMonth":
            end = month_begin - timedelta(days=1)
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


def usage_record(asking: Asking, category: str, begin: date, end: date, tallies: Iterable[Tally]) -> Thing:
    match category:
        case "totalprice":
            wanted, (title, count_unit, usage_unit) = set(CATEGORIES), ("Total Price", "", "usd")
        case "sms":
            wanted, (title, count_unit, usage_unit) = {"sms-outbound"}, ("SMS", "messages", "segments")
        case _:
            wanted, (title, count_unit, usage_unit) = {category}, CATEGORIES[category]
    own = [tally for tally in tallies if tally.category in wanted]
    price = sum((tally.price for tally in own), Decimal(0))
    account_sid = asking.account.sid
    uri = uri_of(account_sid, "Usage", "Records")
    fields = {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "as_of": datetime.fromtimestamp(int(asking.now), UTC).isoformat(),
        "category": category,
        "count": "" if category == TOTAL else str(sum(tally.count for tally in own)),
        "count_unit": count_unit,
        "description": title,
        "end_date": end.isoformat(),
        "price": f"{price:f}",
        "price_unit": "usd",
        "start_date": begin.isoformat(),
        "subresource_uris": {
            period.lower(): uri_of(account_sid, "Usage", "Records", period) + f"?Category={category}"
            for period in ("Daily", "Monthly", "Today", "Yesterday")
        },
        "uri": f"{uri}?Category={category}&StartDate={begin}&EndDate={end}",
        "usage": f"{price:f}" if category == TOTAL else str(sum(tally.usage for tally in own)),
        "usage_unit": usage_unit,
    }
    return Thing(f"{category}-{begin}", account_sid, fields)
