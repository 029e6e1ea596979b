"""Twilio: its endpoints, and how its answers tell what they used.

Sources: the official OpenAPI description (twilio-oai 2.6.7), what the SDKs send (twilio-python 9.13, twilio-node 6.2), and
recorded answers. A message and a call are billed by what finally becomes of them, which is known minutes later: what the
first answer says is booked as `pending`, and `late` reads the last word, whoever asks for it.
"""

from __future__ import annotations

import re
from operator import attrgetter

from gateway.providers.api import FirstSteps, Provider
from gateway.providers.free import unlisted_by
from gateway.providers.twilio.account_secrets import SECRET
from gateway.providers.twilio.answers import judge_by_shape, meter
from gateway.providers.twilio.endpoints import ENDPOINTS
from gateway.providers.twilio.figures import figures
from gateway.providers.twilio.owned_numbers import NUMBERS
from gateway.providers.twilio.paths import ACCOUNT, LINKS, OBJECT_ID, OPEN, PRODUCTS, REFERENCE, REFERENCE_SIGN, place
from gateway.providers.twilio.records import RECORDS, TOTALS
from gateway.providers.twilio.refusals import authorize, missing, presented_key, refusal
from gateway.providers.twilio.webhooks import WEBHOOKS

unlisted = unlisted_by(meter(judge_by_shape))


PROVIDER = Provider(
    name="twilio",
    base_url="https://{product}.twilio.com",
    products=PRODUCTS,
    place=place,
    credential_fields=("account_sid", "auth_token"),
    endpoints=ENDPOINTS,
    unlisted=unlisted,
    presented_key=presented_key,
    authorize=authorize,
    credential_headers=frozenset({b"authorization"}),
    account_headers=frozenset(),
    account_field="account_sid",
    account_path=f"{ACCOUNT}/",
    subaccount=attrgetter("twilio_subaccount"),
    account_secret=SECRET,
    administration=re.compile(rf"(?!(?:{OPEN.pattern})$).*", re.DOTALL),
    object_id=OBJECT_ID,
    references=(REFERENCE,),
    reference_sign=REFERENCE_SIGN,
    refusal=refusal,
    missing=missing,
    links=LINKS,
    webhooks=WEBHOOKS,
    records=RECORDS,
    totals=TOTALS,
    figures=figures,
    numbers=NUMBERS,
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
