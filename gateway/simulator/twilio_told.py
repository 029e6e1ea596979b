"""How Twilio tells its answers: JSON or XML, one object or a page of a list, and errors. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode
from xml.sax.saxutils import escape, quoteattr

import msgspec

from gateway.simulator.api import JSON, Answer, Delivery
from gateway.simulator.twilio_asked import ApiError, Asking

encode = msgspec.json.encode

XML = "application/xml"
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML cannot hold."""

PAGE_ITEMS, PAGE_ITEMS_MAX = 50, 1000

API_VERSION = "2010-04-01"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said, in JSON or XML."""

    fields: Mapping[str, Any] | None
    """None where nothing is left to be said: it is deleted."""
    kind: str
    """What it is called in XML."""
    item_kind: str | None = None
    """Where it is a page of a list, what one of its items is called."""
    status: int = 200
    object_id: str | None = None
    usage: object = None
    lives: bool = False
    later: tuple[Delivery, ...] = ()


def gone(object_id: str) -> Told:
    return Told(fields=None, kind="", status=204, object_id=object_id)


def written(told: Told, *, in_xml: bool) -> Answer:
    """The answer in bytes."""
    if told.fields is None:
        return Answer(status=told.status, content_type="", object_id=told.object_id, later=told.later)
    return Answer(
        status=told.status,
        content_type=XML if in_xml else JSON,
        body=xml(told) if in_xml else encode(told.fields),
        object_id=told.object_id,
        usage=told.usage,
        lives=told.lives,
        later=told.later,
    )


def failure(error: ApiError, *, in_xml: bool) -> Answer:
    """An error, in the shape that all of the API shares."""
    fields = {
        "code": error.code,
        "message": error.message,
        "more_info": f"https://www.twilio.com/docs/errors/{error.code}",
        "status": error.status,
    }
    answer = written(Told(fields=fields, kind="RestException", status=error.status), in_xml=in_xml)
    if error.status == 401:
        return msgspec.structs.replace(answer, headers=(("WWW-Authenticate", 'Basic realm="Twilio API"'),))
    return answer


def xml(told: Told) -> bytes:
    assert told.fields is not None
    if told.item_kind is None:
        inner = element(told.kind, told.fields)
    else:
        # A page's own fields are attributes, without the underscores.
        (items,) = (value for value in told.fields.values() if isinstance(value, list))
        own = (
            f" {name.replace('_', '')}={quoteattr(text(name, value))}"
            for name, value in told.fields.items()
            if not isinstance(value, list)
        )
        inner = f"<{told.kind}{''.join(own)}>{''.join(element(told.item_kind, item) for item in items)}</{told.kind}>"
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<TwilioResponse>{inner}</TwilioResponse>".encode()


def element(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        # The subresources' URIs are named after them, and are URIs all the same.
        suffix = "_uri" if name == "SubresourceUris" else ""
        inner = "".join(element_of(field, field + suffix, child) for field, child in value.items())
        return f"<{name}>{inner}</{name}>"
    return element_of(name, name, value)


def element_of(name: str, meaning: str, value: object) -> str:
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if isinstance(value, Mapping):
        return element(title, value)
    inner = escape(text(meaning, value))
    return f"<{title}>{inner}</{title}>" if inner else f"<{title}/>"


def text(name: str, value: object) -> str:
    """A value as XML has it: without what it cannot hold, and its URIs lead to XML."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    said = NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))
    return said.replace(".json", "", 1) if name.endswith("uri") else said


def rfc_2822(at: float | None) -> str | None:
    """A time as the API of 2010 tells it."""
    return None if at is None else format_datetime(datetime.fromtimestamp(int(at), UTC))


def iso_8601(at: float) -> str:
    """A time as the newer products tell it."""
    return f"{datetime.fromtimestamp(int(at), UTC):%Y-%m-%dT%H:%M:%SZ}"


def uri_of(account_sid: str, *segments: str) -> str:
    """The URI, relative to the host, of an account or of something that it has."""
    return f"/{'/'.join((API_VERSION, 'Accounts', account_sid, *segments))}.json"


class HasSid(Protocol):
    @property
    def sid(self) -> str: ...


Item = TypeVar("Item", bound=HasSid)
Sided_co = TypeVar("Sided_co", bound=HasSid, covariant=True)


class Listed(Protocol[Sided_co]):
    """What a list is made of, newest first."""

    def older(self, than: str | None) -> Iterator[Sided_co]:
        """Newest first, from what is older than the one of this sid; without one, all."""

    def newer(self, than: str) -> Iterator[Sided_co]:
        """Oldest first, from what is newer than the one of this sid."""

    def __contains__(self, sid: str) -> bool: ...


class InOrder(Generic[Item]):
    """A list that is all there already, newest first."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def older(self, than: str | None) -> Iterator[Item]:
        return iter(self._items if than is None else self._items[self._index(than) + 1 :])

    def newer(self, than: str) -> Iterator[Item]:
        return iter(self._items[: self._index(than)][::-1])

    def __contains__(self, sid: str) -> bool:
        return any(item.sid == sid for item in self._items)

    def _index(self, sid: str) -> int:
        return next(index for index, item in enumerate(self._items) if item.sid == sid)


class Cut(NamedTuple, Generic[Item]):
    """A page of a list."""

    shown: list[Item]
    size: int
    page: int
    first: str
    previous: str | None
    next: str | None
    own: str
    """The queries that lead to this page and to others."""


def cut(items: Listed[Item], asking: Asking) -> Cut[Item]:
    """Find the page that a query asks for. A page token names its neighbour, so that what is new moves nothing."""
    query = asking.query
    size = min(query.natural("PageSize") or PAGE_ITEMS, PAGE_ITEMS_MAX)
    page = query.natural("Page") or 0
    token = query.one("PageToken") or ""
    sid = token[2:] if token[:2] in ("PA", "PB") and token[2:] in items else None
    if sid and token.startswith("PB"):
        shown, more = list(itertools.islice(items.newer(sid), size))[::-1], True
    else:
        start = 0 if sid else page * size
        shown = list(itertools.islice(items.older(sid), start, start + size + 1))
        shown, more = shown[:size], len(shown) > size
    paging = ("Page", "PageSize", "PageToken")
    filters = [(name, value) for name, values in query.fields.items() if name not in paging for value in values]

    def to(page: int, token: str | None = None) -> str:
        return urlencode([*filters, ("PageSize", size), ("Page", page), *([("PageToken", token)] if token else [])])

    return Cut(
        shown=shown,
        size=size,
        page=page,
        first=to(0),
        previous=to(page - 1, f"PB{shown[0].sid}") if page and shown else None,
        next=to(page + 1, f"PA{shown[-1].sid}") if more and shown else None,
        own=to(page, token),
    )


def uri_page(
    asking: Asking,
    kind: str,
    item_kind: str,
    items: Listed[Item] | Sequence[Item],
    tell: Callable[[Item], Mapping[str, Any]],
) -> Told:
    """A page as the API of 2010 has it: its URIs are relative to the host. The list is called like the kind."""
    place = cut(InOrder(items) if isinstance(items, Sequence) else items, asking)
    shown = list(map(tell, place.shown))

    def uri(query: str | None) -> str | None:
        return None if query is None else f"{asking.path}.json?{query}"

    key = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    fields = {
        "first_page_uri": uri(place.first),
        "end": max(place.page * place.size + len(shown) - 1, 0),
        "previous_page_uri": uri(place.previous),
        key: shown,
        "uri": uri(place.own),
        "page_size": place.size,
        "start": place.page * place.size,
        "next_page_uri": uri(place.next),
        "page": place.page,
    }
    return Told(fields=fields, kind=kind, item_kind=item_kind)


def url_page(
    asking: Asking, product: str, key: str, items: Sequence[Item], tell: Callable[[Item], Mapping[str, Any]]
) -> Told:
    """A page as the newer products have it: its URLs are whole, and name their host."""
    place = cut(InOrder(items), asking)
    shown = list(map(tell, place.shown))

    def url(query: str | None) -> str | None:
        return None if query is None else f"https://{product}.twilio.com{asking.path}?{query}"

    meta = {
        "page": place.page,
        "page_size": place.size,
        "first_page_url": url(place.first),
        "previous_page_url": url(place.previous),
        "url": url(place.own),
        "next_page_url": url(place.next),
        "key": key,
    }
    return Told(fields={"meta": meta, key: shown}, kind="")


def newest_first(items: Iterator[Item]) -> list[Item]:
    return list(items)[::-1]
