"""Twilio's webhooks: which URL of an application is asked, with what, and what its answer means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urljoin

import msgspec

from gateway.simulator.api import Delivery, Reply
from gateway.simulator.twilio_asked import is_url
from gateway.simulator.twilio_callbacks import Callback, delivery

FAILED_WEBHOOK, TIMED_OUT, NO_TWIML = 11200, 11205, 12100
STEPS_MAX = 50
"""After so many webhooks in a row nobody is asked any more, whatever the TwiML says."""

PLACES: Mapping[str, tuple[str, str, str]] = {"1": ("US", "CO", "DENVER"), "44": ("GB", "", ""), "49": ("DE", "", "")}
"""Country, state and city, by the beginning of a number."""
NOWHERE = ("", "", "")

Form = Sequence[tuple[str, str]]
Answered = Callable[[Reply], Sequence[Delivery]]


class Target(NamedTuple):
    """An application's URL, and the one that is asked where it fails."""

    main: Callback
    fallback: Callback | None


def target_of(number: Mapping[str, Any], application: Mapping[str, Any], kind: str, token: str) -> Target | None:
    """Whom a number asks about a message (`sms`) or a call (`voice`): its application, else its own URLs."""
    fields = application if is_url(application.get(f"{kind}_url") or "") else number

    def callback(name: str) -> Callback | None:
        url = fields.get(f"{name}_url") or ""
        method = "GET" if fields.get(f"{name}_method") == "GET" else "POST"
        return Callback(url, method, token) if is_url(url) else None

    main = callback(kind)
    return Target(main, callback(f"{kind}_fallback")) if main else None


def elsewhere(here: Callback, url: str, method: str | None) -> Callback:
    """Where TwiML leads: a URL relative to the one that it came from."""
    return here._replace(url=urljoin(here.url, url), method="GET" if (method or "").upper() == "GET" else "POST")


def question(callback: Callback, form: Form, object_id: str, idempotency_token: str, answered: Answered) -> Delivery:
    """Ask an application what to do."""
    asked = delivery(
        callback,
        form,
        object_id=object_id,
        after_ms=0,
        still_so=lambda: True,
        idempotency_token=idempotency_token,
    )
    return msgspec.structs.replace(asked, answered=answered)


def is_good(reply: Reply) -> bool:
    return reply.status is not None and 200 <= reply.status < 300


def why(reply: Reply, failing: str) -> list[tuple[str, str]]:
    """What a fallback is told of the URL that failed."""
    code = NO_TWIML if is_good(reply) else TIMED_OUT if reply.error == "TimeoutError" else FAILED_WEBHOOK
    return [("ErrorCode", str(code)), ("ErrorUrl", failing)]


def places(**addresses: str) -> list[tuple[str, str]]:
    """Where these numbers are, by what their names are in the form."""
    form: list[tuple[str, str]] = []
    for name, address in addresses.items():
        number = address.rpartition(":")[2]
        found = (place for code, place in PLACES.items() if number.startswith(f"+{code}"))
        country, state, city = next(found, NOWHERE)
        form += [(f"{name}Country", country), (f"{name}State", state), (f"{name}City", city), (f"{name}Zip", "")]
    return form
