"""`tollkeeper backfill`: what providers did and the gateway did not see, out of their own lists."""

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


@click.command(cls=Command)
@click.option("--source", required=True, metavar="NAME", help="Whose lists: a provider's name.")
@click.option("--tenant", metavar="ID", help="What belongs to this tenant.  [default: all on the platform's account]")
@click.option("--from", "start", required=True, type=DAY, help="The first day, in UTC.")
@click.option("--to", "end", required=True, type=DAY, help="The day after the last.")
@told
def backfill(invocation: Invocation, source: str, tenant: str | None, start: Any, end: Any) -> None:
    """Book what a provider did and the gateway did not see.

    It stands in the provider's own lists: what was sent around the gateway, what came in, what TwiML dialled. What is in
    the ledger is not booked again, whichever came first, so reading twice does no harm. It may be broken off at any
    moment: the same command again goes on from the last page that was booked, and a server, if one runs, does so by itself.
    """
    wanted = {"source": source, "tenant_id": tenant, "from": f"{start:%Y-%m-%d}", "to": f"{end:%Y-%m-%d}"}
    document = {name: value for name, value in wanted.items() if value is not None}

    async def to_its_end(api: ControlApi) -> Mapping[str, Any]:
        import asyncio  # noqa: PLC0415 - help does without

        last: Mapping[str, Any] = await api.post("/v1/collections", document)
        with tty.steps(f"{source} {wanted['from']} to {wanted['to']}", quiet=invocation.as_json) as advance:
            while last["status"] in NOT_OVER:
                advance(last["done_steps"], last["steps"], f"{last['counts']['seen']:,} seen")
                await asyncio.sleep(LOOK_S)
                last = await api.get(at("v1", "collections", last["collection_id"]))
        return last

    done = invocation.ask(to_its_end)
    if done["status"] != "done":
        raise Refused(
            "Backfill broken off",
            f"The backfill was not read to its end ({done['reason'] or done['status']}). "
            "What it has booked stays; the same command goes on from there.",
            collection=done,
        )
    invocation.answer(done, lambda: _show(done))


def _show(done: Mapping[str, Any]) -> None:
    counts = done["counts"]
    tty.facts({"collection": done["collection_id"], **{name: counts[name] for name in counts}})
    if counts["unattributed"]:
        tty.hint(
            f"\n{counts['unattributed']:,} belong to nobody who is known: name their numbers, messaging services or "
            "subaccounts in the tenants' integrations, and run it again."
        )
    if counts["young"]:
        tty.hint("\nWhat is younger than two minutes was left for the next time.")
    if counts["conflicting"]:
        tty.hint(
            "\nWhat contradicts the ledger was set aside: look at it with `tollkeeper spool inspect --quarantine`."
        )
