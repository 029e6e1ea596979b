"""The rule that an account shared by several tenants must not leak. Pure.

On the platform's own credentials a tenant sees what it made, and nothing else: what administers the account is refused,
what belongs to another tenant looks missing, and lists are refused, since they show everybody's. A tenant with
credentials of its own has all of its account, and none of this applies; nor does it within an account of its own below
the platform's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Final
from urllib.parse import unquote

from gateway.errors import NotOnSharedAccount
from gateway.messages import RequestHead
from gateway.providers.api import Provider
from gateway.routing import Route

_PLAIN_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?")
"""A path that can be read in one way only: no escapes, no empty or dot segments, no parameters."""

_HIDDEN_CHARACTER: Final = re.compile(rb"\\u00(2[bBdDfF]|3[0-9dD]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
"""A letter, digit or another character of ids, written as a JSON escape, which no encoder does, and which would hide it."""

_HIDDEN_IN_FORM: Final = re.compile(
    rb"%(0[0-9a-fA-F]|1[0-9a-fA-F]|2[0dD]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])"
)
"""The same, percent-encoded: a form means the character itself. Here also space and the controls before it, which some
servers take off a value."""

_PERCENT: Final = 0x25
_BACKSLASH: Final = 0x5C
"""As numbers, for which bytes are looked through four times as fast."""

_ESCAPE: Final = re.compile(rb"\\(?:/|u00)")
"""Not the escapes of which every text is full: ends of lines and quotes."""

_GAP: Final = 16 * b" "
_PADDING: Final = re.compile(rb"[\x00-\x20+]{%d,}" % len(_GAP))
"""So much space, as JSON and forms write it, is there to part an object from what it is called."""

_AS_SPACE: Final = bytes(0x20 if one <= 0x20 or one == 0x2B else one for one in range(256))
"""To find that there is padding at a tenth of what the pattern costs."""

_NO_OBJECTS: Final = frozenset({"{part}", "{value}"})

_OVERRIDES: Final = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
"""Headers by which servers of several makes let a POST be another method; others read `_method` in the query."""


def _revealed(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 16),))


def is_within(route: Route, account: str) -> bool:
    """True for a path that leads to what the tenant's account has, and can be read in no other way. Where that account is
    the tenant's alone, so is all of it. The account itself, which hands out its credentials, is not within, with a slash
    behind it neither."""
    begins = route.provider.account_path
    return (
        begins is not None
        and route.path.rstrip("/").startswith(begins.format(account=account))
        and _PLAIN_PATH.fullmatch(route.path) is not None
    )


ANY_ACCOUNT: Final = "*"
"""Among the accounts that a tenant may speak for: whichever there is."""


def named_objects(route: Route, head: RequestHead, account: str, may_speak_for: Collection[str] = ()) -> list[str]:
    """The objects that a path names besides the tenant's account, each of which must be its own.

    `may_speak_for` are the accounts within the shared one for which this tenant's calls may speak; everything else is
    refused to them all the same. Raises NotOnSharedAccount.
    """
    provider = route.provider
    for name in provider.speaks_for:
        spoken_for = head.headers.getall(name, ())
        if spoken_for and ANY_ACCOUNT not in may_speak_for and not all(one in may_speak_for for one in spoken_for):
            raise NotOnSharedAccount(
                f"{name} speaks for another account, and this one is shared. Leave it out, use provider credentials of your "
                "own, or ask the operator to name that account in `on_behalf_of` of your integration."
            )
    asked = route.target.partition("?")[2]
    if any(name in head.headers for name in _OVERRIDES) or (asked and "_method" in unquote(asked).lower()):
        raise NotOnSharedAccount(
            "On the platform's shared account a request is judged by its method: send it with the one that is meant."
        )
    if route.names_nothing and not route.endpoint.lists:
        return []
    if not _PLAIN_PATH.fullmatch(route.path):
        raise NotOnSharedAccount(
            "On the platform's shared account, a path may not hold escapes, empty or dot segments. Send it in plain form."
        )
    if provider.administration.fullmatch(route.path):
        raise NotOnSharedAccount(
            "On the platform's shared account this path is closed: it administers the account, hands out what is everybody's, "
            "or does not name an object by its id. It works with provider credentials of your own (ask the operator, or send X-Gateway-Key beside them)."
        )
    places = route.endpoint.path.split("/") if route.listed else ()
    found = [
        segment
        for segment, place in zip_longest(route.path.split("/"), places, fillvalue="")
        if place not in _NO_OBJECTS
        and (place.startswith("{") or provider.object_id.fullmatch(segment))
        and segment != account
    ]
    shows_all = route.endpoint.lists or (not route.listed and head.method != "POST")
    if not found and shows_all:
        raise NotOnSharedAccount(
            "This would read or change what everybody on the shared account made. Name an object that was made through "
            "this gateway, use provider credentials of your own, or ask the operator for `shared_reads`."
        )
    return found


class References:
    """Finds the objects that a body refers to, in pieces of any size."""

    __slots__ = ("_provider", "_tail")

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._tail = b""

    def feed(self, chunk: bytes) -> Sequence[str]:
        """Return what is referred to up to here and was not told before, or was: asking twice does no harm."""
        seen = self._tail + chunk if self._tail else chunk
        if _PERCENT in seen:
            seen = _HIDDEN_IN_FORM.sub(_revealed, seen)
        if 0 in seen:
            seen = seen.replace(b"\0", b"")  # JSON in UTF-16, which some servers read, hides names between zeros.
        if _BACKSLASH in seen and _ESCAPE.search(seen):
            seen = _HIDDEN_CHARACTER.sub(_revealed, seen).replace(b"\\/", b"/")
        self._tail = seen
        if len(seen) > REFERENCE_BYTES_MAX:
            self._tail = seen[-REFERENCE_BYTES_MAX:]
            if _GAP in self._tail.translate(_AS_SPACE):
                self._tail = _PADDING.sub(b" ", seen)[-REFERENCE_BYTES_MAX:]
        table, sign = self._provider.reference_sign
        translated = seen.translate(table)
        # One byte of it is looked for at a small part of what the whole costs, and is not in most pieces of a picture; and
        # `in` first takes the whole for a number, which it is not, at the price of an exception.
        if sign[0] not in translated or translated.rfind(sign) < 0:
            return ()
        found: list[bytes] = []
        for pattern in self._provider.references:
            found += pattern.findall(seen)
        return [name.decode("latin-1") for name in dict.fromkeys(found)] if found else ()


REFERENCE_BYTES_MAX: Final = 2048
"""Longer than any escaped name of an object; so much is looked at again with the next piece."""
