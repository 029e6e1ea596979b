"""OpenAI's own account of what was used: usage by project and model, and costs by project, a day at a time. Pure.

Sources: the official OpenAPI description and the API reference (Usage, Costs). They are for admin keys alone, say nothing
of single calls, and what they say of a day still changes for some hours after it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from urllib.parse import parse_qsl, urlencode

import msgspec

from gateway.providers.api import Listing, NotAPage, Page, Total
from gateway.providers.json_scan import UNREADABLE

USAGES: Mapping[str, Mapping[str, str]] = {
    "completions": {
        "input_tokens": "input_tokens",
        "input_cached_tokens": "input_tokens_cached",
        "input_audio_tokens": "input_tokens_audio",
        "output_tokens": "output_tokens",
        "output_audio_tokens": "output_tokens_audio",
    },
    "embeddings": {"input_tokens": "input_tokens"},
    "moderations": {"input_tokens": "input_tokens"},
    "images": {"images": "images"},
    "audio_speeches": {"characters": "characters"},
    "audio_transcriptions": {"seconds": "seconds"},
    "code_interpreter_sessions": {"num_sessions": "containers"},
    "file_search_calls": {"num_requests": "file_searches"},
    "web_search_calls": {"num_requests": "web_searches"},
}
"""By kind of usage, the fields that say how much, and the dimensions that they are here. What OpenAI counts within another
field is taken out of it, since dimensions do not overlap."""

_WITHIN = {
    "input_tokens": ("input_cached_tokens", "input_audio_tokens"),
    "output_tokens": ("output_audio_tokens",),
}

BATCHED = "completions.batch"
"""The kind of completions that were made by batches, which cost less."""

_BY: Mapping[str, tuple[str, ...]] = {
    "completions": ("project_id", "model", "batch"),
    "code_interpreter_sessions": ("project_id",),
    "file_search_calls": ("project_id",),
    "web_search_calls": ("project_id",),
}
"""What kinds of usage are told by, where that is not project and model."""


class _Bucket(msgspec.Struct):
    start_time: int
    results: list[dict[str, object]]


class _Page(msgspec.Struct):
    data: list[_Bucket]
    next_page: str | None = None


_read_page = msgspec.json.Decoder(_Page, float_hook=Decimal).decode


def first(resource: str, by: tuple[str, ...], account: str, day: dt.date) -> str:
    """Where a day begins: all of it, or one project's."""
    begin = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    query = [
        ("start_time", str(int(begin.timestamp()))),
        ("end_time", str(int((begin + dt.timedelta(days=1)).timestamp()))),
        ("bucket_width", "1d"),
        ("limit", "1"),
        *(("group_by[]", name) for name in by),
    ]
    return f"/v1/organization/{resource}?{urlencode(query + ([('project_ids[]', account)] if account else []))}"


def _read(totals: Callable[[dt.date, Mapping[str, object]], Iterator[Total]], path: str, body: bytes) -> Page[Total]:
    try:
        page = _read_page(body)
        found = tuple(
            total
            for bucket in page.data
            for result in bucket.results
            for total in totals(dt.datetime.fromtimestamp(bucket.start_time, dt.UTC).date(), result)
        )
    except (*UNREADABLE, ArithmeticError, ValueError, OSError) as error:
        raise NotAPage("the answer is no page of buckets") from error
    return Page(found, _next(path, page.next_page))


def _next(path: str, token: str | None) -> str | None:
    if not token:
        return None
    where, _, query = path.partition("?")
    asked = parse_qsl(query)
    if ("page", token) in asked:
        raise NotAPage("the next page is this one")
    return f"{where}?{urlencode([*(pair for pair in asked if pair[0] != 'page'), ('page', token)])}"


def _used(kind: str, day: dt.date, result: Mapping[str, object]) -> Iterator[Total]:
    project, model = _text(result.get("project_id")), _text(result.get("model"))
    count = result.get("num_model_requests", result.get("num_requests"))
    named = BATCHED if kind == "completions" and result.get("batch") is True else kind
    for field, dimension in USAGES[kind].items():
        amount = _count(result.get(field))
        if amount is None:
            continue
        amount -= sum(_count(result.get(part)) or 0 for part in _WITHIN.get(field, ()))
        yield Total(
            day=day,
            account=project,
            category=f"{named}:{model}" if model else named,
            count=_count(count),
            usage=Decimal(amount),
            usage_unit=dimension,
        )


def _cost(day: dt.date, result: Mapping[str, object]) -> Iterator[Total]:
    amount = result.get("amount")
    value = amount.get("value") if isinstance(amount, dict) else None
    if not isinstance(amount, dict) or not isinstance(value, int | str | Decimal) or isinstance(value, bool):
        return
    yield Total(
        day=day,
        account=_text(result.get("project_id")),
        category=f"costs:{_text(result.get('line_item'))}",
        cost=Decimal(value),
        currency=_text(amount.get("currency")).upper(),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


TOTALS: tuple[Listing[Total], ...] = (
    *(
        Listing(
            name=f"usage.{kind}",
            first=partial(first, f"usage/{kind}", _BY.get(kind, ("project_id", "model"))),
            read=partial(_read, partial(_used, kind)),
        )
        for kind in USAGES
    ),
    Listing(name="costs", first=partial(first, "costs", ("project_id", "line_item")), read=partial(_read, _cost)),
)
