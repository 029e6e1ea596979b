"""One mail: to how many it goes, and what became of it when it was sent. Pure.

A mail's answer is empty: how many it goes to stands in the request, and its only name in a header.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gateway.messages import ResponseHead
from gateway.providers.json_scan import JsonScan, Path
from gateway.providers.learnt import Prepared, Usage
from metering.usage import AS_ORDERED, DUE_S, Completeness

_PERSONALIZATION: Path = ("personalizations", "[]")
_RECIPIENTS = frozenset((*_PERSONALIZATION, role, "[]") for role in ("to", "cc", "bcc"))

BATCH, _SEND_AT = "batch_id", "send_at"
_MOMENT = re.compile(rb'"send_at"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}([0-9]{1,12})(?=[ \t\r\n,}])')
"""A number that is so called, with what ends it."""
_MOMENT_BYTES_MAX = 64
"""Longer than any of these."""
_ID = re.compile(r"[A-Za-z0-9_.=+/-]{1,200}")
"""An id of SendGrid's, and nothing that a person wrote."""


class MailWatch:
    """Counts the recipients of a mail: `to`, `cc` and `bcc` over all personalizations. Attachments pass by unread.

    A field that stands twice is counted twice, since nobody knows which of the two the provider takes: it refuses a
    recipient that is named twice, and a personalization without one.
    """

    __slots__ = (
        "_batch",
        "_moments",
        "_own_moments",
        "_personalizations",
        "_recipients",
        "_scan",
        "_sender",
        "_tail",
        "_timed",
    )

    def __init__(self) -> None:
        self._recipients = 0
        self._personalizations = 0
        self._sender: str | None = None
        self._batch: str | None = None
        self._timed = False
        """True where all of it is to be sent at one time."""
        self._own_moments = False
        """True where a personalization has a time of its own."""
        self._moments: set[int] = set()
        """What is called `send_at` anywhere, until there are two."""
        self._tail = b""
        self._scan = JsonScan(
            self._opened,
            {("from", "email"): self._sent_by, (BATCH,): self._of_batch},
            {(_SEND_AT,): self._has_time, (*_PERSONALIZATION, _SEND_AT): self._has_own_time},
        )

    def feed(self, chunk: bytes) -> None:
        self._scan.feed(chunk)
        between = self._tail + chunk[:_MOMENT_BYTES_MAX]
        for seen in (between, chunk):
            if b"send_at" in seen and len(self._moments) < 2:
                self._moments.update(map(int, _MOMENT.findall(seen)))
        self._tail = (between if len(chunk) < _MOMENT_BYTES_MAX else chunk)[-_MOMENT_BYTES_MAX:]

    def finish(self, *, whole: bool) -> Prepared:
        known = whole and self._scan.complete and self._personalizations > 0
        return Prepared(
            body=b"",
            resource=TRANSACTIONAL,
            quantities={"recipients": self._recipients} if known else None,
            parties={} if self._sender is None else {"from": self._sender},
            asked=self._scheduled() if known else {},
        )

    def _scheduled(self) -> dict[str, str]:
        """The batch that it belongs to and the time at which all of it is sent, where it can be cancelled until then as a
        whole. One whose personalizations are sent at times of their own can be cancelled in part, and nobody says which."""
        if self._batch is None or not self._timed or self._own_moments or len(self._moments) != 1:
            return {}
        return {BATCH: self._batch, _SEND_AT: str(next(iter(self._moments)))}

    def _opened(self, path: Path) -> None:
        if path in _RECIPIENTS:
            self._recipients += 1
        elif path == _PERSONALIZATION:
            self._personalizations += 1

    def _sent_by(self, address: str) -> None:
        self._sender = address

    def _of_batch(self, batch_id: str) -> None:
        if _ID.fullmatch(batch_id):
            self._batch = batch_id

    def _has_time(self) -> None:
        self._timed = True

    def _has_own_time(self) -> None:
        self._own_moments = True


TRANSACTIONAL = "transactional"
"""The type of mail that is sent one by one; campaigns are the other."""


class MailMeter:
    """Judges a mail by the head of its answer: 202 took it on, 200 only tried it out (sandbox mode), and bills nothing.

    What is sent later, and as part of a batch, can be cancelled until then, and is `pending`.
    """

    __slots__ = ("_head", "_prepared", "concluded")

    def __init__(self, head: ResponseHead, prepared: Prepared) -> None:
        self.concluded = False
        self._head = head
        self._prepared = prepared

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        if self._head.status == 200:
            return b"", Usage(
                quantities={},
                completeness=Completeness.REPORTED,
                event_type="api_call",
                metadata={"sandbox": True},
            )
        named = _ID.fullmatch(next(iter(self._head.values(b"x-message-id")), ""))
        counted, asked = self._prepared.quantities, self._prepared.asked
        usage = Usage(
            quantities=counted or {},
            completeness=Completeness.UNKNOWN if counted is None else Completeness.REPORTED,
            resource=self._prepared.resource,
            external_id=None if named is None else named[0],
        )
        if counted is not None and named is not None and asked:
            later = {BATCH: asked[BATCH], DUE_S: int(asked[_SEND_AT]), AS_ORDERED: True}
            usage = replace(usage, completeness=Completeness.PENDING, metadata=later)
        return b"", usage
