"""A switch posts its call detail records: booked once, for the tenant whose key it shows."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from tests.walks.harness import ON_BOTH, basic

pytestmark = ON_BOTH

RECORD = {
    "variables": {
        "uuid": "4b7b5f0e-0000-4000-8000-000000000001", "start_epoch": "1790000000", "answer_epoch": "1790000003",
        "end_epoch": "1790000064", "billsec": "61", "duration": "64", "direction": "outbound",
        "hangup_cause": "NORMAL_CLEARING", "caller_id_number": "+12025550143", "destination_number": "+14155550100",
    }
}  # fmt: skip


def post(gateway, tenant_id, authorization, document):
    url = f"{gateway.proxy_url}/webhooks/cdr/{tenant_id}"
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def keys(gateway):
    own = gateway.tenant("acme")
    gateway.tenant("globex")
    return own, gateway.key("acme", scopes=["events:write"])


def test_a_record_is_booked_once_however_often_it_is_posted(gateway, keys):
    _, writes = keys
    assert [post(gateway, "acme", basic("switch", writes), RECORD) for _ in range(3)] == [200] * 3

    events = gateway.events_of("acme", 2)

    assert sorted((event["event_type"], event["quantities"]) for event in events if event["event_type"]) == [
        ("call_minutes", {"seconds": 61}),
        ("call_outbound", {"requests": 1}),
    ]
    assert gateway.ask("GET", "/v1/quarantine")["data"] == []


def test_nobody_else_is_taken(gateway, keys):
    own, writes = keys

    assert post(gateway, "acme", f"Bearer {own}", RECORD) == 403
    assert post(gateway, "globex", f"Bearer {writes}", RECORD) == 403
    assert post(gateway, "acme", "Bearer tk_0123456789ab_x", RECORD) == 401
    # Whether there is such a tenant, a key of another is not told.
    assert post(gateway, "nobody", f"Bearer {writes}", RECORD) == 403
    assert post(gateway, "acme", f"Bearer {writes}", {"variables": {}}) == 422
