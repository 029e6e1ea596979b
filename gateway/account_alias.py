"""The account that a tenant sees in the place of the real one, for providers that have accounts in their paths. Pure.

A tenant's account with the gateway stands where the provider's own would: the application configures it, sends it in
paths, and finds it in answers. On the way up it gives way to the real one, and on the way back the real one to it, so
that no tenant ever learns whose account it shares.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.messages import Headers
from gateway.providers.decoding import Plain


class AccountAlias(NamedTuple):
    """The two names of one account, for one tenant."""

    ours: bytes
    """What the application knows it by."""
    theirs: bytes
    """What the provider knows it by."""

    def sent(self, target: str) -> str:
        """A path and query as the provider gets them."""
        return target.replace(self.ours.decode(), self.theirs.decode())


class Restoring:
    """Puts the application's name of the account into an answer, wherever the network cut it."""

    __slots__ = ("_alias", "_held", "_plain", "cut")

    def __init__(self, alias: AccountAlias, headers: Headers) -> None:
        """`headers` are the answer's. We ask for no compression; one that comes all the same is taken off.

        Raises UndecodableAnswer for one that can not be.
        """
        self._alias = alias
        self._held = b""
        codings = [coding for name in headers.getall("Content-Encoding", ()) if (coding := name.strip().lower())]
        self._plain = None if codings in ([], ["identity"]) else Plain(", ".join(codings))
        self.cut: frozenset[bytes] = frozenset() if self._plain is None else frozenset({b"content-encoding"})
        """The headers, in lower case, that are not true of what leaves."""

    @property
    def keeps_length(self) -> bool:
        """True where what leaves is as long as what came."""
        return self._plain is None and len(self._alias.ours) == len(self._alias.theirs)

    def header(self, value: bytes) -> bytes:
        """A header of the answer."""
        return value.replace(self._alias.theirs, self._alias.ours)

    def feed(self, chunk: bytes) -> bytes:
        """What may leave by now: all but an end that the next bytes could complete to the real name."""
        ours, theirs = self._alias
        if self._plain is not None:
            chunk = self._plain.feed(chunk)
        seen = (self._held + chunk if self._held else chunk).replace(theirs, ours)
        start = seen.find(theirs[:1], max(0, len(seen) - len(theirs) + 1))
        while start >= 0 and not theirs.startswith(seen[start:]):
            start = seen.find(theirs[:1], start + 1)
        self._held = b"" if start < 0 else seen[start:]
        return seen if start < 0 else seen[:start]

    def finish(self) -> bytes:
        """The end that was held back. Raises UndecodableAnswer where the answer was not whole."""
        if self._plain is not None:
            self._plain.finish()
        held, self._held = self._held, b""
        return held
