"""Calls that go out at the simulated Twilio: what their application says once they are answered, and their recordings. No I/O.

A call lasts as long as it was asked to, whatever its TwiML says: what that makes, legs, recordings and further questions,
is made all the same, and may be told after the end of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from gateway.simulator.api import Delivery
from gateway.simulator.twilio_accounts import Accounts
from gateway.simulator.twilio_asked import Asking, is_url
from gateway.simulator.twilio_callbacks import Callback
from gateway.simulator.twilio_calls import Call, Calls
from gateway.simulator.twilio_life import begin_of
from gateway.simulator.twilio_objects import Ids
from gateway.simulator.twilio_recordings import Recordings
from gateway.simulator.twilio_talk import InboundCall, Talk, recorded, tell
from gateway.simulator.twilio_told import Told
from gateway.simulator.twilio_webhooks import Target


class Outbound:
    """Makes calls."""

    def __init__(
        self, accounts: Accounts, calls: Calls, recordings: Recordings, ids: Ids, now: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._calls = calls
        self._recordings = recordings
        self._ids = ids
        self._now = now

    def create(self, asking: Asking) -> Told:
        told = self._calls.create(asking)
        call = self._calls.anybodys(told.object_id or "")
        answered = None if call is None else begin_of(call.life, frozenset({"in-progress"}))
        if call is None or answered is None:
            return told
        later = [*told.later, *_at(self._asked(asking, call), answered, asking.now)]
        later += _at(self._recorded(asking, call), call.life[-1].at, asking.now)
        # In the order in which it happens: what tells of one object leaves one after the other.
        return msgspec.structs.replace(told, later=tuple(sorted(later, key=lambda one: one.after_ms)))

    def _asked(self, asking: Asking, call: Call) -> Sequence[Delivery]:
        """Ask the application of an answered call what to do with it."""
        fields = {"voice_url": "Url", "voice_method": "Method", "voice_fallback_url": "FallbackUrl"}
        fields |= {"voice_fallback_method": "FallbackMethod"}
        form = asking.form
        application = self._accounts.application(form.one("ApplicationSid"), asking.account.sid)
        said = application or {name: form.one(field) for name, field in fields.items()}

        def callback(name: str) -> Callback | None:
            url = said.get(f"{name}_url") or ""
            method = "GET" if (said.get(f"{name}_method") or "").upper() == "GET" else "POST"
            return Callback(url, method, asking.account.auth_token) if is_url(url) else None

        main = callback("voice")
        if main is None:
            return ()
        target = Target(main, callback("voice_fallback"))
        spoken = InboundCall(to=call.to, source=call.sender)
        return Talk(self._calls, self._recordings, self._ids, self._now, spoken, call, target, planned=True).begin()

    def _recorded(self, asking: Asking, call: Call) -> Sequence[Delivery]:
        """Record all of a call that wants it, and tell whom it names."""
        form = asking.form
        if (form.one("Record") or "").lower() != "true":
            return ()
        made = self._recordings.keep(call, call.seconds or 0, "OutboundAPI", call.life[-1].at)
        url = form.one("RecordingStatusCallback") or ""
        if not is_url(url):
            return ()
        method = "GET" if (form.one("RecordingStatusCallbackMethod") or "").upper() == "GET" else "POST"
        there = Callback(url, method, asking.account.auth_token)
        return (tell(there, recorded(made), made.sid, self._ids.idempotency_token()),)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/Accounts/{account}/Calls", create),
    )


def _at(deliveries: Sequence[Delivery], at: float, now: float) -> list[Delivery]:
    after_ms = max(0, round((at - now) * 1000))
    return [msgspec.structs.replace(one, after_ms=after_ms) for one in deliveries]
