"""How applications label a request to OpenAI: for whom it is, and what they note beside it. Pure.

The fields are those of the API reference: `user` and, in its place by now, `safety_identifier` name an end user;
`metadata` holds up to 16 texts of the application's own.
"""

from __future__ import annotations

import msgspec

from gateway.providers.api import Labels
from gateway.providers.json_scan import UNREADABLE

USERS = ("user", "safety_identifier")


class _Labelled(msgspec.Struct):
    user: object = None
    safety_identifier: object = None
    metadata: object = None


_read_labelled = msgspec.json.Decoder(_Labelled).decode


def labels(body: bytes) -> Labels:
    """What a body says; nothing where it is no JSON, or a field is of another type than documented."""
    try:
        request = _read_labelled(body)
    except UNREADABLE:
        return Labels({}, {})
    users = {name: value for name in USERS if isinstance(value := getattr(request, name), str) and value}
    noted = request.metadata if isinstance(request.metadata, dict) else {}
    return Labels(users, {name: value for name, value in noted.items() if isinstance(value, str)})
