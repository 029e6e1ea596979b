"""OpenAI: its endpoints, and how its answers tell what they used.

Sources: the API reference's usage objects, the official SDKs' requests as captured on a socket, and recorded traffic
(figures in the docstrings of `usage`, `requests` and `answers` name which).
"""

from __future__ import annotations

import re

import msgspec

from gateway.providers.api import ErrorBody, FirstSteps, Provider
from gateway.providers.bearer import authorize, presented_key_or
from gateway.providers.free import unlisted_by
from gateway.providers.openai.answers import by_shape
from gateway.providers.openai.endpoints import ENDPOINTS
from gateway.providers.openai.figures import figures
from gateway.providers.openai.labels import labels
from gateway.providers.openai.records import TOTALS

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def refusal(path: str, status: int, code: str, message: str) -> ErrorBody:
    error = {"message": message, "type": ERROR_TYPES.get(status, "server_error"), "param": None, "code": code}
    return ErrorBody(b"application/json", msgspec.json.encode({"error": error}))


def missing(path: str, object_id: str) -> ErrorBody:
    error = {"message": f"No object found with id '{object_id}'.", "type": "invalid_request_error", "param": None}
    return ErrorBody(b"application/json", msgspec.json.encode({"error": {**error, "code": None}}))


unlisted = unlisted_by(by_shape)


_OBJECTS = (
    "asst|assistant|batch|cfile|chatcmpl|cmpl|cntr|conv|eval|evalrun|file|ft|ftckpt|ftjob|part|pmpt|rec|resp|rtc|run|sess|skill|step"
    "|thread|upload|video|voice|vs|vsfb"
)
_ITEMS = "call|fc|msg|rs|ws"
"""Parts of one conversation. Clients that keep the history themselves send them back with every turn, content and all."""

_OBJECT_ID = re.compile(rf"(?:{_OBJECTS}|{_ITEMS})[-_][A-Za-z0-9_-]{{8,}}")

_WHOLE_ID = rb'(?=[a-z]{2,9}+[-_][A-Za-z0-9]{16})((?:%s)[-_][A-Za-z0-9]{16,})["\r]' % _OBJECTS.encode()
_REFERENCES = (re.compile(rb'"' + _WHOLE_ID), re.compile(rb"\n" + _WHOLE_ID))
"""A whole JSON string, or a whole part of a form. Ids are long and of one piece (24 to 50 characters in recordings), so
that the names which applications give to their tools, `run_python_code`, are none."""

_REFERENCE_SIGN = (
    bytes(0x30 if bytes((one,)).isalnum() else 0x5F if one in b"-_" else 0x20 for one in range(256)),
    b"_" + 16 * b"0",
)
"""What such an id is like where letters and digits are all zeros, and a dash is an underscore."""

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""Before the key, among the subprotocols that a realtime client in a browser offers (OpenAI's realtime reference)."""

PROVIDER: Provider = Provider(
    name="openai",
    base_url="https://api.openai.com",
    credential_fields=("api_key",),
    lists_field="admin_key",
    endpoints=ENDPOINTS,
    unlisted=unlisted,
    presented_key=presented_key_or(KEY_SUBPROTOCOL),
    key_subprotocol=KEY_SUBPROTOCOL,
    authorize=authorize,
    credential_headers=frozenset({b"authorization", b"openai-organization", b"openai-project"}),
    account_headers=frozenset({b"openai-organization", b"openai-project"}),
    # ChatKit and what is below realtime hand out a key with which a client goes to the provider past the gateway; a
    # session itself does not. Agents and vaults name each other in ways in which nobody can tell whose they are.
    administration=re.compile(
        r"/v1/(?:(?:organizations?|projects|dashboard|me|chatkit|agents|vaults|safety|webhook_[a-z_]+)(?:/.*)?|realtime/(?!translations$).*)"
    ),
    object_id=_OBJECT_ID,
    references=_REFERENCES,
    reference_sign=_REFERENCE_SIGN,
    refusal=refusal,
    missing=missing,
    labels=labels,
    totals=TOTALS,
    figures=figures,
    account_of="openai_project",
    first_steps=FirstSteps(
        exports="OPENAI_BASE_URL={proxy}/openai/v1 OPENAI_API_KEY={key}",
        path="{proxy}/openai/v1/chat/completions",
        body='{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}',
        sdk_package="openai",
        sdk_call="from openai import OpenAI; print(OpenAI().responses.create(model='gpt-4o', input='Hello').output_text)",
    ),
)
