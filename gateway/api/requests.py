"""Reading what was asked: bodies and parameters into models, anything else into problems that say what is wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from typing import Annotated, Any, TypeVar

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from gateway.api.problems import FieldProblem, Problem, invalid

BODY_BYTES_MAX = 1 << 20
"""A tenant, a key or a credential is a few hundred bytes; aiohttp enforces the bound, on what it has decompressed."""

BODY_TIMEOUT_S = 30
"""aiohttp waits for ever for a body that does not come."""

PAGE_MAX = 1000

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^\P{Cc}+$")]

SENTENCES = {
    "extra_forbidden": "is not known here",
    "missing": "is missing",
    "model_type": "must be a JSON object",
    "string_pattern_mismatch": "has a character that is not allowed there",
    "timezone_aware": "needs a time zone, such as Z",
    "datetime_parsing": "is not a time such as 2026-11-20T12:00:00Z",
}
"""For what pydantic says less clearly, or says with the pattern."""


class Body(BaseModel):
    """A JSON body: nothing is converted, nothing is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """The parameters of a path."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    """The parameters of every list."""

    limit: int = Field(default=100, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(default=None, max_length=1000)


def moment(value: object) -> dt.datetime:
    """A date, which stands for its first moment in UTC, or a timestamp with a time zone. Raises ValueError."""
    text = str(value)
    try:
        found = dt.datetime.fromisoformat(text)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            found = found.replace(tzinfo=dt.UTC)
        if found.utcoffset() is None:
            raise ValueError(text)
        found = found.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("is neither a date such as 2026-11-20 nor a time such as 2026-11-20T12:00:00Z") from None
    if found.year < 1970:
        raise ValueError("lies before 1970")
    return found


Moment = Annotated[dt.datetime, BeforeValidator(moment)]


def day(value: object) -> dt.date:
    """A date in UTC. Raises ValueError."""
    try:
        found = dt.date.fromisoformat(str(value))
    except ValueError:
        raise ValueError("is not a date such as 2026-11-20") from None
    if found.year < 2000:
        raise ValueError("lies before the year 2000")
    return found


Day = Annotated[dt.date, BeforeValidator(day)]


class DaysBody(Body):
    """Something to be done with what a provider has of some days, of one tenant or of all."""

    source: str
    tenant_id: str | None = None
    start: Day = Field(alias="from")
    end: Day = Field(alias="to")

    def last(self, today: dt.date, days_max: int) -> dt.date:
        """The last of the days, which has begun. Raises Problem."""
        last = min(self.end - dt.timedelta(days=1), today)
        if last < self.start:
            raise invalid(
                [("to", "must lie after from, which must not lie ahead; both are days in UTC, and to is not included")]
            )
        if (last - self.start).days >= days_max:
            raise invalid([("from", f"lies more than {days_max} days before to; ask for a part")])
        return last


class JobsQuery(PageQuery):
    """Which of the things that were to be done."""

    source: str | None = None
    tenant_id: str | None = None
    status: str | None = None


class WindowQuery(Query):
    """A half-open window of time."""

    start: Moment | None = Field(default=None, alias="from")
    end: Moment | None = Field(default=None, alias="to")


B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)


async def content(request: web.Request) -> bytes:
    """The whole body. aiohttp keeps it, so that reading it again costs nothing."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError as error:
        raise Problem(408, "too-slow", f"The body did not arrive within {BODY_TIMEOUT_S} s; send it again.") from error
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError) as error:
        raise Problem(400, "malformed-http", "The body is not what its headers say.") from error


async def json_content(request: web.Request) -> bytes:
    """The whole body, if it says that it is JSON."""
    if request.content_type != "application/json":
        raise Problem(415, "not-json", "Send the body as JSON, with Content-Type: application/json.")
    return await content(request)


async def body(request: web.Request, model: type[B]) -> B:
    """The body as this model has it."""
    text = await json_content(request)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise problem_of(error, list(model.model_fields)) from None


def query(request: web.Request, model: type[Q]) -> Q:
    """The parameters as this model has them. Unknown and repeated ones are refused, for a filter that a typing mistake
    turns off shows too much."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    given = request.query
    repeated = sorted({name for name in given if len(given.getall(name)) > 1})
    if repeated:
        raise invalid([(name, "is given more than once") for name in repeated])
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise problem_of(error, names) from None


def problem_of(error: ValidationError, names: list[str]) -> Problem:
    """What pydantic has found, in our words, and without what it was found in."""
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, "malformed-json", f"The body is not JSON: {found[0]['ctx']['error']}.")
    return invalid([_sentence(one, names) for one in found])


def _sentence(one: Any, names: list[str]) -> FieldProblem:
    sentence = SENTENCES.get(one["type"]) or one["msg"].removeprefix("Value error, ")
    if one["type"] == "extra_forbidden":
        sentence += f"; known are {', '.join(names)}" if names else "; there are no parameters"
    return (str(one["loc"][0]) if one["loc"] else "body"), sentence
