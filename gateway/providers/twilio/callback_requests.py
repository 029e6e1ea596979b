"""Whom Twilio tells what became of a message or a call: the form that asks for one is changed so that it tells us. Pure.

One field of a form is ours to change, `StatusCallback`. A form without it gets it; in one that has it, its URL gives way to
ours, which carries it, sealed for its tenant, so that what Twilio tells us can be passed on. Everything else stays byte for
byte as it came, the method and the events that the application wants to be told of included: one that does not ask for
`completed` is not told of it, and nor are we, so that the end of its calls is asked for like that of those that tell nobody.

Left as they are, and asked about later, are forms that name a messaging service and no callback of their own, where ours
would take the place of the service's; forms that name an application, which decides itself (Twilio then takes no notice of
the field); and whatever Twilio could read in more than one way, or would refuse.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus, urlsplit

from gateway.providers.api import CallbackAddress

STATUS, VOICE = "status", "voice"
"""The webhooks that carry an application's URL, and the name of the parameter that does."""
CARRIED = "to"

FORM_BYTES_MAX = 64 << 10
"""A form up to this size is looked at. A message has at most 1,600 characters and ten media."""

URL_CHARACTERS_MAX = 2_000
"""What every part of the way takes of a URL; where ours would be longer, the application's is left in its place."""

_FORM = re.compile(rb"[!#-;=?-Z\\\]-z|~]+")
"""The characters of a form, as strictly as SDKs write it and as sloppily as people do; neither JSON nor multipart."""


def called_back(body: bytes, address: CallbackAddress) -> bytes:
    """The form that has Twilio tell us, or the same form where it can not."""
    if not 0 < len(body) <= FORM_BYTES_MAX or _FORM.fullmatch(body) is None:
        return body
    pairs = body.split(b"&")
    callbacks, service = [], False
    for place, pair in enumerate(pairs):
        name, _, value = pair.partition(b"=")
        if b"%" in name or b"+" in name:
            name = unquote_plus(name.decode("latin-1")).encode()
        if name == b"ApplicationSid" and value:
            return body
        if name == b"StatusCallbackMethod" and value.upper() != b"POST":
            # A GET is signed over its URL alone: on an account that is shared nobody would be believed by it.
            return body
        if name == b"MessagingServiceSid" and value:
            service = True
        if name == b"StatusCallback":
            callbacks.append(place)
    if len(callbacks) > 1:
        return body
    name, _, value = pairs[callbacks[0]].partition(b"=") if callbacks else (b"StatusCallback", b"", b"")
    if not value and service:
        return body
    url = wrapped(unquote_plus(value.decode("latin-1")), address, STATUS) if value else f"{address.base_url}/{STATUS}"
    if url is None:
        return body
    ours = b"%b=%b" % (name, quote(url, safe="").encode())
    if callbacks:
        pairs[callbacks[0]] = ours
    else:
        pairs.append(ours)
    return b"&".join(pairs)


def wrapped(url: str, address: CallbackAddress, webhook: str, method: str = "") -> str | None:
    """Our URL, carrying an application's; None where nothing can be passed on to that, or ours would be too long.

    What stands behind `#` tells Twilio how to connect and never leaves it: it is as true of ours.
    """
    plain, fragment, options = url.partition("#")
    if address.bound is None or not passable(plain):
        return None
    carrying = (
        f"{address.base_url}/{webhook}?{CARRIED}={quote(address.bound(plain, method), safe='')}{fragment}{options}"
    )
    return carrying if len(carrying) <= URL_CHARACTERS_MAX else None


def passable(url: str) -> bool:
    """True for a URL that a callback can be passed on to, as far as it says itself: http or https, a host, no password."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # Raises ValueError where it is no number.
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.username is None
