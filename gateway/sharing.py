"""The rule that an account shared by several tenants must not leak. Pure.

On the platform's own credentials a tenant sees what it made, and nothing else: what administers the account is refused,
what belongs to another tenant looks missing, and lists are refused, since they show everybody's. A tenant with
credentials of its own has all of its account, and none of this applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest

from gateway.errors import NotOnSharedAccount
from gateway.providers.api import Provider
from gateway.routing import Route

_PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)*/?")
"""A path that can be read in one way only: no escapes, no empty or dot segments, no parameters."""

_HIDDEN_CHARACTER = re.compile(rb"\\u00(2[dD]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
"""A letter, digit, hyphen or underscore written as a JSON escape, which no encoder does, and which would hide a name."""


def named_objects(route: Route, method: str) -> list[str]:
    """The objects that a path names, each of which must be the tenant's own. Raises NotOnSharedAccount."""
    provider = route.provider
    if not _PLAIN_PATH.fullmatch(route.path):
        raise NotOnSharedAccount(
            "On the platform's shared account, a path may not hold escapes, empty or dot segments. Send it in plain form."
        )
    for prefix in provider.administration:
        if route.path == prefix or route.path.startswith(prefix + "/"):
            raise NotOnSharedAccount(
                "This endpoint administers the account or hands out its credentials, and the account is shared. "
                "It works with provider credentials of your own (ask the operator, or send X-Gateway-Key beside them)."
            )
    places = route.endpoint.path.split("/") if route.listed else ()
    found = [
        segment
        for segment, place in zip_longest(route.path.split("/"), places, fillvalue="")
        if place.startswith("{") or provider.object_id.fullmatch(segment)
    ]
    if not found and not route.listed and method != "POST":
        raise NotOnSharedAccount(
            "This would read or change what everybody on the shared account made. Name an object that was made through "
            "this gateway, use provider credentials of your own, or ask the operator for `shared_reads`."
        )
    return found


class References:
    """Finds the objects that a body refers to, in pieces of any size."""

    def __init__(self, provider: Provider) -> None:
        self._pattern = provider.references
        self._tail = b""

    def feed(self, chunk: bytes) -> Iterable[str]:
        """Return what is referred to up to here and was not told before, or was: asking twice does no harm."""
        seen = self._tail + chunk if self._tail else chunk
        if b"\0" in seen:
            seen = seen.replace(b"\0", b"")  # JSON in UTF-16, which some servers read, hides names between zeros.
        if b"\\u00" in seen:
            seen = _HIDDEN_CHARACTER.sub(lambda found: bytes((int(found[1], 16),)), seen)
        self._tail = seen[-REFERENCE_BYTES_MAX:]
        return [found.decode() for found in dict.fromkeys(self._pattern.findall(seen))]


REFERENCE_BYTES_MAX = 2048
"""Longer than any escaped name of an object; so much is looked at again with the next piece."""
