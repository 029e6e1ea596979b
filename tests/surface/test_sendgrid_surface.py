"""The tests that SendGrid keeps for its SDK, through the gateway and past it: what passes, and what the provider gets, is the
same, and of nothing that they ask for it is unknown what it costs but where nobody says it.

They come with the package for Node, `@sendgrid/client`; the package for Python has none. They make one request of each method
that the API has had, and say in `X-Mock` which status they await: the provider here answers with that. The client for Python
asks for the same once more, and hears the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from python_http_client.exceptions import HTTPError
from sendgrid import SendGridAPIClient

from tests.nodes import SCRIPTS, needs_node, run_script
from tests.surface.upstream import ODD, Answer, Seen, Upstream, upstream
from tests.surface.ways import PROVIDER_KEY, Told, Way, differences
from tests.walks.harness import Installation, Simulated, gateway_before

pytestmark = needs_node

TESTS_MIN = 250
"""So many there are in version 8 of the package: should they be found no more, this fails."""

HOST = frozenset((b"host",))
"""The gateway's comes first, Node's comes after its other headers."""

STATUSES = {"200": b"200 OK", "201": b"201 Created", "202": b"202 Accepted", "204": b"204 No Content"}


class Mocking(Upstream):
    """Answers with the status that the request names, and a body that says what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []

    def take(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        wanted = header(seen, b"x-mock").decode() or "200"
        method, target, _ = seen.line.decode().split(" ")
        if wanted not in STATUSES:
            return Answer(b'{"errors":[{"message":"no such status"}]}', status=b"400 Bad Request")
        if wanted == "204":
            return Answer(b"", b"", STATUSES[wanted], ODD, framing="none")
        path = target.partition("?")[0]
        told = {"result": {"method": method, "path": path}, "id": "d-" + "0a" * 16, "batch_id": "NGY5NmM0TMtNzQ4Yi00="}
        return Answer(json.dumps(told).encode(), status=STATUSES[wanted])


def header(seen: Seen, name: bytes) -> bytes:
    return next((value for each, value in seen.headers if each.lower() == name), b"")


class Both(NamedTuple):
    """The provider, and the two ways to it."""

    provider: Mocking
    gateway: Installation
    direct: Way
    through: Way
    again: Way
    """Through the gateway for another tenant."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("sendgrid")
    with upstream(provider := Mocking()):
        base_url = f"http://127.0.0.1:{provider.port}"
        with gateway_before(directory, None, Simulated({"sendgrid": base_url}, {})) as gateway:
            ways = []
            for tenant in ("surface", "again"):
                key = gateway.tenant(tenant)
                credential = {"provider": "sendgrid", "api_key": PROVIDER_KEY}
                gateway.ask("POST", f"/v1/tenants/{tenant}/credentials", credential)
                ways.append(Way(gateway.proxy_url + "/sendgrid", f"SG.{key}", {}, frozenset()))
            yield Both(provider, gateway, Way(base_url, PROVIDER_KEY, {}, frozenset()), *ways)


class Run(NamedTuple):
    outcomes: dict[str, str]
    seen: list[Seen]


def run(both: Both, way: Way, directory: Path) -> Run:
    """What came of each test one way, and what the provider has seen of it."""
    both.provider.seen.clear()
    asked, out = directory / "asked.json", directory / "outcomes.json"
    side = {"baseUrl": way.base_url, "key": way.key, "headers": way.headers}
    asked.write_text(json.dumps({"side": side, "out": str(out)}))
    run_script(SCRIPTS / "sendgrid_suite.cjs", str(asked))
    return Run(json.loads(out.read_text()), list(both.provider.seen))


@pytest.fixture(scope="module")
def runs(both: Both, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    directory = tmp_path_factory.mktemp("runs")
    return run(both, both.direct, directory), run(both, both.through, directory)


def test_the_tests_of_the_sdk_give_what_they_give_directly(runs):
    direct, through = runs

    assert through.outcomes == direct.outcomes
    assert set(direct.outcomes.values()) == {"passed"}
    assert len(direct.outcomes) >= TESTS_MIN


def test_the_provider_gets_what_it_gets_directly(runs):
    """Guards what their tests do not look at: paths with braces and blanks in them, queries, bodies of 10 MB."""
    direct, through = runs

    assert len(through.seen) == len(direct.seen) >= TESTS_MIN - 10
    told = [
        (header(one, b"x-call").decode(), difference)
        for one, other in zip(direct.seen, through.seen, strict=True)
        for difference in differences(Told([one], [], None), Told([other], [], None), HOST)
    ]
    assert told == []
    assert max(len(seen.body) for seen in through.seen) > 10 << 20
    assert {header(seen, b"on-behalf-of") for seen in through.seen} == {b"abcxyz@this.is.a.test.subuser"}


@pytest.fixture(scope="module")
def pythons(both, runs):
    """What the client for Python has heard of the same requests, one way and the other, but for the one of 10 MB."""
    asked = [seen for seen in runs[0].seen if len(seen.body) < 1 << 20]
    return [[asked_by_python(both, way, seen) for seen in asked] for way in (both.direct, both.again)]


def test_the_client_for_python_hears_what_it_hears_directly(pythons):
    direct, through = pythons

    assert through == direct
    assert {200, 201, 202, 204} <= {status for status, *_ in direct}


def test_of_what_they_ask_for_nothing_is_of_unknown_cost_but_where_nobody_says_it(both, pythons):
    """Guards the list of endpoints: a POST that it lacks is of unknown cost."""
    events = both.gateway.events_of("again", len(pythons[1]))

    found = Counter((event["event_type"], event["endpoint"]) for event in events if event["completeness"] == "unknown")

    assert found == {
        ("api_call", "unlisted"): 1,  # An address to send from, which is bought.
        ("email_outbound", "campaigns.schedules"): 1,
        ("email_outbound", "campaigns.schedules.now"): 1,
    }
    assert {event["completeness"] for event in events} == {"reported", "unknown"}


def asked_by_python(both: Both, way: Way, seen: Seen) -> Any:
    """What the client returns or raises for a request like that, and what the provider has seen of it. What stands in
    braces is an id, of which theirs are none."""
    both.provider.seen.clear()
    method, target, _ = seen.line.decode().split(" ")
    sdk = SendGridAPIClient(way.key, host=way.base_url, impersonate_subuser="anna")
    sdk.client.request_headers["X-Mock"] = header(seen, b"x-mock").decode() or "200"
    place = sdk.client
    for part in re.sub(r"%7B\w+%7D", "abc123", target.partition("?")[0]).removeprefix("/v3/").split("/"):
        place = place._(part)
    body = json.loads(seen.body) if seen.body else None
    query = dict(pair.split("=", 1) for pair in target.partition("?")[2].split("&") if pair)
    try:
        answer = getattr(place, method.lower())(request_body=body, query_params=query or None)
    except HTTPError as error:
        answer = error
    (got,) = both.provider.seen
    told = Told([got], [], None).without(frozenset()).seen[0]
    headers = [(name, value) for name, value in told.headers if name not in (b"Host", b"Authorization")]
    return getattr(answer, "status_code", None), answer.body, told.line, sorted(headers), told.body
