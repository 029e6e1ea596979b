"""Which accounts there are to be reconciled, and what is read of them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from sqlalchemy import insert

from gateway.collector import Collector, Credential, NoScope, Source, Wanted
from gateway.provider_lists import ProviderLists
from gateway.providers.api import Listing, Page, Total
from gateway.reconciler import NotReconciled
from gateway.tables import unattributed
from pricing.held import Part
from tests.builders import NOON

DAY = dt.date(2026, 11, 20)

PLATFORM = Credential({"Authorization": "platform"}, "AC0")

ALL = Listing(name="usage", first=lambda account, day: f"/{account}/{day}", read=lambda path, body: Page(()))


class Lists(ProviderLists):
    """Whose credentials and integrations are the test's."""

    def __init__(self, database, credentials, owned, totals=()):
        async def all_owned():
            return owned

        source = Source("http://127.0.0.1:1", (), (ALL,), "twilio_subaccount", credentials.get)
        collector = Collector(database, None, {"twilio": source}, all_owned, str, lambda _: NOON, lambda: NOON)

        async def page(scope, listing, path, *_):
            return Page(tuple(totals))

        collector.page = page
        super().__init__(database, collector)


def told(accounts):
    return [(one.tenant_id, one.shared, one.opaque.account) for one in accounts]


async def test_each_account_is_reconciled_once_and_the_shared_one_without_those_who_have_their_own(database):
    lists = Lists(
        database,
        {None: PLATFORM, "own": Credential({"Authorization": "own"}, "AC1")},
        {"own": {}, "sub": {"twilio_subaccount": "AC2"}, "shared": {}},
    )

    accounts = await lists.accounts("twilio", None)

    assert told(accounts) == [("own", False, "AC1"), ("sub", False, "AC2"), (None, False, "AC0")]
    assert accounts[-1].apart == {"own", "sub"}
    assert accounts[-1].others == {"AC1", "AC2"}


async def test_a_tenant_on_the_shared_account_is_compared_by_its_objects(database):
    lists = Lists(database, {None: PLATFORM}, {"shared": {}})

    assert told(await lists.accounts("twilio", "shared")) == [("shared", True, "AC0")]


async def test_without_a_credential_there_is_nothing_to_reconcile(database):
    lists = Lists(database, {}, {"acme": {}})

    with pytest.raises(NotReconciled, match="Nobody has a credential"):
        await lists.accounts("twilio", None)
    with pytest.raises(NotReconciled, match="set one"):
        await lists.accounts("twilio", "acme")
    with pytest.raises(NotReconciled, match="there are twilio"):
        await lists.accounts("elsewhere", None)


async def test_what_is_compared_by_itself_is_not_in_the_totals_of_all(database):
    totals = [Total(day=DAY, account=account, category="usage", count=1) for account in ("AC0", "AC1", "")]
    owned = {"own": {}}
    lists = Lists(database, {None: PLATFORM, "own": Credential({"Authorization": "own"}, "AC1")}, owned, totals)
    *_, shared = await lists.accounts("twilio", None)

    found = await lists.totals(shared, DAY)

    assert [one.account for one in found] == ["AC0", ""]


async def test_what_is_nobodys_is_told_of_the_account_and_its_days(database):
    row = {
        "source": "twilio",
        "external_id": "SM1",
        "account": "AC0",
        "event_day": "2026-11-20",
        "event_type": "sms_inbound",
        "quantities": {"messages": 1, "segments": 2},
        "cost": "0.0158",
        "currency": "USD",
        "found_at": NOON,
    }
    others = [
        row | {"external_id": "SM2", "account": "AC1"},
        row | {"external_id": "SM3", "event_day": "2026-11-21"},
        row | {"external_id": "SM4", "source": "elsewhere"},
    ]
    async with database.transaction() as connection:
        await connection.execute(insert(unattributed), [row, *others])
    lists = Lists(database, {None: PLATFORM}, {})
    [shared] = await lists.accounts("twilio", None)

    amounts = {"messages": 1, "segments": 2, "cost_nano": int(Decimal("0.0158") * 10**9)}
    assert await lists.nobodys(shared, DAY, DAY) == [Part("2026-11-20", "sms_inbound", "inbound", "", "USD", amounts)]


async def test_a_source_that_lists_no_objects_has_nothing_to_collect(database):
    lists = Lists(database, {None: PLATFORM}, {})
    [shared] = await lists.accounts("twilio", None)

    assert await lists.collect(shared, DAY, DAY, "test") is False


# ---------------------------------------------------------------------------------------------------------------------
# A provider whose totals are read with another key than calls go out with

ADMIN = Credential({"Authorization": "admin"}, "")


def by_project(database, credentials, owned, with_own_calls):
    lists = Lists(database, credentials, owned)
    source = lists._collector.sources["twilio"]._replace(
        account_of="openai_project", calls_as_itself=with_own_calls.__contains__, needs="admin_key"
    )
    lists._collector.sources = {"openai": source}
    return lists


async def test_a_tenant_whose_calls_go_to_its_project_is_compared_with_that_by_the_platforms_key(database):
    owned = {"acme": {"openai_project": "proj_1"}, "keyless": {"openai_project": "proj_2"}, "own": {}}
    lists = by_project(database, {None: ADMIN}, owned, {"acme", "own"})

    accounts = await lists.accounts("openai", None)

    assert told(accounts) == [("acme", False, "proj_1"), (None, False, "")]
    # Those whose calls go elsewhere are not on the platform's account; those whose calls go out with its key are.
    assert accounts[-1].apart == {"acme", "own"}
    assert accounts[-1].others == {"proj_1"}


async def test_an_admin_key_of_a_tenants_own_opens_its_project_or_all_of_its_organization(database):
    own = Credential({"Authorization": "own"}, "")
    owned = {"acme": {"openai_project": "proj_1"}, "globex": {}}
    lists = by_project(database, {"acme": own, "globex": own._replace(headers={"Authorization": "g"})}, owned, owned)

    accounts = await lists.accounts("openai", None)
    assert told(accounts) == [("acme", False, "proj_1"), ("globex", False, "")]
    # A project in that organization that is another tenant's is charged to that one alone.
    assert [(one.name, one.named_in, one.others) for one in accounts] == [
        ("proj_1", "openai_project", frozenset()),
        ("", "openai_project", {"proj_1"}),
    ]
    assert [await lists.accounts("openai", tenant_id) for tenant_id in ("acme", "globex")] == [
        [one] for one in accounts
    ]


async def test_what_can_not_be_told_apart_is_said_with_the_cure(database):
    lists = by_project(database, {None: ADMIN}, {"keyless": {"openai_project": "proj_2"}}, set())
    with pytest.raises(NotReconciled, match="openai_project of its integration"):
        await lists.accounts("openai", "keyless")

    lists = by_project(database, {}, {"acme": {"openai_project": "proj_1"}}, {"acme"})
    for tenant_id in (None, "acme"):
        with pytest.raises(NotReconciled, match=r"TOLLKEEPER_PROVIDERS__OPENAI__ADMIN_KEY.*admin_key=@FILE"):
            await lists.accounts("openai", tenant_id)


async def test_single_calls_that_are_not_listed_are_not_collected(database):
    lists = by_project(database, {None: ADMIN}, {}, set())

    with pytest.raises(NoScope, match="tollkeeper reconcile --source openai"):
        await lists._collector.ask(Wanted("asked", "openai", None, DAY, DAY, "test"))
    assert lists._collector._scheduled("openai", {}) == []
