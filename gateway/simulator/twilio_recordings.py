"""Recordings of calls at the simulated Twilio: kept, told of, listed, deleted. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from math import ceil
from typing import Any, ClassVar

from gateway.simulator.twilio_asked import Asking
from gateway.simulator.twilio_calls import Call
from gateway.simulator.twilio_objects import Ids, Thing, things
from gateway.simulator.twilio_told import API_VERSION, Told, gone, rfc_2822, uri_of, uri_page
from gateway.simulator.twilio_usage import Amount, Line, Usage

RECORDING_PRICE = Decimal("0.0025")
"""Of each minute that has begun."""


class Recordings:
    """Recordings of calls."""

    def __init__(self, usage: Usage, ids: Ids) -> None:
        self._usage = usage
        self._ids = ids
        self._recordings = things()

    def keep(self, call: Call, seconds: int, source: str, at: float) -> Thing:
        sid = self._ids.sid("RE")
        price = RECORDING_PRICE * ceil(seconds / 60)
        fields: dict[str, Any] = {
            "account_sid": call.account_sid,
            "api_version": API_VERSION,
            "call_sid": call.sid,
            "channels": 1,
            "conference_sid": None,
            "date_created": rfc_2822(at),
            "date_updated": rfc_2822(at),
            "duration": str(seconds),
            "encryption_details": None,
            "error_code": None,
            "media_url": f"https://api.twilio.com/{API_VERSION}/Accounts/{call.account_sid}/Recordings/{sid}",
            "price": f"{-price:.5f}",
            "price_unit": "USD",
            "sid": sid,
            "source": source,
            "start_time": rfc_2822(at),
            "status": "completed",
            "uri": uri_of(call.account_sid, "Recordings", sid),
        }
        made = Thing(sid, call.account_sid, fields)
        self._recordings.put(made)
        amount = Amount(1, ceil(seconds / 60), price, seconds)
        self._usage.tally(Line(call.account_sid, call.own_number, ""), "recordings", at, amount)
        return made

    def listing(self, asking: Asking, call_sid: str | None = None) -> Told:
        wanted = asking.query.one("CallSid") or call_sid
        own = [made for made in self._recordings.of(asking.account) if wanted in (None, made.fields["call_sid"])]
        return uri_page(asking, "Recordings", "Recording", own, lambda made: made.fields)

    def fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self._recordings.get(asking.account, sid).fields, kind="Recording", object_id=sid)

    def delete(self, asking: Asking, sid: str) -> Told:
        self._recordings.pop(asking.account, sid)
        return gone(sid)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("GET", "/Accounts/{account}/Recordings", listing),
        ("GET", "/Accounts/{account}/Calls/{id}/Recordings", listing),
        ("GET", "/Accounts/{account}/Recordings/{id}", fetch),
        ("DELETE", "/Accounts/{account}/Recordings/{id}", delete),
    )
