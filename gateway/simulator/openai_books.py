"""What a simulated OpenAI's organization used, and what that cost: kept as it is made, told in buckets of time. No I/O.

It follows from what answers say was used, and from what is billed though they say nothing, such as pictures. Prices are
the simulator's own, and hold for every day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from gateway.simulator.openai_asked import ApiError

WIDTHS: Mapping[str, tuple[int, int, int]] = {"1m": (60, 60, 1440), "1h": (3600, 24, 168), "1d": (86_400, 7, 31)}
"""By name, how many seconds a bucket has, how many buckets a page has, and how many at most."""
COST_BUCKETS, COST_BUCKETS_MAX = 7, 180

COMPLETIONS, EMBEDDINGS, MODERATIONS, IMAGES = "completions", "embeddings", "moderations", "images"
SPEECHES, TRANSCRIPTIONS, SEARCHES = "audio_speeches", "audio_transcriptions", "web_search_calls"
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    COMPLETIONS: (
        "completions",
        (
            *("input_tokens", "output_tokens", "input_cached_tokens", "input_cache_write_tokens"),
            *("input_audio_tokens", "output_audio_tokens"),
        ),
    ),
    EMBEDDINGS: ("embeddings", ("input_tokens",)),
    MODERATIONS: ("moderations", ("input_tokens",)),
    IMAGES: ("images", ("images",)),
    SPEECHES: ("audio_speeches", ("characters",)),
    TRANSCRIPTIONS: ("audio_transcriptions", ("seconds",)),
    SEARCHES: ("web_searches", ("num_requests",)),
    "file_search_calls": ("file_searches", ("num_requests",)),
    "vector_stores": ("vector_stores", ("usage_bytes",)),
    "code_interpreter_sessions": ("code_interpreter_sessions", ("num_sessions",)),
}
"""By the end of a path, what a result is called, and what is counted in it besides requests."""

GROUPS = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier")
COST_GROUPS = ("project_id", "line_item", "api_key_id")

MILLION = Decimal(1_000_000)
PRICES: Mapping[str, tuple[str, str, str]] = {
    "gpt-6.1-sol": ("2", "0.10", "10"),
    "gpt-6-luna": ("0.10", "0.01", "0.50"),
    "gpt-5.6-sol": ("4", "0.40", "20"),
    "gpt-5.4": ("2.5", "0.25", "15"),
    "gpt-5-mini": ("0.25", "0.025", "2"),
    "gpt-5-nano": ("0.05", "0.005", "0.4"),
    "gpt-5": ("1.25", "0.125", "10"),
    "gpt-4.1-mini": ("0.4", "0.1", "1.6"),
    "gpt-4.1": ("2", "0.5", "8"),
    "gpt-4o-mini": ("0.15", "0.075", "0.6"),
    "gpt-4o": ("2.5", "1.25", "10"),
    "gpt-realtime": ("4", "0.4", "16"),
    "text-embedding-3-small": ("0.02", "0", "0"),
    "text-embedding-3-large": ("0.13", "0", "0"),
    "omni-moderation": ("0", "0", "0"),
}
"""By the beginning of a model's name, USD for a million tokens: input, cached input, output. Longer names come first."""
PRICE_DEFAULT = ("1", "0.1", "4")
BATCH_PRICE = Decimal("0.5")
UNIT_PRICES: Mapping[str, Decimal] = {
    "images": Decimal("0.04"),
    "characters": Decimal("0.000015"),
    "seconds": Decimal("0.0001"),
    "num_requests": Decimal("0.01"),
}
"""USD for each of what is not tokens."""


class Whose(NamedTuple):
    """Who used it, and in what way."""

    kind: str
    project_id: str
    api_key_id: str
    model: str
    batch: bool
    service_tier: str


class Entry(NamedTuple):
    """What somebody used at once."""

    at: float
    whose: Whose
    amounts: Mapping[str, int]
    """What was counted, and `num_model_requests`."""


class Item(NamedTuple):
    """One line of what an entry costs."""

    name: str
    quantity: int
    cost: Decimal


class Books:
    """What was used, a minute each."""

    def __init__(self) -> None:
        self._minutes: dict[tuple[int, Whose], Counter[str]] = {}

    def add(self, at: float, whose: Whose, amounts: Mapping[str, int]) -> None:
        used = self._minutes.setdefault((int(at) // 60 * 60, whose), Counter())
        used.update({"num_model_requests": 1, **amounts})

    def entries(self, begin: float, end: float) -> Iterator[Entry]:
        for (at, whose), amounts in self._minutes.items():
            if begin <= at < end:
                yield Entry(at, whose, amounts)

    def usage(self, kind: str, query: str, now: float) -> dict[str, Any]:
        """A page of buckets of one kind. Raises ApiError."""
        if kind not in KINDS:
            raise ApiError(f"Invalid URL (GET /v1/organization/usage/{kind})", status=404)
        named, counted = KINDS[kind]
        asked = Asked(query, now, WIDTHS, GROUPS)
        wanted = {name: asked.all(plural) for name, plural in PLURALS.items()}
        batch = asked.one("batch")

        def holds(entry: Entry) -> bool:
            whose = entry.whose
            return (
                whose.kind == kind
                and all(not values or getattr(whose, name) in values for name, values in wanted.items())
                and batch in (None, str(whose.batch).lower())
            )

        def results(entries: Sequence[Entry]) -> list[dict[str, Any]]:
            sums: dict[tuple[object, ...], Counter[str]] = {}
            for entry in filter(holds, entries):
                values = tuple(getattr(entry.whose, name, None) for name in asked.groups)
                sums.setdefault(values, Counter()).update(entry.amounts)
            return [
                {
                    "object": f"organization.usage.{named}.result",
                    **{name: amounts[name] for name in (*counted, "num_model_requests")},
                    **dict.fromkeys(GROUPS),
                    **dict(zip(asked.groups, values, strict=True)),
                }
                for values, amounts in sums.items()
            ]

        return self._page(asked, results)

    def costs(self, query: str, now: float) -> dict[str, Any]:
        """A page of days. Raises ApiError."""
        asked = Asked(query, now, {"1d": (86_400, COST_BUCKETS, COST_BUCKETS_MAX)}, COST_GROUPS)
        projects, items = asked.all("project_ids"), asked.all("line_items")

        def results(entries: Sequence[Entry]) -> list[dict[str, Any]]:
            sums: dict[tuple[object, ...], Item] = {}
            for entry in entries:
                if projects and entry.whose.project_id not in projects:
                    continue
                for item in costs(entry):
                    if items and item.name not in items:
                        continue
                    fields = {**entry.whose._asdict(), "line_item": item.name}
                    values = tuple(fields[name] for name in asked.groups)
                    before = sums.get(values, Item(item.name, 0, Decimal(0)))
                    sums[values] = Item(item.name, before.quantity + item.quantity, before.cost + item.cost)
            return [
                {
                    "object": "organization.costs.result",
                    "amount": {"value": float(item.cost), "currency": "usd"},
                    "quantity": item.quantity if "line_item" in asked.groups else None,
                    **dict.fromkeys(COST_GROUPS),
                    **dict(zip(asked.groups, values, strict=True)),
                }
                for values, item in sums.items()
            ]

        return self._page(asked, results)

    def _page(self, asked: Asked, results: Callable[[Sequence[Entry]], list[dict[str, Any]]]) -> dict[str, Any]:
        begins = range(asked.first, asked.end, asked.width)[: asked.limit]
        last = begins[-1] + asked.width if begins else asked.first
        buckets: dict[int, list[Entry]] = {begin: [] for begin in begins}
        for entry in self.entries(max(asked.first, asked.begin), min(last, asked.end)):
            buckets[int(entry.at) // asked.width * asked.width].append(entry)
        return {
            "object": "page",
            "data": [
                {
                    "object": "bucket",
                    "start_time": begin,
                    "end_time": begin + asked.width,
                    "results": results(entries),
                }
                for begin, entries in buckets.items()
            ],
            "has_more": last < asked.end,
            "next_page": f"page_{last}" if last < asked.end else None,
        }

    def bill(self, first: date, last: date) -> list[dict[str, Any]]:
        """What was used on these days, both included: a line for each day and whoever used it in whatever way."""
        sums: dict[tuple[str, Whose], Counter[str]] = {}
        for entry in self.entries(0, float("inf")):
            day = datetime.fromtimestamp(entry.at, UTC).date()
            if first <= day <= last:
                sums.setdefault((day.isoformat(), entry.whose), Counter()).update(entry.amounts)
        return [
            {
                "day": day,
                **whose._asdict(),
                **amounts,
                "cost": f"{sum((item.cost for item in costs(Entry(0, whose, amounts))), Decimal(0)):f}",
            }
            for (day, whose), amounts in sorted(sums.items())
        ]


PLURALS: Mapping[str, str] = {"project_id": "project_ids", "api_key_id": "api_key_ids", "model": "models"}
"""Of what a query can pick some."""


class Asked:
    """A query for buckets."""

    def __init__(
        self, query: str, now: float, widths: Mapping[str, tuple[int, int, int]], groups: Sequence[str]
    ) -> None:
        """Raises ApiError."""
        self._fields = parse_qs(query)
        name = self.one("bucket_width") or "1d"
        if name not in widths:
            raise invalid("bucket_width", f"one of {', '.join(widths)}")
        self.width, default, most = widths[name]
        begin, limit = self._natural("start_time"), self._natural("limit")
        if begin is None:
            raise ApiError(
                "Missing required parameter: 'start_time'.", param="start_time", code="missing_required_parameter"
            )
        self.begin = begin
        # The bucket that is not over yet is told of too, with what there is in it by now.
        self.end = self._natural("end_time") or int(now) + 1
        self.limit = default if limit is None else limit
        if not 1 <= self.limit <= most:
            raise invalid("limit", f"from 1 to {most}")
        self.groups = self.all("group_by")
        if not set(self.groups) <= set(groups):
            raise invalid("group_by", f"made of {', '.join(groups)}")
        page = (self.one("page") or f"page_{begin}").removeprefix("page_")
        if not page.isascii() or not page.isdigit() or len(page) > 10:
            raise invalid("page", "the next_page of an earlier answer")
        self.first = int(page) // self.width * self.width

    def one(self, name: str) -> str | None:
        return self._fields.get(name, (None,))[-1]

    def all(self, name: str) -> list[str]:
        """A list, as one name again and again, with or without brackets, or with commas."""
        values = (*self._fields.get(name, ()), *self._fields.get(f"{name}[]", ()))
        return list(dict.fromkeys(part for value in values for part in value.split(",")))

    def _natural(self, name: str) -> int | None:
        value = self.one(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 10:
            raise invalid(name, "a whole number")
        return int(value)


def invalid(name: str, allowed: str) -> ApiError:
    return ApiError(f"Invalid '{name}': it is {allowed}.", param=name, code="invalid_value")


def costs(entry: Entry) -> Iterator[Item]:
    """What an entry costs, line by line."""
    amounts, model = entry.amounts, entry.whose.model
    factor = BATCH_PRICE if entry.whose.batch else Decimal(1)
    for name, price in UNIT_PRICES.items():
        if amounts.get(name, 0):
            yield Item(f"{model}, {name}", amounts[name], amounts[name] * price * factor)
    cached = amounts.get("input_cached_tokens", 0)
    tokens = {
        "input_tokens": amounts.get("input_tokens", 0) - cached,
        "cached_input_tokens": cached,
        "output_tokens": amounts.get("output_tokens", 0),
    }
    for (name, amount), price in zip(tokens.items(), prices(model), strict=True):
        if amount:
            yield Item(f"{model}, {name}", amount, amount * price * factor / MILLION)


def prices(model: str) -> tuple[Decimal, ...]:
    base = model.removeprefix("ft:")
    found = (price for name, price in PRICES.items() if base.startswith(name))
    return tuple(map(Decimal, next(found, PRICE_DEFAULT)))


def tokens_of(usage: object) -> dict[str, int]:
    """The tokens of a usage object of any endpoint, by what the books call them."""
    if isinstance(usage, msgspec.Raw):
        usage = msgspec.json.decode(usage)
    if not isinstance(usage, Mapping):
        return {}

    def count(holder: object, *names: str) -> int:
        found = (holder.get(name) for name in names) if isinstance(holder, Mapping) else iter(())
        return next((value for value in found if type(value) is int and value >= 0), 0)

    def details(*names: str) -> object:
        return next((usage[name] for name in names if name in usage), None)

    inside = details("input_tokens_details", "prompt_tokens_details", "input_token_details")
    outside = details("output_tokens_details", "completion_tokens_details", "output_token_details")
    return {
        "input_tokens": count(usage, "input_tokens", "prompt_tokens"),
        "output_tokens": count(usage, "output_tokens", "completion_tokens"),
        "input_cached_tokens": count(inside, "cached_tokens"),
        "input_cache_write_tokens": count(inside, "cache_write_tokens"),
        "input_audio_tokens": count(inside, "audio_tokens"),
        "output_audio_tokens": count(outside, "audio_tokens"),
    }
