"""What an account of the simulated SendGrid, or one of its subusers, has: templates, batches, mail, statistics. No I/O.

All of it is bounded: beyond a bound the oldest is forgotten.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from gateway.simulator.sendgrid_activity import Activity, Sent
from gateway.simulator.sendgrid_asked import encode
from gateway.simulator.sendgrid_events import METRICS, Course, Signer, Webhook, due, sg_message_id
from gateway.simulator.sendgrid_mail import SCHEDULED_S_MAX, Mail, Part
from gateway.simulator.store import Newest

BYTES_MAX = 16 << 20
"""Of each kind of thing."""
DAYS_MAX = 800
CATEGORY_DAYS_MAX = 100_000
TEMPLATES_MAX = 300

EVENTS = (
    "group_resubscribe", "delivered", "group_unsubscribe", "spam_report", "bounce", "deferred", "unsubscribe",
    "processed", "open", "click", "dropped",
)  # fmt: skip
"""The event webhook's settings that are on or off, besides `enabled`."""

NAMES: Mapping[str, str] = {"open": "opened", "click": "clicked", "bounce": "bounced"}
"""What the activity calls an event, where the webhook has another name for it."""

METRIC_NAMES = (
    "blocks", "bounce_drops", "bounces", "clicks", "deferred", "delivered", "invalid_emails", "opens", "processed",
    "requests", "spam_report_drops", "spam_reports", "unique_clicks", "unique_opens", "unsubscribe_drops",
    "unsubscribes",
)  # fmt: skip


class Batch(NamedTuple):
    """Mail that can be paused or cancelled until it is sent."""

    batch_id: str
    status: str | None
    """`pause`, `cancel`, or None where neither was asked for."""


class Waiting(NamedTuple):
    """A personalization that is to be sent later."""

    key: str
    at: float
    batch_id: str | None
    part: Part
    course: Course
    message_id: str
    number: int
    categories: tuple[str, ...]


def size_of_waiting(waiting: Waiting) -> int:
    return sum(map(len, waiting.part.recipients)) + len(waiting.part.subject)


class Account:
    """One account; `now` is given to whatever depends on it."""

    def __init__(self, username: str, user_id: int, webhook_id: str) -> None:
        self.username = username
        self.user_id = user_id
        self.templates = Newest[bytes](len, objects_max=TEMPLATES_MAX, bytes_max=BYTES_MAX)
        self.batches = Newest[Batch](lambda batch: len(batch.batch_id))
        self.groups = Newest[bytes](len, bytes_max=BYTES_MAX)
        self.bounces = Newest[bytes](len, bytes_max=BYTES_MAX)
        self.messages = Activity()
        self.webhook: dict[str, Any] = {
            "enabled": False,
            "url": "",
            **dict.fromkeys(EVENTS, False),
            "friendly_name": "",
            "id": webhook_id,
        }
        self.signer: Signer | None = None
        """None where the events are not signed."""
        self._waiting = Newest[Waiting](size_of_waiting, bytes_max=BYTES_MAX)
        self._days = Newest[Counter[str]](lambda _: 1, objects_max=DAYS_MAX)
        self._categories = Newest[Counter[str]](len, objects_max=CATEGORY_DAYS_MAX)
        """By category and day."""
        self.validated: Counter[str] = Counter()
        """Addresses, by day."""

    def send(self, mail: Mail, message_id: str, now: float, course: Course, known_until: float | None = None) -> None:
        """Send a mail, or keep what of it is to be sent later. What becomes of it is known up to a moment: now, unless it is
        sent as of a time that has passed."""
        for number, part in enumerate(mail.parts):
            key, at = f"{message_id}.{number}", due(part, now)
            waiting = Waiting(key, at, mail.batch_id, part, course, message_id, number, mail.categories)
            if not self._over(waiting, now, known_until):
                self._waiting.put(waiting.key, waiting)

    def settle(self, now: float) -> None:
        """Send what has come due since."""
        for waiting in list(self._waiting):
            if self._over(waiting, now):
                self._waiting.pop(waiting.key)

    def _over(self, waiting: Waiting, now: float, known_until: float | None = None) -> bool:
        """Send it if it is due, unless its batch was cancelled. False where it has to wait, as in a paused batch."""
        status = self.status(waiting.batch_id)
        if waiting.at > now or (status == "pause" and waiting.at + SCHEDULED_S_MAX > now):
            return False
        if status is None:
            self._sent(waiting, now if known_until is None else known_until)
        return True

    def status(self, batch_id: str | None) -> str | None:
        """`pause` or `cancel`, where that was asked for."""
        batch = self.batches.get(batch_id) if batch_id is not None else None
        return None if batch is None else batch.status

    def _sent(self, waiting: Waiting, now: float) -> None:
        moment = datetime.fromtimestamp(waiting.at, UTC)
        counts = Counter[str](requests=len(waiting.part.recipients))
        for index, email in enumerate(waiting.part.recipients):
            course = waiting.course.of(email)
            for event in course:
                counts.update(METRICS[event])
            if course[-1] == "bounce":
                told = {"created": int(waiting.at), "email": email, "reason": "550 5.1.1 no such mailbox"}
                self.bounces.put(email, encode({**told, "status": "5.1.1"}))
            step_s = waiting.course.step_ms / 1000
            moments = [min(max(now, waiting.at), waiting.at + number * step_s) for number in range(len(course))]
            events = tuple(
                {"event_name": NAMES.get(event, event), "processed": stamp_of(at)}
                for event, at in zip(course, moments, strict=True)
            )
            fields = {
                "from_email": waiting.part.sender,
                "msg_id": sg_message_id(waiting.message_id, waiting.number, index, waiting.at),
                "subject": waiting.part.subject,
                "to_email": email,
                "status": "delivered" if "delivered" in course else "not_delivered",
                "opens_count": course.count("open"),
                "clicks_count": course.count("click"),
                "last_event_time": stamp_of(moments[-1]),
            }
            self.messages.put(str(fields["msg_id"]), Sent(int(moments[-1]), fields, waiting.categories, events))
        day = moment.date().isoformat()
        self._days.put(day, (self._days.get(day) or Counter[str]()) + counts)
        for category in dict.fromkeys(waiting.categories):
            key = f"{day} {category}"
            self._categories.put(key, (self._categories.get(key) or Counter[str]()) + counts)

    def metrics(self, day: date, category: str | None = None) -> Mapping[str, int]:
        """What was sent on a day, in UTC: all, or what is of a category."""
        if category is not None:
            return self._categories.get(f"{day.isoformat()} {category}") or {}
        return self._days.get(day.isoformat()) or {}

    def open_webhook(self) -> Webhook | None:
        """The event webhook, where it is enabled and leads somewhere."""
        if not self.webhook["enabled"] or not self.webhook["url"]:
            return None
        return Webhook(self.webhook["url"], dict(self.webhook), self.signer)


def stamp_of(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(stored: bytes | None) -> Any:
    """What a store has, as it was; None where it has nothing."""
    return None if stored is None else json.loads(stored)
