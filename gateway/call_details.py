"""What happened elsewhere, as others have written it down: call detail records, and logs of AI calls. Pure.

A call detail record is one row of a table, as FreeSWITCH's `mod_cdr_csv` has it, or one document, as its `mod_json_cdr`
posts it (its documentation of both). A log of AI calls has one row for each, by the names that providers use. Times without a
zone are taken for UTC. Whatever else stands in a record is not read; what is wrong with one is said by field, and nothing of
it is quoted.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec

from gateway.providers.api import Record
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Late, Usage
from gateway.providers.numbers import country
from metering.usage import AMOUNT_MAX, MOMENT_MS_END, Completeness

SOURCE: Final = "cdr"
"""What calls are from that no provider of ours made, where nobody says more."""

ENDPOINT: Final = "imported"

SECONDS_MAX = 31 * 86_400
"""No call lasts longer; a larger figure is milliseconds, or a mistake."""


class NotARecord(ValueError):
    """A record that says nothing that can be booked: which field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def record_of(fields: Mapping[str, object]) -> Record:
    """What is booked of a record of either kind. Raises NotARecord."""
    if "variables" in fields or "billsec" in fields or "uuid" in fields:
        return call_record(fields)
    if "model" in fields:
        return ai_record(fields)
    raise NotARecord("record", "is neither a call, with uuid and billsec, nor an AI call, with id and model")


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def read_call(body: bytes, content_type: str) -> Mapping[str, object]:
    """One call detail record out of what a switch posts: JSON, or a form whose field `cdr` holds it. Raises NotARecord."""
    text = body
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        try:
            form = parse_qs(body.decode(), max_num_fields=100)
        except (UnicodeDecodeError, ValueError):
            raise NotARecord("body", "is no form") from None
        if "cdr" not in form:
            return {name: values[0] for name, values in form.items()}
        text = form["cdr"][0].encode()
    try:
        found = msgspec.json.decode(text)
    except UNREADABLE:
        raise NotARecord("body", "is not JSON") from None
    if not isinstance(found, dict):
        raise NotARecord("body", "is no JSON object")
    return found


def call_record(fields: Mapping[str, object]) -> Record:
    """A call, one leg of which it is the record. Raises NotARecord."""
    found = _flat(fields)
    external_id = _id(found, "uuid")
    at_ms = _moment_ms(found, "start_epoch", "start_stamp")
    seconds = _count(found, "billsec", SECONDS_MAX)
    to, sender = _text(found, "destination_number"), _text(found, "caller_id_number")
    inbound = _text(found, "direction") == "inbound"
    cause = _text(found, "hangup_cause")
    metadata: dict[str, object] = {"hangup_cause": cause} if cause and _CAUSE.fullmatch(cause) else {}
    final = Usage(
        quantities={"seconds": seconds} if seconds else {},
        completeness=Completeness.REPORTED,
        event_type="call_minutes",
        metadata=metadata,
    )
    return Record(
        external_id=external_id,
        occurred_at_ms=at_ms,
        account="",
        endpoint=ENDPOINT,
        made=Usage(
            quantities={"requests": 1},
            completeness=Completeness.PENDING,
            resource=country(to) if to else None,
            event_type="call_inbound" if inbound else "call_outbound",
            parties={role: party for role, party in (("to", to), ("from", sender)) if party},
        ),
        late=(Late(external_id=external_id, usage=final),),
    )


_CAUSE = re.compile(r"[A-Z0-9_]{1,60}")


def _flat(fields: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a record as a table has them. A document has them as variables, escaped like parts of a URL, and the
    two numbers in the profile of the caller."""
    variables = fields.get("variables")
    if not isinstance(variables, dict):
        return fields
    flow = fields.get("callflow")
    profile = flow[0].get("caller_profile") if isinstance(flow, list) and flow and isinstance(flow[0], dict) else None
    flat = {**(profile if isinstance(profile, dict) else {}), **variables}
    return {name: unquote(value) if isinstance(value, str) else value for name, value in flat.items()}


# ---------------------------------------------------------------------------------------------------------------------
# AI calls

_TOKENS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
}
_CACHED = ("cached_input_tokens", "cached_tokens")


def ai_record(fields: Mapping[str, object]) -> Record:
    """A call of a model. Its cached tokens are part of those that went in, and are counted apart. Raises NotARecord."""
    external_id = _id(fields, "id", "request_id")
    model = _text(fields, "model")
    if model is None or not _MODEL.fullmatch(model):
        raise NotARecord("model", "must be a model's name")
    used = {name: _count(fields, _given(fields, names), AMOUNT_MAX) for name, names in _TOKENS.items()}
    cached_as = _given(fields, _CACHED)
    cached = _count(fields, cached_as, AMOUNT_MAX) if fields.get(cached_as) not in (None, "") else 0
    if cached > used["input_tokens"]:
        raise NotARecord(cached_as, "is more than all that went in")
    quantities = {**used, "input_tokens": used["input_tokens"] - cached, "input_tokens_cached": cached}
    return Record(
        external_id=external_id,
        occurred_at_ms=_moment_ms(fields, "time", "timestamp", "created"),
        account="",
        endpoint=ENDPOINT,
        made=Usage(
            quantities={name: count for name, count in quantities.items() if count},
            completeness=Completeness.REPORTED,
            resource=model,
            event_type="llm_call",
        ),
    )


_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")


# ---------------------------------------------------------------------------------------------------------------------
# Fields


def _given(fields: Mapping[str, object], names: tuple[str, ...]) -> str:
    """The first of some names that the record has; the first of all if it has none."""
    return next((name for name in names if fields.get(name) not in (None, "")), names[0])


_ID = re.compile(r"[\x21-\x7e]{1,200}")


def _id(fields: Mapping[str, object], *names: str) -> str:
    name = _given(fields, names)
    found = _text(fields, name)
    if found is None:
        raise NotARecord(name, "is missing")
    if not _ID.fullmatch(found):
        raise NotARecord(name, "must be 1 to 200 printable ASCII characters without spaces")
    return found


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    return value.strip() or None if isinstance(value, str) else None


def _count(fields: Mapping[str, object], name: str, most: int) -> int:
    value = fields.get(name)
    if value in (None, ""):
        raise NotARecord(name, "is missing")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise NotARecord(name, f"must be a whole number from 0 to {most}")
    return value


def _moment_ms(fields: Mapping[str, object], *names: str) -> int:
    """When it was, in seconds since 1970 or written as a date and a time."""
    name = _given(fields, names)
    value = fields.get(name)
    if value in (None, ""):
        raise NotARecord(name, "is missing")
    found_ms: int | None = None
    try:
        if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value.strip()):
            at = dt.datetime.fromisoformat(value.strip())
            found_ms = round(at.replace(tzinfo=at.tzinfo or dt.UTC).timestamp() * 1000)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            found_ms = round(float(value) * 1000)
    except (ValueError, OverflowError):
        found_ms = None
    if found_ms is None or not 0 < found_ms < MOMENT_MS_END:
        raise NotARecord(name, "must be a time such as 2026-11-20T12:00:00Z, or seconds since 1970")
    return found_ms
