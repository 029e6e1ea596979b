"""`tollkeeper import`: what was written down elsewhere, out of a file of any length."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from gateway.commands import tty
from gateway.commands.invocation import Command, Invocation, Refused, told

if TYPE_CHECKING:
    from gateway.control_client import ControlApi

RECORDS_AT_ONCE = 500
BATCH_CHARACTERS_MAX = LINE_CHARACTERS_MAX = 60_000
"""Of the lines of one request, but for the last, and of one line, which is not held where it is longer. Escaped, a character
has up to six bytes, and a request may have a million. A row has some hundreds, a switch's document some thousands."""

SHOWN_MAX = 20
"""So many wrong lines are shown to people; `--json` has them all, up to this many thousand."""

STATUSES = ("created", "duplicate", "conflict", "invalid")


class Line(NamedTuple):
    """One line of a file: the record that it holds, or what is wrong with it."""

    number: int
    record: Mapping[str, Any] | None
    problem: str = ""
    characters: int = 0


@click.command(name="import", cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tenant", required=True, metavar="ID", help="Whose calls they are.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), help="How the file is written.  [default: by its name]"
)
@click.option("--source", metavar="NAME", help="Who made the calls: a provider's name, for its prices.  [default: cdr]")
@told
def import_(invocation: Invocation, file: Path, tenant: str, form: str | None, source: str | None) -> None:
    """Book what happened elsewhere: call detail records, and logs of AI calls.

    A call has uuid, start_stamp, billsec, caller_id_number, destination_number, direction and hangup_cause, as FreeSWITCH
    writes them; an AI call has id, time, model, input_tokens, output_tokens and, among what went in, cached_tokens. Times
    without a zone are UTC. Each is priced at its own date. A line that is wrong is named and stops no other, and a file
    that was broken off is simply imported again: what is in the ledger is not booked twice.
    """
    form = form or ("csv" if file.suffix.lower() == ".csv" else "jsonl")
    size_bytes = file.stat().st_size
    wanted = {"tenant_id": tenant} | ({} if source is None else {"source": source})

    async def all_of_it(api: ControlApi) -> tuple[Counter[str], list[dict[str, Any]]]:
        counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        wrong: list[dict[str, Any]] = []
        with (
            file.open(encoding="utf-8-sig", errors="replace", newline="") as opened,
            tty.progress(file.name, quiet=invocation.as_json) as advance,
        ):
            lines = _csv_lines(opened) if form == "csv" else _json_lines(opened)
            while batch := _batch(lines):
                for line, result in await _booked(api, wanted, batch):
                    counts[result["status"]] += 1
                    if result["status"] in ("invalid", "conflict") and len(wrong) < SHOWN_MAX * 1000:
                        wrong.append({"line": line.number, **result})
                advance(min(opened.buffer.tell(), size_bytes), size_bytes)  # type: ignore[attr-defined]
        return counts, wrong

    counts, wrong = invocation.ask(all_of_it)
    invocation.answer({**counts, "wrong": wrong}, lambda: _show(counts, wrong))
    if counts["invalid"] or counts["conflict"]:
        click.get_current_context().exit(1)


async def _booked(
    api: ControlApi, wanted: Mapping[str, str], batch: list[Line]
) -> list[tuple[Line, Mapping[str, Any]]]:
    """What became of some lines."""
    records = [line for line in batch if line.record is not None]
    results: Iterator[Mapping[str, Any]] = iter(())
    if records:
        answer = await api.post("/v1/imports", {**wanted, "records": [line.record for line in records]})
        results = iter(answer["results"])
    return [
        (line, next(results) if line.record is not None else {"status": "invalid", "problem": line.problem})
        for line in batch
    ]


def _batch(lines: Iterator[Line]) -> list[Line]:
    """The lines of one request."""
    batch: list[Line] = []
    characters = 0
    for line in islice(lines, RECORDS_AT_ONCE):
        batch.append(line)
        characters += line.characters
        if characters > BATCH_CHARACTERS_MAX:
            break
    return batch


def _texts(opened: IO[str]) -> Iterator[tuple[int, str | None]]:
    """The lines of a file, by their numbers; None for one that is too long to be held."""
    number = 0
    while text := opened.readline(LINE_CHARACTERS_MAX + 1):
        number += 1
        too_long = len(text) > LINE_CHARACTERS_MAX
        while too_long and text and not text.endswith("\n"):
            text = opened.readline(LINE_CHARACTERS_MAX)
        yield number, None if too_long else text


def _json_lines(opened: IO[str]) -> Iterator[Line]:
    for number, text in _texts(opened):
        if text is None:
            yield Line(number, None, "is too long")
        elif text.strip():
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield Line(number, record, characters=len(text))
            else:
                yield Line(number, None, "is no JSON object")


def _csv_lines(opened: IO[str]) -> Iterator[Line]:
    """Rows under the names of the first line. No field holds a line break: no call detail record has one."""
    texts = _texts(opened)
    _, first = next(texts, (0, ""))
    names = _row(first or "")
    if not names or len(set(names)) != len(names):
        raise Refused("No names", "The first line of the file must name its columns, each by another name.")
    for number, text in texts:
        if text is None:
            yield Line(number, None, "is too long")
        elif text.strip():
            row = _row(text)
            if row is None or len(row) != len(names):
                yield Line(
                    number, None, f"has {0 if row is None else len(row)} fields, and the first line names {len(names)}"
                )
            else:
                yield Line(number, dict(zip(names, row, strict=True)), characters=len(text) + len(first or ""))


def _row(text: str) -> list[str] | None:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return None


def _show(counts: Mapping[str, int], wrong: list[dict[str, Any]]) -> None:
    tty.facts(counts)
    if wrong:
        columns = {"line": "line", "status": "", "field": "field", "problem": "problem"}
        print()
        tty.table(columns, wrong[:SHOWN_MAX], right=("line",))
    if len(wrong) > SHOWN_MAX:
        tty.hint(f"\nThere are {len(wrong) - SHOWN_MAX:,} more: --json names them.")
    if counts["conflict"]:
        tty.hint("\nOf a conflict the ledger keeps what it has.")
