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

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from gateway.errors import BadHeader, IdempotencyMismatch, NotRecordable, Repeated
from gateway.messages import RequestHead
from gateway.tables import idempotent_calls
from metering.database import Database, DatabaseUnavailable

KEPT = dt.timedelta(hours=24)
KEY = re.compile(r"[\x21-\x7e]{1,128}")

_c = idempotent_calls.c


class Claims:
    """Which tenant has used which idempotency key for which call."""

    def __init__(self, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._now = now

    async def claim(self, tenant_id: str, key: str, call_id: str, head: RequestHead, body: bytes) -> None:
        """Take a key for a call. Raises Repeated, IdempotencyMismatch, BadHeader or NotRecordable."""
        if not KEY.fullmatch(key):
            raise BadHeader("X-Gateway-Idempotency-Key: 1 to 128 printable characters without spaces.")
        digest = hashlib.blake2b(f"{head.method} {head.target}\n".encode() + body, digest_size=16).hexdigest()
        now = self._now()
        row = {"tenant_id": tenant_id, "idempotency_key": key, "call_id": call_id, "request_digest": digest}
        mine = (_c.tenant_id == tenant_id, _c.idempotency_key == key)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(delete(idempotent_calls).where(_c.created_at < now - KEPT))
                claimed = insert(idempotent_calls).values(**row, created_at=now).on_conflict_do_nothing()
                if (await connection.execute(claimed)).rowcount:
                    return
                first = (await connection.execute(select(_c.call_id, _c.request_digest).where(*mine))).one()
        except DatabaseUnavailable as error:
            raise NotRecordable("The idempotency key can not be kept right now. Try again shortly.") from error
        if first.request_digest != digest:
            raise IdempotencyMismatch("This X-Gateway-Idempotency-Key was used for another request. Take a new one.")
        raise Repeated(f"This call was forwarded before, as {first.call_id}, and is not forwarded again.")

    async def release(self, tenant_id: str, key: str) -> None:
        """Give a key back whose call was not sent. If that can not be kept, the key stays taken for a day."""
        mine = (_c.tenant_id == tenant_id, _c.idempotency_key == key)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(delete(idempotent_calls).where(*mine))
        except DatabaseUnavailable:
            return
