"""The column types that both engines keep alike: integers that stay integers, times that stay aware, JSON as it came.

SQLite stores a Numeric as a float and forgets time zones, so neither type is used (both seen in a trial).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Dialect, Integer, TypeDecorator
from sqlalchemy import Text as AnyText
from sqlalchemy.dialects import postgresql

from metering.moments import iso

BigInt = BigInteger().with_variant(Integer(), "sqlite")

NUL, NUL_INSTEAD = "\0", "\ufffd"
"""No text in Postgres holds a NUL, so none does here: what comes with one is kept, and looked for, with the other."""


class Text(TypeDecorator[str]):
    """Text that compares and sorts as its bytes do.

    By itself, Postgres compares by the rules of a language, which are not SQLite's and change with the system's libraries.
    """

    impl = AnyText
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(AnyText(collation="C") if dialect.name == "postgresql" else AnyText())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value.replace(NUL, NUL_INSTEAD) if value else value


class Flag(TypeDecorator[bool]):
    """True or false; 1 or 0 in SQLite, whose strict tables know no booleans."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else Boolean())

    def process_bind_param(self, value: bool | None, dialect: Dialect) -> Any:  # noqa: FBT001 - a column's value
        return None if value is None else bool(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        return None if value is None else bool(value)


class Moment(TypeDecorator[dt.datetime]):
    """An aware UTC datetime with millisecond precision. A naive one is refused with ValueError."""

    impl = AnyText
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(
            postgresql.TIMESTAMP(timezone=True) if dialect.name == "postgresql" else AnyText()
        )

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"a moment needs a time zone: {value!r}")
        return to_the_millisecond(value) if dialect.name == "postgresql" else iso(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        return dt.datetime.fromisoformat(value) if isinstance(value, str) else value


def to_the_millisecond(moment: dt.datetime) -> dt.datetime:
    """As the database keeps it."""
    return moment.astimezone(dt.UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


class Json(TypeDecorator[Any]):
    """A JSON value, kept as the text that it came as.

    In Postgres `json` and not `jsonb`, which forgets the order of names and makes 1e300 an integer of 301 digits.
    """

    impl = AnyText
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(postgresql.JSON() if dialect.name == "postgresql" else AnyText())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        # The Postgres driver gets values, and writes and reads them as `as_json` and `from_json` do.
        return value if value is None or dialect.name == "postgresql" else as_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return from_json(value) if isinstance(value, str) and dialect.name != "postgresql" else value


_encode = msgspec.json.Encoder().encode


def as_json(value: object) -> str:
    return _encode(value).decode()


from_json = msgspec.json.Decoder().decode
