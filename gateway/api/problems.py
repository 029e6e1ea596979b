"""Every answer by which the control API says no: `application/problem+json` (RFC 9457), with a sentence on what to do.

No problem repeats what was sent, beyond the plain word that names a field: a secret in the wrong place stays unquoted.
What nobody expected gets an id and no explanation; the log has the same id and the class of the exception, and not its
message, which may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias
from uuid import uuid4

import msgspec
from aiohttp import web
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from gateway import accounts
from gateway.telemetry import log
from metering.database import DatabaseUnavailable

CONTENT_TYPE = "application/problem+json"

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

FieldProblem: TypeAlias = tuple[str, str]
"""A field, and what is wrong with it."""

QUOTABLE = re.compile(r"[a-z][a-z_]{0,39}")
"""Names that are shown back. A key of any provider holds digits, capitals or hyphens."""


class Problem(Exception):
    """A refusal: status, a code for programs, a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Iterable[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        members: dict[str, object] = {
            "type": f"urn:tollkeeper:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            members["errors"] = [{"field": field, "problem": problem} for field, problem in self.errors]
        return msgspec.json.encode(members)


def invalid(errors: Sequence[FieldProblem]) -> Problem:
    """A request that was understood and has something wrong in it."""
    quotable = [(field if QUOTABLE.fullmatch(field) else "?", problem) for field, problem in errors]
    detail = "; ".join(f"{field}: {problem}" for field, problem in quotable)
    return Problem(400, "invalid-request", detail + ".", errors=quotable)


REFUSALS: Mapping[type[Exception], tuple[int, str, str]] = {
    accounts.NoSuchTenant: (404, "no-such-tenant", "There is no such tenant."),
    accounts.NoSuchKey: (404, "no-such-key", "There is no such key."),
    accounts.NoSuchIntegration: (404, "no-such-integration", "The tenant has no integration; PATCH makes one."),
    accounts.StillConnected: (
        409,
        "still-connected",
        "The tenant's numbers lead here, and what they were is kept here; lead them back first, with undo.",
    ),
    accounts.NoSuchCredential: (404, "no-such-credential", "The tenant has no credential of its own there."),
    accounts.TenantExists: (409, "tenant-exists", "There is a tenant of that id already; choose another id."),
    accounts.TenantClosed: (409, "tenant-closed", "The tenant is closed and stays so; create another."),
    accounts.KeyNotActive: (409, "key-not-active", "The key is revoked or expired; create another."),
    DatabaseUnavailable: (503, "database-unavailable", "The database did not answer, and nothing changed; try again."),
    accounts.NotPublished: (
        503,
        "not-published",
        "The change is kept, and in force as soon as the data directory can be written again; the log says why it can not.",
    ),
    NoConnectionFree: (503, "database-busy", "The database is busy; try again."),
}
"""How the refusals of the rest of the program look from outside."""

DETAILS = {
    404: "There is nothing at this path; the API is under /v1/.",
    405: "This path does not take this method; the Allow header names those it takes.",
    413: "The body is larger than 1 MiB, which is all that is taken.",
}


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem."""
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - the one place that answers for all of them
        problem = _problem(error, request)
        response = web.Response(
            status=problem.status, body=problem.body(), content_type=CONTENT_TYPE, headers=problem.headers
        )
    response.headers.update(SECURITY_HEADERS)
    return response


def _problem(error: Exception, request: web.Request) -> Problem:
    match error:
        case Problem():
            return error
        case accounts.NotAcceptable():
            return invalid([(error.field, error.problem)])
        case web.HTTPException():
            detail = DETAILS.get(error.status, HTTPStatus(error.status).description or error.reason)
            allow = error.headers.get("Allow")
            return Problem(error.status, "http", detail, headers={"Allow": allow} if allow else None)
    for kind, (status, code, detail) in REFUSALS.items():
        if isinstance(error, kind):
            return Problem(status, code, detail, headers={"Retry-After": "1"} if status == 503 else None)
    error_id = uuid4().hex
    resource = request.match_info.route.resource
    route = f"{request.method} {resource.canonical}" if resource else None
    log.error("control_api_failed", error_id=error_id, error=type(error).__name__, route=route)
    return Problem(500, "internal", f"Something went wrong here; the log has more under {error_id}.")
