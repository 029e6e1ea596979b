"""What switches post: whose key it takes, what is booked, and what is said of a record that is none."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from multidict import CIMultiDict

from gateway.keys import Secrets, new_gateway_key
from gateway.snapshot import VERSION, KeyRecord, Snapshot, SnapshotFile, TenantRecord, write
from gateway.switch_records import SwitchRecords

SECRETS = Secrets.derived("secret of the tests" * 4)
KEY_ID, KEY = new_gateway_key()
RECORD = {
    "variables": {
        "uuid": "4b7b5f0e-0000-4000-8000-000000000001",
        "start_epoch": "1790000000",
        "answer_epoch": "1790000003",
        "end_epoch": "1790000064",
        "billsec": "61",
        "duration": "64",
        "direction": "outbound",
        "hangup_cause": "NORMAL_CLEARING",
        "caller_id_number": "+12025550143",
        "destination_number": "+14155550100",
    }
}


class Noted(list):
    """A recorder that a test can look into."""

    async def noted(self, events):
        self.extend(events)


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def switches(tmp_path, noted):
    def made(**changes):
        values = {"key_id": KEY_ID, "digest": SECRETS.digest(KEY).hex(), "tenant_id": "acme"}
        key = KeyRecord(**values | {"scopes": frozenset({"events:write"})} | changes)
        tenants = {
            name: TenantRecord(tenant_id=name, status="active", account_sid="AC1") for name in ("acme", "globex")
        }
        write(tmp_path / "snapshot.json", Snapshot(version=VERSION, keys={KEY_ID: key}, tenants=tenants))
        file = SnapshotFile(tmp_path / "snapshot.json")
        file.refresh()
        return SwitchRecords(file, SECRETS, noted)

    return made


def bearer(key):
    return CIMultiDict({"Authorization": f"Bearer {key}"})


def basic(key):
    return CIMultiDict({"Authorization": "Basic " + base64.b64encode(f"switch:{key}".encode()).decode()})


@pytest.mark.parametrize("shown", [bearer, basic])
@pytest.mark.parametrize("tenant_id", ["acme", None])
def test_a_key_of_the_tenant_or_of_the_platform_with_the_scope_is_taken(switches, shown, tenant_id):
    assert switches(tenant_id=tenant_id).refusal("acme", shown(KEY)) is None


@pytest.mark.parametrize(
    ("headers", "changes", "refusal"),
    [
        (CIMultiDict(), {}, (401, "unknown_key")),
        (bearer("tk_0123456789ab_" + "x" * 43), {}, (401, "unknown_key")),
        (bearer(KEY[:-1] + ("a" if KEY[-1] != "a" else "b")), {}, (401, "unknown_key")),
        (CIMultiDict({"Authorization": "Basic %%%"}), {}, (401, "unknown_key")),
        (CIMultiDict({"Authorization": f"Digest {KEY}"}), {}, (401, "unknown_key")),
        (bearer(KEY), {"expires_at_ms": 1}, (401, "expired_key")),
        (bearer(KEY), {"tenant_id": "globex"}, (403, "another_tenant")),
        (bearer(KEY), {"scopes": frozenset({"proxy", "usage:read"})}, (403, "scope_missing")),
    ],
)
def test_nobody_else_writes_events_of_the_tenant(switches, headers, changes, refusal):
    """Guards the ledger of a tenant: whoever knows its name must not be able to bill it."""
    assert switches(**changes).refusal("acme", headers) == refusal


@pytest.mark.parametrize("form", [False, True])
async def test_a_call_is_booked_with_its_seconds_and_without_a_number(switches, noted, form):
    document = json.dumps(RECORD).encode()
    body, media_type = document, "application/json"
    if form:
        body, media_type = b"cdr=" + document.replace(b"+", b"%2B"), "application/x-www-form-urlencoded"

    reply = await switches().taken("acme", CIMultiDict({"Content-Type": media_type}), body)

    assert reply.status == 200
    made, *late = noted
    assert (made.tenant_id, made.source, made.event_type, made.quantities) == (
        "acme", "cdr", "call_outbound", {"requests": 1},
    )  # fmt: skip
    assert [(one.event_type, one.quantities) for one in late if one.quantities] == [("call_minutes", {"seconds": 61})]
    said = b"".join(map(msgspec.json.encode, noted))
    assert b"2025550143" not in said
    assert b"4155550100" not in said


async def test_told_again_it_is_the_same(switches, noted):
    for _ in range(2):
        await switches().taken("acme", CIMultiDict({"Content-Type": "application/json"}), json.dumps(RECORD).encode())

    half = len(noted) // 2
    assert noted[:half] == noted[half:]


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"<cdr/>", "body"), (b"{}", "uuid"), (b'{"variables": {"uuid": "a b\\n"}}', "uuid"), (b"[]", "body")],
)
async def test_what_is_no_record_is_said_by_field_and_not_repeated(switches, noted, body, field):
    reply = await switches().taken("acme", CIMultiDict({"Content-Type": "application/json"}), body)

    problem = json.loads(reply.body)["error"]
    assert (reply.status, problem["field"]) == (422, field)
    assert noted == []
