"""What tests ask of the simulator itself, under `/_simulator`: traffic that comes in, a history, the bill. No I/O.

It asks for no credential, speaks JSON, and is in the truth log like everything else:

`POST /_simulator/twilio/inbound-message`
    A message comes in: `to` and `from`, and as `gateway.simulator.twilio_inbound.InboundMessage` has it.
`POST /_simulator/twilio/inbound-call`
    A call comes in: `to` and `from`, and as `gateway.simulator.twilio_talk.InboundCall` has it.
`POST /_simulator/sendgrid/inbound-mail`
    A mail comes in, and inbound parse posts it, as `gateway.simulator.sendgrid_inbound.InboundMail` has it.
`POST /_simulator/twilio/bulk`
    A history is made at once, as `gateway.simulator.twilio_bulk.Bulk` has it.
`GET /_simulator/bill?from=2026-11-01&to=2026-11-30`
    What everybody used on these days, both included: all that tests hold a ledger against.
`GET /_simulator/rates`
    How often each credential called, was refused, and at most in one second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl

import msgspec

from gateway.simulator.api import Answer, Asked
from gateway.simulator.openai import OpenAI
from gateway.simulator.rates import Rates
from gateway.simulator.sendgrid import SendGrid
from gateway.simulator.sendgrid_inbound import InboundMail
from gateway.simulator.twilio import Twilio
from gateway.simulator.twilio_asked import ApiError
from gateway.simulator.twilio_bulk import Bulk
from gateway.simulator.twilio_inbound import InboundMessage
from gateway.simulator.twilio_talk import InboundCall
from gateway.simulator.twilio_told import Told

Body = TypeVar("Body")

encode = msgspec.json.encode


class Refused(Exception):
    """What is asked for makes no sense."""


class Director:
    """Answers tests."""

    name: ClassVar[str] = "_simulator"
    mount: ClassVar[str] = "_simulator"
    default_key: ClassVar[str] = ""
    default_credential: ClassVar[Mapping[str, str]] = {}
    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})

    def __init__(
        self, openai: OpenAI, sendgrid: SendGrid, twilio: Twilio, rates: Rates, now: Callable[[], float]
    ) -> None:
        self._openai = openai
        self._sendgrid = sendgrid
        self._twilio = twilio
        self._rates = rates
        self._now = now

    def credential(self, _headers: Mapping[str, str]) -> str | None:
        return None

    def answer(self, asked: Asked) -> Answer:
        try:
            endpoint = ROUTES.get((asked.method, asked.path))
            if endpoint is None:
                return self.refusal(404, f"There is none of these here: {', '.join(path for _, path in ROUTES)}.")
            return endpoint(self, asked)
        except Refused as refused:
            return self.refusal(400, str(refused))
        except ApiError as error:
            return self.refusal(error.status, error.message)

    def refusal(self, status: int, message: str) -> Answer:
        return Answer(status=status, body=encode({"error": message}))

    def inbound_message(self, asked: Asked) -> Answer:
        return said(self._twilio.inbound.message(read(asked, InboundMessage), asked.controls))

    def inbound_call(self, asked: Asked) -> Answer:
        return said(self._twilio.inbound.call(read(asked, InboundCall), asked.controls))

    def inbound_mail(self, asked: Asked) -> Answer:
        try:
            return self._sendgrid.inbound_mail(read(asked, InboundMail))
        except ValueError as error:
            raise Refused(f"The body of this request: {error}.") from None

    def bulk(self, asked: Asked) -> Answer:
        return Answer(status=201, body=encode(self._twilio.history.make(read(asked, Bulk), self._now())))

    def bill(self, asked: Asked) -> Answer:
        first, last = (day_of(asked, name) for name in ("from", "to"))
        bill = {"from": first, "to": last, "twilio": self._twilio.bill(first, last)}
        bill |= {"sendgrid": self._sendgrid.bill(first, last), "openai": self._openai.bill(first, last)}
        return Answer(body=encode(bill))

    def rates(self, _asked: Asked) -> Answer:
        return Answer(body=encode({caller: spell._asdict() for caller, spell in self._rates.told().items()}))


def read(asked: Asked, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(asked.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"The body of this request: {error}.") from None


def said(told: Told) -> Answer:
    return Answer(
        status=told.status,
        body=encode(told.fields),
        object_id=told.object_id,
        usage=told.usage,
        lives=told.lives,
        later=told.later,
    )


def day_of(asked: Asked, name: str) -> date:
    given = dict(parse_qsl(asked.query)).get(name, "")
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise Refused(f"{name} is a day such as 2026-11-30, not {given!r}.") from None


ROUTES: Mapping[tuple[str, str], Callable[[Any, Asked], Answer]] = {
    ("POST", "/twilio/inbound-message"): Director.inbound_message,
    ("POST", "/twilio/inbound-call"): Director.inbound_call,
    ("POST", "/sendgrid/inbound-mail"): Director.inbound_mail,
    ("POST", "/twilio/bulk"): Director.bulk,
    ("GET", "/bill"): Director.bill,
    ("GET", "/rates"): Director.rates,
}
"""Everything that can be asked for."""
