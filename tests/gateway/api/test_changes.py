"""Tenants, keys and credentials by the API: the shapes that are promised, and doing things once."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from gateway.api import ROUTES
from gateway.snapshot import SigningSecrets, SnapshotFile

NOW = "2026-11-20T12:00:00.000Z"


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


async def test_a_tenant_as_it_is_created_shown_and_listed(api):
    created = await api.post("/v1/tenants", {"tenant_id": "acme", "name": "Acme Ltd", "plan": "pro"})

    tenant = created.document
    sid = tenant["twilio_account_sid"]
    assert created.status == 201
    assert tenant == {
        "tenant_id": "acme",
        "name": "Acme Ltd",
        "status": "active",
        "plan": "professional",
        "currency": "USD",
        "twilio_account_sid": sid,
        "request_tags": "off",
        "created_at": NOW,
    }
    assert (sid[:2], len(sid)) == ("AC", 34)
    assert (await api.get("/v1/tenants/acme")).document == tenant
    assert (await api.get("/v1/tenants")).document == {"data": [tenant], "next_cursor": None}


async def test_a_tenant_needs_no_more_than_an_id(api):
    tenant = (await api.post("/v1/tenants", {"tenant_id": "acme"})).document

    assert (tenant["name"], tenant["plan"]) == ("acme", None)


async def test_a_change_of_a_tenant_answers_with_the_tenant(api, acme):
    changed = await api.ask("PATCH", "/v1/tenants/acme", {"name": "New", "status": "suspended", "plan": "starter"})

    assert changed.status == 200
    assert {name: changed.document[name] for name in ("name", "status", "plan")} == {
        "name": "New",
        "status": "suspended",
        "plan": "starter",
    }
    assert (await api.ask("PATCH", "/v1/tenants/acme", {"plan": None})).document["plan"] is None


async def test_what_tags_a_tenant_s_calls_is_set_when_it_is_made_and_changed_later(api):
    created = await api.post("/v1/tenants", {"tenant_id": "acme", "request_tags": "plain"})
    changed = await api.ask("PATCH", "/v1/tenants/acme", {"request_tags": "hashed"})
    refused = await api.ask("PATCH", "/v1/tenants/acme", {"request_tags": "on"})

    assert (created.status, created.document["request_tags"]) == (201, "plain")
    assert changed.document == created.document | {"request_tags": "hashed"}
    assert (refused.status, refused.problem["errors"]) == (
        400,
        [{"field": "request_tags", "problem": "Input should be 'off', 'hashed' or 'plain'"}],
    )
    assert (await api.get("/v1/tenants/acme")).document == changed.document


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": None},
        {"status": "gone"},
        {"status": None},
        {"request_tags": None},
        {"tenant_id": "x"},
        {"currency": "EUR"},
    ],
)
async def test_a_change_that_is_none_is_refused(api, acme, document):
    assert (await api.ask("PATCH", "/v1/tenants/acme", document)).status == 400


async def test_what_is_taken_or_closed_is_a_conflict(api, acme):
    assert (await api.post("/v1/tenants", {"tenant_id": "acme"})).status == 409
    await api.ask("PATCH", "/v1/tenants/acme", {"status": "closed"})

    for method, path, document in (
        ("PATCH", "/v1/tenants/acme", {"status": "active"}),
        ("POST", "/v1/tenants/acme/keys", {"name": "app"}),
        ("POST", "/v1/tenants/acme/credentials", {"provider": "openai", "api_key": "x"}),
    ):
        answer = await api.ask(method, path, document)
        assert (answer.status, answer.problem["type"]) == (409, "urn:tollkeeper:tenant-closed")


async def test_a_key_is_shown_whole_once(api, acme):
    wanted = {
        "name": "app",
        "scopes": ["proxy:openai", "usage:read"],
        "expires_at": "2027-01-01T03:00:00+03:00",
        "category": "rag",
        "tags": {"team": "search"},
    }

    created = await api.post("/v1/tenants/acme/keys", wanted)

    key = created.document
    assert created.status == 201
    assert key == {
        "key_id": key["key_id"],
        "key": key["key"],
        "tenant_id": "acme",
        **wanted,
        "expires_at": "2027-01-01T00:00:00.000Z",
        "created_at": NOW,
    }
    assert key["key"].startswith(f"tk_{key['key_id']}_")
    later = {name: value for name, value in key.items() if name != "key"} | {"revoked_at": None}
    assert (await api.get(f"/v1/tenants/acme/keys/{key['key_id']}")).document == later
    assert (await api.get("/v1/tenants/acme/keys")).document == {"data": [later], "next_cursor": None}


async def test_a_key_proxies_and_reads_usage_unless_told_otherwise(api, acme):
    key = (await api.post("/v1/tenants/acme/keys", {"name": "app"})).document

    assert (key["scopes"], key["expires_at"], key["category"], key["tags"]) == (["proxy", "usage:read"], None, None, {})


async def test_a_new_key_is_in_the_workers_snapshot_before_it_is_answered(api, acme, tmp_path):
    key = (await api.post("/v1/tenants/acme/keys", {"name": "app"})).document

    file = SnapshotFile(tmp_path / "snapshot.json")
    file.refresh()
    assert key["key_id"] in file.current.keys
    assert (await api.get("/v1/usage/summary", key=key["key"])).status == 200


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["admin"]}, "scopes"),
        ({"name": "a", "scopes": "proxy"}, "scopes"),
        ({"name": "a", "expires_at": "2026-11-20T12:00:00Z"}, "expires_at"),
        ({"name": "a", "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"name": "a", "expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
        ({"name": "a", "expires_at": 1_800_000_000}, "expires_at"),
        ({"name": "a", "category": ""}, "category"),
        ({"name": "a", "tags": {"a b": "c"}}, "tags"),
        ({"name": "a", "tags": ["x"]}, "tags"),
        ({"name": "a", "tenant_id": "globex"}, "tenant_id"),
        ({"name": "a", "key": "tk_mine"}, "key"),
    ],
)
async def test_what_no_key_can_have_is_refused_by_name(api, acme, document, field):
    answer = await api.post("/v1/tenants/acme/keys", document)

    assert answer.status == 400
    assert [error["field"] for error in answer.problem["errors"]] == [field]
    assert (await api.get("/v1/tenants/acme/keys")).document["data"] == []


async def test_a_revoked_key_answers_without_a_body_and_is_listed_as_revoked(api, acme):
    key_id = (await api.key(acme)).key.key_id

    for _ in range(2):
        answer = await api.ask("DELETE", f"/v1/tenants/acme/keys/{key_id}")
        assert (answer.status, answer.body) == (204, b"")

    assert (await api.get(f"/v1/tenants/acme/keys/{key_id}")).document["revoked_at"] == NOW


async def test_a_tenant_rotates_its_key_with_the_key_itself(api, acme):
    old = await api.key(acme, category="rag")

    rotated = await api.post(f"/v1/tenants/acme/keys/{old.key.key_id}/rotate", key=old.secret)

    assert rotated.status == 201
    assert rotated.document["category"] == "rag"
    assert (await api.get("/v1/plans", key=old.secret)).status == 401
    assert (await api.get("/v1/plans", key=rotated.document["key"])).status == 200


async def test_a_rotation_with_grace_leaves_time_to_change_over(api, acme):
    old = await api.key(acme)

    rotated = await api.post(f"/v1/tenants/acme/keys/{old.key.key_id}/rotate", {"grace_s": 60}, key=old.secret)

    assert (await api.get("/v1/plans", key=old.secret)).status == 200
    api.clock.now += dt.timedelta(seconds=60)
    assert (await api.get("/v1/plans", key=old.secret)).status == 401
    assert (await api.get("/v1/plans", key=rotated.document["key"])).status == 200


@pytest.mark.parametrize("grace_s", [-1, 604_801, 1.5, "60", None])
async def test_grace_is_up_to_a_week_in_whole_seconds(api, acme, grace_s):
    key_id = (await api.key(acme)).key.key_id

    assert (await api.post(f"/v1/tenants/acme/keys/{key_id}/rotate", {"grace_s": grace_s})).status == 400


async def test_a_revoked_key_is_not_rotated(api, acme):
    key_id = (await api.key(acme)).key.key_id
    await api.ask("DELETE", f"/v1/tenants/acme/keys/{key_id}")

    answer = await api.post(f"/v1/tenants/acme/keys/{key_id}/rotate")

    assert (answer.status, answer.problem["type"]) == (409, "urn:tollkeeper:key-not-active")


async def test_a_service_key_has_no_tenant(api):
    made = await api.post("/v1/service-keys", {"name": "platform", "scopes": ["proxy"]})

    assert (made.status, made.document["tenant_id"]) == (201, None)
    [listed] = (await api.get("/v1/service-keys")).document["data"]
    assert (listed["key_id"], "key" in listed) == (made.document["key_id"], False)
    assert (await api.ask("DELETE", f"/v1/service-keys/{listed['key_id']}")).status == 204
    assert (await api.get("/v1/service-keys")).document["data"][0]["revoked_at"] == NOW


async def test_an_integration_is_changed_field_by_field_and_its_secret_is_shown_when_it_is_made(api, acme, tmp_path):
    path = "/v1/tenants/acme/integrations"
    empty = (await api.get(path)).document
    assert (empty["sms_url"], empty["phone_numbers"], empty["updated_at"]) == (None, [], None)

    made = await api.ask("PATCH", path, {"sms_url": "https://app.example.com/sms", "phone_numbers": ["+12025550143"]})
    again = await api.ask("PATCH", path, {"phone_numbers": None, "voice_url": "https://app.example.com/voice"})

    secret = made.document.pop("signing_secret")
    assert len(secret) == 32
    assert "signing_secret" not in again.document
    assert (again.document["sms_url"], again.document["phone_numbers"]) == ("https://app.example.com/sms", [])
    assert (await api.get(path)).document == again.document
    rotated = await api.post(f"{path}/signing-secret", {})
    assert rotated.document["signing_secret"] != secret
    snapshot = SnapshotFile(tmp_path / "snapshot.json")
    snapshot.refresh()
    record = snapshot.current.tenants["acme"]
    assert record.integration.voice_url == "https://app.example.com/voice"
    both = SigningSecrets.of(api.secrets.unseal(record.signing, owner="acme"), NOW)
    assert both == (rotated.document["signing_secret"], secret)
    assert SigningSecrets.of(api.secrets.unseal(record.signing, owner="acme"), "2999").previous is None
    log = (await api.get("/v1/audit")).body
    assert secret.encode() not in log
    assert (await api.ask("DELETE", path)).status == 204
    assert (await api.post(f"{path}/signing-secret", {})).problem["type"] == "urn:tollkeeper:no-such-integration"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"sms_url": "ftp://x"}, "sms_url"),
        ({"phone_numbers": ["hello"]}, "phone_numbers"),
        ({"phone_numbers": ["+12025550199"]}, "phone_numbers"),
        ({"sms": "https://x.test"}, "sms"),
    ],
)
async def test_an_integration_that_can_not_be_names_the_field(api, acme, document, field):
    """Guards whose use it is: a number is one tenant's, or what comes in at it would be billed by chance."""
    await api.tenant("globex")
    await api.integration("globex", phone_numbers=["+12025550199"])

    refused = await api.ask("PATCH", "/v1/tenants/acme/integrations", document)

    assert refused.status in (400, 422)
    assert field in str(refused.problem)


async def test_the_platforms_own_account_is_no_tenants(api, acme):
    """Guards every other tenant: all that is in a tenant's account is open to it, and its use."""
    path, account = "/v1/tenants/acme/integrations", "AC" + "5" * 32
    api.accounts.platform_accounts = {"twilio_subaccount": account}

    refused = await api.ask("PATCH", path, {"twilio_subaccount": account})

    assert refused.status == 400
    (error,) = refused.problem["errors"]
    assert error["field"] == "twilio_subaccount"
    assert "the platform's own" in error["problem"]
    assert "give one below it" in error["problem"]
    assert account not in str(refused.problem)
    assert (await api.get(path)).document["twilio_subaccount"] is None
    assert (await api.ask("PATCH", path, {"twilio_subaccount": "AC" + "6" * 32})).status == 200


async def test_a_credential_goes_in_and_never_out(api, acme):
    stored = await api.post("/v1/tenants/acme/credentials", {"provider": "openai", "api_key": "sk-own-1"})

    assert stored.status == 201
    assert stored.document == {"provider": "openai", "fields": ["api_key"], "created_at": NOW}
    listed = await api.get("/v1/tenants/acme/credentials")
    assert listed.document == {"data": [stored.document], "next_cursor": None}
    assert (await api.ask("DELETE", "/v1/tenants/acme/credentials/openai")).status == 204
    assert (await api.ask("DELETE", "/v1/tenants/acme/credentials/openai")).status == 404


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "provider"),
        ({"api_key": "x"}, "provider"),
        ({"provider": "acme", "api_key": "x"}, "provider"),
        ({"provider": "openai"}, "provider"),
        ({"provider": "openai", "api_key": "x", "org": "y"}, "provider"),
        ({"provider": "openai", "api_key": 1}, "api_key"),
        ({"provider": "openai", "api_key": "a\r\nX-Evil: 1"}, "api_key"),
        ([], "body"),
    ],
)
async def test_a_credential_is_exactly_what_its_provider_takes(api, acme, document, field):
    answer = await api.post("/v1/tenants/acme/credentials", document)

    assert answer.status == 400
    assert [error["field"] for error in answer.problem["errors"]] == [field]


async def test_plans_are_listed_with_what_they_cost(api):
    plans = {plan["plan"]: plan for plan in (await api.get("/v1/plans")).document["data"]}

    assert plans["professional"] == {
        "plan": "professional",
        "name": "Professional",
        "aliases": ["pro"],
        "book": "standard-v1",
        "monthly_fee": "99",
        "monthly_credit": "50",
        "credit_once": "0",
        "enforcement": "soft",
    }


# ---------------------------------------------------------------------------------------------------------------------
# Lists


@pytest.mark.parametrize("path", ["/v1/tenants", "/v1/tenants/t0/keys", "/v1/service-keys", "/v1/audit"])
async def test_a_list_is_read_to_its_end_page_by_page(api, path):
    for n in range(5):
        await api.tenant(f"t{n}")
        await api.key("t0")
        await api.key(None)
    whole = (await api.get(path)).document["data"]

    pages, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"{path}?limit=2{cursor and '&cursor=' + cursor}")).document
        pages += page["data"]
        assert len(page["data"]) <= 2
        cursor = page["next_cursor"]

    assert pages == whole
    assert len(whole) >= 5


async def test_a_cursor_of_one_list_opens_no_other(api):
    for n in range(3):
        await api.tenant(f"t{n}")
        await api.key(f"t{n}")
        await api.key("t0")
    cursor = (await api.get("/v1/tenants/t0/keys?limit=1")).document["next_cursor"]

    assert (await api.get(f"/v1/tenants/t0/keys?limit=3&cursor={cursor}")).status == 200
    for path in ("/v1/tenants/t1/keys", "/v1/service-keys", "/v1/tenants", "/v1/audit"):
        assert (await api.get(f"{path}?cursor={cursor}")).status == 400
    for forged in (cursor[:-1], cursor + "AAAA", cursor[::-1], "AAAA" + cursor):
        assert (await api.get(f"/v1/tenants/t0/keys?cursor={forged}")).status == 400


# ---------------------------------------------------------------------------------------------------------------------
# The audit log


async def test_the_audit_log_tells_who_did_what_to_whom_and_when(api):
    ada = await api.admin("ada", "admin")
    await api.post("/v1/tenants", {"tenant_id": "acme"}, key=ada)
    key = (await api.post("/v1/tenants/acme/keys", {"name": "app"})).document
    await api.post(f"/v1/tenants/acme/keys/{key['key_id']}/rotate", key=key["key"])

    entries = (await api.get("/v1/audit")).document["data"]
    told = [(entry["actor"], entry["action"], entry["tenant_id"], entry["subject"]) for entry in entries]

    assert sorted(told) == [
        ("admin:ada", "tenant.create", "acme", "acme"),
        ("admin:operator", "key.create", "acme", key["key_id"]),
        (f"tenant:{key['key_id']}", "key.rotate", "acme", key["key_id"]),
    ]
    assert {entry["at"] for entry in entries} == {NOW}
    assert (await api.get("/v1/audit?tenant_id=other")).document["data"] == []
    assert (await api.get("/v1/audit?to=2026-11-20")).document["data"] == []
    assert len((await api.get("/v1/audit?from=2026-11-20")).document["data"]) == 3


async def test_what_was_refused_is_not_in_the_audit_log(api, acme):
    await api.post("/v1/tenants", {"tenant_id": "acme"})
    await api.post("/v1/tenants/acme/keys", {"name": "a", "scopes": ["x"]})
    await api.ask("DELETE", "/v1/tenants/acme/credentials/openai")

    assert len((await api.get("/v1/audit")).document["data"]) == 1


async def test_no_secret_comes_back_from_anywhere_but_where_it_was_made(api, acme):
    key = (await api.post("/v1/tenants/acme/keys", {"name": "app"})).document
    new = (await api.post(f"/v1/tenants/acme/keys/{key['key_id']}/rotate")).document
    service = (await api.post("/v1/service-keys", {"name": "app"})).document
    await api.post("/v1/tenants/acme/credentials", {"provider": "openai", "api_key": "sk-own-1"})
    names = {"collection_id": await api.collection(), "reconciliation_id": await api.reconciled()}
    secrets = [one["key"].split("_", 2)[2] for one in (key, new, service)] + ["sk-own-1", api.secrets.operator_key]

    read = [
        await api.get(route.path.format(tenant_id="acme", key_id=new["key_id"], **names))
        for route in ROUTES
        if route.method == "GET"
    ]

    assert {answer.status for answer in read} == {200}
    assert not any(secret.encode() in answer.body for secret in secrets for answer in read)


# ---------------------------------------------------------------------------------------------------------------------
# Idempotency-Key

ONCE = {"Idempotency-Key": "once"}


async def test_a_repeated_request_gets_the_first_answer_and_makes_nothing(api, acme):
    first = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)
    second = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)

    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert len((await api.get("/v1/tenants/acme/keys")).document["data"]) == 1
    assert len((await api.get("/v1/audit")).document["data"]) == 2


async def test_requests_repeated_at_once_are_done_once(api, acme):
    answers = await asyncio.gather(
        *(api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE) for _ in range(20))
    )

    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


@pytest.mark.parametrize(
    ("path", "document"), [("/v1/tenants/acme/keys", {"name": "other"}), ("/v1/service-keys", {"name": "app"})]
)
async def test_another_request_under_the_same_key_is_refused(api, acme, path, document):
    await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)

    answer = await api.post(path, document, headers=ONCE)

    assert (answer.status, answer.problem["type"]) == (422, "urn:tollkeeper:idempotency-key-reused")


async def test_a_refused_request_may_be_corrected_under_its_key(api):
    assert (await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)).status == 404
    await api.tenant("acme")

    assert (await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)).status == 201


async def test_each_asker_has_idempotency_keys_of_its_own(api, acme):
    ada = await api.admin("ada", "admin")

    mine = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)
    hers = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE, key=ada)

    assert mine.document["key_id"] != hers.document["key_id"]


async def test_a_day_later_the_key_is_forgotten(api, acme):
    first = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)
    api.clock.now += dt.timedelta(hours=24, seconds=1)

    again = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)

    assert again.document["key_id"] != first.document["key_id"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
async def test_an_idempotency_key_is_a_short_word(api, acme, key):
    answer = await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers={"Idempotency-Key": key})

    assert answer.status == 400
    assert answer.problem["type"] == "urn:tollkeeper:invalid-idempotency-key"


async def test_who_may_not_make_a_key_is_not_shown_one_that_was_made(api, acme):
    tenant = await api.key(acme)
    await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE)

    assert (await api.post("/v1/tenants/acme/keys", {"name": "app"}, headers=ONCE, key=tenant.secret)).status == 403
