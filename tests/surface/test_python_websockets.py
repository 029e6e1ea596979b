"""The WebSockets of OpenAI's SDK for Python through the gateway: what the provider is asked and what the SDK hears is what it is
directly. What sessions use, and how frames pass, is in tests/edge."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.surface.calls import methods
from tests.surface.ways import Heard, Told, Way, differences

OF_THE_HANDSHAKE = frozenset((b"upgrade", b"sec-websocket-key", b"sec-websocket-accept"))
"""Each connection's own."""

WEBSOCKETS = {method.name for method in methods() if method.path[-1] == "connect"}

CALLS: dict[str, dict[str, Any]] = {
    "beta.responses.connect": {},
    "live.connect": {},
    "live.forks.connect": {"session_id": "sess_0123456789abcdef"},
    "live.sideband.connect": {"session_id": "sess_0123456789abcdef"},
    "realtime.connect": {"model": "gpt-realtime ü&"},
    "realtime.translations.connect": {"model": "gpt-realtime-translate"},
    "responses.connect": {},
}

ON_TLS_ALONE = {"beta.realtime.connect"}
"""The SDK takes no other base URL for it."""


def told(found: Any, way: Way, name: str) -> Told:
    """Open a session, and hear its first event."""
    *path, _ = name.split(".")
    headers = {**way.headers, "x-call": name, "X-Extra": "a  b"}
    with openai.OpenAI(
        base_url=way.base_url, api_key=way.key, organization="org-mine", default_headers=way.headers
    ) as client:
        resource: Any = client
        for part in path:
            resource = getattr(resource, part)
        query = {"nested[a]": "ü&", "empty": ""}
        with resource.connect(**CALLS[name], extra_headers=headers, extra_query=query) as connection:
            result = connection.recv_bytes()
            response = connection._connection.response
    answered = tuple((key.encode(), value.encode()) for key, value in response.headers.raw_items())
    heard = Heard(response.status_code, response.reason_phrase.encode(), answered, b"")
    return Told(found.upstream.taken(name.encode()), [heard], result)


@pytest.mark.parametrize("name", CALLS)
def test_a_session_is_opened_as_it_is_directly(found, name):
    expected = told(found, found.direct, name)

    assert len(expected.seen) == 1
    for way in (found.own, found.brought):
        through = told(found, way, name)
        assert differences(expected, through, way.cut | OF_THE_HANDSHAKE) == []


def test_every_websocket_is_compared_or_named_with_a_reason():
    assert CALLS.keys() | ON_TLS_ALONE == WEBSOCKETS
