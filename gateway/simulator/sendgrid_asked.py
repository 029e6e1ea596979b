"""What a request to the simulated SendGrid says, and the errors that it gets where that makes no sense. Pure.

Everything here reads JSON with the standard library and nothing else, and writes it in ASCII: a client may send half of
a surrogate pair in any text, and gets it back as it sent it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qs

from gateway.simulator.api import Answer, Asked

MESSAGE_BYTES_MAX = 30 << 20
"""Of a body as it came, and of the same without its content coding."""

HELP = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#"

# One `@`, a local part of the characters that need no quotes, and a domain of at least two labels in any script.
LOCAL_PART = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
LABEL = r"[^\s@.,;:<>()\[\]\"\\]{1,63}"
ADDRESS = re.compile(rf"{LOCAL_PART}@(?:{LABEL}\.)+{LABEL}")

ERRORS: Mapping[int, str] = {
    400: "Bad Request",
    401: "The provided authorization grant is invalid, expired, or revoked",
    403: "access forbidden",
    404: "resource not found",
    413: f"The request body exceeded size limit of {MESSAGE_BYTES_MAX} bytes",
    415: "Content-Type should be application/json",
    429: "too many requests",
}
"""What an error says that has nothing more precise to say."""

KINDS: Mapping[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
"""The types of JSON, as errors call them."""


class Problem(NamedTuple):
    """One of the errors of an answer."""

    message: str
    field: str | None = None
    """The path of what is wrong, such as `personalizations.0.to`."""
    help: str | None = None
    """A link."""


class ApiError(Exception):
    """The request cannot be answered, and the API says why."""

    def __init__(self, status: int, *problems: Problem) -> None:
        super().__init__(status, problems)
        self.answer = failure(status, problems)


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def failure(status: int, problems: Sequence[Problem] = ()) -> Answer:
    """An error, in the shape that all of the API shares."""
    told = problems or (Problem(ERRORS.get(status) or phrase_of(status)),)
    return Answer(status=status, body=encode({"errors": [problem._asdict() for problem in told]}))


def phrase_of(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "unexpected error"


def json_object(asked: Asked) -> dict[str, Any]:
    if max(asked.body_bytes, len(asked.body)) > MESSAGE_BYTES_MAX:
        raise ApiError(413)
    if asked.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415)
    try:
        body = json.loads(asked.body.decode(), parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400) from None
    if not isinstance(body, dict):
        raise ApiError(400, wrong_type(body, "object", "(root)"))
    return body


def no_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON."""
    raise ValueError(name)


def wrong_type(value: object, kind: str, field: str, help: str | None = None) -> Problem:  # noqa: A002 - its own name
    return Problem(f"Invalid type. Expected: {kind}, given: {KINDS[type(value)]}.", field, help)


def typed(body: Mapping[str, Any], name: str, kind: str) -> Any:
    """A field of this type; None where there is none."""
    if name not in body:
        return None
    if KINDS[type(body[name])] != kind:
        raise ApiError(400, wrong_type(body[name], kind, name))
    return body[name]


def text(body: Mapping[str, Any], name: str, characters_max: int = 255) -> str | None:
    value: str | None = typed(body, name, "string")
    if value is not None and len(value) > characters_max:
        raise ApiError(400, Problem(f"The {name} is limited to {characters_max} characters.", name))
    return value


def required_text(body: Mapping[str, Any], name: str, characters_max: int = 255) -> str:
    value = text(body, name, characters_max)
    if not value:
        raise ApiError(400, Problem(f"{name} is a required field", name))
    return value


def one_of(value: str | None, name: str, allowed: Sequence[str]) -> str:
    if value is None or value not in allowed:
        raise ApiError(400, Problem(f"The {name} must be one of: {', '.join(allowed)}.", name))
    return value


def asked_for(asked: Asked) -> dict[str, str]:
    """The query, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(asked.query, keep_blank_values=True).items()}


def asked_for_all(asked: Asked, name: str) -> list[str]:
    """All that a query gives under a name, each once."""
    return list(dict.fromkeys(parse_qs(asked.query).get(name, ())))


def natural(query: Mapping[str, str], name: str, default: int, high: int) -> int:
    """A whole number out of a query, from 0 to `high`."""
    value = query.get(name)
    if value is None:
        return default
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) <= high:
        return int(value)
    raise ApiError(400, Problem(f"{name} must be a number from 0 to {high}", name))


def is_address(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 320 and ADDRESS.fullmatch(value) is not None
