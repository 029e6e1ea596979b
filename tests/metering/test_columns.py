"""Values come back from the database as they were given to it."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import StatementError

from metering.columns import BigInt, Flag, Json, Moment, Text
from tests.builders import NOON

KEPT = Table(
    "kept",
    MetaData(),
    Column("number", BigInt),
    Column("flag", Flag),
    Column("moment", Moment),
    Column("value", Json),
    sqlite_strict=True,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def kept(ledgers):
    """What a row of these values is when it is read again."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()

    async def begin():
        database = await stack.enter_async_context(ledgers.blank())
        owner = await stack.enter_async_context(ledgers.owned(database))
        async with owner.transaction() as connection:
            await connection.run_sync(KEPT.metadata.create_all)
        return owner

    async def again(values):
        async with owner.transaction() as connection:
            await connection.execute(insert(KEPT), values)
            row = (await connection.execute(select(KEPT))).one()
            await connection.execute(KEPT.delete())
        return row

    owner = loop.run_until_complete(begin())
    yield lambda **values: loop.run_until_complete(again(values))
    loop.run_until_complete(stack.aclose())
    loop.close()


@settings(deadline=None)
@given(st.integers(-(1 << 63), (1 << 63) - 1), st.booleans())
def test_integers_of_64_bits_stay_what_they_are(kept, number, flag):
    row = kept(number=number, flag=flag)

    assert (row.number, type(row.number)) == (number, int)
    assert row.flag is flag


MINUTE = dt.timedelta(minutes=1)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(minutes * MINUTE))


@settings(deadline=None)
@given(st.datetimes(dt.datetime(1970, 1, 3), dt.datetime(9999, 12, 29), timezones=ZONES))  # noqa: DTZ001
def test_a_moment_comes_back_aware_and_to_the_millisecond(kept, moment):
    row = kept(moment=moment)

    assert row.moment.utcoffset() == dt.timedelta(0)
    assert dt.timedelta(0) <= moment - row.moment < dt.timedelta(milliseconds=1)
    assert row.moment.microsecond % 1000 == 0


def test_a_moment_without_a_time_zone_is_refused(kept):
    with pytest.raises(StatementError, match="needs a time zone"):
        kept(moment=NOON.replace(tzinfo=None))


@settings(deadline=None)
@given(JSON.filter(lambda value: value is not None))
def test_a_json_value_comes_back_as_it_was(kept, value):
    found = kept(value=value).value

    assert (found, repr(found)) == (value, repr(value))


def test_json_keeps_the_order_of_names_and_numbers_as_they_are(kept):
    """Watches `json` in Postgres: `jsonb` sorts the names and writes 1e300 out."""
    value = {"output_tokens": 1, "b": 1.0, "a": [1e300, -0.0, 1 << 70, 5e-324]}

    assert repr(kept(value=value).value) == repr(value)


TEXTS = ["", " ", "A", "Z", "_", "a", "a b", "a-b", "ab", "b", "z", "Ä", "ä", "é", "\u20ac", "\uffff", "\U0001f600"]


async def test_texts_sort_and_compare_as_their_bytes(ledgers, empty):
    """Watches the collation: in most languages, `a` sorts before `Z` and a hyphen not at all."""
    table = Table("texts", MetaData(), Column("text", Text), Column("other", Text))
    async with ledgers.owned(empty) as owner, owner.transaction() as connection:
        await connection.run_sync(table.metadata.create_all)
        await connection.execute(insert(table), [{"text": one, "other": "a-b"} for one in TEXTS[::-1]])
        in_order = (await connection.execute(select(table.c.text).order_by(table.c.text))).scalars().all()
        after = (await connection.execute(select(table.c.text).where(table.c.text > table.c.other))).scalars().all()

    assert in_order == sorted(TEXTS, key=str.encode) == TEXTS
    assert set(after) == {one for one in TEXTS if one > "a-b"}


def test_what_is_absent_comes_back_absent(kept):
    row = kept(number=None)

    assert tuple(row) == (None, None, None, None)


def test_postgres_gets_its_own_types_and_the_values_themselves():
    dialect = postgresql.dialect()

    types = [column.type.compile(dialect) for column in KEPT.c]
    assert types == ["BIGINT", "BOOLEAN", "TIMESTAMP WITH TIME ZONE", "JSON"]
    assert Moment().process_bind_param(NOON, dialect) == NOON
    assert Json().process_bind_param({"a": 1}, dialect) == {"a": 1}
