"""A request's body on its way to the provider: every byte is looked at once, as it goes by, and none is changed.

Two may want to look: the rule for shared accounts, which looks for other tenants' objects, and the endpoint, where what
a call will use stands in its request. Both read the plain form; what is forwarded is what came.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

from gateway.errors import EncodedBody, Overloaded
from gateway.listener import Exchange
from gateway.messages import Headers
from gateway.providers import decoding
from gateway.providers.api import Watch
from gateway.providers.learnt import Prepared
from gateway.sharing import References

BODY_BYTES_MAX: Final = 8 << 20
"""A request body up to this size is held where it must be read or changed; a larger one is forwarded as it comes."""

LOOK_BYTES: Final = 16 << 10
"""So much is looked at before other calls get their turn."""

PLAIN_BYTES_MAX: Final = 4 << 20
RATIO_MAX: Final = 32
"""So much of one body is decompressed, and so many times what came of it; more is looked at no further. Looking through
what was made for that costs up to 0.5 s for each MiB, and gzip can hold a thousand times its size: whoever wants us to
look at much must send it. A mail to a thousand recipients that all get the same has 20 times its compressed size."""


def codings_of(headers: Headers) -> tuple[str, ...]:
    """What a body is coded with, in lower case."""
    return tuple(coding for name in headers.getall("Content-Encoding", ()) if (coding := name.lower()) != "identity")


class HeldBodies:
    """What one worker holds of request bodies, of all tenants and under all settings that were in force."""

    __slots__ = ("_of_tenants", "bytes_held", "bytes_max")

    def __init__(self, bytes_max: int = 0) -> None:
        self.bytes_max = bytes_max
        """May change; what is held then stays."""
        self.bytes_held = 0
        self._of_tenants: dict[str, int] = {}

    def add(self, tenant_id: str, size: int) -> None:
        """Hold so much more. Raises Overloaded where that is more than may be held, or, of one tenant, more than half of it
        and than the largest body."""
        if not size:
            return
        of_tenant = self._of_tenants.get(tenant_id, 0) + size
        if self.bytes_held + size > self.bytes_max or of_tenant > max(self.bytes_max // 2, BODY_BYTES_MAX):
            raise Overloaded("The gateway holds as much of request bodies as it may. Try again shortly.")
        self.bytes_held += size
        self._of_tenants[tenant_id] = of_tenant

    def drop(self, tenant_id: str, size: int) -> None:
        """Hold so much less."""
        self.bytes_held -= size
        self._of_tenants[tenant_id] -= size
        if not self._of_tenants[tenant_id]:
            del self._of_tenants[tenant_id]


class RequestBody:
    """Reads a body from the client."""

    def __init__(
        self,
        exchange: Exchange,
        codings: tuple[str, ...],
        references: References | None,
        own: Callable[[Iterable[str]], Awaitable[None]],
        watch: Watch | None,
    ) -> None:
        """`own` raises for names of objects that are not the caller's. Raises EncodedBody."""
        self._exchange = exchange
        self._references = references
        self._own = own
        self._watch = watch
        self._plain_bytes_left = PLAIN_BYTES_MAX
        self._readable = True
        self._gunzip: Callable[[bytes], Iterator[bytes]] | None = None
        if codings:
            if codings == ("gzip",):
                self._gunzip = decoding.gunzip(LOOK_BYTES)
            elif not self.ended:
                self._unreadable("On the platform's shared account, bodies must come uncompressed, or in gzip.")

    @property
    def ended(self) -> bool:
        """True once the whole body was read, or there is none."""
        return self._exchange.body_read

    @property
    def learnt(self) -> Prepared | None:
        """What the endpoint's watch found in what has gone by; None where there is none."""
        return None if self._watch is None else self._watch.finish(whole=self._readable and self.ended)

    async def held(self, bytes_max: int, hold: Callable[[int], None]) -> bytes:
        """All of the body, or so much of its beginning. Raises as `read` does, and what `hold` raises, which is told of
        each piece how much is held with it."""
        chunks, size = [], 0
        while not self.ended and size < bytes_max:
            chunks.append(await self.read())
            size += len(chunks[-1])
            hold(min(size, bytes_max))  # By less than one read it is more.
        return b"".join(chunks)

    async def read(self) -> bytes:
        """The next bytes, as they came; empty at the end. Raises ClientGone, EncodedBody, and what `own` raises."""
        exchange = self._exchange
        chunk = exchange.take() if exchange.whole else await exchange.read()
        if self._references is None and self._watch is None:
            return chunk
        if len(chunk) <= LOOK_BYTES and self._gunzip is None:
            names = self._look(chunk)
            if names:
                await self._own(names)
            return chunk
        for start in range(0, len(chunk), LOOK_BYTES):
            for plain in self._plain(chunk[start : start + LOOK_BYTES]):
                names = self._look(plain)
                if names:
                    await self._own(names)
                # Looking through a large body takes longer than other calls should wait.
                await asyncio.sleep(0)
        return chunk

    def _plain(self, piece: bytes) -> Iterator[bytes]:
        if self._gunzip is None:
            yield piece
            return
        self._plain_bytes_left += RATIO_MAX * len(piece)
        try:
            for plain in self._gunzip(piece):
                self._plain_bytes_left -= len(plain)
                if self._plain_bytes_left < 0:
                    self._unreadable("The body is many times larger when it is decompressed. Send it uncompressed.")
                    return
                yield plain
        except zlib.error:
            self._unreadable("The body is not gzip, as its Content-Encoding says.")

    def _look(self, plain: bytes) -> Sequence[str]:
        """Show a piece to whoever wants to look; the objects that it names."""
        if not self._readable:
            return ()
        if self._watch is not None:
            self._watch.feed(plain)
        return () if self._references is None else self._references.feed(plain)

    def _unreadable(self, problem: str) -> None:
        """Look no further. Raises EncodedBody where nothing may pass unseen."""
        self._readable = False
        self._gunzip = None
        if self._references is not None:
            raise EncodedBody(problem)
