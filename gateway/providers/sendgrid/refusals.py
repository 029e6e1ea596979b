"""How SendGrid says no. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.providers.api import ErrorBody


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    return _errors({"message": message, "field": None, "help": None, "error_id": code})


def missing(path: str, object_id: str) -> ErrorBody:
    return _errors({"message": "resource not found", "field": None, "help": None})


def _errors(error: Mapping[str, object]) -> ErrorBody:
    return ErrorBody(b"application/json", msgspec.json.encode({"errors": [error]}))
