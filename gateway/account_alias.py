"""The account that a tenant sees in the place of the real one, for providers that have accounts in their paths. Pure.

A tenant's account with the gateway stands where the provider's own would: the application configures it, sends it in
paths, and finds it in answers. On the way up it gives way to the real one, and on the way back the real one to it, so
that no tenant ever learns whose account it shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.answer_links import Leading
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


def hidden(secret: bytes) -> AccountAlias:
    """What stands in an answer for a secret of ours that a provider repeats."""
    return AccountAlias(b"*" * len(secret), secret)


class Restoring:
    """Puts the application's name of the account into an answer, wherever the network cut it."""

    __slots__ = ("_aliases", "_held", "_leading", "_plain", "cut")

    def __init__(self, aliases: Sequence[AccountAlias], encoding: str, leading: Leading | None = None) -> None:
        """`encoding` is the answer's. We ask for no compression; one that comes all the same is taken off. `leading` leads
        the URLs in it to the gateway.

        Raises UndecodableAnswer for one that can not be.
        """
        self._aliases = aliases
        self._leading = leading
        self._held = b""
        self._plain = Plain(encoding) if encoding else None
        self.cut: frozenset[bytes] = frozenset() if self._plain is None else frozenset({b"content-encoding"})
        """The headers, in lower case, that are not true of what leaves."""

    @property
    def keeps_length(self) -> bool:
        """True where what leaves is as long as what came."""
        return (
            self._plain is None
            and self._leading is None
            and all(len(alias.ours) == len(alias.theirs) for alias in self._aliases)
        )

    def header(self, line: bytes) -> bytes:
        """A header line of the answer."""
        for ours, theirs in self._aliases:
            line = line.replace(theirs, ours)
        return line

    def feed(self, chunk: bytes) -> bytes:
        """What may leave by now: all but an end that the next bytes could complete to a real name."""
        if self._plain is not None:
            chunk = self._plain.feed(chunk)
        seen = self.header(self._held + chunk if self._held else chunk)
        held = min((_begun(seen, alias.theirs) for alias in self._aliases), default=len(seen))
        self._held = seen[held:]
        return seen[:held] if self._leading is None else self._leading.feed(seen[:held])

    def finish(self) -> bytes:
        """The end that was held back. Raises UndecodableAnswer where the answer was not whole."""
        if self._plain is not None:
            self._plain.finish()
        held, self._held = self._held, b""
        return held if self._leading is None else self._leading.feed(held) + self._leading.finish()


def _begun(seen: bytes, name: bytes) -> int:
    """Where at the end of these bytes the name may have begun; their length where it has not."""
    start = seen.find(name[:1], max(0, len(seen) - len(name) + 1))
    while start >= 0 and not name.startswith(seen[start:]):
        start = seen.find(name[:1], start + 1)
    return len(seen) if start < 0 else start
