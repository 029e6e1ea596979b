"""Twilio's newer products, simulated: messaging services, verifications and lookups. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from gateway.simulator.twilio_asked import NUMBER, ApiError, Asking, NotFound, is_url
from gateway.simulator.twilio_objects import Ids, Owned, Thing, things
from gateway.simulator.twilio_told import Told, gone, iso_8601, url_page
from gateway.simulator.twilio_usage import Amount, Line, Usage

WRONG_CODE = "000000"
"""Every other code is the right one."""

SERVICE_LINKS = ("phone_numbers", "short_codes", "alpha_senders", "channel_senders", "destination_alpha_senders")
VERIFY_LINKS = (
    "verification_checks",
    "verifications",
    "rate_limits",
    "messaging_configurations",
    "entities",
    "webhooks",
)
VERIFY_CHANNELS = ("sms", "call", "email", "whatsapp", "sna", "auto")

LOOKUP_FIELDS = (
    *("caller_name", "sim_swap", "call_forwarding", "line_status", "line_type_intelligence", "identity_match"),
    *("reassigned_number", "sms_pumping_risk", "phone_number_quality_score", "pre_fill"),
)
"""What a lookup can tell besides whether there is such a number; each costs."""
LOOKUP_PRICE, VERIFICATION_PRICE = Decimal("0.008"), Decimal("0.05")
"""Of each field that a lookup tells, and of each verification that is approved."""
COUNTRIES: Mapping[str, str] = {"1": "US", "44": "GB", "49": "DE", "33": "FR", "31": "NL", "61": "AU", "91": "IN"}
"""The few whose numbers a lookup knows."""


class Services:
    """Messaging v1: services, which choose who sends."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self.owned: Owned[Thing] = things()

    def create(self, asking: Asking) -> Told:
        form, sid = asking.form, self._ids.sid("MG")
        name = form.one("FriendlyName")
        if name is None:
            raise ApiError(20001, "Missing required parameter FriendlyName in the post body")
        callback = form.one("StatusCallback")
        if callback is not None and not is_url(callback):
            raise ApiError(20001, "StatusCallback is not a valid URL")
        url, at = f"https://messaging.twilio.com/v1/Services/{sid}", iso_8601(asking.now)
        fields = {
            "account_sid": asking.account.sid,
            "area_code_geomatch": form.one("AreaCodeGeomatch") != "false",
            "date_created": at,
            "date_updated": at,
            "fallback_method": form.one("FallbackMethod") or "POST",
            "fallback_to_long_code": form.one("FallbackToLongCode") != "false",
            "fallback_url": form.one("FallbackUrl"),
            "friendly_name": name,
            "inbound_method": form.one("InboundMethod") or "POST",
            "inbound_request_url": form.one("InboundRequestUrl"),
            "links": {
                **{link: f"{url}/{''.join(map(str.capitalize, link.split('_')))}" for link in SERVICE_LINKS},
                "us_app_to_person": f"{url}/Compliance/Usa2p",
                "us_app_to_person_usecases": f"{url}/Compliance/Usa2p/Usecases",
            },
            "mms_converter": form.one("MmsConverter") != "false",
            "scan_message_content": "inherit",
            "sid": sid,
            "smart_encoding": form.one("SmartEncoding") != "false",
            "status_callback": callback,
            "sticky_sender": form.one("StickySender") != "false",
            "synchronous_validation": False,
            "url": url,
            "us_app_to_person_registered": False,
            "use_inbound_webhook_on_number": False,
            "usecase": form.one("Usecase") or "undeclared",
            "validity_period": form.natural("ValidityPeriod") or 36_000,
        }
        self.owned.put(Thing(sid, asking.account.sid, fields))
        return Told(fields=fields, kind="", status=201, object_id=sid)

    def listing(self, asking: Asking) -> Told:
        own = self.owned.of(asking.account)
        return url_page(asking, "messaging", "services", own, lambda made: made.fields)

    def fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self.owned.get(asking.account, sid).fields, kind="", object_id=sid)

    def delete(self, asking: Asking, sid: str) -> Told:
        self.owned.pop(asking.account, sid)
        return gone(sid)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/v1/Services", create),
        ("GET", "/v1/Services", listing),
        ("GET", "/v1/Services/{id}", fetch),
        ("DELETE", "/v1/Services/{id}", delete),
    )


class Verify:
    """Verify v2: services, verifications, and the checks of their codes."""

    def __init__(self, usage: Usage, ids: Ids) -> None:
        self._usage = usage
        self._ids = ids
        self._services = things()
        self._verifications = things()

    def create(self, asking: Asking) -> Told:
        form, sid = asking.form, self._ids.sid("VA")
        name = form.one("FriendlyName")
        if name is None:
            raise ApiError(60200, "Invalid parameter: FriendlyName")
        url, at = f"https://verify.twilio.com/v2/Services/{sid}", iso_8601(asking.now)
        fields = {
            "account_sid": asking.account.sid,
            "code_length": form.natural("CodeLength") or 6,
            "custom_code_enabled": False,
            "date_created": at,
            "date_updated": at,
            "default_template_sid": None,
            "do_not_share_warning_enabled": False,
            "dtmf_input_required": True,
            "friendly_name": name,
            "links": {
                **{link: f"{url}/{''.join(map(str.capitalize, link.split('_')))}" for link in VERIFY_LINKS},
                "verification_checks": f"{url}/VerificationCheck",
            },
            "lookup_enabled": False,
            "passkeys": None,
            "psd2_enabled": False,
            "push": {"include_date": False, "apn_credential_sid": None, "fcm_credential_sid": None},
            "sid": sid,
            "skip_sms_to_landlines": False,
            "totp": {"issuer": name, "time_step": 30, "code_length": 6, "skew": 1},
            "tts_name": None,
            "url": url,
            "verify_event_subscription_enabled": False,
            "whatsapp": {"msg_service_sid": None, "from": None},
        }
        self._services.put(Thing(sid, asking.account.sid, fields))
        return Told(fields=fields, kind="", status=201, object_id=sid)

    def listing(self, asking: Asking) -> Told:
        own = self._services.of(asking.account)
        return url_page(asking, "verify", "services", own, lambda made: made.fields)

    def fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self._services.get(asking.account, sid).fields, kind="", object_id=sid)

    def delete(self, asking: Asking, sid: str) -> Told:
        self._services.pop(asking.account, sid)
        return gone(sid)

    def verification_create(self, asking: Asking, service_sid: str) -> Told:
        self._services.get(asking.account, service_sid)
        to, channel = asking.form.one("To"), asking.form.one("Channel") or "sms"
        if to is None or channel not in VERIFY_CHANNELS:
            raise ApiError(60200, f"Invalid parameter: {'To' if to is None else 'Channel'}")
        if not (NUMBER.fullmatch(to) or (channel == "email" and "@" in to)):
            raise ApiError(60200, f"Invalid parameter `To`: {to[:40]}")
        sid, at = self._ids.sid("VE"), iso_8601(asking.now)
        attempt = {"time": at, "channel": channel, "attempt_sid": self._ids.sid("VL")}
        fields = {
            "account_sid": asking.account.sid,
            "amount": None,
            "channel": channel,
            "date_created": at,
            "date_updated": at,
            "lookup": {"carrier": None},
            "payee": None,
            "send_code_attempts": [attempt],
            "service_sid": service_sid,
            "sid": sid,
            "sna": None,
            "status": "pending",
            "to": to,
            "url": f"https://verify.twilio.com/v2/Services/{service_sid}/Verifications/{sid}",
            "valid": False,
        }
        self._verifications.put(Thing(sid, asking.account.sid, fields))
        return Told(fields=fields, kind="", status=201, object_id=sid, usage=truth_of("verification", fields))

    def verification_fetch(self, asking: Asking, service_sid: str, sid_or_to: str) -> Told:
        found = self._verification(asking, service_sid, sid_or_to)
        return Told(fields=found.fields, kind="", object_id=found.sid)

    def verification_update(self, asking: Asking, service_sid: str, sid_or_to: str) -> Told:
        found, status = self._verification(asking, service_sid, sid_or_to), asking.form.one("Status")
        if status not in ("approved", "canceled"):
            raise ApiError(60200, "Invalid parameter: Status")
        changed = self._changed(found, asking, status)
        self._tally(changed, asking)
        return Told(fields=changed.fields, kind="", object_id=found.sid, usage=truth_of("verification", changed.fields))

    def check(self, asking: Asking, service_sid: str) -> Told:
        """Approve, where the code is right; who is approved cannot be checked again."""
        wanted, code = asking.form.one("VerificationSid") or asking.form.one("To"), asking.form.one("Code")
        if wanted is None or code is None:
            raise ApiError(60200, f"Missing required parameter: {'To' if wanted is None else 'Code'}")
        found = self._verification(asking, service_sid, wanted)
        if found.fields["status"] != "pending":
            raise NotFound
        checked = found if code == WRONG_CODE else self._changed(found, asking, "approved")
        self._tally(checked, asking)
        names = ("sid", "service_sid", "account_sid", "to", "channel", "status", "valid", "amount", "payee")
        fields = {name: checked.fields[name] for name in (*names, "date_created", "date_updated")}
        return Told(
            fields={**fields, "sna_attempts_error_codes": []},
            kind="",
            object_id=found.sid,
            usage=truth_of("verification_check", fields),
        )

    def _verification(self, asking: Asking, service_sid: str, sid_or_to: str) -> Thing:
        """By its sid, or the newest one to this address."""
        for made in self._verifications.of(asking.account):
            if made.fields["service_sid"] == service_sid and sid_or_to in (made.sid, made.fields["to"]):
                return made
        raise NotFound

    def _tally(self, made: Thing, asking: Asking) -> None:
        """What costs is that somebody was approved."""
        if made.fields["status"] == "approved":
            line = Line(made.account_sid, "", made.fields["service_sid"])
            self._usage.tally(line, "authy-authentications", asking.at, Amount(1, 1, VERIFICATION_PRICE))

    def _changed(self, made: Thing, asking: Asking, status: str) -> Thing:
        news = {"status": status, "valid": status == "approved", "date_updated": iso_8601(asking.now)}
        changed = made._replace(fields={**made.fields, **news})
        self._verifications.put(changed)
        return changed

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/v2/Services", create),
        ("GET", "/v2/Services", listing),
        ("GET", "/v2/Services/{id}", fetch),
        ("DELETE", "/v2/Services/{id}", delete),
        ("POST", "/v2/Services/{id}/Verifications", verification_create),
        ("GET", "/v2/Services/{id}/Verifications/{id}", verification_fetch),
        ("POST", "/v2/Services/{id}/Verifications/{id}", verification_update),
        ("POST", "/v2/Services/{id}/VerificationCheck", check),
    )


class Lookups:
    """Lookup v2: a GET that costs, by what it is to tell."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage

    def fetch(self, asking: Asking, number: str) -> Told:
        plain = "".join(character for character in number if character not in " ().-")
        valid = NUMBER.fullmatch(plain) is not None
        code = next((code for code in COUNTRIES if valid and plain[1:].startswith(code)), None)
        wanted = (asking.query.one("Fields") or "").split(",")
        known = [name for name in LOOKUP_FIELDS if name in wanted]
        if unknown := [name for name in filter(None, wanted) if name not in LOOKUP_FIELDS]:
            raise ApiError(60600, f"Unknown field: {unknown[0][:40]}")
        told: dict[str, Any] = dict.fromkeys(LOOKUP_FIELDS)
        for name in known:
            told[name] = {"error_code": None}
        if "line_type_intelligence" in known:
            told["line_type_intelligence"] |= {"type": "mobile", "carrier_name": "Simulated Wireless"}
        fields = {
            "calling_country_code": code,
            "country_code": COUNTRIES[code] if code else None,
            "national_format": plain[1 + len(code) :] if code else plain,
            "phone_number": plain,
            "url": f"https://lookups.twilio.com/v2/PhoneNumbers/{plain}",
            "valid": valid,
            "validation_errors": [] if valid else ["NOT_A_NUMBER"],
            **told,
        }
        if known:
            cost = LOOKUP_PRICE * len(known)
            line = Line(asking.account.sid, "", "")
            self._usage.tally(line, "lookups", asking.at, Amount(1, len(known), cost))
        return Told(fields=fields, kind="", usage={"kind": "lookup", "to": plain, "fields": known})

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (("GET", "/v2/PhoneNumbers/{id}", fetch),)


def truth_of(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, **{name: fields[name] for name in ("to", "channel", "status", "service_sid")}}
