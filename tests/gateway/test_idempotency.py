"""A call whose key was used before is not forwarded again, whichever worker it comes to."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from multidict import CIMultiDict
from sqlalchemy import delete, select

from gateway.errors import BadHeader, IdempotencyMismatch, NotRecordable, Repeated
from gateway.idempotency import FORGOTTEN_EVERY, KEPT, Claims
from gateway.messages import RequestHead
from gateway.tables import idempotent_calls
from metering.database import DatabaseUnavailable
from tests.builders import NOON

HEAD = RequestHead("POST", "/openai/v1/chat/completions", CIMultiDict(), ())


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def claims(database, clock):
    return Claims(database, clock)


async def claim(claims, key="order-17", call="call-1", body=b"{}", tenant="acme"):
    await claims.claim(tenant, key, call, HEAD, body)


async def kept(database):
    async with database.reading() as connection:
        return set((await connection.execute(select(idempotent_calls.c.call_id))).scalars())


async def test_a_key_is_taken_once_and_a_repetition_is_told_the_first_call(claims):
    await claim(claims)

    with pytest.raises(Repeated, match="call-1"):
        await claim(claims, call="call-2")


async def test_another_request_under_the_same_key_is_a_mismatch(claims):
    await claim(claims)

    with pytest.raises(IdempotencyMismatch):
        await claim(claims, call="call-2", body=b'{"other": 1}')


async def test_a_key_is_its_tenants_own(claims):
    await claim(claims)

    await claim(claims, call="call-2", tenant="umbrella")
    await claim(claims, call="call-3", key="order-18")


async def test_a_key_that_was_given_back_can_be_taken_again(claims):
    await claim(claims)
    await claims.release("acme", "order-17")

    await claim(claims, call="call-2")


async def test_a_key_can_be_used_again_after_a_day_and_is_forgotten_if_it_is_not(database, claims, clock):
    """Watches both ways in which a claim ends: the same key comes again, or nobody asks for it any more."""
    await claim(claims)
    await claim(claims, key="order-18", call="call-2")
    clock.now += KEPT
    with pytest.raises(Repeated):
        await claim(claims, call="call-3")
    clock.now += dt.timedelta(milliseconds=1)
    await claim(claims, call="call-4")
    before = await kept(database)
    clock.now += FORGOTTEN_EVERY
    await claim(claims, key="order-19", call="call-5")

    assert {"call-4"} <= before
    assert await kept(database) == {"call-4", "call-5"}


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "é"])
async def test_what_can_not_be_a_key_is_refused(claims, key):
    with pytest.raises(BadHeader):
        await claim(claims, key=key)


async def test_of_calls_that_come_at_once_one_is_forwarded(database, clock):
    """H11, in short. Watches that taking a key is one statement: looked up first, several would find it free."""
    workers = [Claims(database, clock) for _ in range(4)]

    outcomes = await asyncio.gather(
        *(claim(workers[n % 4], call=f"call-{n}") for n in range(40)), return_exceptions=True
    )

    assert [outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, Repeated)] == []
    assert outcomes.count(None) == 1
    assert len(await kept(database)) == 1


async def test_a_key_that_is_given_back_while_it_is_asked_for_is_taken(postgres_ledgers, clock):
    """Watches the look at what was there: between the two statements it may have gone."""
    async with postgres_ledgers.new() as database:
        await claim(Claims(database, clock))

        class GoneInBetween:
            def __init__(self, connection):
                self.connection = connection

            async def execute(self, statement, *values):
                found = await self.connection.execute(statement, *values)
                if "INSERT" in str(statement) and not found.rowcount:
                    async with database.transaction() as other:
                        await other.execute(delete(idempotent_calls))
                return found

        row = {"tenant_id": "acme", "idempotency_key": "order-17", "call_id": "call-2", "request_digest": "d"}
        async with database.transaction() as connection:
            first = await Claims(database, clock)._first(GoneInBetween(connection), row)

        assert first is None
        assert await kept(database) == {"call-2"}


async def test_where_the_database_can_not_be_asked_the_call_is_not_sent(clock):
    class CutOff:
        def transaction(self):
            raise DatabaseUnavailable("the line is cut")

    claims = Claims(CutOff(), clock)

    with pytest.raises(NotRecordable):
        await claim(claims)
    await claims.release("acme", "order-17")
