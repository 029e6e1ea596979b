"""Further providers, which the settings name: whatever speaks OpenAI's protocol, or Azure's form of it. Pure.

Sources: Azure's REST reference (the `api-key` header, deployments in the path, the `v1` form, files named `assistant-…`),
the official SDK's `AzureOpenAI`, and the providers' own pages on their compatibility: their paths differ only in what
stands before `/v1`, or around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from gateway.messages import Headers
from gateway.providers import openai
from gateway.providers.api import Endpoint, Place, Provider
from gateway.providers.bearer import authorize, presented_key
from gateway.providers.openai.endpoints import ENDPOINTS
from gateway.providers.openai.requests import ask_for_usage, read_model_request
from gateway.providers.told_cost import told_cost


class Kind(StrEnum):
    """What a further provider is compatible with."""

    OPENAI = "openai"
    AZURE_OPENAI = "azure-openai"


def compatible(name: str, kind: Kind, *, asks_for_usage: bool) -> Provider:
    """A provider of that name. Where `asks_for_usage` is False, streams are not asked for their usage: it refuses that."""
    further = replace(
        openai.PROVIDER,
        name=name,
        base_url="",  # The settings say.
        credential_optional=True,
        place=_any_base,
        endpoints=tuple(_endpoint(endpoint, asks_for_usage=asks_for_usage) for endpoint in ENDPOINTS),
        unlisted=lambda method: _endpoint(openai.unlisted(method), asks_for_usage=asks_for_usage),
        authorize=_bearer_if_any,
        administration=_ADMINISTRATION,
        totals=(),
        figures=None,
        account_of=None,
        first_steps=replace(
            openai.PROVIDER.first_steps,
            exports=openai.PROVIDER.first_steps.exports.replace("/openai/", f"/{name}/"),
            path=openai.PROVIDER.first_steps.path.replace("/openai/", f"/{name}/"),
        ),
    )
    if kind is Kind.OPENAI:
        return further
    return replace(
        further,
        place=_azure,
        presented_key=_azure_key,
        authorize=_azure_authorize,
        credential_headers=further.credential_headers | {b"api-key"},
    )


_ADMINISTRATION = re.compile(
    openai.PROVIDER.administration.pattern + r"|/v1/(?:api[-_]keys|keys?|auth|credits|activity|billing|account)(?:/.*)?"
)
"""OpenAI's, and what others call theirs: OpenRouter's keys, credits and activity (its API reference)."""


def _endpoint(endpoint: Endpoint, *, asks_for_usage: bool) -> Endpoint:
    prepare = endpoint.prepare
    if prepare is ask_for_usage and not asks_for_usage:
        prepare = read_model_request
    return replace(endpoint, prepare=prepare, meter=told_cost(endpoint.meter) if endpoint.billable else endpoint.meter)


# What is cut out of a path here is forwarded unread: it must not hold an escape, a dot segment or an object's name.
_BASE = re.compile(r"(?:/[a-z-]{1,24}){0,3}?/v[0-9]{1,2}(?:beta)?(?:/openai)?(?=/)")
_AZURE_BASE = re.compile(r"/openai(?:/v1|/deployments/(?!\.{1,2}/)[A-Za-z0-9._-]{1,128})?(?=/)")


def _any_base(rest: str) -> Place:
    """`/openai/v1/…`, `/api/v1/…`, `/v1beta/openai/…`: whatever part of the base URL the application keeps in its own."""
    return _beginning(_BASE, rest)


def _azure(rest: str) -> Place:
    """`/openai/deployments/{deployment}/…?api-version=…`, `/openai/…?api-version=…` and `/openai/v1/…`."""
    return _beginning(_AZURE_BASE, rest)


def _beginning(base: re.Pattern[str], rest: str) -> Place:
    path = rest.partition("?")[0]
    found = base.match(path)
    return Place("", rest, path if found is None else "/v1" + path[found.end() :])


def _bearer_if_any(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return authorize(credential) if credential else ()


def _azure_key(headers: Headers) -> str | None:
    """The key in `api-key`, where Azure's clients send it, or the token that those of its `v1` form send."""
    keys = {*headers.getall("api-key", ()), presented_key(headers)} - {None, ""}
    # Of two different ones nobody could say whose call it is.
    return keys.pop() if len(keys) == 1 else None


def _azure_authorize(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"api-key", credential["api_key"].encode()),) if credential else ()
