"""The texts of records, for calls that are alike: what all of them say is written once, what each says is put before it. Pure.

Two calls of one key for one model differ in a few fields of their records. To put those before a text that is there costs a
third of making a record and writing all of it. What is read is the same: the order of an object's fields says nothing. But
:mod:`metering.facts` knows the common text again where it stands so, and reads it once.
"""

from __future__ import annotations

from typing import Final

import msgspec

from metering.intents import Intent
from metering.usage import Completeness, UsageEvent

_encode: Final = msgspec.json.Encoder().encode


class IntentText:
    """The intents of calls that differ in who they are and when they came."""

    __slots__ = ("_rest",)

    def __init__(self, intent: Intent) -> None:
        """Of calls like this one."""
        self._rest = _rest(intent, "call_id", "occurred_at_ms")

    def of(self, call_id: str, occurred_at_ms: int) -> bytes:
        """That of one call, whose id is ours: there is nothing in it to escape."""
        return b"%b%b" % (f'{{"call_id":"{call_id}","occurred_at_ms":{occurred_at_ms}'.encode(), self._rest)


class OutcomeText:
    """The outcomes of calls that differ in these things as well, and in what was used."""

    __slots__ = ("_rest",)

    def __init__(self, event: UsageEvent) -> None:
        """Of calls like the one whose event this is."""
        self._rest = _rest(
            event,
            *("event_id", "call_id", "occurred_at_ms", "status", "duration_ms"),
            *("completeness", "quantities", "external_id", "metadata"),
        )

    def of(
        self,
        event_id: str,
        call_id: str,
        occurred_at_ms: int,
        status: int,
        duration_ms: int,
        completeness: Completeness,
        quantities: dict[str, int],
        external_id: str | None,
        metadata: dict[str, object],
    ) -> bytes:
        """That of one call, whose ids are ours: there is nothing in them to escape."""
        ours = (
            f'{{"event_id":"{event_id}","call_id":"{call_id}","occurred_at_ms":{occurred_at_ms},"status":{status},'
            f'"duration_ms":{duration_ms},"completeness":"{completeness}",'
        ).encode()
        told: dict[str, object] = {"quantities": quantities, "metadata": metadata}
        if external_id is not None:
            told["external_id"] = external_id
        return b"%b%b%b" % (ours, _encode(told)[1:-1], self._rest)


def _rest(value: Intent | UsageEvent, *without: str) -> bytes:
    """The fields of an object that are neither these nor as they are by default, to stand behind others."""
    fields: dict[str, object] = msgspec.to_builtins(value)
    return b"," + _encode({name: said for name, said in fields.items() if name not in without})[1:]
