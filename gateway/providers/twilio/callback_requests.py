"""Whom Twilio tells what became of a message or a call, and whom it asks what to do with one: the form that makes or changes
it is altered so that it comes to us. Pure.

What Twilio sends to an application it signs with the account's auth token, which who calls through us does not have. So the
URLs of a form give way to ours, which carry them, sealed for their tenant: what comes there can be recorded, and passed on
with a signature that the application can verify. Where we are asked it is by POST, whatever the application is to be asked
by, which our URL carries as well: a GET is signed over its URL alone, and on an account that tenants share any of them can
choose that. A form that makes a message or a call and names no `StatusCallback` gets one. Everything else stays byte for
byte as it came, the events included that the application wants to be told of: one that does not ask for `completed` is not
told of it, and nor are we, so that the end of its calls is asked for like that of those that tell nobody.

Left as they are, and asked about later, are forms that name a messaging service and no callback of their own, where ours
would take the place of the service's; forms that name an application, which decides itself (Twilio then takes no notice of
the fields); and whatever Twilio could read in more than one way, or would refuse. So are URLs on Twilio's own hosts, where
what is asked verifies that Twilio does, and those of sounds that are played: Twilio fetches these, and keeps them. What is
heard by who waits (`WaitUrl`, `HoldUrl`, `AnnounceUrl`) may be a sound or a document, which only a path that ends like a
file's tells; it comes to us where it does not, since a document's application verifies who asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlsplit

from gateway.providers.api import CallbackAddress, Carried

STATUS, VOICE = "status", "voice"
"""The webhooks that carry an application's URL, and the name of the parameter that does."""
CARRIED = "to"

FORM_BYTES_MAX = 64 << 10
"""A form up to this size is looked at. A message has at most 1,600 characters and ten media."""

URL_CHARACTERS_MAX = 2_000
"""What every part of the way takes of a URL; where ours would be longer, the application's is left in its place."""

TWILIOS = re.compile(r"(.+\.)?(?:twilio|twimlets)\.com", re.IGNORECASE)
"""The hosts where what is asked is Twilio's own: documents and flows that are kept there."""

_SOUND = re.compile(r"\.(?:mp3|mpeg|wav|wave|aiff?|aifc|gsm|ulaw|ul|au|ogg)$", re.IGNORECASE)
"""How the paths of files end that Twilio plays."""

_FORM = re.compile(rb"[!#-;=?-Z\\\]-z|~]+")
"""The characters of a form, as strictly as SDKs write it and as sloppily as people do; neither JSON nor multipart."""


class Field(NamedTuple):
    """A field of a form that holds a URL of the application's."""

    method: bytes
    """The field that says by which method it is asked."""
    webhook: str
    begins: bool = False
    """True where it is asked first of all."""
    heard: bool = False
    """True for what who waits hears."""
    unsaid: str = ""
    """The method where the form says none: `GET`, or empty for `POST`."""


_CALLBACK = b"StatusCallback"
_DOCUMENT = b"Twiml"

DOCUMENT_CHARACTERS_MAX = 4_000
"""Twilio takes no longer document in a form: where ours would be, the application's stays as it is."""


def _tells(*names: bytes) -> dict[bytes, Field]:
    return {name: Field(name + b"Method", STATUS) for name in names}


MESSAGE: Mapping[bytes, Field] = _tells(_CALLBACK)
CALL: Mapping[bytes, Field] = {
    **_tells(_CALLBACK, b"RecordingStatusCallback", b"AsyncAmdStatusCallback"),
    b"Url": Field(b"Method", VOICE, begins=True),
    b"FallbackUrl": Field(b"FallbackMethod", VOICE, begins=True),
}
CALL_CHANGED: Mapping[bytes, Field] = {
    **_tells(_CALLBACK),
    b"Url": Field(b"Method", VOICE),
    b"FallbackUrl": Field(b"FallbackMethod", VOICE),
}
"""A call that is led elsewhere while it lasts is asked about once more."""
HEARD: Mapping[bytes, Field] = {
    b"AnnounceUrl": Field(b"AnnounceMethod", VOICE, heard=True),
    b"HoldUrl": Field(b"HoldMethod", VOICE, heard=True, unsaid="GET"),
    b"WaitUrl": Field(b"WaitMethod", VOICE, heard=True),
}
PARTICIPANT: Mapping[bytes, Field] = {
    **_tells(_CALLBACK, b"ConferenceStatusCallback", b"RecordingStatusCallback", b"ConferenceRecordingStatusCallback"),
    **_tells(b"AmdStatusCallback"),
    **HEARD,
}
RECORDING: Mapping[bytes, Field] = _tells(b"RecordingStatusCallback")


def called_back(
    fields: Mapping[bytes, Field],
    *,
    added: bool = False,
    led: Callable[[bytes, CallbackAddress], bytes] | None = None,
) -> Callable[[bytes, CallbackAddress], bytes]:
    """What has Twilio come to us for what stands in these fields, and where it is `added`, tell us though nobody asked.
    `led` does the same in the document of a form that holds one."""

    def changed(body: bytes, address: CallbackAddress) -> bytes:
        if not 0 < len(body) <= FORM_BYTES_MAX or _FORM.fullmatch(body) is None:
            return body
        pairs = body.split(b"&")
        places = _places(pairs)
        if _value(pairs, places, b"ApplicationSid"):
            return body
        for name, one in fields.items():
            _lead(pairs, places, name, one, address)
        if led is not None and len(places.get(_DOCUMENT, ())) == 1:
            before = unquote_plus(_value(pairs, places, _DOCUMENT).decode("latin-1"))
            after = led(before.encode(), address).decode()
            if after != before and len(after) <= DOCUMENT_CHARACTERS_MAX:
                _put(pairs, places, _DOCUMENT, after)
        unasked = not _value(pairs, places, _CALLBACK) and not _value(pairs, places, b"MessagingServiceSid")
        if (
            added
            and unasked
            and places.get(_CALLBACK, ())[1:] == ()
            and _method(pairs, places, _CALLBACK + b"Method") == ""
        ):
            _put(pairs, places, _CALLBACK, f"{address.base_url}/{STATUS}")
        return b"&".join(pairs)

    return changed


def _places(pairs: Sequence[bytes]) -> dict[bytes, tuple[int, ...]]:
    """Where each field stands."""
    places: dict[bytes, tuple[int, ...]] = {}
    for place, pair in enumerate(pairs):
        name = pair.partition(b"=")[0]
        if b"%" in name or b"+" in name:
            name = unquote_plus(name.decode("latin-1")).encode()
        places[name] = (*places.get(name, ()), place)
    return places


def _value(pairs: Sequence[bytes], places: Mapping[bytes, tuple[int, ...]], name: bytes) -> bytes:
    """The first value of a field that is not empty, as it is written."""
    found = (pairs[place].partition(b"=")[2] for place in places.get(name, ()))
    return next((value for value in found if value), b"")


def _method(pairs: Sequence[bytes], places: Mapping[bytes, tuple[int, ...]], name: bytes) -> str | None:
    """`GET`, or empty for `POST`, which is what Twilio does unless it is told; None for what it would not take."""
    if len(places.get(name, ())) > 1:
        return None
    said = _value(pairs, places, name).upper()
    return {b"": "", b"POST": "", b"GET": "GET"}.get(said)


def _lead(
    pairs: list[bytes], places: dict[bytes, tuple[int, ...]], name: bytes, one: Field, address: CallbackAddress
) -> None:
    """Put our URL in the place of the application's, where that can be."""
    method = _method(pairs, places, one.method)
    value = _value(pairs, places, name)
    if len(places.get(name, ())) != 1 or not value or method is None:
        return
    url = unquote_plus(value.decode("latin-1"))
    if not _value(pairs, places, one.method):
        method = one.unsaid
    left = is_twilios(url) or (one.heard and is_sound(url))
    ours = None if left else wrapped(Carried(url, method, one.begins, heard=one.heard), address, one.webhook)
    if ours is None:
        return
    _put(pairs, places, name, ours)
    if method:
        _put(pairs, places, one.method, "POST")


def _put(pairs: list[bytes], places: dict[bytes, tuple[int, ...]], name: bytes, value: str) -> None:
    pair = b"%b=%b" % (name, quote(value, safe="").encode())
    if name in places:
        pairs[places[name][0]] = pair
    else:
        pairs.append(pair)


def is_twilios(url: str) -> bool:
    """True for what is asked of Twilio itself."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and TWILIOS.fullmatch(host) is not None


def is_sound(url: str) -> bool:
    """True for what Twilio plays, and does not read."""
    try:
        return _SOUND.search(urlsplit(url).path) is not None
    except ValueError:
        return False


def wrapped(carried: Carried, address: CallbackAddress, webhook: str) -> str | None:
    """Our URL, carrying an application's; None where nothing can be passed on to that, or ours would be too long.

    What stands behind `#` tells Twilio how to connect and never leaves it: it is as true of ours.
    """
    plain, fragment, options = carried.url.partition("#")
    if address.bound is None or not passable(plain):
        return None
    sealed = quote(address.bound(carried._replace(url=plain)), safe="")
    ours = f"{address.base_url}/{webhook}?{CARRIED}={sealed}{fragment}{options}"
    return ours if len(ours) <= URL_CHARACTERS_MAX else None


def passable(url: str) -> bool:
    """True for a URL that a callback can be passed on to, as far as it says itself: http or https, a host, no password."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # Raises ValueError where it is no number.
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.username is None
