"""`tollkeeper twilio`: what comes in at a tenant's phone numbers, led here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, Refused, at, told

if TYPE_CHECKING:
    from gateway.control_client import ControlApi

WAYS = {"sms": "messages", "voice": "calls"}

NOT_DONE = {False: ("failed", "missing", "left"), True: ("failed", "left")}
"""What is a failure, by whether it is undone: what was given up meanwhile need not be led back."""


@click.group()
def twilio() -> None:
    """Lead a tenant's phone numbers here."""


@twilio.command(cls=Command)
@click.argument("tenant_id", metavar="TENANT")
@click.option("--undo", is_flag=True, help="Lead them back to exactly where they were.")
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@told
def connect(invocation: Invocation, tenant_id: str, undo: bool, dry_run: bool) -> None:  # noqa: FBT001 - click's flags
    """Lead what comes in at a tenant's numbers here, to be counted and passed on.

    Those are all of the tenant's own account, or on the platform's those that its integration names. Where the integration
    has no --sms-url or --voice-url, it gets the URL that the numbers had, so that the application goes on getting what
    comes in. What each number was is kept, and --undo restores it. Doing it twice does no harm.
    """

    async def to_its_end(api: ControlApi) -> Mapping[str, Any]:
        wanted = {"undo": undo, "dry_run": dry_run}
        whole: Mapping[str, Any] = await api.post(at("v1", "tenants", tenant_id, "twilio", "connect"), wanted)
        left = whole["counts"]["left"]
        while left:
            # Of very many numbers, a request changes as many as there is time for.
            rest = await api.post(at("v1", "tenants", tenant_id, "twilio", "connect"), wanted)
            whole = _together(whole, rest)
            if rest["counts"]["left"] >= left:
                break
            left = rest["counts"]["left"]
        return whole

    done = invocation.ask(to_its_end)
    undone = [one for one in done["numbers"] if one["outcome"] in NOT_DONE[undo]]
    invocation.answer(done, lambda: _show(done))
    if undone:
        numbers = ", ".join(f"{tty.plain(one['phone_number'])} ({_why(one)})" for one in undone)
        raise Refused(
            "Numbers not changed",
            f"{len(undone)} of {len(done['numbers'])} numbers could not be changed: {numbers}. "
            "The others are; the same command again goes on with these.",
        )


def _together(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """One answer out of two, in which what was done before counts as done."""
    done = {one["phone_number"]: one for one in first["numbers"] if one["outcome"] == "changed"}
    later = {one["phone_number"]: one for one in second["numbers"]}
    numbers = [*done.values(), *(one for number, one in later.items() if number not in done)]
    counts = {name: sum(one["outcome"] == name for one in numbers) for name in first["counts"]}
    return {**first, "numbers": numbers, "counts": counts}


def _why(one: Mapping[str, Any]) -> str:
    if one["problem"] is not None:
        return tty.plain(one["problem"])
    return "the account has no such number" if one["outcome"] == "missing" else "there was no time"


def _show(done: Mapping[str, Any]) -> None:
    columns = {"number": "number", "what": "what comes in", "was": "was", "is": "would be" if done["dry_run"] else "is"}
    rows = [
        {
            "number": one["phone_number"],
            "what": what,
            "was": _way(one["was"], name),
            "is": _way(one["is"], name),
            "outcome": one["outcome"],
        }
        for one in done["numbers"]
        for name, what in WAYS.items()
    ]
    if not rows:
        tty.hint("There is nothing to lead back." if done["undo"] else "The account has no numbers.")
        return
    tty.table({**columns, "outcome": "outcome"}, rows)
    for field, url in done["adopted"].items():
        tty.hint(
            f"\nThe tenant's {field} {'would be' if done['dry_run'] else 'is now'} {tty.plain(url)}, as its numbers had it."
        )
    if done["dry_run"]:
        tty.hint("\nNothing was changed.")
    if (secret := done.get("signing_secret")) is not None:
        tty.hint("\nWhat is passed on is signed with this secret. Keep it now: it is not shown again.\n")
        print(secret)


def _way(ways: Mapping[str, Any], name: str) -> str | None:
    """Where a number leads, in one word; a method only where it is not the usual one."""
    if ways.get(f"{name}_application_sid"):
        return str(ways[f"{name}_application_sid"])
    url, method = ways.get(f"{name}_url"), ways.get(f"{name}_method")
    return url if url is None or method == "POST" else f"{method} {url}"
