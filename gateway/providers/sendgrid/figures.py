"""What SendGrid's statistics are in the ledger. Pure.

A mail is counted for each recipient that it was processed for. What SendGrid drops, since its address is on a list, was
requested and is not processed.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.providers.api import Total
from metering.reconciliation import Figure

PROCESSED = "processed"


def figures(totals: Sequence[Total]) -> list[Figure]:
    """The figures of one account, of any number of days."""
    days: dict[str, int] = {}
    for one in totals:
        if one.category == PROCESSED and one.count is not None:
            days[one.day.isoformat()] = days.get(one.day.isoformat(), 0) + one.count
    return [
        Figure(day=day, category=PROCESSED, amounts={"recipients": count}, event_types=("email_outbound",))
        for day, count in days.items()
    ]
