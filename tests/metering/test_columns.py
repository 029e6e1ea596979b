"""Values come back from the database as they were given to it."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, create_engine, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import StatementError

from metering.columns import BigInt, Flag, Json, Moment, iso, iso_ms
from tests.builders import NOON, NOON_MS

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
def kept():
    """What a row of these values is when it is read again."""
    engine = create_engine("sqlite://")
    KEPT.metadata.create_all(engine)

    def kept(**values):
        with engine.begin() as connection:
            connection.execute(insert(KEPT), values)
            row = connection.execute(select(KEPT)).one()
            connection.execute(KEPT.delete())
        return row

    yield kept
    engine.dispose()


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.booleans())
def test_integers_of_64_bits_stay_what_they_are(kept, number, flag):
    row = kept(number=number, flag=flag)

    assert (row.number, type(row.number)) == (number, int)
    assert bool(row.flag) is flag


MINUTE = dt.timedelta(minutes=1)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(minutes * MINUTE))


@given(st.datetimes(dt.datetime(1970, 1, 3), dt.datetime(9999, 12, 29), timezones=ZONES))  # noqa: DTZ001
def test_a_moment_comes_back_aware_and_to_the_millisecond(kept, moment):
    row = kept(moment=moment)

    assert row.moment.utcoffset() == dt.timedelta(0)
    assert dt.timedelta(0) <= moment - row.moment < dt.timedelta(milliseconds=1)


def test_a_moment_without_a_time_zone_is_refused(kept):
    with pytest.raises(StatementError, match="needs a time zone"):
        kept(moment=NOON.replace(tzinfo=None))


@given(JSON.filter(lambda value: value is not None))
def test_a_json_value_comes_back_as_it_was(kept, value):
    assert kept(value=value).value == value


def test_what_is_absent_comes_back_absent(kept):
    row = kept(number=None)

    assert tuple(row) == (None, None, None, None)


def test_moments_are_written_as_the_api_shows_them():
    assert iso(NOON) == iso_ms(NOON_MS) == "2026-11-20T12:00:00.000Z"
    assert iso_ms(NOON_MS + 852) == "2026-11-20T12:00:00.852Z"


@given(st.integers(0, 253_402_300_799_999), st.integers(0, 253_402_300_799_999))
def test_moments_as_text_sort_as_moments_do(first, second):
    assert (iso_ms(first) < iso_ms(second)) == (first < second)


def test_postgres_gets_its_own_types_and_the_values_themselves():
    dialect = postgresql.dialect()

    types = [column.type.compile(dialect) for column in KEPT.c]
    assert types == ["BIGINT", "BOOLEAN", "TIMESTAMP WITH TIME ZONE", "JSONB"]
    assert Moment().process_bind_param(NOON, dialect) is NOON
    assert Json().process_bind_param({"a": 1}, dialect) == {"a": 1}
