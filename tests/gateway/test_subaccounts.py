"""What accounts below the platform's sign with: asked for, kept sealed, asked for again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway import subaccounts as module
from gateway.accounts import Accounts, NoSuchIntegration
from gateway.collector import Credential
from gateway.connector import Source
from gateway.doubts import Doubts
from gateway.keys import Secrets
from gateway.providers import twilio
from gateway.snapshot import SnapshotFile
from gateway.subaccounts import Subaccounts
from gateway.tables import audit_log, integrations
from tests.gateway.api.conftest import Clock

REAL, BELOW, OTHER = "AC" + "5" * 32, "AC" + "6" * 32, "AC" + "7" * 32
SECRETS = Secrets.derived("a secret of this test's")
AUTHORIZATION = {"Authorization": "Basic platform"}


@pytest.fixture
async def walk(database, tmp_path):
    """Subaccounts before a provider that says what a test wants."""
    found = SimpleNamespace(asked=[], tokens={BELOW: "first-token", OTHER: "other-token"}, credential=True)

    async def answer(request):
        found.asked.append((request.path, request.headers.get("Authorization")))
        account = request.path.rpartition("/")[2].removesuffix(".json")
        token = found.tokens.get(account)
        return web.json_response({"sid": account, "auth_token": token}, status=200 if token else 404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    snapshot = SnapshotFile(tmp_path / "snapshot.json")
    accounts = Accounts(database, SECRETS, tmp_path / "snapshot.json", Clock())

    def credential(tenant_id):
        return Credential(AUTHORIZATION, REAL) if tenant_id is None and found.credential else None

    sources = {"twilio": Source(twilio.PROVIDER, base_url, credential)}
    found.accounts, found.snapshot, found.database = accounts, snapshot, database
    found.doubts = Doubts(tmp_path / "doubts")
    found.asking = Subaccounts(accounts, SECRETS, snapshot, found.doubts, lambda: sources)

    async def change(tenant_id, **changes):
        async with accounts.changing("test") as changing:
            await changing.change_integration(tenant_id, changes)
        snapshot.refresh()

    async def look():
        await found.asking.look()
        snapshot.refresh()

    def known(tenant_id):
        secret = snapshot.current.tenants[tenant_id].integration.subaccount_secret
        return None if secret is None else SECRETS.unseal(secret.sealed, owner=tenant_id)

    found.change, found.look, found.known = change, look, known
    async with accounts.changing("test") as changing:
        for tenant_id in ("acme", "globex"):
            await changing.create_tenant(tenant_id)
    await change("acme", twilio_subaccount=BELOW)
    await change("globex", sms_url="https://app.example.com/sms")
    yield found
    await found.asking._asker.close()
    await runner.cleanup()


async def test_what_a_tenants_account_signs_with_is_asked_for_once_and_kept_sealed(walk):
    await walk.look()
    await walk.look()

    assert walk.asked == [(f"/2010-04-01/Accounts/{BELOW}.json", AUTHORIZATION["Authorization"])]
    assert walk.known("acme") == {BELOW: "first-token"}
    async with walk.database.reading() as connection:
        documents = (await connection.execute(select(integrations.c.document))).scalars().all()
        entries = (await connection.execute(select(audit_log))).all()
    assert "first-token" not in str(documents)
    assert "first-token" not in str(entries)
    assert "integration.subaccount_secret" in str(entries)


async def test_another_secret_takes_the_place_of_the_one_before(walk, monkeypatch):
    monkeypatch.setattr(module, "AGAIN_S", 0)
    await walk.look()
    published = walk.snapshot.current
    await walk.look()
    assert walk.snapshot.current is published, "the same is not written again"

    walk.tokens[BELOW] = "second-token"
    await walk.look()

    assert walk.known("acme") == {BELOW: "second-token"}


async def test_a_secret_that_is_doubted_is_asked_for_within_a_minute_and_no_more_often(walk, monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s[0])
    await walk.look()
    walk.tokens[BELOW] = "second-token"
    for later_s in range(1, 61):
        now_s[0] = 1000.0 + later_s
        walk.doubts.leave("acme")
        walk.doubts.leave("globex")
        walk.doubts.leave("nobody")
        await walk.look()
        assert len(walk.asked) == (1 if later_s < 60 else 2)
    assert walk.known("acme") == {BELOW: "second-token"}

    now_s[0] += 120.0
    await walk.look()
    assert len(walk.asked) == 2, "nobody doubts the new one"
    walk.doubts.leave("acme")
    await walk.look()
    assert len(walk.asked) == 3, "that was more than a minute ago"


async def test_where_nobody_tells_it_is_asked_for_later(walk, monkeypatch):
    del walk.tokens[BELOW]
    with capture_logs() as logs:
        await walk.look()
        await walk.look()
    assert len(walk.asked) == 1
    assert walk.known("acme") is None
    (line,) = [line for line in logs if line["event"] == "subaccount_secret_unknown"]
    assert line["tenant_id"] == "acme"

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e12)
    walk.tokens[BELOW] = "first-token"
    await walk.look()

    assert walk.known("acme") == {BELOW: "first-token"}


async def test_a_tenant_with_a_credential_of_its_own_is_not_asked_for(walk):
    async with walk.accounts.changing("test") as changing:
        await changing.set_credential("acme", "twilio", {"account_sid": BELOW, "auth_token": "its-own-token-0000"})
    walk.snapshot.refresh()

    await walk.look()

    assert walk.asked == []


async def test_without_a_credential_of_the_platforms_nothing_is_known(walk):
    walk.credential = False

    await walk.look()

    assert (walk.asked, walk.known("acme")) == ([], None)


async def test_the_secret_goes_with_the_account(walk):
    await walk.look()

    await walk.change("acme", twilio_subaccount=OTHER)
    assert walk.known("acme") is None
    await walk.look()
    assert walk.known("acme") == {OTHER: "other-token"}

    await walk.change("acme", twilio_subaccount=None)
    assert walk.known("acme") is None


async def test_what_was_asked_for_another_account_is_not_kept(walk):
    """Guards an answer that comes after the tenant's account was changed."""
    async with walk.accounts.changing("test") as changing:
        with pytest.raises(NoSuchIntegration):
            await changing.keep_subaccount_secret("acme", OTHER, "other-token")
        with pytest.raises(NoSuchIntegration):
            await changing.keep_subaccount_secret("globex", OTHER, "other-token")


async def test_what_goes_wrong_stops_nothing(walk, monkeypatch):
    failing = iter([RuntimeError("a secret text")])

    async def look():
        for error in failing:
            raise error

    monkeypatch.setattr(walk.asking, "look", look)
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    with capture_logs() as logs:
        task = asyncio.create_task(walk.asking.run())
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    assert [line["event"] for line in logs] == ["subaccounts_not_looked_at"]
    assert "a secret text" not in str(logs)
