"""The truth log: what the simulated providers were asked and what they answered, as JSON lines.

Each exchange is two records. The first is written before the first byte of the answer, the second once the answer was
handed to the socket or broke off; both carry the run (one life of a simulator process) and the number of the exchange in
it. What a provider sends by itself later, such as a status callback, is one record more (`Delivered`), written once it
was answered or has failed. A session over a WebSocket is one exchange of status 101, and each message in it that says
what was used is one record more (`Billed`), written before the message leaves. Every record is one write to a file
opened for appending, so that killing the simulator at any moment leaves whole records, at most the last one torn.

Nobody but the simulator writes here, and nothing of the gateway is used to read it: tests hold the ledger against it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

FINGERPRINT_CHARACTERS = 12


def fingerprint(secret: str | bytes) -> str:
    """How the truth log names a credential: the first 12 hex digits of its SHA-256."""
    raw = secret.encode("latin-1", "replace") if isinstance(secret, str) else secret
    return hashlib.sha256(raw).hexdigest()[:FINGERPRINT_CHARACTERS]


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The first record of an exchange: what was asked, and what is about to be answered."""

    run: str
    n: int
    """Counts the exchanges of a run, from 1."""
    at_ms: int
    """When the request had been read: milliseconds since 1970-01-01T00:00Z."""
    provider: str | None
    """None where the path leads to none."""
    credential: str | None
    """The fingerprint of the key that was presented."""
    method: str
    target: str
    """Path and query as they came, each byte one character."""
    headers: list[tuple[str, str]]
    """As they came, each byte one character; the credential replaced by its fingerprint."""
    body_bytes: int
    body_sha256: str
    """Of the body as it came, content coding included, chunks joined."""
    body_b64: str | msgspec.UnsetType = msgspec.UNSET
    """Only under `--record-bodies`."""
    status: int | None
    """None where there will be no answer."""
    stream: bool
    object_id: str | None
    model: str | None
    usage: object
    """What the answer says, if it arrives whole; None where it says nothing.

    OpenAI's is the usage object of the answer; a read-back repeats it. Of pictures by the piece and speech by the
    character, whose answers say nothing, it is what is billed: `images` or `characters`. That of a batch or a fine-tuning
    job, which says nothing itself, is what it will have used: a dictionary with the `kind` `batch` and, under `models`,
    the sums of each, or `job` and its `trained_tokens`. Twilio's is a dictionary with a `kind`:

    `message`
        Of one that was created or cancelled: `channel` (sms, mms, whatsapp …), `to`, `from`, `messaging_service_sid`,
        `num_media`, `num_segments`, `status`, `price`, `price_unit` and `error_code` as the answer says them, and under
        `final` what those that change will be in the end. Where it is cancelled later, that exchange has the true end.
    `call`
        Of one that was created or hung up: `to`, `from`, `status`, `duration`, `price` and `price_unit` as the answer
        says them, and under `final` what they will be in the end, and the `minutes` that are billed.
    `verification`, `verification_check`
        Of one that was made, approved or cancelled: `to`, `channel`, `status`, `service_sid`.
    `lookup`
        Of each, though it is a GET: `to`, and the `fields` that cost.
    `conversation_message`, `execution`
        Of one that was made: the `conversation_sid`; the `flow_sid` and `to`.

    What comes in because a test asked for it (`/_simulator`, whose exchanges have the provider `_simulator`) is a `message`
    or a `call` too, a call without `final` where that depends on its application. What an application's TwiML makes, and
    a history made at once, is not here: the bill has it (`gateway.simulator.director`).

    Everything else at Twilio has None, reading a message back and listing it too, so that adding up what is not None,
    the last of each object, is what was used."""
    tool_usage: object = None
    fault: str | None


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The second record of an exchange: how the answer ended."""

    run: str
    n: int
    completed: bool
    """True where all the answer was handed to the socket; False where it broke off, or the client left first."""
    bytes_sent: int
    """Of the body, coded as sent, without the frames of chunks; of a session, the texts of its messages."""
    close_code: int | msgspec.UnsetType | None = msgspec.UNSET
    """Only of a session: the code that whoever closed it gave; None where it was not closed in good order."""


class Billed(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="bill"):
    """The record of a message in a session that says what was used. It has the number of the session's exchange.

    OpenAI's are `response.done`, and what a transcription of input cost, with the model that made it. Adding up what is
    billed here is what the session used: no two records tell of the same use."""

    run: str
    n: int
    at_ms: int
    object_id: str
    model: str
    usage: object
    """As the message says it; None where it says nothing, though something was used."""


class Delivered(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="delivery"):
    """The record of a request that a provider made by itself. It has the number of the exchange that caused it."""

    run: str
    n: int
    at_ms: int
    """When it was sent: milliseconds since 1970-01-01T00:00Z."""
    object_id: str | None
    method: str
    url: str
    """A user name and password in it are replaced by their fingerprint."""
    body: str
    """As text: a form, or JSON."""
    status: int | None
    """What the application answered; None where it did not, or where nothing was sent."""
    error: str | None
    """Why there is no status. It begins with `not sent` where nobody was called."""
    answer: str | msgspec.UnsetType = msgspec.UNSET
    """Only where the provider does what the answer says: its beginning, as text."""
    fallback: bool | msgspec.UnsetType = msgspec.UNSET
    """True where it went to a fallback URL because another delivery had failed."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """Both records of an exchange, joined."""

    run: str
    n: int
    at_ms: int
    provider: str | None
    credential: str | None
    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int
    body_sha256: str
    body_b64: str | None = None
    status: int | None
    stream: bool
    object_id: str | None
    model: str | None
    usage: Any
    tool_usage: Any = None
    fault: str | None
    completed: bool | None = None
    """None where the exchange is not over, or the simulator was killed in it."""
    bytes_sent: int | None = None
    close_code: int | None = None

    @property
    def body(self) -> bytes:
        """The body as it came. Raises LookupError where the run did not record bodies."""
        if self.body_b64 is None:
            raise LookupError("this run did not record bodies: start it with --record-bodies")
        return base64.b64decode(self.body_b64)

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class TruthLog:
    """Writes the records. Each is with the operating system when the call returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._encoder = msgspec.json.Encoder()
        self.run = os.urandom(8).hex()

    def write(self, record: Opened | Closed | Billed | Delivered) -> None:
        """Append a record. Raises OSError where it was not written whole: the answer must then not be given."""
        line = self._encoder.encode(record) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the truth log took only part of a record")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read_truth(path: Path) -> list[Exchange]:
    """Read a truth log, in the order of the first records. A last line that is still being written is left out."""
    exchanges: dict[tuple[str, int], Exchange] = {}
    for fields in records(path):
        if "record" in fields:
            continue
        key = (fields["run"], fields["n"])
        if "completed" in fields:
            closed = msgspec.convert(fields, Closed)
            exchanges[key] = msgspec.structs.replace(
                exchanges[key],
                completed=closed.completed,
                bytes_sent=closed.bytes_sent,
                close_code=None if closed.close_code is msgspec.UNSET else closed.close_code,
            )
        else:
            exchanges[key] = msgspec.convert(fields, Exchange)
    return list(exchanges.values())


def read_deliveries(path: Path) -> list[Delivered]:
    """Read from a truth log what providers sent by themselves, in the order in which that was over."""
    return [msgspec.convert(fields, Delivered) for fields in records(path) if fields.get("record") == "delivery"]


def read_billed(path: Path) -> list[Billed]:
    """Read from a truth log what was billed within sessions, in the order in which it was told."""
    return [msgspec.convert(fields, Billed) for fields in records(path) if fields.get("record") == "bill"]


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a truth log."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return (msgspec.json.decode(line) for line in whole.splitlines())
