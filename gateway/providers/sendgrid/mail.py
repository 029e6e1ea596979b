"""One mail: to how many it goes, and what became of it when it was sent. Pure.

A mail's answer is empty: how many it goes to stands in the request, and its only name in a header.
"""

from __future__ import annotations

import re

from gateway.messages import ResponseHead
from gateway.providers.api import Prepared, Usage
from gateway.providers.json_scan import JsonScan, Path
from metering.usage import Completeness

_PERSONALIZATION: Path = ("personalizations", "[]")
_RECIPIENTS = frozenset((*_PERSONALIZATION, role, "[]") for role in ("to", "cc", "bcc"))


class MailWatch:
    """Counts the recipients of a mail: `to`, `cc` and `bcc` over all personalizations. Attachments pass by unread.

    A field that stands twice is counted twice, since nobody knows which of the two the provider takes: it refuses a
    recipient that is named twice, and a personalization without one.
    """

    __slots__ = ("_personalizations", "_recipients", "_scan", "_sender")

    def __init__(self) -> None:
        self._recipients = 0
        self._personalizations = 0
        self._sender: str | None = None
        self._scan = JsonScan(self._opened, ("from", "email"), self._sent_by)

    def feed(self, chunk: bytes) -> None:
        self._scan.feed(chunk)

    def finish(self, *, whole: bool) -> Prepared:
        known = whole and self._scan.complete and self._personalizations > 0
        return Prepared(
            body=b"",
            resource=TRANSACTIONAL,
            quantities={"recipients": self._recipients} if known else None,
            parties={} if self._sender is None else {"from": self._sender},
        )

    def _opened(self, path: Path) -> None:
        if path in _RECIPIENTS:
            self._recipients += 1
        elif path == _PERSONALIZATION:
            self._personalizations += 1

    def _sent_by(self, address: str) -> None:
        self._sender = address


TRANSACTIONAL = "transactional"
"""The type of mail that is sent one by one; campaigns are the other."""


_MESSAGE_ID = re.compile(r"[A-Za-z0-9_.=-]{1,200}")


class MailMeter:
    """Judges a mail by the head of its answer: 202 took it on, 200 only tried it out (sandbox mode), and bills nothing."""

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
        named = _MESSAGE_ID.fullmatch(next(iter(self._head.values(b"x-message-id")), ""))
        counted = self._prepared.quantities
        return b"", Usage(
            quantities=counted or {},
            completeness=Completeness.UNKNOWN if counted is None else Completeness.REPORTED,
            resource=self._prepared.resource,
            external_id=None if named is None else named[0],
        )
