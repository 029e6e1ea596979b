"""`tollkeeper spool`: what was recorded, how far it is booked, and booking it once more."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, Refused, at, told

if TYPE_CHECKING:
    from gateway.control_client import ControlApi

LIMIT_DEFAULT = 50

BEHIND_S_MAX = 60
"""So old may be what the ledger lacks; where all is well it is a second."""

NEWS_S = 86_400
"""What was set aside before this is no news to who watches."""

COUNTS = ("new", "known", "unknown", "conflicting", "not_bookable", "unreadable")

LOOK_ASIDE = "look at them with `tollkeeper spool inspect --quarantine`"


@click.group()
def spool() -> None:
    """Look after what is recorded on disk and not booked yet, or booked and kept for a while.

    \b
    tollkeeper spool status --check       for a monitor: exit code 1 if something is wrong
    tollkeeper spool inspect --damaged    what can not be read, and where it lies
    tollkeeper spool replay --all         after the ledger was restored from a backup
    """


# ---------------------------------------------------------------------------------------------------------------------
# Status


@spool.command(cls=Command)
@click.option("--check", is_flag=True, help="Exit with 1 if something is wrong.")
@told
def status(invocation: Invocation, check: bool) -> None:  # noqa: FBT001 - click's signature
    """Show each spool, how far the ledger has it, and what is wrong.

    Wrong is: a ledger that can not be written or is a minute behind, a spool that can not be read, a disk that is
    nearly full, and anything that was set aside within a day.
    """
    now = dt.datetime.now(dt.UTC)
    spools = invocation.ask(lambda api: api.get("/v1/spools"))
    wrong = _wrong(spools, now)
    invocation.answer({**spools, "wrong": wrong}, lambda: _show_status(spools, wrong, now))
    if check and wrong:
        click.get_current_context().exit(1)


def _show_status(spools: Mapping[str, Any], wrong: Sequence[str], now: dt.datetime) -> None:
    rows = [
        {
            **one,
            "size": tty.size(one["size_bytes"]),
            "unbooked": tty.size(one["unbooked_bytes"]),
            "written": f"{tty.span(_age_s(one['written_at'], now))} ago",
        }
        for one in spools["data"]
    ]
    columns = {
        "spool_id": "spool",
        "worker": "worker",
        "segments": "segments",
        "size": "on disk",
        "unbooked": "not booked",
        "booked_sequence": "booked up to",
        "written": "last written",
        "finished": "finished",
        "kept_until": "kept until",
    }
    if rows:
        sums = {
            "spool_id": "total",
            "segments": tty.plain(sum(one["segments"] for one in rows)),
            "size": tty.size(sum(one["size_bytes"] for one in rows)),
            "unbooked": tty.size(spools["unbooked_bytes"]),
        }
        right = ("segments", "size", "unbooked", "booked_sequence", "written")
        tty.table(columns, rows, right=right, total=[sums.get(name, "") for name in columns])
    else:
        tty.hint("There is no spool: each start of `tollkeeper serve` makes one.")
    print(f"\nRoom on the disk: {tty.size(spools['room_bytes'])}")
    if spools["quarantine"]:
        print()
        tty.table({"reason": "set aside", "records": "records", "last_at": "last"}, spools["quarantine"])
    for sentence in wrong:
        tty.hint(f"\n{tty.plain(sentence)}")


def _wrong(spools: Mapping[str, Any], now: dt.datetime) -> list[str]:
    """What is wrong, in sentences that say what to do."""
    found = []
    if spools["failing"] is not None:
        found.append(f"The ledger can not be written ({spools['failing']}). What is recorded is booked when it can.")
    if spools["unbooked_age_s"] > BEHIND_S_MAX:
        behind = f"{tty.size(spools['unbooked_bytes'])}, {tty.span(spools['unbooked_age_s'])}"
        found.append(f"The ledger is behind by {behind}: see that the server runs and that its database answers.")
    unreadable = [one["spool_id"] for one in spools["data"] if not one["readable"]]
    if unreadable:
        found.append(f"The disk refuses to give what is in {', '.join(unreadable)}; the server's log says why.")
    if spools["room_bytes"] < spools["room_bytes_min"]:
        least = tty.size(spools["room_bytes_min"])
        found.append(f"The disk has room for less than {least}: calls are refused when it has none. Make room.")
    news = [one for one in spools["quarantine"] if _age_s(one["last_at"], now) < NEWS_S]
    if news:
        count = sum(one["records"] for one in news)
        found.append(f"{_counted(count, 'record')} set aside: {LOOK_ASIDE}.")
    return found


def _age_s(moment: str, now: dt.datetime) -> float:
    return (now - dt.datetime.fromisoformat(moment)).total_seconds()


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------------------------
# Inspect


@spool.command(cls=Command)
@click.argument("spool_id", metavar="[SPOOL]", required=False)
@click.option("--segment", type=click.IntRange(0), help="Of this segment alone.")
@click.option("--limit", type=click.IntRange(1), help=f"So many at most.  [default: {LIMIT_DEFAULT}]")
@click.option("--damaged", is_flag=True, help="Only what is wrong: damage, torn ends, gaps, records that say nothing.")
@click.option("--quarantine", is_flag=True, help="What was set aside instead, out of the ledger, newest first.")
@told
def inspect(
    invocation: Invocation,
    spool_id: str | None,
    segment: int | None,
    limit: int | None,
    damaged: bool,  # noqa: FBT001 - click's signature
    quarantine: bool,  # noqa: FBT001
) -> None:
    """List records as they lie on the disk, of one SPOOL or of all, oldest first.

    It reads the files and nothing else, whether a server runs or not. No contents are shown: whose call, of what kind,
    how complete.
    """
    if quarantine:
        if spool_id is not None or segment is not None or damaged:
            raise click.UsageError("--quarantine is about the ledger: leave SPOOL, --segment and --damaged out.")
        page = invocation.ask(lambda api: api.get("/v1/quarantine", {"limit": limit or LIMIT_DEFAULT}))
        invocation.answer(page, lambda: _show_quarantine(page))
        return
    # Imported here, as all that is needed by one command alone.
    import msgspec  # noqa: PLC0415

    from gateway.installation import paths  # noqa: PLC0415
    from metering import spool_inspection, spool_reader  # noqa: PLC0415

    directory, _ = paths(invocation.settings())
    there = [one.spool_id for one in spool_reader.kept(directory)]
    _known([] if spool_id is None else [spool_id], there)
    lying = (
        one
        for wanted in ([spool_id] if spool_id else there)
        for one in spool_inspection.found(directory, wanted, segment)
        if one.wrong or not damaged
    )
    limit = limit or LIMIT_DEFAULT
    shown = list(islice(lying, limit + 1))
    more = len(shown) > limit
    rows = [msgspec.to_builtins(one) for one in shown[:limit]]
    empty = "Nothing is damaged." if damaged else f"There is nothing in {directory}."
    invocation.answer({"data": rows, "more": more}, lambda: _show_records(rows, empty, more=more))


def _show_records(rows: Sequence[Mapping[str, Any]], empty: str, *, more: bool) -> None:
    if not rows:
        tty.hint(empty)
        return
    columns = {
        "spool_id": "spool",
        "segment": "segment",
        "bytes": "bytes",
        "sequence": "sequence",
        "kind": "kind",
        "ends": "ends",
        "call_id": "call",
        "tenant_id": "tenant",
        "source": "source",
        "event_type": "type",
        "completeness": "completeness",
        "note": "note",
    }
    drawn = [
        {
            **row,
            "segment": _range(row["segment"]),
            "bytes": _range(row["offset"], row["end"]),
            "sequence": _range(row["sequence"], row["last_sequence"]),
            "ends": _range(row["ends"]),
        }
        for row in rows
    ]
    tty.table(columns, drawn, right=("segment", "bytes", "sequence", "ends"))
    if more:
        tty.hint("\nThere are more: name a SPOOL and a --segment, or raise --limit.")


def _range(first: int | None, last: int | None = None) -> str | None:
    """Places to look at, which are copied: without separators."""
    if first is None:
        return None
    return str(first) if last in (None, first) else f"{first}-{last}"


def _show_quarantine(page: Mapping[str, Any]) -> None:
    if not page["data"]:
        tty.hint("Nothing was ever set aside.")
        return
    columns = {"set_aside_at": "time", "tenant_id": "tenant", "reason": "reason", "quarantine_id": "record"}
    tty.table(columns, page["data"])
    if page["next_cursor"] is not None:
        tty.hint("\nThere are more: raise --limit.")


# ---------------------------------------------------------------------------------------------------------------------
# Replay


@spool.command(cls=Command)
@click.argument("spool_ids", metavar="[SPOOL]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every spool that is there, finished ones too.")
@told
def replay(invocation: Invocation, spool_ids: tuple[str, ...], every: bool) -> None:  # noqa: FBT001 - click's signature
    """Read spools again from their beginning, and book what the ledger lacks.

    For a ledger that was restored from a backup, or files that were mended. What is booked already is not booked twice,
    calls under way are left alone, and a replay that was broken off is simply begun again. Segments are kept for a day
    after they were written: what was written before that is not there to be replayed.
    """
    if bool(spool_ids) == every:
        raise click.UsageError("Name the spools to replay, or give --all; `tollkeeper spool status` lists them.")

    async def all_of_them(api: ControlApi) -> list[Mapping[str, Any]]:
        there = [one["spool_id"] for one in (await api.get("/v1/spools"))["data"]]
        _known(spool_ids, there)
        wanted = dict.fromkeys(spool_ids or there)
        done = []
        for number, spool_id in enumerate(wanted, 1):
            with tty.progress(f"{spool_id} ({number} of {len(wanted)})", quiet=invocation.as_json) as advance:
                async for last in _replayed(api, spool_id):
                    advance(last["read_bytes"], last["size_bytes"])
            done.append(last)
        return done

    done = invocation.ask(all_of_them)
    total = {name: sum(one[name] for one in done) for name in COUNTS}
    invocation.answer({"data": done, "total": total}, lambda: _show_replayed(done, total))


async def _replayed(api: ControlApi, spool_id: str) -> AsyncIterator[Mapping[str, Any]]:
    """What the control API says while it replays a spool; the last it says is that it is done, else Refused."""
    from gateway.control_client import ControlUnreachable  # noqa: PLC0415 - as in `Invocation.ask`

    said: Mapping[str, Any] = {"done": False}
    try:
        async for said in api.post_lines(at("v1", "spools", spool_id, "replay")):
            yield said
    except ControlUnreachable:
        pass
    if not said["done"]:
        raise Refused(
            "Replay broken off",
            f"The replay of {spool_id} broke off; the server's log says why. "
            "Begin it again: what it has booked stays, and is not booked twice.",
        )


def _show_replayed(done: Sequence[Mapping[str, Any]], total: Mapping[str, int]) -> None:
    if not done:
        tty.hint("There is no spool to replay.")
        return
    columns = {"spool_id": "spool", **{name: name.replace("_", " ") for name in COUNTS}}
    tty.table(columns, done, right=COUNTS, total=["total", *(tty.plain(total[name]) for name in COUNTS)])
    if total["unknown"]:
        tty.hint(
            f"\n{_counted(total['unknown'], 'call')} that workers left open when they ended are in the ledger as unknown, "
            "unless it knows more of them."
        )
    if total["conflicting"] or total["not_bookable"] or total["unreadable"]:
        tty.hint(f"\nWhat is conflicting, not bookable or unreadable was set aside: {LOOK_ASIDE}.")


def _known(spool_ids: Sequence[str], there: Sequence[str]) -> None:
    """Raises Refused for spools that are not there."""
    if missing := [spool_id for spool_id in spool_ids if spool_id not in there]:
        raise Refused(
            "No such spool", f"There is no spool {', '.join(missing)} here; there are: {', '.join(there) or 'none'}."
        )
