"""What a request asks the simulator to do, read from its `x-simulator-…` headers. Pure.

The package's docstring says what each does; this module says what is allowed, and refuses the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from gateway.simulator.codings import CODINGS

Word = TypeVar("Word", bound=str)

PREFIX = "x-simulator-"
PAUSE_MS_MAX = 3_600_000
WORDS_MAX = 10_000_000
"""As a stream, about 2 GiB."""
SECONDS_MAX = 86_400
REPEAT_MAX = 100
"""How often a callback is sent at most."""


class Fault(StrEnum):
    """The ways an answer can go wrong."""

    RESET_BEFORE_HEAD = "reset-before-head"
    HANG = "hang"
    CUT_BODY = "cut-body"
    CUT_CHUNKED = "cut-chunked"
    CUT_STREAM = "cut-stream"
    NO_DONE = "no-done"
    CLOSE_DELIMITED = "close-delimited"
    STALL_STREAM = "stall-stream"
    RESPONSE_FAILED = "response-failed"


NEVER_ANSWERED = frozenset({Fault.RESET_BEFORE_HEAD, Fault.HANG})
OF_STREAMS = frozenset({Fault.CUT_STREAM, Fault.NO_DONE, Fault.STALL_STREAM})
"""The faults that only a streamed answer can have, or a session."""
OF_FRAMING = frozenset({Fault.CUT_BODY, Fault.CUT_CHUNKED, Fault.CLOSE_DELIMITED})
"""The faults that decide the framing, so that the request cannot."""


class Outcome(StrEnum):
    """How what a request makes can end. Not everything can end in every way."""

    DELIVERED = "delivered"
    PARTIALLY_DELIVERED = "partially_delivered"
    UNDELIVERED = "undelivered"
    SENT = "sent"
    READ = "read"
    FAILED = "failed"
    CANCELED = "canceled"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    BOUNCE = "bounce"
    BLOCKED = "blocked"
    DROPPED = "dropped"
    DEFERRED = "deferred"
    OPEN = "open"
    CLICK = "click"
    SPAMREPORT = "spamreport"
    UNSUBSCRIBE = "unsubscribe"


class Framing(StrEnum):
    CHUNKED = "chunked"
    LENGTH = "length"


class Sse(StrEnum):
    CRLF = "crlf"
    BYTE_BY_BYTE = "byte-by-byte"
    ONE_WRITE = "one-write"


class Callbacks(msgspec.Struct, frozen=True):
    """What happens to what a provider sends by itself."""

    lost: int = 0
    """Of a hundred, so many are not sent."""
    repeat: int = 1
    """How often each of the others is sent."""
    shuffled: bool = False
    delayed_ms: int = 0


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for; without any such header, nothing."""

    latency_ms: int | None = None
    chunk_ms: int = 0
    words: int | None = None
    usage: msgspec.Raw | None = None
    """JSON, to be reported byte for byte."""
    usage_left_out: bool = False
    status: int | None = None
    outcome: Outcome | None = None
    seconds: int | None = None
    step_ms: int | None = None
    price_ms: int | None = None
    at: float | None = None
    """Seconds since 1970-01-01T00:00Z."""
    callbacks: Callbacks | None = None
    fault: Fault | None = None
    framing: Framing | None = None
    sse: Sse | None = None
    encoding: str | None = None
    close_code: int | None = None

    @property
    def of_life(self) -> str | None:
        """One of the controls that say how what is made goes on, where there is any."""
        given: dict[str, object] = {"outcome": self.outcome, "seconds": self.seconds, "step-ms": self.step_ms}
        given |= {"price-ms": self.price_ms, "callbacks": self.callbacks}
        return next((f"{PREFIX}{name}" for name, value in given.items() if value is not None), None)


NOTHING = Controls()


class ControlError(ValueError):
    """The request asks for something that the simulator does not know. The message says what it does know."""


def read(headers: Iterable[tuple[str, str]]) -> Controls:
    """Read the controls, or raise ControlError."""
    asked: dict[str, Any] = {}
    for given, value in headers:
        name = given.lower()
        if not name.startswith(PREFIX):
            continue
        if name not in READERS:
            raise ControlError(f"There is no control {name}. Allowed: {', '.join(READERS)}.")
        field = name.removeprefix(PREFIX).replace("-", "_")
        if field in asked:
            raise ControlError(f"{name} is given more than once.")
        asked[field] = READERS[name](name, value)
    if not asked:
        return NOTHING
    if "usage" in asked and asked["usage"] is None:
        asked["usage_left_out"] = True
    if "framing" in asked and asked.get("fault") in OF_FRAMING:
        raise ControlError(f"{PREFIX}fault: {asked['fault']} decides the framing; leave out {PREFIX}framing.")
    return Controls(**asked)


def number(low: int, high: int) -> Callable[[str, str], int]:
    """Read a whole number within these bounds, both included."""

    def reader(name: str, value: str) -> int:
        if value.isascii() and value.isdigit() and len(value) < 10 and low <= int(value) <= high:
            return int(value)
        raise ControlError(f"{name} is a whole number from {low} to {high}, not {value!r}.")

    return reader


def one_of(allowed: Iterable[Word]) -> Callable[[str, str], Word]:
    """Read one of these words."""
    words = {str(word): word for word in allowed}

    def reader(name: str, value: str) -> Word:
        if value in words:
            return words[value]
        raise ControlError(f"{name} has no value {value!r}. Allowed: {', '.join(words)}.")

    return reader


def instant(name: str, value: str) -> float:
    """Read a time in ISO 8601, in UTC where it does not say."""
    try:
        read = datetime.fromisoformat(value)
        at = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        at = -1
    if at < 0:
        raise ControlError(f"{name} is a time since 1970 in ISO 8601, such as 2026-11-03T12:00:00Z, not {value!r}.")
    return at


def callbacks(name: str, value: str) -> Callbacks:
    """Read what is to happen to callbacks: words with a comma in between, some of them with a number."""
    asked: dict[str, int] = {}
    for part in value.split(","):
        word, equals, amount = part.strip().partition("=")
        field, low, high, default = CALLBACKS.get(word, ("", 0, 0, None))
        if not field or field in asked or (default is None and not equals) or (equals and not high):
            raise ControlError(f"{name} is made of {', '.join(CALLBACKS)}, each at most once, not {value!r}.")
        asked[field] = number(low, high)(f"{name}: {word}", amount) if equals else default or 0
    return msgspec.convert(asked, Callbacks, strict=False)


CALLBACKS: dict[str, tuple[str, int, int, int | None]] = {
    "lost": ("lost", 0, 100, 100),
    "doubled": ("repeat", 0, 0, 2),
    "repeat": ("repeat", 1, REPEAT_MAX, None),
    "shuffled": ("shuffled", 0, 0, 1),
    "delayed": ("delayed_ms", 0, PAUSE_MS_MAX, 1000),
}
"""The words for what happens to callbacks: the field, the bounds of its number, and what it is without one."""


def usage(name: str, value: str) -> msgspec.Raw | None:
    """Read JSON without changing it; None stands for `none`."""
    if value == "none":
        return None
    raw = value.encode("latin-1")
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise ControlError(f"{name} is JSON, or the word none, not {value!r}.") from None
    return msgspec.Raw(raw)


READERS: dict[str, Callable[[str, str], object]] = {
    "x-simulator-latency-ms": number(0, PAUSE_MS_MAX),
    "x-simulator-chunk-ms": number(0, PAUSE_MS_MAX),
    "x-simulator-words": number(0, WORDS_MAX),
    "x-simulator-usage": usage,
    "x-simulator-status": number(400, 599),
    "x-simulator-outcome": one_of(Outcome),
    "x-simulator-seconds": number(0, SECONDS_MAX),
    "x-simulator-step-ms": number(0, PAUSE_MS_MAX),
    "x-simulator-price-ms": number(0, PAUSE_MS_MAX),
    "x-simulator-at": instant,
    "x-simulator-callbacks": callbacks,
    "x-simulator-fault": one_of(Fault),
    "x-simulator-framing": one_of(Framing),
    "x-simulator-sse": one_of(Sse),
    "x-simulator-encoding": one_of(CODINGS),
    "x-simulator-close-code": number(1000, 4999),
}
"""Every control, and how its value is read."""
