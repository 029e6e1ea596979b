"""Writing what is answered: JSON, lists with their cursors, CSV.

A cursor is opaque and sealed to the question it continues: to path, filters and tenant. Whoever asks another question
with it is refused, rather than shown a part of the answer.
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import hmac
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from sqlalchemy import ColumnElement, Row, Table, literal, select, tuple_

from gateway.api.identity import Principal
from gateway.api.parts import DATABASE, SECRETS
from gateway.api.problems import SECURITY_HEADERS, invalid
from gateway.api.requests import JobsQuery, PageQuery
from metering.columns import Moment, Text
from metering.moments import iso

MAC_BYTES = 16

NOT_THE_QUESTION = ("cursor", "limit", "format")
"""Parameters that say how to answer, not what."""

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")

T = TypeVar("T")


def json_answer(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def position_of(request: web.Request, principal: Principal, page: PageQuery) -> list[str] | None:
    """Where the page begins: after what the cursor names."""
    if page.cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(page.cursor + "=" * (-len(page.cursor) % 4))
    except ValueError:
        raw = b""
    mac, position = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(request, principal, position)):
        raise invalid([("cursor", "belongs to another question; begin again without it")])
    return msgspec.json.decode(position, type=list[str])


def listing(
    request: web.Request,
    principal: Principal,
    page: PageQuery,
    found: Sequence[T],
    position: Callable[[T], Sequence[str]],
) -> tuple[Sequence[T], str | None]:
    """One page and the cursor of the next, out of what was found with a limit of one more than the page's."""
    if len(found) <= page.limit:
        return found, None
    shown = found[: page.limit]
    raw = msgspec.json.encode(list(position(shown[-1])))
    return shown, base64.urlsafe_b64encode(_mac(request, principal, raw) + raw).decode().rstrip("=")


async def newest_jobs(
    request: web.Request,
    principal: Principal,
    wanted: JobsQuery,
    table: Table,
    begun: str,
    name: str,
    *visible: ColumnElement[bool],
) -> tuple[Sequence[Row[Any]], str | None]:
    """A page of what was to be done, by these columns the newest first, and the cursor of the next."""
    after, at = position_of(request, principal, wanted), table.c
    key = tuple_(at[begun], at[name])
    statement = select(table).where(*visible).order_by(at[begun].desc(), at[name].desc()).limit(wanted.limit + 1)
    for column, value in ((at.source, wanted.source), (at.tenant_id, wanted.tenant_id), (at.status, wanted.status)):
        if value is not None:
            statement = statement.where(column == value)
    if after is not None:
        moment = dt.datetime.fromisoformat(after[0])
        statement = statement.where(key < tuple_(literal(moment, Moment), literal(after[1], Text)))
    async with request.app[DATABASE].reading() as connection:
        found = (await connection.execute(statement)).all()
    return listing(request, principal, wanted, found, lambda row: [iso(getattr(row, begun)), getattr(row, name)])


def list_answer(data: Iterable[object], next_cursor: str | None = None) -> web.Response:
    return json_answer({"data": list(data), "next_cursor": next_cursor})


def _mac(request: web.Request, principal: Principal, position: bytes) -> bytes:
    asked = sorted((name, value) for name, value in request.query.items() if name not in NOT_THE_QUESTION)
    question = msgspec.json.encode(["cursor", request.path, asked, principal.tenant_id, position])
    return request.app[SECRETS].digest(question.decode())[:MAC_BYTES]


def wants_csv(request: web.Request, form: str | None) -> bool:
    return form == "csv" or (form is None and "text/csv" in request.headers.get("Accept", ""))


def csv_answer(
    name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], next_cursor: str | None = None
) -> web.Response:
    """A table as a file to save. The cursor of the next page, if there is one, stands in `X-Next-Cursor`."""
    body = csv_lines([columns]) + csv_lines([row.get(column) for column in columns] for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    if next_cursor is not None:
        headers["X-Next-Cursor"] = next_cursor
    return web.Response(body=body, content_type="text/csv", charset="utf-8", headers=headers)


def lines_stream() -> web.StreamResponse:
    """The beginning of JSON documents that leave one by one, each on its line."""
    return web.StreamResponse(headers={"Content-Type": "application/x-ndjson"} | SECURITY_HEADERS)


def json_line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def csv_stream(name: str) -> web.StreamResponse:
    """The beginning of a table that leaves in pieces."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"', "Content-Type": "text/csv; charset=utf-8"}
    return web.StreamResponse(headers=headers | SECURITY_HEADERS)


def csv_lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        return msgspec.json.encode(value).decode()
    text = str(value)
    # A spreadsheet takes a cell that begins so for a formula and runs it; a plain negative number is only itself.
    return (
        f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not NUMBER.fullmatch(text) else text
    )
