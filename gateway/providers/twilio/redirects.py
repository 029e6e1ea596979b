"""Where an application leads one of Twilio's questions by an HTTP redirect, or by being a sound, as Twilio gets it. Pure.

Twilio follows such an answer itself. We call no URL that we have not been given, and what a redirect leads to has no answer
yet: so Twilio is told to ask once more, at a URL of ours that carries the new one, and everything holds for that which holds
for any URL of the application's. It is the same question, and no further step of the call.

Twilio documents which redirects it follows (error 11216), that there may be too many in a row (11215), and not by which
method it asks then: it is what HTTP clients do (RFC 9110, 15.4), by GET after a POST, and after a 307 as before. With GET
goes what the body said. After a 307 the body is sent again; but the verb that has Twilio ask once more submits nothing of
what was pressed, said or dialled, so that our URL carries it. What would make that too long leads nowhere, and the fallback
is asked.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus, urldefrag, urljoin
from xml.sax.saxutils import escape

from gateway.providers.api import CallbackAddress, Carried, Redirect, Reply
from gateway.providers.twilio.callback_requests import VOICE, is_sound, is_twilios, wrapped

FOLLOWED = frozenset({301, 302, 303, 307})

IN_A_ROW_MAX = 10
"""A further one is not followed: it may lead in a circle. Twilio does not say how many are too many for it; common servers
need two or three."""

_SAID_AGAIN = re.compile(
    r"(?:From|To|Caller|Called)(?:City|State|Zip|Country)?|(?:Account|Call|ParentCall)Sid|CallStatus|ApiVersion|Direction"
    r"|ForwardedFrom|CallerName|CallToken|Stir\w*"
)
"""What every question about a call says."""

_LOCATION = re.compile(r"[\x21-\x7e]+")

_ENCODED = re.compile(r"(?:%[89A-Fa-f][0-9A-Fa-f])+")
"""Bytes beyond ASCII."""

_ASCII = "".join(map(chr, range(128)))


def redirected(redirect: Redirect, address: CallbackAddress) -> Reply | None:
    """The document that has Twilio ask where this leads; None for what it would not follow, or we can not pass on."""
    redirects = 0 if redirect.carried is None else redirect.carried.redirects
    if redirect.status not in FOLLOWED or redirects >= IN_A_ROW_MAX or not _LOCATION.fullmatch(redirect.location):
        return None
    asked = redirect.asked
    posted = redirect.status == 307 and asked.method == "POST"
    try:
        # What stands behind `#` is not for a server.
        url = urldefrag(urljoin(redirect.url, redirect.location)).url
    except ValueError:
        return None
    if is_sound(url):
        return fetched(b"audio/", url)
    if is_twilios(url):
        return _document(url, "POST" if posted else "GET")
    said = _not_said_again(asked.body) if posted else ""
    carried = Carried(url, "" if posted else "GET", redirects=redirects + 1, said=said)
    ours = wrapped(carried, address, VOICE)
    return None if ours is None else _document(ours, "POST")


def fetched(media_type: bytes, url: str) -> Reply | None:
    """The document that has Twilio play what an application answers with, where that is a sound and no document; else None.
    For those there is no limit, and Twilio fetches them itself."""
    if not media_type.strip().lower().startswith(b"audio/"):
        return None
    return Reply(200, b"text/xml", f"<Response><Play>{escape(url)}</Play></Response>".encode())


def asked_again(body: bytes, said: str) -> bytes:
    """The form of a question that is asked once more, with what was said before and it does not say."""
    told = {_name(pair) for pair in body.decode("latin-1").split("&")}
    missing = [pair for pair in said.split("&") if pair and _name(pair) not in told]
    return b"&".join((*((body,) if body else ()), *(quote(pair, safe=_ASCII).encode() for pair in missing)))


def _not_said_again(body: bytes) -> str:
    """As a form, but with letters beyond ASCII as they are: encoded, each has nine characters for the two bytes or three that
    are sealed."""
    pairs = body.decode("utf-8", "replace").split("&")
    said = "&".join(pair for pair in pairs if not _SAID_AGAIN.fullmatch(_name(pair)))
    return _ENCODED.sub(_letters, said)


def _letters(encoded: re.Match[str]) -> str:
    try:
        return unquote(encoded[0], errors="strict")
    except UnicodeDecodeError:
        return encoded[0]


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


def _document(url: str, method: str) -> Reply:
    said = f'<Response><Redirect method="{method}">{escape(url)}</Redirect></Response>'
    return Reply(200, b"text/xml", said.encode())
