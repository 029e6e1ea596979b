"""Who gets what: every route, everybody, an object of one's own, of somebody else's, and of nobody's.

The columns, in their order: no key, a wrong key, tenant acme's key, acme's key without `usage:read`, a service key, a
viewer, a finance admin, an admin, the operator.
"""

from __future__ import annotations

import datetime as dt
from itertools import count

import pytest

from gateway.api import MONITORED, PUBLIC, ROUTES
from gateway.inbox import Kept
from tests.gateway.shipping import Worker
from tests.pricing.ledger_rows import put, used

CALLERS = ("nobody", "wrong", "acme", "unscoped", "service", "viewer", "finance", "admin", "operator")

ADMINS_CHANGE_201 = "401 401 403 403 403 403 403 201 201"
ADMINS_CHANGE_202 = "401 401 403 403 403 403 403 202 202"
ADMINS_CHANGE_204 = "401 401 403 403 403 403 403 204 204"
ADMINS_CHANGE_404 = "401 401 403 403 403 403 403 404 404"
ADMINS_CHANGE_409 = "401 401 403 403 403 403 403 409 409"
ADMINS_CHANGE_200 = "401 401 403 403 403 403 403 200 200"
ADMINS_READ = "401 401 403 403 403 200 200 200 200"
ADMINS_READ_NONE = "401 401 403 403 403 404 404 404 404"
ADMINS_READ_404 = "401 401 404 403 403 404 404 404 404"
ALL_READ = "401 401 200 403 403 200 200 200 200"
ALL_BUT_ACME_READ = "401 401 404 403 403 200 200 200 200"
ANYBODY = "200 200 200 200 200 200 200 200 200"

# The objects are "own": acme's; "foreign": another tenant's; "missing": nobody's; "crossed": another tenant's key under
# acme's path; "itself": the caller's own key, if it is a tenant's; "service": a service key; "any": there is no object.
MATRIX = {
    ("GET", "/healthz"): {"any": ANYBODY},
    ("GET", "/readyz"): {"any": ANYBODY},
    ("GET", "/metrics"): {"any": ANYBODY},
    ("GET", "/version"): {"any": ANYBODY},
    ("POST", "/v1/tenants"): {
        "own": ADMINS_CHANGE_409,
        "foreign": ADMINS_CHANGE_409,
        "missing": ADMINS_CHANGE_201,
    },
    ("GET", "/v1/tenants"): {"any": ADMINS_READ},
    ("GET", "/v1/tenants/{tenant_id}"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("PATCH", "/v1/tenants/{tenant_id}"): {
        "own": ADMINS_CHANGE_200,
        "foreign": ADMINS_CHANGE_200,
        "missing": ADMINS_CHANGE_404,
    },
    ("POST", "/v1/tenants/{tenant_id}/keys"): {
        "own": ADMINS_CHANGE_201,
        "foreign": ADMINS_CHANGE_201,
        "missing": ADMINS_CHANGE_404,
    },
    ("GET", "/v1/tenants/{tenant_id}/keys"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("GET", "/v1/tenants/{tenant_id}/keys/{key_id}"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
        "crossed": ADMINS_READ_404,
    },
    ("DELETE", "/v1/tenants/{tenant_id}/keys/{key_id}"): {
        "own": ADMINS_CHANGE_204,
        "foreign": ADMINS_CHANGE_204,
        "missing": ADMINS_CHANGE_404,
        "crossed": ADMINS_CHANGE_404,
    },
    ("POST", "/v1/tenants/{tenant_id}/keys/{key_id}/rotate"): {
        "own": ADMINS_CHANGE_201,
        "foreign": ADMINS_CHANGE_201,
        "missing": ADMINS_CHANGE_404,
        "crossed": ADMINS_CHANGE_404,
        # Last, for it puts an end to the keys it is asked with.
        "itself": "401 401 201 201 403 403 403 201 201",
    },
    ("POST", "/v1/service-keys"): {"any": ADMINS_CHANGE_201},
    ("GET", "/v1/service-keys"): {"any": ADMINS_READ},
    ("DELETE", "/v1/service-keys/{key_id}"): {
        "own": ADMINS_CHANGE_404,
        "foreign": ADMINS_CHANGE_404,
        "missing": ADMINS_CHANGE_404,
        "service": ADMINS_CHANGE_204,
    },
    ("POST", "/v1/tenants/{tenant_id}/credentials"): {
        "own": ADMINS_CHANGE_201,
        "foreign": ADMINS_CHANGE_201,
        "missing": ADMINS_CHANGE_404,
    },
    ("GET", "/v1/tenants/{tenant_id}/credentials"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("DELETE", "/v1/tenants/{tenant_id}/credentials/{provider}"): {
        "own": ADMINS_CHANGE_204,
        "foreign": ADMINS_CHANGE_204,
        "missing": ADMINS_CHANGE_404,
    },
    ("GET", "/v1/tenants/{tenant_id}/integrations"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("PATCH", "/v1/tenants/{tenant_id}/integrations"): {
        "own": ADMINS_CHANGE_200,
        "foreign": ADMINS_CHANGE_200,
        "missing": ADMINS_CHANGE_404,
    },
    ("DELETE", "/v1/tenants/{tenant_id}/integrations"): {
        "own": ADMINS_CHANGE_204,
        "foreign": ADMINS_CHANGE_204,
        "missing": ADMINS_CHANGE_404,
    },
    ("POST", "/v1/tenants/{tenant_id}/integrations/signing-secret"): {
        "own": ADMINS_CHANGE_200,
        "foreign": ADMINS_CHANGE_200,
        "missing": ADMINS_CHANGE_404,
    },
    # Here nobody knows where providers reach the gateway: whoever may ask is told so.
    ("POST", "/v1/tenants/{tenant_id}/{provider}/connect"): {
        "own": ADMINS_CHANGE_409,
        "foreign": ADMINS_CHANGE_409,
        "missing": ADMINS_CHANGE_404,
    },
    ("GET", "/v1/tenants/{tenant_id}/deliveries"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("POST", "/v1/tenants/{tenant_id}/deliveries/{delivery_id}/retry"): {
        "own": ADMINS_CHANGE_202,
        "foreign": ADMINS_CHANGE_202,
        "missing": ADMINS_CHANGE_404,
        "crossed": ADMINS_CHANGE_404,
    },
    ("GET", "/v1/usage/events"): {
        "any": ALL_READ,
        "own": ALL_READ,
        "foreign": ADMINS_READ,
        "missing": ADMINS_READ,
    },
    ("GET", "/v1/usage/summary"): {
        "any": ALL_READ,
        "own": ALL_READ,
        "foreign": ADMINS_READ,
        "missing": ADMINS_READ,
    },
    ("GET", "/v1/plans"): {"any": ALL_READ},
    ("GET", "/v1/audit"): {
        "any": ADMINS_READ,
        "own": ADMINS_READ,
        "foreign": ADMINS_READ,
        "missing": ADMINS_READ,
    },
    ("GET", "/v1/spools"): {"any": ADMINS_READ},
    ("POST", "/v1/spools/{spool_id}/replay"): {"any": ADMINS_CHANGE_200, "missing": ADMINS_CHANGE_404},
    ("GET", "/v1/quarantine"): {"any": ADMINS_READ},
    ("POST", "/v1/reconciliations"): {"any": ADMINS_CHANGE_202},
    ("GET", "/v1/reconciliations"): {"any": ALL_READ},
    ("GET", "/v1/reconciliations/{reconciliation_id}"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("GET", "/v1/reconciliations/{reconciliation_id}.csv"): {
        "own": ALL_READ,
        "foreign": ALL_BUT_ACME_READ,
        "missing": ADMINS_READ_404,
    },
    ("POST", "/v1/collections"): {"any": ADMINS_CHANGE_202},
    ("POST", "/v1/imports"): {"any": ADMINS_CHANGE_200},
    ("GET", "/v1/collections"): {"any": ADMINS_READ},
    ("GET", "/v1/collections/{collection_id}"): {"any": ADMINS_READ, "missing": ADMINS_READ_NONE},
    ("DELETE", "/v1/collections/{collection_id}"): {"any": ADMINS_CHANGE_204, "missing": ADMINS_CHANGE_404},
}

TENANTS = {"own": "acme", "itself": "acme", "foreign": "globex", "missing": "nobody", "crossed": "acme", "any": ""}

BODIES = {
    ("POST", "/v1/tenants/{tenant_id}/{provider}/connect"): {"undo": False, "dry_run": False},
    ("PATCH", "/v1/tenants/{tenant_id}"): {"name": "New name"},
    ("POST", "/v1/tenants/{tenant_id}/keys"): {"name": "app"},
    ("POST", "/v1/service-keys"): {"name": "app"},
    ("POST", "/v1/tenants/{tenant_id}/credentials"): {"provider": "openai", "api_key": "sk-own-1"},
    ("PATCH", "/v1/tenants/{tenant_id}/integrations"): {"sms_url": "https://app.example.com/sms"},
    ("POST", "/v1/reconciliations"): {"source": "twilio", "from": "2026-11-01", "to": "2026-11-02"},
    ("POST", "/v1/imports"): {"tenant_id": "acme", "records": [{"uuid": "1"}]},
    ("POST", "/v1/collections"): {"source": "twilio", "from": "2026-11-01", "to": "2026-11-02"},
    ("POST", "/v1/tenants/{tenant_id}/integrations/signing-secret"): {"grace_s": 60},
}

numbers = count()


def test_every_route_is_in_the_matrix():
    assert {(route.method, route.path) for route in ROUTES} | {
        ("GET", path) for path, _ in (*PUBLIC, *MONITORED)
    } == MATRIX.keys()


@pytest.fixture
async def keys(api):
    """The key of each caller."""
    await api.tenant("acme")
    await api.tenant("globex")
    return {
        "nobody": None,
        "wrong": "tk_000000000000_" + "x" * 43,
        "acme": (await api.key("acme")).secret,
        "unscoped": (await api.key("acme", scopes=["proxy", "billing:read"])).secret,
        "service": (await api.key(None)).secret,
        "viewer": await api.admin("vera", "viewer"),
        "finance": await api.admin("fay", "finance"),
        "admin": await api.admin("ada", "admin"),
        "operator": api.secrets.operator_key,
    }


async def request_for(api, method, path, target, key):
    """A request for this object, which is made anew, so that no request sees what another one did."""
    tenant_id = TENANTS.get(target, "acme")
    key_id = "0123456789ab"
    match target:
        case "itself" if key is not None and key.startswith("tk_") and "x" * 43 not in key:
            key_id = key.split("_")[1]
        case "itself" | "own":
            key_id = (await api.key("acme")).key.key_id
        case "foreign" | "crossed":
            key_id = (await api.key("globex")).key.key_id
        case "service":
            key_id = (await api.key(None)).key.key_id
    if "{provider}" in path and target != "missing":
        await api.credential(tenant_id)
    if path.endswith(("/integrations", "/signing-secret")) and target != "missing":
        await api.integration(tenant_id, sms_url="https://app.example.com/sms")
    spool_id = f"w0-{next(numbers)}"
    if "{spool_id}" in path and target != "missing":
        Worker(api.shipper.directory, spool_id).dies()
    delivery_id = "0" * 32
    if "{delivery_id}" in path and target != "missing":
        whose = "globex" if target == "crossed" else tenant_id
        kept = Kept(tenant_id=whose, source="twilio", webhook="sms", body=b"%d" % next(numbers))
        delivery_id = await api.inbox.put(kept)
        await api.deliverer.look()
    collection_id = f"{next(numbers):032x}"
    if "{collection_id}" in path and target != "missing":
        collection_id = await api.collection()
    reconciliation_id = f"{next(numbers):032x}"
    if "{reconciliation_id}" in path and target != "missing":
        reconciliation_id = await api.reconciled(tenant_id)
    body = BODIES.get((method, path))
    if (method, path) == ("POST", "/v1/tenants"):
        body = {"tenant_id": f"new-{next(numbers)}" if target == "missing" else tenant_id}
    if path.startswith(("/v1/usage", "/v1/audit")) and target != "any":
        path += f"?tenant_id={tenant_id}"
    names = {"tenant_id": tenant_id, "key_id": key_id, "spool_id": spool_id, "collection_id": collection_id}
    names |= {"reconciliation_id": reconciliation_id, "delivery_id": delivery_id}
    provider = "twilio" if path.endswith("/connect") else "openai"
    return path.format(provider=provider, **names), body


@pytest.mark.parametrize(("method", "path"), MATRIX)
async def test_each_route_answers_each_caller_for_each_object_as_written(api, keys, method, path):
    got = {}
    for target in MATRIX[method, path]:
        statuses = []
        for caller in CALLERS:
            at, body = await request_for(api, method, path, target, keys[caller])
            answer = await api.ask(method, at, body, key=keys[caller])
            statuses.append(str(answer.status))
            if answer.status >= 400:
                assert answer.problem["detail"]
        got[target] = " ".join(statuses)

    assert got == MATRIX[method, path]


SEEN_ALIKE = [key for key, objects in MATRIX.items() if {"foreign", "missing"} <= objects.keys()]


@pytest.mark.parametrize(("method", "path"), SEEN_ALIKE)
@pytest.mark.parametrize("caller", ["acme", "unscoped", "service", "nobody"])
async def test_what_is_another_tenants_and_what_is_nobodys_look_the_same(api, keys, method, path, caller):
    answers = []
    for target in {"foreign", "missing", "crossed"} & MATRIX[method, path].keys():
        at, body = await request_for(api, method, path, target, keys[caller])
        answer = await api.ask(method, at, body, key=keys[caller])
        headers = {name: value for name, value in answer.headers.items() if name != "Date"}
        if answer.problem["type"] == "urn:tollkeeper:no-such-key":
            # One's own tenant, and a key that is not in it, whoever else's it is.
            missing = await api.ask(method, "/v1/tenants/acme/keys/0123456789ab", body, key=keys[caller])
            assert missing.body == answer.body
        else:
            answers.append((answer.status, headers, answer.body))

    assert all(answer == answers[0] for answer in answers)


async def test_a_tenant_sees_no_event_no_sum_and_no_key_of_another(api, keys):
    await put(api.database, used("mine"), used("theirs", tenant_id="globex"))
    await api.key("globex")

    events = (await api.get("/v1/usage/events", key=keys["acme"])).document["data"]
    sums = (await api.get("/v1/usage/summary?group_by=tenant_id", key=keys["acme"])).document
    listed = (await api.get("/v1/tenants/acme/keys", key=keys["acme"])).document["data"]

    assert [event["event_id"] for event in events] == ["mine"]
    assert [group["tenant_id"] for group in sums["groups"]] == ["acme"]
    assert sums["total"]["events"] == 1
    assert {key["tenant_id"] for key in listed} == {"acme"}


async def test_a_key_opens_nothing_from_the_moment_it_is_revoked_expired_or_its_tenant_closed(api, acme):
    revoked, expiring = await api.key(acme), await api.key(acme, expires_at=api.clock.now + dt.timedelta(hours=1))
    closing = await api.key(acme)
    assert [(await api.get("/v1/plans", key=one.secret)).status for one in (revoked, expiring, closing)] == [200] * 3

    await api.ask("DELETE", f"/v1/tenants/acme/keys/{revoked.key.key_id}")
    assert (await api.get("/v1/plans", key=revoked.secret)).status == 401
    api.clock.now += dt.timedelta(hours=1)
    assert (await api.get("/v1/plans", key=expiring.secret)).status == 401
    await api.ask("PATCH", "/v1/tenants/acme", {"status": "closed"})
    assert (await api.get("/v1/plans", key=closing.secret)).status == 401


async def test_a_suspended_tenant_still_sees_its_usage(api, acme):
    key = (await api.key(acme)).secret
    await api.ask("PATCH", "/v1/tenants/acme", {"status": "suspended"})

    assert (await api.get("/v1/usage/summary", key=key)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer x{key}",
        "Bearer {key},{key}",
        "Bearer {key} {key}",
        "Bearer tk__",
        "Bearer \xff{key}",
    ],
)
async def test_what_is_not_exactly_a_key_is_unauthenticated_and_always_in_the_same_words(api, acme, header):
    key = (await api.key(acme)).secret

    answer = await api.get("/v1/plans", headers={"Authorization": header.format(key=key)})
    without = await api.get("/v1/plans", key=None)

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.body == without.body


async def test_two_authorisations_are_none(api, acme):
    key = (await api.key(acme)).secret

    answer = await api.get(
        "/v1/plans", key=None, headers=[("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    )

    assert answer.status == 401


async def test_the_scheme_is_written_in_any_case_and_the_prefix_of_some_sdks_is_known(api, acme):
    key = (await api.key(acme)).secret

    for header in (f"bearer {key}", f"BEARER  {key} ", f"Bearer SG.{key}"):
        assert (await api.get("/v1/plans", headers={"Authorization": header})).status == 200


async def test_a_key_in_the_query_opens_nothing(api, acme):
    key = (await api.key(acme)).secret

    assert (await api.get(f"/v1/plans?key={key}", key=None)).status == 401
