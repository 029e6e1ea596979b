"""Twilio's accounts, simulated: subaccounts, keys, numbers and applications. No I/O."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from gateway.simulator.store import Newest
from gateway.simulator.twilio_asked import (
    ACCOUNT_SID,
    AUTHENTICATE,
    BAD_REQUEST,
    NOT_ACTIVE,
    NUMBER,
    Account,
    ApiError,
    Asking,
    NotFound,
    is_url,
)
from gateway.simulator.twilio_objects import Ids, Thing, things
from gateway.simulator.twilio_told import API_VERSION, Told, gone, newest_first, rfc_2822, uri_of, uri_page

THE_NUMBER = "+15017122661"
"""Every account has this one at no cost, and sends from it where a messaging service picks; it may send from any other
too."""

NUMBER_URLS = ("sms_fallback_url", "sms_url", "status_callback", "voice_fallback_url", "voice_url")
NUMBER_METHODS = (
    *("sms_fallback_method", "sms_method", "status_callback_method", "voice_fallback_method", "voice_method"),
)
NUMBER_SIDS = (
    *("address_sid", "bundle_sid", "emergency_address_sid", "identity_sid", "sms_application_sid", "trunk_sid"),
    "voice_application_sid",
)

SUBRESOURCES = (
    *("applications", "available_phone_numbers", "balance", "calls", "conferences", "incoming_phone_numbers", "keys"),
    *("messages", "notifications", "outgoing_caller_ids", "queues", "recordings", "transcriptions", "usage"),
)
APPLICATION_FIELDS = (
    *("message_status_callback", "sms_fallback_method", "sms_fallback_url", "sms_method", "sms_status_callback"),
    *("sms_url", "status_callback", "status_callback_method", "voice_fallback_method", "voice_fallback_url"),
    *("voice_method", "voice_url"),
)


class Number(NamedTuple):
    """A phone number that an account has."""

    sid: str
    account_sid: str
    number: str
    since: float
    until: float | None
    """None where the account still has it."""
    fields: Mapping[str, Any]


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
        self._numbers: dict[str, Number] = {}
        """By sid: those that were bought, and the one that every account has where that was changed."""
        self._released: list[Number] = []
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

    def subaccount_sids(self, account: Account) -> frozenset[str]:
        return frozenset(own.sid for own in self._subaccounts if own.owner_sid == account.sid)

    def all_sids(self) -> Mapping[str, str]:
        """Every account, and whose it is."""
        return {account.sid: account.owner_sid for account in (*self._roots.values(), *self._subaccounts)}

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
            created=asking.at,
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

    def numbers(self) -> Iterator[Number]:
        """All that were ever bought."""
        yield from (number for number in self._numbers.values() if number.number != THE_NUMBER)
        yield from self._released

    def numbers_of(self, account: Account) -> list[Number]:
        """Those that an account has, newest first."""
        own = newest_first(number for number in self._numbers.values() if number.account_sid == account.sid)
        return own if any(number.number == THE_NUMBER for number in own) else [*own, number_of(account)]

    def owned(self, number: str, account_sid: str | None) -> tuple[Account, Number] | None:
        """Who has a number: this account, or the first that bought it; the number of all is this account's."""
        if number == THE_NUMBER and account_sid is None:
            account_sid = next(iter(self._roots), None)
        for account in (*self._roots.values(), *self._subaccounts):
            if account_sid in (None, account.sid):
                for own in self.numbers_of(account):
                    if own.number == number:
                        return account, own
        return None

    def number_list(self, asking: Asking) -> Told:
        wanted = asking.query.one("PhoneNumber")
        numbers = [number for number in self.numbers_of(asking.account) if wanted in (None, number.number)]
        return uri_page(asking, "IncomingPhoneNumbers", "IncomingPhoneNumber", numbers, lambda number: number.fields)

    def number_fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self._number(asking, sid).fields, kind="IncomingPhoneNumber", object_id=sid)

    def _number(self, asking: Asking, sid: str) -> Number:
        for number in self.numbers_of(asking.account):
            if number.sid == sid:
                return number
        raise NotFound

    def number_create(self, asking: Asking) -> Told:
        """Buy a number: this one, or any of an area."""
        area = asking.form.one("AreaCode")
        wanted = asking.form.one("PhoneNumber") or (f"+1{area[:3]}555{self._ids.below(10_000):04d}" if area else None)
        if wanted is None or not NUMBER.fullmatch(wanted):
            raise ApiError(21421, "PhoneNumber is invalid")
        if wanted == THE_NUMBER or any(number.number == wanted for number in self._numbers.values()):
            raise ApiError(21422, f"{wanted} is not available")
        sid = self._ids.sid("PN")
        fields = changed_number(number_fields(asking.account, sid, wanted, asking.at), asking)
        self._numbers[sid] = Number(sid, asking.account.sid, wanted, asking.at, None, fields)
        return Told(fields=fields, kind="IncomingPhoneNumber", status=201, object_id=sid)

    def number_update(self, asking: Asking, sid: str) -> Told:
        number = self._number(asking, sid)
        number = number._replace(fields=changed_number(number.fields, asking))
        self._numbers[sid] = number
        return Told(fields=number.fields, kind="IncomingPhoneNumber", object_id=sid)

    def number_delete(self, asking: Asking, sid: str) -> Told:
        number = self._number(asking, sid)
        if number.number == THE_NUMBER:
            raise ApiError(BAD_REQUEST, "The number that every account has cannot be released")
        self._released.append(self._numbers.pop(sid)._replace(until=asking.at))
        return gone(sid)

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
        ("POST", "/Accounts/{account}/IncomingPhoneNumbers", number_create),
        ("GET", "/Accounts/{account}/IncomingPhoneNumbers/{id}", number_fetch),
        ("POST", "/Accounts/{account}/IncomingPhoneNumbers/{id}", number_update),
        ("DELETE", "/Accounts/{account}/IncomingPhoneNumbers/{id}", number_delete),
        ("GET", "/Accounts/{account}/Applications", application_list),
        ("POST", "/Accounts/{account}/Applications", application_create),
        ("GET", "/Accounts/{account}/Applications/{id}", application_fetch),
        ("DELETE", "/Accounts/{account}/Applications/{id}", application_delete),
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


def number_of(account: Account) -> Number:
    """The one number that every account has, as long as nothing in it was changed."""
    sid = f"PN{account.sid[2:]}"
    fields = number_fields(account, sid, THE_NUMBER, account.created)
    return Number(sid, account.sid, THE_NUMBER, account.created, None, fields)


def number_fields(account: Account, sid: str, number: str, created: float) -> dict[str, Any]:
    at = rfc_2822(created)
    return {
        "account_sid": account.sid,
        "address_requirements": "none",
        "api_version": API_VERSION,
        "beta": False,
        "capabilities": {"voice": True, "sms": True, "mms": True, "fax": False},
        "date_created": at,
        "date_updated": at,
        "emergency_status": "Inactive",
        "friendly_name": f"({number[2:5]}) {number[5:8]}-{number[8:]}",
        "origin": "twilio",
        "phone_number": number,
        "sid": sid,
        "status": "in-use",
        "type": "local",
        "uri": uri_of(account.sid, "IncomingPhoneNumbers", sid),
        "voice_caller_id_lookup": False,
        "voice_receive_mode": "voice",
        **dict.fromkeys(NUMBER_SIDS),
        **dict.fromkeys(NUMBER_URLS, ""),
        **dict.fromkeys(NUMBER_METHODS, "POST"),
    }


def changed_number(fields: Mapping[str, Any], asking: Asking) -> dict[str, Any]:
    """A number with what a request says about it. An empty URL leads nowhere again."""
    changed = {**fields, "date_updated": rfc_2822(asking.now)}
    for name in ("friendly_name", *NUMBER_URLS, *NUMBER_METHODS, *NUMBER_SIDS):
        parameter = "".join(part.capitalize() for part in name.split("_"))
        if parameter not in asking.form:
            continue
        given = asking.form.one(parameter) or ""
        if given and name in NUMBER_URLS and not is_url(given):
            raise ApiError(21502, f"{parameter} is not a valid URL")
        changed[name] = given
    return changed
