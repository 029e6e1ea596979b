"""Tenants, keys, credentials and admins: what a change does, and what it leaves behind."""

from __future__ import annotations

import asyncio
import datetime as dt
import stat

import pytest
from sqlalchemy import insert, select

from gateway.accounts import (
    Accounts,
    Answer,
    KeyNotActive,
    NoSuchCredential,
    NoSuchKey,
    NoSuchTenant,
    NotAcceptable,
    NotPublished,
    SecretChanged,
    TenantClosed,
    TenantExists,
)
from gateway.keys import NotSealedHere, Secrets
from gateway.snapshot import RequestTags, SnapshotFile
from gateway.tables import admin_keys, audit_log, credentials, tenants
from metering.tables import metadata
from pricing.plans import plans
from pricing.tables import tenant_plans

SECRETS = Secrets.derived("a secret of this test's, long enough")
HOUR = dt.timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime(2026, 11, 20, 12, 0, 0, 123_456, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def accounts(database, tmp_path, clock):
    return Accounts(database, SECRETS, tmp_path / "snapshot.json", clock)


@pytest.fixture
async def acme(accounts):
    return await create_tenant(accounts, "acme")


@pytest.fixture
def snapshot(tmp_path):
    """What a worker sees, read anew each time."""

    def read():
        file = SnapshotFile(tmp_path / "snapshot.json")
        file.refresh()
        return file.current

    return read


async def create_tenant(accounts, tenant_id, **given):
    async with accounts.changing("admin:ada") as change:
        return await change.create_tenant(tenant_id, **given)


async def create_key(accounts, tenant_id="acme", **given):
    async with accounts.changing("admin:ada") as change:
        return await change.create_key(tenant_id, name="app", **given)


async def change_tenant(accounts, tenant_id="acme", **given):
    async with accounts.changing("admin:ada") as change:
        return await change.change_tenant(tenant_id, **given)


async def set_credential(accounts, tenant_id="acme", **values):
    async with accounts.changing("admin:ada") as change:
        return await change.set_credential(tenant_id, "openai", values or {"api_key": "sk-own-1"})


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table))).all()


async def actions(accounts):
    return [(entry.action, entry.subject) for entry in reversed(await accounts.audit(1000))]


# ---------------------------------------------------------------------------------------------------------------------
# Tenants


async def test_a_new_tenant_is_active_and_has_an_account_of_its_own(accounts):
    one, other = await create_tenant(accounts, "acme", name="Acme Ltd"), await create_tenant(accounts, "globex")

    assert (one.name, one.status, one.plan, one.currency) == ("Acme Ltd", "active", None, "USD")
    assert other.name == "globex"
    assert one.account_sid != other.account_sid
    assert (one.account_sid[:2], len(one.account_sid)) == ("AC", 34)
    assert await accounts.tenant("acme") == one


@pytest.mark.parametrize("tenant_id", ["a", "0", "Acme.co_2-x", "x" * 64])
async def test_a_tenant_id_is_letters_digits_dots_underscores_and_hyphens(accounts, tenant_id):
    assert (await create_tenant(accounts, tenant_id)).tenant_id == tenant_id


@pytest.mark.parametrize("tenant_id", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "x" * 65, "a:b", "a%2f"])
async def test_what_is_no_tenant_id_is_refused(accounts, tenant_id):
    with pytest.raises(NotAcceptable, match="tenant_id"):
        await create_tenant(accounts, tenant_id)
    with pytest.raises(NotAcceptable, match="tenant_id"):
        await accounts.ensure_tenant(tenant_id)


async def test_an_id_is_never_given_twice(accounts, acme):
    await change_tenant(accounts, status="closed")

    with pytest.raises(TenantExists):
        await create_tenant(accounts, "acme")


async def test_a_plan_may_be_named_by_its_alias_and_is_kept_by_its_id(accounts, database):
    assert (await create_tenant(accounts, "acme", plan="pro")).plan == "professional"
    assert [(row.tenant_id, row.plan) for row in await rows(database, tenant_plans)] == [("acme", "professional")]


async def test_an_unknown_plan_is_refused_by_naming_those_there_are(accounts):
    with pytest.raises(NotAcceptable, match=", ".join(plan.id for plan in plans())):
        await create_tenant(accounts, "acme", plan="gold")
    with pytest.raises(NoSuchTenant):
        await accounts.tenant("acme")


async def test_every_change_of_plan_is_a_further_row_even_within_a_millisecond(accounts, database, clock):
    await create_tenant(accounts, "acme", plan="starter")
    await change_tenant(accounts, plan="professional")
    await change_tenant(accounts, plan=None)
    clock.now -= HOUR
    last = await change_tenant(accounts, plan="enterprise")

    found = sorted(await rows(database, tenant_plans), key=lambda row: row.effective_at)
    assert [row.plan for row in found] == ["starter", "professional", None, "enterprise"]
    assert await accounts.tenant("acme") == last


async def test_a_change_changes_only_what_is_given(accounts):
    before = await create_tenant(accounts, "acme", name="Acme", plan="starter")

    after = await change_tenant(accounts, status="suspended")

    assert (after.name, after.status, after.plan, after.account_sid) == (
        "Acme",
        "suspended",
        "starter",
        before.account_sid,
    )


async def test_what_tags_a_tenant_s_calls_is_published_and_its_change_is_in_the_audit_log(accounts, snapshot):
    await create_tenant(accounts, "acme", request_tags="plain")
    made = snapshot().tenants["acme"].request_tags
    await change_tenant(accounts, request_tags="hashed")

    assert (made, snapshot().tenants["acme"].request_tags) == (RequestTags.PLAIN, RequestTags.HASHED)
    assert {entry.action: entry.detail for entry in await accounts.audit(10)} == {
        "tenant.create": {"name": "acme", "plan": None, "request_tags": "plain"},
        "tenant.change": {"before": {"request_tags": "plain"}, "after": {"request_tags": "hashed"}},
    }


async def test_no_other_tags_are_known_than_there_are(accounts, acme):
    with pytest.raises(NotAcceptable, match="request_tags: must be one of off, hashed, plain"):
        await change_tenant(accounts, request_tags="on")
    with pytest.raises(NotAcceptable, match="request_tags: must be one of off, hashed, plain"):
        await create_tenant(accounts, "globex", request_tags="")


async def test_a_change_to_what_is_so_already_leaves_no_trace(accounts, acme):
    await change_tenant(accounts, status="active", name="acme")

    assert await actions(accounts) == [("tenant.create", "acme")]


async def test_a_closed_tenant_stays_closed_and_as_it_is(accounts, acme):
    key = await create_key(accounts)
    await change_tenant(accounts, status="closed")

    for attempt in (
        change_tenant(accounts, status="active"),
        change_tenant(accounts, name="New"),
        create_key(accounts),
        set_credential(accounts),
        rotate(accounts, key.key.key_id),
    ):
        with pytest.raises(TenantClosed):
            await attempt
    assert (await change_tenant(accounts, status="closed")).status == "closed"


async def test_a_tenant_seen_for_the_first_time_is_created_once_however_many_see_it(accounts, snapshot):
    found = await asyncio.gather(*(accounts.ensure_tenant("new") for _ in range(20)))

    assert len(set(found)) == 1
    assert await actions(accounts) == [("tenant.create", "new")]
    assert snapshot().tenants["new"].account_sid == found[0].account_sid


async def test_a_tenant_that_is_there_is_left_as_it_is(accounts, acme):
    suspended = await change_tenant(accounts, status="suspended")

    assert await accounts.ensure_tenant("acme") == suspended


async def test_a_tenant_that_was_made_and_not_published_is_published_when_it_is_seen_again(
    accounts, snapshot, monkeypatch
):
    """Guards a tenant against being refused for good: its first sight may have ended between the change and the file."""

    async def cut_off():
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "publish", cut_off)
        with pytest.raises(OSError):
            await accounts.ensure_tenant("new")

    await accounts.ensure_tenant("new")

    assert "new" in snapshot().tenants


async def test_tenants_are_listed_by_id_a_page_at_a_time(accounts):
    for tenant_id in ("c", "a", "b"):
        await create_tenant(accounts, tenant_id)

    assert [tenant.tenant_id for tenant in await accounts.tenants(2)] == ["a", "b"]
    assert [tenant.tenant_id for tenant in await accounts.tenants(2, "b")] == ["c"]


# ---------------------------------------------------------------------------------------------------------------------
# Keys


async def rotate(accounts, key_id, tenant_id="acme", **given):
    async with accounts.changing("admin:ada") as change:
        return await change.rotate_key(tenant_id, key_id, **given)


async def revoke(accounts, key_id, tenant_id="acme"):
    async with accounts.changing("admin:ada") as change:
        await change.revoke_key(tenant_id, key_id)


async def test_a_new_key_works_as_soon_as_it_is_known(accounts, acme, snapshot, clock):
    made = await create_key(
        accounts,
        category="rag",
        tags={"team": "search"},
        expires_at=clock.now + HOUR,
        scopes=["proxy:openai", "proxy:openai"],
    )

    record = snapshot().keys[made.key.key_id]
    assert SECRETS.matches(made.secret, bytes.fromhex(record.digest))
    assert (record.tenant_id, record.scopes) == ("acme", frozenset({"proxy:openai"}))
    assert (record.category, record.tags) == ("rag", {"team": "search"})
    assert record.expires_at_ms == int((clock.now + HOUR).timestamp() * 1000)
    assert await accounts.key_with(made.secret) == made.key
    assert await accounts.key("acme", made.key.key_id) == made.key


async def test_the_snapshot_is_for_its_owner_alone(accounts, acme, tmp_path):
    assert stat.S_IMODE((tmp_path / "snapshot.json").stat().st_mode) == 0o600


async def test_no_secret_is_in_the_ledger_the_snapshot_or_any_repr(database, accounts, acme, tmp_path):
    made = await create_key(accounts)
    rotated = await rotate(accounts, made.key.key_id)
    await set_credential(accounts, api_key="sk-canary-77")
    admin = await accounts.ensure_admin_key(None)
    async with accounts.changing("admin:ada") as change:
        await change.remember("once", _answer(body='{"key": "tk_canary"}'))

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for table in metadata.sorted_tables:
        kept += f"{table.name} {await rows(database, table)}".encode()
    for secret in (made.secret, rotated.secret, "sk-canary-77", admin, "tk_canary"):
        assert secret.encode() not in kept
    assert b"idempotent_answers [(" in kept
    assert made.secret not in repr(made)
    assert "canary" not in repr(_answer(body="canary"))


async def test_a_key_is_recognised_whole_and_with_the_prefix_some_sdks_insist_on(accounts, acme):
    made = await create_key(accounts)

    assert await accounts.key_with("SG." + made.secret) == made.key
    for other in (
        made.secret[:-1],
        made.secret + "x",
        made.secret.upper(),
        "tk_" + made.key.key_id,
        "tk_nobody_x",
        "",
        "x",
    ):
        assert await accounts.key_with(other) is None


async def test_an_expired_key_is_not_recognised(accounts, acme, clock):
    made = await create_key(accounts, expires_at=clock.now + HOUR)
    clock.now += HOUR

    assert await accounts.key_with(made.secret) is None


async def test_the_snapshot_tells_expired_from_unknown_for_a_month(accounts, acme, clock, snapshot):
    made = await create_key(accounts, expires_at=clock.now + HOUR)

    clock.now += dt.timedelta(days=29)
    await accounts.publish()
    assert made.key.key_id in snapshot().keys
    clock.now += dt.timedelta(days=2)
    await accounts.publish()
    assert made.key.key_id not in snapshot().keys


@pytest.mark.parametrize("after", [-HOUR, -dt.timedelta(milliseconds=1), dt.timedelta(days=40_000)])
async def test_a_key_expires_in_the_future_and_within_a_lifetime(accounts, acme, clock, after):
    with pytest.raises(NotAcceptable, match="expires_at"):
        await create_key(accounts, expires_at=clock.now + after)


@pytest.mark.parametrize("scopes", [[], ["everything"], ["proxy:acme"], ["proxy", "usage:write"], ["Proxy"]])
async def test_a_key_has_only_scopes_there_are(accounts, acme, scopes):
    with pytest.raises(NotAcceptable, match="proxy:openai"):
        await create_key(accounts, scopes=scopes)


@pytest.mark.parametrize(
    "given",
    [
        {"category": "two words"},
        {"category": "x\r\ny"},
        {"tags": {"a=b": "c"}},
        {"tags": {"a": "x,y"}},
        {"tags": {str(n): "x" for n in range(11)}},
    ],
)
async def test_a_key_labels_its_calls_only_as_headers_could(accounts, acme, given):
    with pytest.raises(NotAcceptable, match=next(iter(given))):
        await create_key(accounts, **given)


async def test_a_revoked_key_is_gone_at_once_and_for_good(accounts, acme, snapshot, clock):
    made = await create_key(accounts)

    await revoke(accounts, made.key.key_id)
    first = await accounts.key("acme", made.key.key_id)
    clock.now += HOUR
    await revoke(accounts, made.key.key_id)

    assert made.key.key_id not in snapshot().keys
    assert await accounts.key_with(made.secret) is None
    assert await accounts.key("acme", made.key.key_id) == first
    assert [action for action, _ in await actions(accounts)].count("key.revoke") == 1


async def test_a_rotated_key_is_another_key_to_the_same_things(accounts, acme, clock):
    old = await create_key(
        accounts, scopes=["proxy"], category="rag", tags={"team": "search"}, expires_at=clock.now + 5 * HOUR
    )

    new = await rotate(accounts, old.key.key_id)

    assert await accounts.key_with(old.secret) is None
    assert await accounts.key_with(new.secret) == new.key
    assert new.secret != old.secret
    for name in ("tenant_id", "name", "scopes", "category", "tags", "expires_at"):
        assert getattr(new.key, name) == getattr(old.key, name)


async def test_with_grace_old_and_new_key_work_side_by_side_until_it_ends(accounts, acme, clock):
    old = await create_key(accounts)

    new = await rotate(accounts, old.key.key_id, grace=HOUR)

    clock.now += HOUR - dt.timedelta(seconds=1)
    assert await accounts.key_with(old.secret) is not None
    clock.now += dt.timedelta(seconds=1)
    assert await accounts.key_with(old.secret) is None
    assert await accounts.key_with(new.secret) is not None


async def test_grace_does_not_lengthen_a_life(accounts, acme, clock):
    old = await create_key(accounts, expires_at=clock.now + HOUR)

    await rotate(accounts, old.key.key_id, grace=5 * HOUR)

    assert (await accounts.key("acme", old.key.key_id)).expires_at == old.key.expires_at


async def test_a_key_that_works_no_more_is_not_rotated(accounts, acme, clock):
    revoked, expiring = await create_key(accounts), await create_key(accounts, expires_at=clock.now + HOUR)
    await revoke(accounts, revoked.key.key_id)
    clock.now += HOUR

    for key in (revoked, expiring):
        with pytest.raises(KeyNotActive):
            await rotate(accounts, key.key.key_id)


async def test_another_tenants_key_is_no_key(accounts, acme):
    await create_tenant(accounts, "globex")
    made, service = await create_key(accounts), await create_key(accounts, None)

    for owner, key_id in (("globex", made.key.key_id), (None, made.key.key_id), ("acme", service.key.key_id)):
        for attempt in (
            accounts.key(owner, key_id),
            revoke(accounts, key_id, owner),
            rotate(accounts, key_id, owner),
        ):
            with pytest.raises(NoSuchKey):
                await attempt
    with pytest.raises(NoSuchTenant):
        await accounts.key("nobody", made.key.key_id)


async def test_a_service_key_belongs_to_no_tenant(accounts, acme, snapshot):
    made = await create_key(accounts, None)

    assert snapshot().keys[made.key.key_id].tenant_id is None
    assert (await accounts.key_with(made.secret)).tenant_id is None
    assert await accounts.keys(None, 10) == [made.key]
    assert await accounts.keys("acme", 10) == []


async def test_the_keys_of_a_suspended_tenant_stay_known_and_those_of_a_closed_one_do_not(accounts, acme, snapshot):
    made = await create_key(accounts)

    await change_tenant(accounts, status="suspended")
    assert snapshot().tenants["acme"].status == "suspended"
    assert made.key.key_id in snapshot().keys
    assert await accounts.key_with(made.secret) == made.key
    await change_tenant(accounts, status="closed")
    assert snapshot().tenants == {}
    assert snapshot().keys == {}
    assert await accounts.key_with(made.secret) is None


async def test_keys_are_listed_oldest_first_a_page_at_a_time(accounts, acme, clock):
    made = []
    for _ in range(5):
        clock.now += dt.timedelta(seconds=1)
        made.append((await create_key(accounts)).key)

    first = await accounts.keys("acme", 3)
    rest = await accounts.keys("acme", 3, (first[-1].created_at, first[-1].key_id))

    assert first + rest == made


# ---------------------------------------------------------------------------------------------------------------------
# Credentials


async def test_a_credential_opens_for_its_tenant_alone(accounts, acme, snapshot):
    await set_credential(accounts, api_key="sk-own-1")

    sealed = snapshot().tenants["acme"].credentials["openai"]
    assert SECRETS.unseal(sealed, owner="acme") == {"api_key": "sk-own-1"}
    with pytest.raises(NotSealedHere):
        SECRETS.unseal(sealed, owner="globex")


async def test_a_second_credential_takes_the_place_of_the_first(accounts, acme, database):
    await set_credential(accounts, api_key="sk-own-1")
    await set_credential(accounts, api_key="sk-own-2")

    [row] = await rows(database, credentials)
    assert SECRETS.unseal(row.sealed, owner="acme") == {"api_key": "sk-own-2"}
    assert [(one.provider, one.fields) for one in await accounts.credentials("acme")] == [("openai", ("api_key",))]


async def test_a_credential_may_hold_the_key_that_opens_lists_alone(accounts, acme, snapshot):
    await set_credential(accounts, admin_key="sk-admin-1", api_key="sk-own-1")

    assert [one.fields for one in await accounts.credentials("acme")] == [("api_key", "admin_key")]
    with pytest.raises(NotAcceptable, match="api_key, and if you like admin_key"):
        await set_credential(accounts, admin_key="sk-admin-1")


async def test_a_removed_credential_is_gone(accounts, acme, database, snapshot):
    await set_credential(accounts)

    async with accounts.changing("admin:ada") as change:
        await change.remove_credential("acme", "openai")

    assert await rows(database, credentials) == []
    assert snapshot().tenants["acme"].credentials == {}
    with pytest.raises(NoSuchCredential):
        async with accounts.changing("admin:ada") as change:
            await change.remove_credential("acme", "openai")


@pytest.mark.parametrize(
    "values",
    [
        {"api_key": ""},
        {"api_key": "a b"},
        {"api_key": "a\r\nb"},
        {"api_key": "ä"},
        {"key": "x"},
        {"api_key": "x", "z": "y"},
    ],
)
async def test_a_credential_has_exactly_its_providers_fields_and_fits_a_header(accounts, acme, values):
    with pytest.raises(NotAcceptable):
        await set_credential(accounts, **values)


# ---------------------------------------------------------------------------------------------------------------------
# Changes


async def test_a_change_that_fails_leaves_nothing_not_even_in_the_audit_log(accounts, acme, database):
    async def change_and_fail():
        async with accounts.changing("admin:ada") as change:
            await change.create_tenant("globex", plan="starter")
            await change.create_key("acme", name="app")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change_and_fail()

    assert [row.tenant_id for row in await rows(database, tenants)] == ["acme"]
    assert await accounts.keys("acme", 10) == []
    assert await rows(database, tenant_plans) == []
    assert await actions(accounts) == [("tenant.create", "acme")]


async def test_every_kind_of_change_says_who_made_it_and_none_tells_a_secret(accounts, clock, database):
    async with accounts.changing("admin:ada") as change:
        await change.create_tenant("acme")
        await change.change_tenant("acme", status="suspended", plan="pro")
        made = await change.create_key("acme", name="app")
        new = await change.rotate_key("acme", made.key.key_id)
        await change.revoke_key("acme", new.key.key_id)
        await change.set_credential("acme", "openai", {"api_key": "sk-own-1"})
        await change.remove_credential("acme", "openai")
        await change.set_admin_key("grace", "viewer", "a-key-of-graces")

    found = await accounts.audit(100)
    assert {entry.action for entry in found} == {
        "tenant.create",
        "tenant.change",
        "key.create",
        "key.rotate",
        "key.revoke",
        "credential.set",
        "credential.remove",
        "admin_key.set",
    }
    assert {entry.actor for entry in found} == {"admin:ada"}
    assert {entry.at for entry in found} == {clock.now.replace(microsecond=123_000)}
    change = next(entry for entry in found if entry.action == "tenant.change")
    assert change.detail == {
        "before": {"status": "active", "plan": None},
        "after": {"status": "suspended", "plan": "professional"},
    }
    kept = repr(await rows(database, audit_log))
    assert not any(secret in kept for secret in (made.secret, new.secret, "sk-own-1", "a-key-of-graces"))


async def test_the_audit_log_is_read_newest_first_by_tenant_and_time(accounts, clock):
    for tenant_id in ("a", "b", "c"):
        clock.now += HOUR
        await create_tenant(accounts, tenant_id)
    first = await accounts.audit(2)

    assert [entry.subject for entry in first] == ["c", "b"]
    assert [entry.subject for entry in await accounts.audit(2, (first[-1].at, first[-1].audit_id))] == ["a"]
    assert [entry.subject for entry in await accounts.audit(9, tenant_id="b")] == ["b"]
    assert [entry.subject for entry in await accounts.audit(9, start=first[1].at, end=first[0].at)] == ["b"]


async def test_changes_made_at_once_are_all_in_the_snapshot(accounts, acme, snapshot):
    made = await asyncio.gather(*(create_key(accounts) for _ in range(20)))

    assert set(snapshot().keys) == {one.key.key_id for one in made}


async def test_a_change_that_could_not_be_published_is_with_the_next(database, tmp_path, clock):
    accounts = Accounts(database, SECRETS, tmp_path / "missing" / "snapshot.json", clock)

    with pytest.raises(NotPublished, match="No such file"):
        await create_tenant(accounts, "acme")
    before = accounts.unpublished
    (tmp_path / "missing").mkdir()
    await accounts.ensure_tenant("globex")

    assert (before, accounts.unpublished) == (True, False)

    file = SnapshotFile(tmp_path / "missing" / "snapshot.json")
    file.refresh()
    assert set(file.current.tenants) == {"acme", "globex"}


# ---------------------------------------------------------------------------------------------------------------------
# Repetitions


def _answer(**changes):
    return Answer(**{"request_digest": "d", "status": 201, "body": "{}"} | changes)


async def test_an_answer_is_remembered_for_its_actor_and_a_day(accounts, clock):
    async with accounts.changing("admin:ada") as change:
        await change.remember("once", _answer())
    async with accounts.changing("admin:grace") as change:
        assert await change.answered("once") is None

    clock.now += dt.timedelta(hours=24)
    async with accounts.changing("admin:ada") as change:
        assert await change.answered("once") == _answer()
    clock.now += dt.timedelta(seconds=1)
    async with accounts.changing("admin:ada") as change:
        assert await change.answered("once") is None
        await change.remember("once", _answer(status=200))


# ---------------------------------------------------------------------------------------------------------------------
# The start


async def test_the_first_start_makes_an_admin_key_and_shows_it_once(accounts, database):
    made = await accounts.ensure_admin_key(None)

    assert (await accounts.admin_with(made)).role == "admin"
    assert await accounts.ensure_admin_key(None) is None
    assert await accounts.admin_with(made) is not None
    assert made not in repr(await rows(database, admin_keys))


async def test_a_given_admin_key_takes_the_place_of_the_one_before(accounts):
    generated = await accounts.ensure_admin_key(None)

    for _ in range(2):
        assert await accounts.ensure_admin_key("a-key-from-the-settings") is None

    assert await accounts.admin_with(generated) is None
    assert (await accounts.admin_with("a-key-from-the-settings")).name == "admin"
    assert [action for action, _ in await actions(accounts)] == ["admin_key.set"] * 2


async def test_admins_are_told_apart(accounts, database):
    async with database.transaction() as connection:
        for name in ("ada", "grace"):
            row = {
                "name": name,
                "digest": SECRETS.digest(f"key-of-{name}").hex(),
                "role": "viewer",
                "created_at": Clock().now,
            }
            await connection.execute(insert(admin_keys).values(row))

    assert (await accounts.admin_with("key-of-grace")).name == "grace"
    assert await accounts.admin_with("key-of-alan") is None


async def test_another_secret_than_the_databases_refuses_to_start(accounts, database, tmp_path, clock):
    await accounts.check_secret()
    await accounts.check_secret()
    other = Accounts(database, Secrets.derived("another secret"), tmp_path / "snapshot.json", clock)

    with pytest.raises(SecretChanged, match="give the old secret back"):
        await other.check_secret()
    await accounts.check_secret()


# ---------------------------------------------------------------------------------------------------------------------
# Several hosts


async def test_of_changes_that_come_at_once_each_sees_what_the_one_before_has_done(database, tmp_path, clock):
    """Watches that changes are made one at a time, in Postgres too: what is looked up must be so when it is written."""
    hosts = [Accounts(database, SECRETS, tmp_path / f"snapshot-{number}.json", clock) for number in range(4)]

    created = await asyncio.gather(*(create_tenant(host, "acme") for host in hosts), return_exceptions=True)
    await asyncio.gather(*(change_tenant(host, plan=plan) for host, plan in zip(hosts, PLANS, strict=True)))
    keys = await asyncio.gather(*(host.ensure_admin_key(None) for host in hosts))

    assert sorted(type(one).__name__ for one in created) == ["Tenant", *["TenantExists"] * 3]
    begun = [row.effective_at for row in await rows(database, tenant_plans)]
    assert len(set(begun)) == len(begun) == len(PLANS)
    assert len([key for key in keys if key is not None]) == 1


PLANS = ("starter", "pro", "credits", "enterprise")
