"""Calls that are not to be forwarded twice: `X-Gateway-Idempotency-Key`.

The key is claimed in the database before the call is forwarded, and only such calls wait for the database. A repetition
within a day gets the first call's id instead of a second call; what the first call was answered is not kept, since no
content is. A claim whose call was never sent is given back.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, bindparam, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadHeader, IdempotencyMismatch, NotRecordable, Repeated
from gateway.messages import RequestHead
from gateway.tables import idempotent_calls
from metering.columns import Moment
from metering.database import Database, DatabaseUnavailable

KEPT = dt.timedelta(hours=24)
KEY = re.compile(r"[\x21-\x7e]{1,128}")

FORGOTTEN_EVERY = dt.timedelta(hours=1)
"""Between two times that a process removes claims which have expired and nobody asks for."""

_c = idempotent_calls.c

# Both engines understand it; a key that another call is claiming just now is waited for.
_CLAIM = text(
    "INSERT INTO idempotent_calls (tenant_id, idempotency_key, call_id, request_digest, created_at) "
    "VALUES (:tenant_id, :idempotency_key, :call_id, :request_digest, :created_at) ON CONFLICT DO NOTHING"
).bindparams(bindparam("created_at", type_=Moment))


class Claims:
    """Which tenant has used which idempotency key for which call."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._now = now
        self._forgot: dt.datetime | None = None

    async def claim(self, tenant_id: str, key: str, call_id: str, head: RequestHead, body: bytes) -> None:
        """Take a key for a call. Raises Repeated, IdempotencyMismatch, BadHeader or NotRecordable."""
        if not KEY.fullmatch(key):
            raise BadHeader("X-Gateway-Idempotency-Key: 1 to 128 printable characters without spaces.")
        digest = hashlib.blake2b(f"{head.method} {head.target}\n".encode() + body, digest_size=16).hexdigest()
        row = {"tenant_id": tenant_id, "idempotency_key": key, "call_id": call_id, "request_digest": digest}
        try:
            await self._forget()
            async with self._database.transaction() as connection:
                first = await self._first(connection, row)
        except DatabaseUnavailable as error:
            raise NotRecordable("The idempotency key can not be kept right now. Try again shortly.") from error
        if first is None:
            return
        if first.request_digest != digest:
            raise IdempotencyMismatch("This X-Gateway-Idempotency-Key was used for another request. Take a new one.")
        raise Repeated(f"This call was forwarded before, as {first.call_id}, and is not forwarded again.")

    async def _first(self, connection: AsyncConnection, row: dict[str, str]) -> Row[*tuple[Any, ...]] | None:
        """The claim that was there before this one; None if this one now is."""
        now = self._now()
        mine = (_c.tenant_id == row["tenant_id"], _c.idempotency_key == row["idempotency_key"])
        await connection.execute(delete(idempotent_calls).where(*mine, _c.created_at < now - KEPT))
        while True:
            if (await connection.execute(_CLAIM, {**row, "created_at": now})).rowcount:
                return None
            first = (await connection.execute(select(_c.call_id, _c.request_digest).where(*mine))).first()
            if first is not None:
                return first
            # It was given back between the two statements.

    async def _forget(self) -> None:
        """Remove expired claims. In a transaction of its own, which holds no claim while it waits for others'."""
        now = self._now()
        if self._forgot is None or now - self._forgot > FORGOTTEN_EVERY:
            self._forgot = now
            async with self._database.transaction() as connection:
                await connection.execute(delete(idempotent_calls).where(_c.created_at < now - KEPT))

    async def release(self, tenant_id: str, key: str) -> None:
        """Give a key back whose call was not sent. If that can not be kept, the key stays taken for a day."""
        mine = (_c.tenant_id == tenant_id, _c.idempotency_key == key)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(delete(idempotent_calls).where(*mine))
        except DatabaseUnavailable:
            return
