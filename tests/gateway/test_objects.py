"""Who made what on a shared account."""

import asyncio

import pytest

from gateway import objects
from gateway.objects import LedgerObjects
from metering import ledger
from metering.database import DatabaseUnavailable
from tests.builders import NOON, fact, usage_event
from tests.gateway.peers import eventually


@pytest.fixture
def made_here(database):
    return LedgerObjects(database, 0)


async def in_the_ledger(database, **event):
    async with database.transaction() as connection:
        await ledger.append(connection, [fact(usage_event(**event))], NOON)


async def test_what_a_tenant_has_just_made_is_its_own(made_here):
    made_here.made("acme", "openai", "file-1")

    assert await made_here.owns("acme", "openai", "file-1")


@pytest.mark.parametrize(
    "asked", [("other", "openai", "file-1"), ("acme", "twilio", "file-1"), ("acme", "openai", "file-2")]
)
async def test_it_is_nobody_else_s_and_nothing_else_is_its_own(made_here, asked):
    """Guards each part of the question: without the tenant, everything belongs to everybody."""
    made_here.made("acme", "openai", "file-1")

    assert not await made_here.owns(*asked)


async def test_after_a_restart_the_ledger_knows(database, made_here):
    await in_the_ledger(database, tenant_id="acme", source="openai", external_id="resp_1")

    assert await made_here.owns("acme", "openai", "resp_1")


@pytest.mark.parametrize(
    "asked",
    [("other", "openai", "resp_1"), ("acme", "twilio", "resp_1"), ("acme", "openai", "resp_2"), ("acme", "openai", "")],
)
async def test_the_ledger_is_asked_for_that_tenant_and_that_object_alone(database, made_here, asked):
    await in_the_ledger(database, tenant_id="acme", source="openai", external_id="resp_1")

    assert not await made_here.owns(*asked)


async def test_what_is_remembered_has_a_bound(made_here, monkeypatch):
    monkeypatch.setattr(objects, "RECENT_MAX", 3)

    for number in range(10):
        made_here.made("acme", "openai", f"file-{number}")

    assert [number for number in range(10) if await made_here.owns("acme", "openai", f"file-{number}")] == [7, 8, 9]


class CutOff:
    """A database that can not be reached."""

    def reading(self):
        raise DatabaseUnavailable("the line is cut")


async def test_where_the_ledger_can_not_be_asked_nobody_owns_what_is_not_remembered():
    made_here = LedgerObjects(CutOff(), 0)
    made_here.made("acme", "openai", "file-1")

    assert await made_here.owns("acme", "openai", "file-1")
    with pytest.raises(DatabaseUnavailable):
        await made_here.owns("acme", "openai", "file-2")


async def test_what_another_worker_has_just_made_is_waited_for_until_the_ledger_has_it(database):
    """Guards the second question: sabotaged (patience taken for 0) an object made through one worker is missing in the next."""
    here = LedgerObjects(database, 30)

    asking = asyncio.create_task(here.owns("acme", "openai", "resp_1"))
    await asyncio.sleep(0.01)
    await in_the_ledger(database, tenant_id="acme", source="openai", external_id="resp_1")

    assert await asking


async def test_what_nobody_made_is_not_waited_for_longer_than_its_patience(database):
    assert not await LedgerObjects(database, 0.1).owns("acme", "openai", "resp_1")


async def test_no_more_than_so_many_wait_at_once(database, monkeypatch):
    """Guards the bound on what somebody who asks for other people's objects costs."""
    monkeypatch.setattr(objects, "WAITING_MAX", 1)
    here = LedgerObjects(database, 30)
    waiting = asyncio.create_task(here.owns("acme", "openai", "resp_1"))
    await eventually(lambda: here._waiting == 1)

    assert not await here.owns("acme", "openai", "resp_2")

    await in_the_ledger(database, tenant_id="acme", source="openai", external_id="resp_1")
    assert await waiting
