"""/v1/spools and /v1/quarantine: what was recorded and where it has got to, booking it once more, what was set aside."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

from aiohttp import web
from sqlalchemy import func, literal, select, tuple_

from gateway.api.answers import json_answer, json_line, lines_stream, list_answer, listing, position_of
from gateway.api.identity import Principal
from gateway.api.parts import ACCOUNTS, DATABASE, NOW, SHIPPER, STOPPING
from gateway.api.problems import Problem
from gateway.api.requests import PageQuery, Query, query
from gateway.replay import replay as replayed
from gateway.shipper import RETENTION_S, ROOM_BYTES_MIN
from gateway.telemetry import log
from metering import spool_reader
from metering.columns import Moment, Text
from metering.database import DatabaseUnavailable
from metering.moments import iso
from metering.spool_reader import Kept
from metering.tables import quarantine, spool_positions


async def index(request: web.Request, _: Principal) -> web.Response:
    query(request, Query)
    shipper, now = request.app[SHIPPER], request.app[NOW]()
    found = await asyncio.to_thread(spool_reader.kept, shipper.directory)
    confirmed = {spool.spool_id: shipper.confirmed(spool.spool_id) for spool in found if not spool.finished}
    unread_bytes = {
        spool_id: await asyncio.to_thread(spool_reader.unread_bytes, shipper.directory, spool_id, position)
        for spool_id, position in confirmed.items()
    }
    columns = quarantine.c
    counted = select(columns.reason, func.count(), func.max(columns.set_aside_at)).group_by(columns.reason)
    async with request.app[DATABASE].reading() as connection:
        rows = await connection.execute(
            select(spool_positions).where(spool_positions.c.spool_id.in_([spool.spool_id for spool in found]))
        )
        positions = {row.spool_id: row for row in rows}
        aside = (await connection.execute(counted.order_by(columns.reason))).all()

    def shown(spool: Kept) -> dict[str, object]:
        position = positions.get(spool.spool_id)
        written_at = dt.datetime.fromtimestamp(spool.written_at_s, dt.UTC)
        kept_until = written_at + dt.timedelta(seconds=RETENTION_S)
        return {
            "spool_id": spool.spool_id,
            "worker": "gone" if spool.abandoned else "alive",
            "finished": spool.finished,
            "readable": spool.spool_id not in shipper.unreadable,
            "segments": len(spool.segments),
            "size_bytes": spool.size_bytes,
            "unbooked_bytes": unread_bytes.get(spool.spool_id, 0),
            "booked_sequence": None if position is None else position.sequence,
            "booked_at": None if position is None else iso(position.updated_at),
            "written_at": iso(written_at),
            "kept_until": iso(kept_until) if spool.finished else None,
        }

    unbooked = sum(unread_bytes.values())
    return json_answer(
        {
            "data": [shown(spool) for spool in found],
            "next_cursor": None,
            "unbooked_bytes": unbooked,
            "unbooked_age_s": max(0.0, (now - shipper.last_shipped).total_seconds()) if unbooked else 0,
            "room_bytes": await asyncio.to_thread(_room_bytes, shipper.directory),
            "room_bytes_min": ROOM_BYTES_MIN,
            "failing": shipper.failing,
            "quarantine": [{"reason": reason, "records": count, "last_at": iso(last)} for reason, count, last in aside],
        }
    )


async def replay(request: web.Request, principal: Principal) -> web.StreamResponse:
    """Book a spool once more. What became of it so far leaves in lines; the last one says that it is done.

    However long that takes, it holds no more than a batch. It ends when whoever asked for it has left, and breaks off
    when the gateway stops or the database fails: begun again, it goes over what is booked already.
    """
    query(request, Query)
    shipper, spool_id = request.app[SHIPPER], request.match_info["spool_id"]
    if all(spool.spool_id != spool_id for spool in await asyncio.to_thread(spool_reader.kept, shipper.directory)):
        raise Problem(404, "no-such-spool", "There is no such spool here; GET /v1/spools lists them.")
    async with request.app[ACCOUNTS].changing(principal.actor) as change:
        await change.replay_spool(spool_id)
    response = lines_stream()
    await response.prepare(request)
    try:
        async for so_far in replayed(shipper, spool_id):
            await response.write(json_line(so_far))
            if request.app[STOPPING].is_set() and not so_far.done:
                break
        else:
            await response.write_eof()
            return response
        reason = "stopping"
    except ConnectionResetError:
        return response
    except (DatabaseUnavailable, OSError) as error:
        reason = str(error)
    log.error("replay_broken_off", spool=spool_id, reason=reason)
    if request.transport is not None:
        request.transport.abort()
    return response


async def quarantined(request: web.Request, principal: Principal) -> web.Response:
    """What was set aside and why, newest first. What is in it stays in the ledger: it may be anything."""
    wanted = query(request, PageQuery)
    after = position_of(request, principal, wanted)
    at, key = quarantine.c.set_aside_at, quarantine.c.quarantine_id
    statement = select(key, quarantine.c.reason, quarantine.c.tenant_id, at).order_by(at.desc(), key.desc())
    if after is not None:
        moment = dt.datetime.fromisoformat(after[0])
        statement = statement.where(tuple_(at, key) < tuple_(literal(moment, Moment), literal(after[1], Text)))
    async with request.app[DATABASE].reading() as connection:
        found = (await connection.execute(statement.limit(wanted.limit + 1))).all()
    data, cursor = listing(request, principal, wanted, found, lambda row: [iso(row.set_aside_at), row.quarantine_id])
    return list_answer(
        (
            {
                "quarantine_id": row.quarantine_id,
                "reason": row.reason,
                "tenant_id": row.tenant_id,
                "set_aside_at": iso(row.set_aside_at),
            }
            for row in data
        ),
        cursor,
    )


def _room_bytes(directory: Path) -> int:
    # Before the first server has started, there is none.
    return spool_reader.room_bytes(directory if directory.exists() else directory.parent)
