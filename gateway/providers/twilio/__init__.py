"""Twilio: its endpoints, and how its answers tell what they used.

Sources: the official OpenAPI description (twilio-oai 2.6.7), what the SDKs send (twilio-python 9.13, twilio-node 6.2), and
recorded answers. A message is billed by what finally becomes of it, which is known minutes later: what is booked here is
what the first answer says, and it is `pending`.
"""

from __future__ import annotations

import re
from operator import attrgetter

from gateway.providers.api import Endpoint, FirstSteps, Provider
from gateway.providers.free import reads_back, unlisted_by
from gateway.providers.twilio.answers import judge_by_shape, judge_call, judge_lookup, judge_message, meter
from gateway.providers.twilio.figures import figures
from gateway.providers.twilio.paths import ACCOUNT, OBJECT_ID, OPEN, PRODUCTS, REFERENCE, place
from gateway.providers.twilio.records import RECORDS, TOTALS
from gateway.providers.twilio.refusals import authorize, missing, presented_key, refusal
from gateway.providers.twilio.requests import read_call, read_message

unlisted = unlisted_by(meter(judge_by_shape))


PROVIDER = Provider(
    name="twilio",
    base_url="https://{product}.twilio.com",
    products=PRODUCTS,
    place=place,
    credential_fields=("account_sid", "auth_token"),
    endpoints=(
        Endpoint(
            name="messages.create",
            method="POST",
            path=f"{ACCOUNT}/Messages",
            event_type="sms_outbound",
            describes="message",
            meter=meter(judge_message),
            prepare=read_message,
        ),
        reads_back("messages.list", "GET", f"{ACCOUNT}/Messages", lists=True),
        reads_back("messages.fetch", "GET", f"{ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.update", "POST", f"{ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.delete", "DELETE", f"{ACCOUNT}/Messages/{{sid}}"),
        reads_back("messages.media.list", "GET", f"{ACCOUNT}/Messages/{{sid}}/Media"),
        reads_back("messages.media.fetch", "GET", f"{ACCOUNT}/Messages/{{sid}}/Media/{{part}}"),
        reads_back("messages.media.delete", "DELETE", f"{ACCOUNT}/Messages/{{sid}}/Media/{{part}}"),
        Endpoint(
            name="calls.create",
            method="POST",
            path=f"{ACCOUNT}/Calls",
            event_type="call_outbound",
            describes="call",
            meter=meter(judge_call),
            prepare=read_call,
        ),
        reads_back("calls.list", "GET", f"{ACCOUNT}/Calls", lists=True),
        reads_back("calls.fetch", "GET", f"{ACCOUNT}/Calls/{{sid}}"),
        reads_back("calls.update", "POST", f"{ACCOUNT}/Calls/{{sid}}"),
        reads_back("calls.delete", "DELETE", f"{ACCOUNT}/Calls/{{sid}}"),
        *(
            Endpoint(
                name=f"lookups.{version}.phone_numbers.fetch",
                method="GET",
                path=f"/lookups/{version}/PhoneNumbers/{{value}}",
                event_type="lookup",
                describes="look-up",
                meter=meter(judge_lookup),
            )
            for version in ("v1", "v2")
        ),
    ),
    unlisted=unlisted,
    presented_key=presented_key,
    authorize=authorize,
    credential_headers=frozenset({b"authorization"}),
    account_headers=frozenset(),
    account_field="account_sid",
    subaccount=attrgetter("twilio_subaccount"),
    administration=re.compile(rf"(?!(?:{OPEN.pattern})$).*", re.DOTALL),
    object_id=OBJECT_ID,
    references=(REFERENCE,),
    refusal=refusal,
    missing=missing,
    records=RECORDS,
    totals=TOTALS,
    figures=figures,
    account_of="twilio_subaccount",
    first_steps=FirstSteps(
        exports="TWILIO_ACCOUNT_SID={account_sid} TWILIO_AUTH_TOKEN={key}",
        path="{proxy}/twilio/2010-04-01/Accounts/{account_sid}/Messages.json",
        body="To=%2B12025550143&From=%2B15005550006&Body=Hello",
        media_type="application/x-www-form-urlencoded",
        user="{account_sid}",
        sdk_package="twilio",
        sdk_call="from twilio.rest import Client; c = Client(); c.api.base_url = '{proxy}/twilio/api'; "
        "print(c.messages.create(to='+12025550143', from_='+15005550006', body='Hello').sid)",
    ),
)
