"""One call detail record that a switch posts, start to finish: `POST /webhooks/cdr/{tenant}`.

A switch is no provider and signs nothing: it shows a key of the tenant's, with the scope to write events, as a bearer token or
as the password of Basic authentication. What it does not get a 200 for it posts again, and it is booked once.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from functools import partial

import msgspec

from gateway.call_details import SOURCE, NotARecord, call_record, read_call
from gateway.clock import now_ms
from gateway.importer import IMPORTED
from gateway.keys import Secrets, key_id_of, reference
from gateway.messages import Headers
from gateway.providers.api import Reply
from gateway.recorder import Recorder, late_event, made_event
from gateway.snapshot import SnapshotFile

SCOPE = "events:write"

BODY_BYTES_MAX = 256 << 10
"""A record with all its variables has some 20 KiB."""

JSON = b"application/json"


class SwitchRecords:
    """Books what switches post."""

    def __init__(self, snapshot: SnapshotFile, secrets: Secrets, recorder: Recorder) -> None:
        self._snapshot = snapshot
        self._secrets = secrets
        self._recorder = recorder

    def refusal(self, tenant_id: str, headers: Headers) -> tuple[int, str] | None:
        """Why nothing of this tenant's is taken from whoever shows this: the status, and what the log says of it."""
        key = _presented(headers)
        key_id = key_id_of(key) or ""
        if key_id not in self._snapshot.current.keys or tenant_id not in self._snapshot.current.tenants:
            # They may be new: whoever made them was told so when they were in the file.
            with suppress(OSError, ValueError):
                self._snapshot.refresh()
        found, tenant = self._snapshot.current.keys.get(key_id), self._snapshot.current.tenants.get(tenant_id)
        if found is None or not self._secrets.matches(key, bytes.fromhex(found.digest)):
            return 401, "unknown_key"
        if found.expires_at_ms is not None and found.expires_at_ms <= now_ms():
            return 401, "expired_key"
        if tenant is None or found.tenant_id not in (tenant_id, None):
            return 403, "another_tenant"
        if tenant.status != "active":
            return 403, "suspended"
        if SCOPE not in found.scopes:
            return 403, "scope_missing"
        return None

    async def taken(self, tenant_id: str, headers: Headers, body: bytes) -> Reply:
        """Record what the body says, and answer. Raises SpoolFailed and SpoolFull."""
        try:
            record = call_record(read_call(body, headers.get("Content-Type", "")))
        except NotARecord as error:
            problem = {"error": {"code": "not_a_record", "field": error.field, "problem": error.problem}}
            return Reply(422, JSON, msgspec.json.encode(problem))
        hashed = partial(reference, self._secrets.reference)
        events = [made_event(tenant_id, SOURCE, record, hashed, IMPORTED)]
        events += [late_event(tenant_id, SOURCE, one) for one in record.late]
        await self._recorder.noted(events)
        return Reply(200, JSON, b'{"accepted":1}')


def _presented(headers: Headers) -> str:
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
