"""`tollkeeper reconcile`: the ledger held against a provider's own figures, and made to meet it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, Refused, at, told

if TYPE_CHECKING:
    from gateway.control_client import ControlApi

LOOK_S = 0.5
"""Between two questions how far it is."""

NOT_OVER = ("waiting", "running")

DAY = click.DateTime(["%Y-%m-%d"])

PAGE_MAX = 1000


@click.command(cls=Command)
@click.option("--source", required=True, metavar="NAME", help="Whose figures: a provider's name.")
@click.option("--from", "start", required=True, type=DAY, help="The first day, in UTC.")
@click.option("--to", "end", required=True, type=DAY, help="The day after the last.")
@click.option("--tenant", metavar="ID", help="What belongs to this tenant.  [default: everybody]")
@click.option("--tolerance", metavar="PERCENT", help="What may be open, such as 0.5%.  [default: the server's setting]")
@click.option("--csv", "as_csv", is_flag=True, help="Answer with the differences as CSV on stdout.")
@told
def reconcile(
    invocation: Invocation,
    source: str,
    start: Any,
    end: Any,
    tenant: str | None,
    tolerance: str | None,
    as_csv: bool,  # noqa: FBT001 - click's signature
) -> None:
    """Hold the ledger against what a provider says itself, day by day.

    What went around the gateway, what was called and never recorded, and what costs money without use is booked; every
    other difference is named with its cause. Run again, it books nothing. Exit code 1 says that more is open than is
    tolerated.
    """
    if as_csv and invocation.as_json:
        raise click.UsageError("--csv and --json are two answers: leave one of them out.")
    wanted = {
        "source": source,
        "tenant_id": tenant,
        "from": f"{start:%Y-%m-%d}",
        "to": f"{end:%Y-%m-%d}",
        "tolerance": tolerance,
    }
    document = {name: value for name, value in wanted.items() if value is not None}

    async def to_its_end(api: ControlApi) -> Mapping[str, Any]:
        import asyncio  # noqa: PLC0415 - help does without

        last: Mapping[str, Any] = await api.post("/v1/reconciliations", document)
        path = at("v1", "reconciliations", last["reconciliation_id"])
        quiet = invocation.as_json or as_csv
        with tty.steps(f"{source} {wanted['from']} to {wanted['to']}", quiet=quiet) as advance:
            while last["status"] in NOT_OVER:
                so_far = last["progress"]
                advance(so_far.get("done", 0), so_far.get("total", 1), str(so_far.get("account", "")))
                await asyncio.sleep(LOOK_S)
                last = await api.get(path, {"limit": 1})
        found: list[Mapping[str, Any]] = []
        cursor = None
        while last["status"] not in (*NOT_OVER, "failed"):
            page = await api.get(path, {"limit": PAGE_MAX, "cursor": cursor})
            found += page["differences"]["data"]
            cursor = page["differences"]["next_cursor"]
            if cursor is None:
                break
        return {**last, "differences": found}

    done = invocation.ask(to_its_end)
    if done["status"] == "failed":
        raise Refused(
            "Not reconciled", f"The ledger was not held against {source}: {done['reason']}", reconciliation=done
        )
    if as_csv:
        _print_csv(done)
    else:
        invocation.answer(done, lambda: _show(done))
    if done["status"] != "matched":
        click.get_current_context().exit(1)


def _print_csv(done: Mapping[str, Any]) -> None:
    import csv  # noqa: PLC0415 - only this answer needs it
    import sys  # noqa: PLC0415

    names = sorted({name for one in done["differences"] for name in one["quantities"]})
    writer = csv.writer(sys.stdout)
    plain = ("day", "tenant_id", "category", "cause", "resolution", "count")
    writer.writerow([*plain, *names, "cost_amount", "cost_currency", "event_id"])
    for one in done["differences"]:
        amounts = [one["quantities"].get(name) for name in names]
        money = (one["cost"]["amount"], one["cost"]["currency"], one["event_id"])
        writer.writerow([*(one[name] for name in plain), *amounts, *money])


def _show(done: Mapping[str, Any]) -> None:
    differences = done["differences"]
    if not done["totals"]:
        tty.hint("The provider says nothing of these days.")
        return
    columns = {
        "tenant_id": "tenant",
        "category": "figure",
        "told": "provider",
        "held": "ledger",
        "corrected": "corrected",
        "explained": "explained",
        "open": "open",
    }
    sides = ("told", "held", "corrected", "explained", "open")
    tty.table(columns, [{**one, **{side: _amounts(one[side]) for side in sides}} for one in done["totals"]])
    if differences:
        print()
        costs = tty.amounts([one["cost"] for one in differences])
        rows = [
            {**one, "quantities": tty.plain(one["quantities"]), "cost": cost}
            for one, cost in zip(differences, costs, strict=True)
        ]
        headings = {
            "day": "day",
            "tenant_id": "tenant",
            "category": "figure",
            "cause": "cause",
            "resolution": "resolution",
            "quantities": "difference",
            "cost": "cost",
        }
        tty.table(headings, rows, right=("cost",))
    if done["status"] == "matched":
        tty.hint(f"\nNothing is open beyond {tty.plain(done['tolerance'])} of what the provider says.")
    else:
        figures = sorted({f"{one['tenant_id']} {one['category']}" for one in done["beyond"]})
        tty.hint(f"\nMore than {tty.plain(done['tolerance'])} is open in {tty.plain(figures)}.")


def _amounts(amounts: Mapping[str, Any]) -> str:
    parts = [f"{value:,} {name}" for name, value in amounts["quantities"].items()]
    if amounts["cost"]["amount"] is not None:
        parts.append(tty.amounts([amounts["cost"]])[0])
    return ", ".join(parts) or tty.ABSENT
