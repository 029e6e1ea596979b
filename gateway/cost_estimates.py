"""What a call costs its tenant, for applications that ask to be told at once: by the book of its plan, and not binding.

Charges exist in the ledger alone. The books are loaded when somebody first asks, which takes half a second of a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from gateway.messages import Field, ResponseHead
from gateway.providers.api import Meter
from gateway.providers.learnt import Usage
from gateway.telemetry import log
from gateway.upstream import BrokenAnswer, Connection
from metering.event_types import INPUT_TOKENS, OUTPUT_TOKENS
from metering.facts import fact
from metering.usage import UsageEvent
from pricing.book import CREDITS
from pricing.book_files import BookError
from pricing.catalogue import Books
from pricing.money import format_amount
from pricing.rating import rate

HELD_BYTES_MAX = 64 << 10
"""An answer up to this size is held until its usage is known, so that its head can say it."""


class CostEstimate(NamedTuple):
    """What is said of a call; None for what is not known."""

    amount: str | None
    """A decimal string, or whole credits."""
    unit: str | None
    """A currency code, or `credits`."""
    tokens_input: int | None
    tokens_output: int | None

    @property
    def fields(self) -> list[Field]:
        """As header lines."""
        told = {
            b"x-tollkeeper-cost-estimate": None if self.amount is None else f"{self.amount} {self.unit}",
            b"x-tollkeeper-tokens-input": self.tokens_input,
            b"x-tollkeeper-tokens-output": self.tokens_output,
        }
        return [
            Field(name, b"%b: %b" % (name, str(value).encode())) for name, value in told.items() if value is not None
        ]

    @property
    def comment(self) -> bytes:
        """As a comment of an event stream."""
        told = {
            "cost_estimate": self.amount,
            "unit": self.unit,
            "tokens_input": self.tokens_input,
            "tokens_output": self.tokens_output,
        }
        known = {name: value for name, value in told.items() if value is not None}
        return b": tollkeeper " + msgspec.json.encode(known) + b"\n\n"


class CostEstimates:
    """Works them out."""

    def __init__(self, load: Callable[[], Books]) -> None:
        self._load = load
        self._loading: asyncio.Future[Books | None] | None = None
        self._books: Books | None = None

    async def ready(self) -> None:
        """Wait until the books are there. Where they can not be read, tokens are all that is told."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._loaded))
        self._books = await asyncio.shield(self._loading)

    def _loaded(self) -> Books | None:
        try:
            return self._load()
        except BookError as error:
            log.error("cost_estimates_without_prices", problems=error.problems)
            return None

    def of(self, events: Sequence[UsageEvent], plan: str | None) -> CostEstimate:
        """What a call comes to by its events, for a tenant with this plan."""
        amount, unit = self._charge(events, plan)
        return CostEstimate(amount, unit, _sum(events, INPUT_TOKENS), _sum(events, OUTPUT_TOKENS))

    def _charge(self, events: Iterable[UsageEvent], plan: str | None) -> tuple[str | None, str | None]:
        if self._books is None:
            return None, None
        try:
            book = self._books.price_book(plan)
        except ValueError:
            return None, None  # A plan of another release.
        total = 0
        for event in events:
            rated = rate(fact(event, msgspec.json.encode(event)), book, self._books.cost_book)
            if not rated.priced:
                return None, None
            total += rated.charge_nano or rated.credits or 0
        return str(total) if book.unit == CREDITS else format_amount(total), book.unit


def _sum(events: Iterable[UsageEvent], names: Sequence[str]) -> int | None:
    known = [event.quantities[name] for event in events for name in names if name in event.quantities]
    return sum(known) if known else None


class Begun:
    """A connection out of which the beginning of an answer was taken, to be looked at before it goes on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._taken = b""

    async def whole(self, bytes_max: int) -> bytes | None:
        """The answer's body; None if it is larger, or breaks off, which whoever reads on will hear."""
        connection = self._connection
        try:
            while not connection.ended:
                await connection.arrival()
                self._taken += connection.take()
                if len(self._taken) > bytes_max:
                    return None
        except BrokenAnswer:
            return None
        return self._taken

    @property
    def arrived(self) -> bool:
        return bool(self._taken) or self._connection.arrived

    @property
    def ended(self) -> bool:
        return not self._taken and self._connection.ended

    def expect(self) -> None:
        self._connection.expect()

    def take(self) -> bytes:
        taken, self._taken = self._taken, b""
        return taken or self._connection.take()


def is_told_in_head(head: ResponseHead) -> bool:
    """True for an answer whose end is waited for before its head leaves, where somebody asked."""
    return head.media_type.endswith("json") and (head.length is None or head.length <= HELD_BYTES_MAX)


def is_told_at_end(head: ResponseHead) -> bool:
    """True for an answer that can end in a comment."""
    return head.media_type == "text/event-stream" and not head.encoding


_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EndingInComment:
    """Another meter, of a stream that ends in a comment, which readers of event streams pass over."""

    __slots__ = ("_comment", "_inner", "_tail")

    def __init__(self, inner: Meter, comment: Callable[[Usage], bytes]) -> None:
        self._inner = inner
        self._comment = comment
        self._tail = b""

    @property
    def concluded(self) -> bool:
        return self._inner.concluded

    def feed(self, chunk: bytes) -> bytes:
        passed = self._inner.feed(chunk)
        self._tail = (self._tail + passed[-4:])[-4:]
        return passed

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        held, usage = self._inner.finish(whole=whole)
        # After anything but a whole event it would change what that event says.
        if whole and (self._tail + held[-4:]).endswith(_EVENT_ENDS):
            held += self._comment(usage)
        return held, usage
