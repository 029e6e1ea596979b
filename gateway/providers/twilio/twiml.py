"""The documents that an application answers a call with, on their way to Twilio. Pure.

Twilio fetched such a document from us, so that what is written in it relative to its own URL would lead to us and find
nothing there, and what the application is told next would be signed with a token that it does not have. So URLs of the
application are replaced: where Twilio asks for what to do next, or tells how something went, by ours that carries them;
where it only fetches something to play, by the whole URL. We are asked by POST, whatever the application is to be asked by,
which our URL carries as well. URLs on other hosts, and everything that is no URL, stay byte for
byte as they came; and so does all of a document that is not well-formed, which is Twilio's to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from gateway.providers.api import CallbackAddress, Carried
from gateway.providers.twilio.callback_requests import STATUS, VOICE, is_sound, is_twilios, passable, wrapped

DOCUMENT_BYTES_MAX = 256 << 10
"""Four times what Twilio reads of one. A larger one stays as it is."""

ATTRIBUTES: Mapping[bytes, str | None] = {
    **dict.fromkeys((b"action", b"url", b"referUrl", b"waitUrl"), VOICE),
    **dict.fromkeys(
        (
            *(b"statusCallback", b"recordingStatusCallback", b"transcribeCallback", b"partialResultCallback"),
            *(b"amdStatusCallback", b"conferenceStatusCallback", b"machineDetectionStatusCallback"),
            *(b"statusCallbackUrl", b"eventCallbackUrl"),
        ),
        STATUS,
    ),
}
"""The attributes that hold a URL, and the webhook that passes on what comes there: `voice` where Twilio asks what to do
next, `status` where it only tells."""

TEXTS: Mapping[bytes, str | None] = {b"Redirect": VOICE, b"Play": None, b"Media": None}
"""The verbs whose text is a URL; None where it is of something to play, which Twilio fetches from the application."""

_HEARD = b"waitUrl"
"""What who waits hears: a document, or a sound."""

_STREAMS = frozenset({b"Stream", b"Siprec", b"ConversationRelay", b"Start", b"VirtualAgent"})
"""Verbs whose `url` is no webhook but where the sound of a call goes."""

_NAME = rb"[A-Za-z_][A-Za-z0-9._:-]*"
_ATTRIBUTE = re.compile(rb"""(\s+(%b)\s*=\s*)("[^"<]*"|'[^'<]*')""" % _NAME)
_TOKEN = re.compile(
    rb"""(?P<aside><!--(?:(?!--).)*-->|<\?(?:(?!\?>).)*\?>)|(?P<cdata><!\[CDATA\[.*?\]\]>)|</(?P<end>%b)\s*>"""
    rb"""|<(?P<begin>%b)(?P<attributes>(?:\s+%b\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(?P<empty>/?)>|(?P<text>[^<]+)"""
    % (_NAME, _NAME, _NAME),
    re.DOTALL,
)


METHODS: Mapping[bytes, bytes] = {
    b"action": b"method",
    b"url": b"method",
    b"referUrl": b"referMethod",
    b"statusCallbackUrl": b"statusCallbackMethod",
    **{
        name: name + b"Method"
        for name in ATTRIBUTES
        if name
        not in (b"action", b"url", b"referUrl", b"statusCallbackUrl", b"transcribeCallback", b"eventCallbackUrl")
    },
}
"""The attributes that say by which method the URL in another is asked; those without one are asked by POST."""

_WAITS: Mapping[bytes, bytes] = {b"Conference": b"waitMethod"}
"""Verbs that say the method of their `waitUrl` by another name."""


class _NotWellFormed(Exception):
    """Whatever this is, it is not for us to change."""


class _Leading(NamedTuple):
    """Where the URLs of one document lead to from us."""

    at: str
    """Where the document stands; empty for one that stands nowhere, whose URLs are its application's wherever they lead."""
    address: CallbackAddress

    def led(self, url: str, webhook: str | None, method: str, *, heard: bool = False) -> tuple[str, bool]:
        """The URL that stands in its place, and whether that is one of ours."""
        try:
            whole = urljoin(self.at, url)
            own = _host(whole) == _host(self.at) if self.at else passable(whole) and not is_twilios(whole)
        except ValueError:
            return url, False
        if not own:
            return url, False
        carried = Carried(whole, method, heard=heard)
        played = webhook is None or (heard and is_sound(whole))
        ours = None if played else wrapped(carried, self.address, webhook or VOICE)
        return ours or whole, ours is not None


def led_back(document: bytes, at: str, address: CallbackAddress) -> bytes:
    """The document that the application has at that URL, as Twilio gets it from us."""
    if len(document) > DOCUMENT_BYTES_MAX:
        return document
    try:
        return b"".join(_written(document, _Leading(at, address)))
    except _NotWellFormed:
        return document


def led_inline(document: bytes, address: CallbackAddress) -> bytes:
    """The document that a form holds, as Twilio gets it from us."""
    return led_back(document, "", address)


def _host(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(scheme)


def _written(document: bytes, leading: _Leading) -> list[bytes]:
    written: list[bytes] = []
    inside: list[bytes] = []
    place, begun = 0, False
    said = 0
    """Where the text of the verb that is open began to be written, which may be several pieces."""
    while place < len(document):
        found = _TOKEN.match(document, place)
        if found is None:
            raise _NotWellFormed
        place = found.end()
        token = found[0]
        if found["begin"]:
            if begun and not inside:
                raise _NotWellFormed  # A document has one root.
            begun = True
            token = _beginning(found, leading)
            if not found["empty"]:
                inside.append(found["begin"])
                said = len(written) + 1
        elif found["end"]:
            if not inside or inside.pop() != found["end"]:
                raise _NotWellFormed
            if found["end"] in TEXTS:
                written[said - 1 :] = _text(written[said - 1], written[said:], TEXTS[found["end"]], leading)
        elif not inside and not found["aside"] and token.strip(b"\xef\xbb\xbf\t\r\n "):
            raise _NotWellFormed
        written.append(token)
    if inside or not begun:
        raise _NotWellFormed
    return written


def _beginning(found: re.Match[bytes], leading: _Leading) -> bytes:
    """The tag that begins an element, with the URLs in it led back."""
    attributes = found["attributes"]
    if not attributes:
        return found[0]
    methods = {name: value[1:-1].upper() for _, name, value in _ATTRIBUTE.findall(attributes)}
    posted: set[bytes] = set()

    def changed(attribute: re.Match[bytes]) -> bytes:
        name, value = attribute[2], attribute[3]
        if name not in ATTRIBUTES or (name == b"url" and found["begin"] in _STREAMS):
            return attribute[0]
        before = _unescaped(value[1:-1])
        if before is None or (name != b"action" and not before.strip()):
            # Nothing is to be asked: `waitUrl=""` is how a conference waits in silence. An `action` is this very document then.
            return attribute[0]
        asked = METHODS.get(name, b"")
        if name == _HEARD:
            asked = _WAITS.get(found["begin"], asked)
        is_get = methods.get(asked) == b"GET"
        heard = name == _HEARD
        after, is_ours = leading.led(before.strip(), ATTRIBUTES[name], "GET" if is_get else "", heard=heard)
        if is_ours and is_get:
            posted.add(asked)
        return attribute[0] if after == before else attribute[1] + b'"' + _escaped(after) + b'"'

    led = _ATTRIBUTE.sub(changed, attributes)
    start = found.start("attributes") - found.start()
    return found[0][:start] + _posting(led, posted) + found[0][start + len(attributes) :]


def _posting(attributes: bytes, names: Collection[bytes]) -> bytes:
    """We are asked by POST, also for what the application is asked for by GET: a GET is signed over its URL alone, and on an
    account that tenants share any of them can choose that."""
    return (
        _ATTRIBUTE.sub(lambda one: one[1] + b'"POST"' if one[2] in names else one[0], attributes)
        if names
        else attributes
    )


def _text(begin: bytes, pieces: list[bytes], webhook: str | None, leading: _Leading) -> list[bytes]:
    """The tag and the text of an element whose text is a URL, led back; what is not text alone stays as it is."""
    said = ""
    for piece in pieces:
        if piece.startswith(b"<![CDATA["):
            said += piece[9:-3].decode("utf-8", "replace")
        elif piece.startswith(b"<!--"):
            continue
        else:
            plain = None if piece.startswith(b"<") else _unescaped(piece)
            if plain is None:
                return [begin, *pieces]
            said += plain
    url = said.strip()
    if not url and webhook is None:
        return [begin, *pieces]
    methods = {name: value[1:-1].upper() for _, name, value in _ATTRIBUTE.findall(begin)}
    is_get = methods.get(b"method") == b"GET"
    after, is_ours = leading.led(url, webhook, "GET" if is_get else "")
    if after == url:
        return [begin, *pieces]
    return [_posting(begin, {b"method"}) if is_ours and is_get else begin, _escaped(after)]


_ENTITY = re.compile(r"&(?:#([0-9]{1,7})|#x([0-9A-Fa-f]{1,6})|([A-Za-z]+));|&")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def _unescaped(value: bytes) -> str | None:
    """What XML's characters mean; None for an entity that it does not have by itself, or what is not UTF-8."""
    try:
        return _ENTITY.sub(_character, value.decode())
    except (LookupError, OverflowError, UnicodeDecodeError, ValueError):
        return None


def _character(found: re.Match[str]) -> str:
    if found[1] or found[2]:
        character = chr(int(found[1] or found[2], 10 if found[1] else 16))
        character.encode()  # Raises ValueError for half of one.
        return character
    return _ENTITIES[found[3]]


def _escaped(text: str) -> bytes:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text.encode("utf-8", "xmlcharrefreplace")
