"""What the tests of pricing share: the shipped books, loaded once, and events with sensible values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest

from metering.usage import Completeness, UsageEvent
from pricing.book import instant_ms
from pricing.catalogue import Books, load_books
from pricing.ledger import book
from tests.builders import NOON, fact

NOVEMBER_2026 = instant_ms(dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC))


@pytest.fixture(scope="session")
def books() -> Books:
    return load_books()


LATER = NOON + dt.timedelta(seconds=1)
"""When events are booked."""


@pytest.fixture
def booked(database, books):
    """Book events in one transaction."""

    async def booked(*events, at=LATER):
        async with database.transaction() as connection:
            return await book(connection, [fact(event) for event in events], books, at)

    return booked


@pytest.fixture(scope="session")
def usage_event() -> Callable[..., UsageEvent]:
    """An event: a chat completion, in everything that the test does not say."""

    def build(**changes) -> UsageEvent:
        values = {
            "event_id": "01a1f8d3",
            "tenant_id": "acme",
            "source": "openai",
            "event_type": "llm_call",
            "endpoint": "chat.completions",
            "occurred_at_ms": NOVEMBER_2026,
            "completeness": Completeness.REPORTED,
            "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
            "resource": "gpt-4o-2024-08-06",
        }
        return UsageEvent(**values | changes)

    return build
