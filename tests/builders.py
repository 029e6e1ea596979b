"""Values with sensible contents for tests that need one and care about a field or two of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.http1 import response
from gateway.messages import ResponseHead
from metering import facts
from metering.facts import Fact
from metering.intents import Closed, Intent
from metering.usage import Completeness, UsageEvent

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
NOON_MS = 1_795_176_000_000
DAY_MS = 86_400_000

CALL_ID = "01a1f8d3-0000-7000-8000-000000000000"


def call_id(number: int) -> str:
    """One of many ids, in the order of their numbers."""
    return f"01a1f8d3-0000-7000-8000-{number:012x}"


def usage_event(**changes: Any) -> UsageEvent:
    """A call's event: the chat completion of DESIGN section 6, in everything that the test does not say."""
    values: dict[str, Any] = {
        "event_id": CALL_ID,
        "tenant_id": "acme",
        "source": "openai",
        "event_type": "llm_call",
        "endpoint": "chat.completions",
        "occurred_at_ms": NOON_MS,
        "completeness": Completeness.REPORTED,
        "quantities": {"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46},
        "resource": "gpt-4o-2024-08-06",
        "external_id": "chatcmpl-1",
        "category": "rag",
        "description": "gpt-4o chat completion",
        "key_id": "k1",
        "status": 200,
        "duration_ms": 812,
    }
    values |= changes
    return UsageEvent(**{"call_id": values["event_id"], **values})


def intent(**changes: Any) -> Intent:
    """The intent of the call that `usage_event` is the outcome of."""
    values: dict[str, Any] = {
        "call_id": CALL_ID,
        "tenant_id": "acme",
        "source": "openai",
        "event_type": "llm_call",
        "endpoint": "chat.completions",
        "occurred_at_ms": NOON_MS,
        "resource": "gpt-4o",
        "category": "rag",
        "key_id": "k1",
    }
    return Intent(**values | changes)


def closed(call: str = CALL_ID, reason: str = "status 429") -> Closed:
    return Closed(call_id=call, reason=reason)


def payload(value: Intent | UsageEvent | Closed) -> bytes:
    """The value as its record carries it."""
    return msgspec.json.encode(value)


def fact(event: UsageEvent) -> Fact:
    """The event as it reaches the ledger."""
    return facts.fact(event, payload(event))


def answer_head(status: int = 200, headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> ResponseHead:
    """The head of a provider's answer, as it is read off the wire."""
    named = headers.items() if isinstance(headers, Mapping) else headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in named)
    return response(f"HTTP/1.1 {status} Some reason\r\n{lines}\r\n".encode(), [], to_head=False).head
