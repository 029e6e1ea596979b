"""What SendGrid says later: whether a mail that was to be sent later was, and how many addresses a job has validated. Pure.

Facts from the reference: a mail with `send_at` and a `batch_id` can be cancelled until it is sent, by the batch; a batch that
was neither paused nor cancelled is not listed. A paused one is sent when it is resumed within 72 hours. A job's list is
uploaded around the gateway; it is validated in segments of 1,500 addresses, and only segments are told.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from gateway.providers.api import Pending, Settles
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Late, Usage
from gateway.providers.sendgrid.mail import BATCH
from metering.usage import Completeness

SEGMENT_ADDRESSES = 1_500
SEGMENTS_MAX = 1_000_000


class _Batch(msgspec.Struct):
    status: object = None


class _Job(msgspec.Struct):
    id: object = None
    status: object = None
    segments_processed: object = None


class _Told(msgspec.Struct):
    result: _Job


_read_batches = msgspec.json.Decoder(list[_Batch]).decode
_read_job = msgspec.json.Decoder(_Told).decode


def batch(body: bytes) -> tuple[Late, ...]:
    """What became of a mail whose time has come, by the status of its batch. The answer does not name the mail."""
    try:
        statuses = {one.status for one in _read_batches(body)}
    except (*UNREADABLE, TypeError):
        return ()
    if not statuses:
        return (_over({"recipients": 1}, "sent"),)
    return (_over({}, "cancelled"),) if statuses == {"cancel"} else ()


def _over(quantities: dict[str, int], status: str) -> Late:
    """All that was ordered is used if anything of it was."""
    usage = Usage(quantities=quantities, completeness=Completeness.REPORTED, metadata={"status": status})
    return Late(external_id="", usage=usage)


def job(body: bytes) -> tuple[Late, ...]:
    """What a job validated, once it is over: as many addresses as there are at least in so many segments, of which the last
    may hold one."""
    try:
        found = _read_job(body).result
    except UNREADABLE:
        return ()
    done = found.segments_processed
    if not isinstance(found.id, str) or found.status not in ("Done", "Error"):
        return ()
    if isinstance(done, bool) or not isinstance(done, int) or not 0 <= done <= SEGMENTS_MAX:
        usage = Usage(quantities={}, completeness=Completeness.UNKNOWN, metadata={"status": found.status})
        return (Late(external_id=found.id, phase="ended", usage=usage),)
    usage = Usage(
        quantities={"requests": (done - 1) * SEGMENT_ADDRESSES + 1} if done else {},
        completeness=Completeness.ESTIMATED if done else Completeness.REPORTED,
        metadata={"status": found.status, "segments": done},
    )
    return (Late(external_id=found.id, usage=usage),)


def _batch_of(pending: Pending) -> str | None:
    batch_id = pending.metadata.get(BATCH)
    return f"/v3/user/scheduled_sends/{quote(batch_id, safe='')}" if isinstance(batch_id, str) else None


def _job_of(pending: Pending) -> str:
    return f"/v3/validations/email/jobs/{quote(pending.external_id, safe='')}"


MAIL = Settles(path=_batch_of, read=batch, first_s=2.0, days_max=7, gone_s=7 * 86_400)
JOB = Settles(path=_job_of, read=job, first_s=30.0, days_max=7, gone_s=86_400)
