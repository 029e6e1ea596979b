"""Twilio's hosts and paths, and what of them is open on an account that several tenants share. Pure."""

from __future__ import annotations

import re

from gateway.providers.api import Links, Place

PRODUCTS = (
    "api", "accounts", "bulkexports", "chat", "content", "conversations", "events", "flex-api", "frontline-api", "iam",
    "insights", "intelligence", "ip-messaging", "knowledge", "lookups", "marketplace", "memory", "messaging", "monitor",
    "notify", "numbers", "oauth", "preview", "preview-iam", "pricing", "proxy", "routes", "serverless", "studio",
    "supersim", "sync", "taskrouter", "trunking", "trusthub", "verify", "video", "voice", "webhooks", "wireless",
)  # fmt: skip
"""The hosts of twilio.com that the SDKs know, by their first label. Nothing is sent to any other. What the gateway itself
asks, it asks the first."""

_PRODUCTS = frozenset(PRODUCTS)

OLD_VERSION = "2010-04-01"
"""The version whose paths name no product, and which chooses the form of its answers by a suffix."""

_SUFFIX = re.compile(r"\.(?:json|xml|csv|html|mp3|wav)$")


def place(rest: str) -> Place | None:
    """`/messaging/v1/…` is at messaging.twilio.com; `/2010-04-01/…`, and `/api/2010-04-01/…`, at api.twilio.com."""
    first = re.match(r"/([^/?]*)", rest)
    assert first is not None
    if first[1] == OLD_VERSION:
        product, target = "api", rest
    elif first[1] in _PRODUCTS:
        product, target = first[1], rest[first.end() :]
        if not target.startswith("/"):
            target = "/" + target
    else:
        return None
    # A number may stand in a path with its plus sign escaped, which is the same number.
    plain = target.partition("?")[0].replace("%2B", "+").replace("%2b", "+")
    return Place(product, target, f"/{product}{_SUFFIX.sub('', plain)}")


ACCOUNT = f"/api/{OLD_VERSION}/Accounts/{{account}}"

_SID = "[A-Z]{2}[0-9a-fA-F]{32}"
SID = re.compile(_SID)

OPEN = re.compile(
    rf"(?:/api/{OLD_VERSION}/Accounts/{_SID}/(?:Messages|Calls|Conferences|Recordings|Transcriptions|Queues|Applications)"
    r"|/messaging/v1/Services|/verify/v2/Services|/content/v1/Content|/sync/v1/Services|/video/v1/Rooms"
    rf"|/taskrouter/v1/Workspaces)(?:/{_SID}(?:/.*)?)?"
    r"|/lookups/v[12]/PhoneNumbers/.*|/pricing/v[12]/.*"
)
"""All that is open on an account that several tenants share. Everything else administers it: its keys, subaccounts,
numbers and sinks, its permissions, its usage. Of its objects, those that go by their SIDs: a conference, a room or a
document can be named by a name as well, which tells nobody whose it is. Flows are not open: one can have Twilio ask
whatever is wanted with the account's own credential, and sign what it sends. Conversations and proxies are not open: they
take over what comes in at the numbers that all tenants share."""

OBJECT_ID = re.compile(rf"(?i:{_SID})(?:\..*)?")
"""A SID in any case and with any suffix: what it looks like to Twilio is not ours to guess."""

REFERENCE = re.compile(rb'(?:"|[sS][iI][dD][A-Za-z]{0,16}=)[\x00-\x20+]*((?!AC|MG)[A-Z]{2}[0-9a-fA-F]{32})')
"""In a form the value of a field that is named for it, `ApplicationSid`, or its beginning: a text may begin with a SID. In
JSON the beginning of any text. A messaging service is no secret of whoever set it up: all who share the account can send
by it, as they can from its numbers."""

REFERENCE_SIGN = bytes(0x30 if one in b"0123456789abcdefABCDEF" else 0x20 for one in range(256)), 32 * b"0"
"""What the end of a SID is like where hexadecimal digits are all zeros."""

LINKS = Links(
    answers=re.compile(rf"/(?!api/).*|/api/{OLD_VERSION}/.*/Recordings(?:/.*)?", re.DOTALL),
    names=re.compile(rb"(?:[a-z0-9_]+_)?ur[il]"),
    targets=re.compile(rb"/(?!webhooks/)[a-z-]+/(?:v[0-9]{1,2}|%b)(?:[/?].*)?" % OLD_VERSION.encode(), re.DOTALL),
)
"""The version of 2010 writes paths, but for the `media_url` of recordings. At webhooks.twilio.com nobody asks for anything:
it stands where an application has Twilio call Twilio, and so do sounds that lie below no version."""
