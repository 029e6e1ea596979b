"""`tollkeeper usage`: what was used, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway.commands import tty
from gateway.commands.invocation import MOMENT, Command, Invocation, told

EVENTS_DEFAULT = 50

UNPRICED = "unpriced"
"""Stands for the charge of an event that no price was found for, which is not a charge of zero."""


@click.command(cls=Command)
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Of this tenant alone.")
@click.option("--from", "start", type=MOMENT, metavar="DATE", help="From this date or timestamp (UTC) on.")
@click.option("--to", "end", type=MOMENT, metavar="DATE", help="Up to this date or timestamp (UTC), without it.")
@click.option(
    "--group-by",
    metavar="A,B",
    help="What a line stands for: tenant_id, source, event_type, endpoint, resource, category, key_id, day, month…  "
    "[default: tenant_id, event_type and resource]",
)
@click.option("--events", is_flag=True, help="List single events instead of sums.")
@click.option("--limit", type=click.IntRange(1), help=f"With --events: so many.  [default: {EVENTS_DEFAULT}]")
@click.option("--cursor", help="With --events: go on where the last list ended.")
@told
def usage(
    invocation: Invocation,
    tenant_id: str | None,
    start: str | None,
    end: str | None,
    group_by: str | None,
    events: bool,  # noqa: FBT001 - click's signature
    limit: int | None,
    cursor: str | None,
) -> None:
    """Show what was used: events, units, charge and cost."""
    if start is not None and end is not None and start >= end:
        raise click.UsageError("--from must lie before --to.")
    if events and group_by is not None:
        raise click.UsageError("--events lists single events, which --group-by would sum: leave one of them out.")
    if not events and (limit is not None or cursor is not None):
        raise click.UsageError("--limit and --cursor belong to --events: add it, or leave them out.")
    window = {"from": start, "to": end, "tenant_id": tenant_id}
    if events:
        page = invocation.ask(
            lambda api: api.get("/v1/usage/events", {**window, "limit": limit or EVENTS_DEFAULT, "cursor": cursor})
        )
        invocation.answer(page, lambda: _show_events(page))
    else:
        by = group_by or ("event_type,resource" if tenant_id else "tenant_id,event_type,resource")
        names = [name.strip() for name in by.split(",")]
        summary = invocation.ask(lambda api: api.get("/v1/usage/summary", {**window, "group_by": ",".join(names)}))
        invocation.answer(summary, lambda: _show_summary(summary, names))


def _show_summary(summary: Mapping[str, Any], names: Sequence[str]) -> None:
    groups, total = summary["groups"], summary["total"]
    if not groups:
        tty.hint(
            f"Nothing was used {_window(summary)}. Use shows up here as soon as a call through the gateway succeeds."
        )
        return
    print(f"Use {_window(summary)}\n")
    lines = [*groups, total]
    charges = tty.amounts([line["charge"] for line in lines])
    costs = tty.amounts([line["cost"] for line in lines])
    rows = [
        {**group, "charge": charge, "cost": cost} for group, charge, cost in zip(groups, charges, costs, strict=False)
    ]
    numbers = ("events", "units", "charge", "cost")
    last = [*["total", *[""] * len(names)][: len(names)], tty.plain(total["events"]), tty.plain(total["units"])]
    tty.table({name: name for name in (*names, *numbers)}, rows, right=numbers, total=[*last, charges[-1], costs[-1]])
    if total.get("unknown_events"):
        tty.hint(f"\nOf {tty.plain(total['unknown_events'])} of these events it is not known yet how much they used.")
    if total.get("unpriced_events"):
        tty.hint(
            f"\nOf {tty.plain(total['unpriced_events'])} of these events the price is not known: they are not in the charge."
        )


def _show_events(page: Mapping[str, Any]) -> None:
    events = page["data"]
    if not events:
        tty.hint("There are no such events. They show up here as soon as a call through the gateway succeeds.")
        return
    charges = tty.amounts([event["charge"] for event in events])
    columns = {
        "occurred_at": "time",
        "tenant_id": "tenant",
        "event_type": "type",
        "resource": "resource",
        "units": "units",
        "completeness": "completeness",
        "charge": "charge",
    }
    rows = [
        {**event, "charge": charge if event["priced"] else UNPRICED}
        for event, charge in zip(events, charges, strict=True)
    ]
    tty.table(columns, rows, right=("units", "charge"))
    if page["next_cursor"] is not None:
        tty.hint(f"\nThere are more: go on with --cursor {tty.plain(page['next_cursor'])}, or raise --limit.")


def _window(summary: Mapping[str, Any]) -> str:
    bounds = [f"{word} {tty.plain(summary[word])}" for word in ("from", "to") if summary[word] is not None]
    return " ".join([*bounds, "(UTC)"]) if bounds else "so far"
