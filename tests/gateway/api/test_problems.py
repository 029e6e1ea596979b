"""Whatever is wrong with a request, the answer is a problem document that says what to do, and repeats nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import gzip
import io
import json
import os

import pytest

from gateway.api import ROUTES, requests
from gateway.counters import Counters
from gateway.schema import HEAD
from metering.spool import Spool
from metering.spool_records import HEADER_BYTES

CANARY = "sk-canary-Zm9vYmFy"


def named(problem):
    """The fields that are wrong."""
    return [error["field"] for error in problem["errors"]]


async def raw(api, *lines: bytes) -> bytes:
    """What a socket gets back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"".join(lines))
    async with asyncio.timeout(60):
        answer = await reader.read(65536)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_path_that_is_not_there(api):
    answer = await api.get("/v1/nothing", key=None)

    assert answer.status == 404
    assert answer.problem["title"] == "Not Found"


@pytest.mark.parametrize(
    "path", ["/v1//tenants", "/v1/tenants/", "/v1/../healthz", "/v1/tenants/a%2Fkeys", "//healthz"]
)
async def test_a_path_that_is_nearly_there_is_not_there(api, acme, path):
    assert (await api.get(path)).status == 404


async def test_a_method_that_a_path_does_not_take_names_those_it_takes(api):
    answer = await api.ask("PUT", "/v1/tenants", {})

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET,POST"
    assert answer.problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"tenant_id": }',
        b'{"tenant_id": "a"',
        b"\xff\xfe",
        b'{"tenant_id": "\xff"}',
        b'{"tenant_id": "\\ud800"}',
        b"[" * 100_000,
        b'{"tenant_id":' * 50_000,
        b'{"name":"' + CANARY.encode(),
    ],
    ids=str,
)
async def test_what_is_not_json_is_refused(api, body):
    answer = await api.post("/v1/tenants", data=body, headers={"Content-Type": "application/json"})

    assert answer.status == 400
    assert answer.problem["type"] == "urn:tollkeeper:malformed-json"
    assert CANARY.encode() not in answer.body


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ([], ["body"]),
        ("acme", ["body"]),
        (None, ["body"]),
        ({}, ["tenant_id"]),
        ({"tenant_id": 1}, ["tenant_id"]),
        ({"tenant_id": None}, ["tenant_id"]),
        ({"tenant_id": ["a"]}, ["tenant_id"]),
        ({"tenant_id": "a/b"}, ["tenant_id"]),
        ({"tenant_id": "a", "name": ""}, ["name"]),
        ({"tenant_id": "a", "name": "x" * 201}, ["name"]),
        ({"tenant_id": "a", "name": "a\nb"}, ["name"]),
        ({"tenant_id": "a", "plan": "gold"}, ["plan"]),
        ({"tenant_id": "a", "role": "admin"}, ["role"]),
        ({"tenant_id": "a", "status": "active", "twilio_account_sid": "AC1"}, ["status", "twilio_account_sid"]),
        ({"tenant_id": "a", "name": 1, "plan": 2}, ["name", "plan"]),
        ({"tenant_id": "a", "request_tags": "on"}, ["request_tags"]),
        ({"tenant_id": "a", "request_tags": None}, ["request_tags"]),
    ],
)
async def test_each_field_that_is_wrong_is_named(api, document, fields):
    answer = await api.post("/v1/tenants", data=json.dumps(document), headers={"Content-Type": "application/json"})

    assert answer.status == 400
    assert named(answer.problem) == fields
    assert (await api.get("/v1/tenants")).document["data"] == []


async def test_an_unknown_field_is_answered_with_those_there_are(api):
    answer = await api.post("/v1/tenants", {"tenant_id": "a", "nmae": "x"})

    assert answer.problem["errors"] == [
        {"field": "nmae", "problem": "is not known here; known are tenant_id, name, plan, request_tags"}
    ]


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("POST", "/v1/tenants", {CANARY: 1}),
        ("POST", "/v1/tenants", {"tenant_id": CANARY + "/"}),
        ("POST", "/v1/tenants", {"tenant_id": "a", "plan": CANARY}),
        ("POST", "/v1/tenants/acme/credentials", {"provider": "openai", "api_key": CANARY + " "}),
        ("POST", "/v1/tenants/acme/credentials", {"provider": "openai", "api_key": "x", CANARY: "y"}),
        ("POST", "/v1/tenants/acme/credentials", {"provider": CANARY, "api_key": "x"}),
        ("POST", "/v1/tenants/acme/credentials", {"provider": "openai", "api_key": [CANARY]}),
        ("POST", "/v1/tenants/acme/keys", {"name": "a", "scopes": [CANARY]}),
        ("POST", "/v1/tenants/acme/keys", {"name": "a", "expires_at": CANARY}),
        ("POST", "/v1/tenants/acme/keys", {"name": "a", "tags": {CANARY: 1}}),
        ("PATCH", "/v1/tenants/acme", {"status": CANARY}),
        ("GET", f"/v1/usage/events?from={CANARY}", None),
        ("GET", f"/v1/usage/events?{CANARY}=1", None),
        ("GET", f"/v1/usage/events?cursor={CANARY}", None),
        ("GET", f"/v1/usage/summary?group_by={CANARY}", None),
        ("GET", f"/v1/{CANARY}", None),
        ("GET", f"/v1/tenants/{CANARY}", None),
        (CANARY.upper(), "/v1/tenants", None),
    ],
)
async def test_no_refusal_repeats_what_was_sent(api, acme, method, path, document):
    answer = await api.ask(method, path, document)

    assert 400 <= answer.status < 500
    assert answer.problem
    assert CANARY.lower().encode() not in answer.body.lower()
    assert CANARY.lower() not in str(answer.headers).lower()


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(api, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}

    answer = await api.post("/v1/tenants", data=b'{"tenant_id": "a"}', headers=headers)

    assert answer.status == 415
    assert "Content-Type: application/json" in answer.problem["detail"]


async def test_a_charset_beside_the_content_type_does_no_harm(api):
    headers = {"Content-Type": "application/json; charset=utf-8"}

    assert (await api.post("/v1/tenants", data=b'{"tenant_id": "a"}', headers=headers)).status == 201


@pytest.mark.parametrize("size", [requests.BODY_BYTES_MAX + 1, 5 << 20])
async def test_a_body_over_a_mebibyte_is_refused(api, size):
    body = io.BytesIO(b'{"tenant_id": "a"}'.ljust(size))

    answer = await api.post("/v1/tenants", data=body, headers={"Content-Type": "application/json"})

    assert answer.status == 413
    assert "1 MiB" in answer.problem["detail"]


async def test_a_body_of_a_mebibyte_is_taken(api):
    body = b'{"tenant_id": "a"}'.ljust(requests.BODY_BYTES_MAX)

    assert (await api.post("/v1/tenants", data=body, headers={"Content-Type": "application/json"})).status == 201


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(api):
    body = gzip.compress(b" " * (64 << 20))

    answer = await api.post(
        "/v1/tenants", data=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )

    assert answer.status == 413


async def test_a_body_that_is_not_packed_as_it_says_is_refused(api):
    answer = await api.post(
        "/v1/tenants",
        data=CANARY.encode() * 100,
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )

    assert answer.status == 400
    assert CANARY.encode() not in answer.body


async def test_a_body_that_does_not_come_is_not_waited_for_and_holds_nobody_up(api, monkeypatch):
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 3)
    head = (
        f"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.secrets.operator_key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
    )
    waiting = asyncio.ensure_future(raw(api, head.encode()))
    await asyncio.sleep(0.1)

    assert (await api.post("/v1/tenants", {"tenant_id": "other"})).status == 201
    assert not waiting.done()
    assert (await waiting).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_no_route_takes_a_parameter_it_does_not_know(api, acme, route):
    made = await api.key(acme)
    names = {"tenant_id": "acme", "key_id": made.key.key_id, "spool_id": "w0-1", "collection_id": "0" * 32}
    names |= {"reconciliation_id": "0" * 32, "delivery_id": "d1"}
    path = route.path.format(provider="openai", **names)

    answer = await api.ask(route.method, f"{path}?fliter=x")

    assert answer.status == 400
    assert named(answer.problem) == ["fliter"]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/tenants?page=2", "limit, cursor"),
        ("/v1/audit?tenant=a", "from, to, tenant_id"),
        ("/v1/usage/events?form=csv", "source, event_type, channel, category, key_id"),
        ("/v1/usage/summary?group=a", "group_by"),
        ("/v1/tenants/acme/keys?limits=1", "limit, cursor"),
    ],
)
async def test_an_unknown_parameter_is_answered_with_those_there_are(api, acme, path, names):
    answer = await api.get(path)

    assert answer.status == 400
    for name in names.split(", "):
        assert name in answer.problem["detail"]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "limit"),
        ("from=yesterday", "from"),
        ("from=2026-11-01T00:00:00", "from"),
        ("from=2026-13-01", "from"),
        ("to=0001-01-01T00:00:00%2B14:00", "to"),
        ("to=9999-12-31T23:59:59-14:00", "to"),
        ("to=1969-12-31", "to"),
        ("from=2026-11-02&to=2026-11-01", "from"),
        ("cursor=x", "cursor"),
        ("cursor=%ff%00", "cursor"),
        ("cursor=" + "A" * 1001, "cursor"),
        ("format=xml", "format"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(api, parameters, field):
    answer = await api.get(f"/v1/usage/events?{parameters}")

    assert answer.status == 400
    assert named(answer.problem) == [field]


@pytest.mark.parametrize("value", ["%00", "%ff", "%ED%A0%80", "'%20OR%201=1--", "x" * 5000, "%F0%9F%92%A9"])
async def test_whatever_a_filter_or_an_id_holds_is_only_looked_for(api, value):
    assert (await api.get(f"/v1/usage/events?source={value}")).document["data"] == []
    assert (await api.get(f"/v1/tenants/{value}")).status == 404
    assert (await api.ask("DELETE", f"/v1/service-keys/{value}")).status == 404


async def test_what_nobody_expected_is_an_id_here_and_a_class_in_the_log(api, monkeypatch, capsys):
    async def fail(*_, **__):
        raise LookupError(CANARY)

    monkeypatch.setattr(api.accounts, "tenants", fail)

    answer = await api.get("/v1/tenants")
    logged = capsys.readouterr().out

    assert answer.status == 500
    [error_id] = [word.strip(".") for word in answer.problem["detail"].split() if len(word) > 30]
    assert error_id in logged
    assert "LookupError" in logged
    assert "GET /v1/tenants" in logged
    assert CANARY not in logged
    assert CANARY.encode() not in answer.body
    assert b"Traceback" not in answer.body


async def test_a_database_that_does_not_answer_is_unavailable_and_not_an_error_of_the_caller(api, acme, owner):
    async with owner.transaction() as connection:
        await connection.exec_driver_sql("DROP TABLE gateway_keys")

    answer = await api.get("/v1/service-keys")

    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert b"gateway_keys" not in answer.body


AUTHORISED = b"Authorization: Bearer " + CANARY.encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + AUTHORISED + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + AUTHORISED + b"\n\nx\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + AUTHORISED + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /?key=" + CANARY.encode() + b"\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?key=" + CANARY.encode() + b" HTTQ/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n" + AUTHORISED + b"\r\n\r\n",
        CANARY.encode() + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + CANARY.encode() + b"\r\n\r\n",
    ],
    ids=range(9),
)
async def test_a_request_that_is_not_http_is_quoted_neither_in_the_answer_nor_in_the_log(
    api, capfd, caplog, request_bytes
):
    answer = await raw(api, request_bytes)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in head
    assert json.loads(body)["detail"] == "The request is not well-formed HTTP/1.1."
    written = capfd.readouterr()
    assert CANARY not in answer.decode("latin-1") + written.out + written.err + caplog.text


EVERYWHERE = [
    ("GET", "/healthz", None),
    ("GET", "/v1/tenants", None),
    ("POST", "/v1/tenants", {"tenant_id": "a"}),
    ("POST", "/v1/tenants", {}),
    ("GET", "/v1/nothing", None),
    ("GET", "/v1/usage/events?format=csv", None),
]


@pytest.mark.parametrize(("method", "path", "document"), EVERYWHERE)
async def test_no_answer_is_kept_guessed_at_or_shared_with_other_origins(api, method, path, document):
    answer = await api.ask(method, path, document, headers={"Origin": "https://evil.example"})

    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)


async def test_a_browser_asking_for_another_origin_gets_no_permission(api):
    answer = await api.ask("OPTIONS", "/v1/tenants", headers={"Origin": "https://evil.example"})

    assert answer.status == 405
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)


# ---------------------------------------------------------------------------------------------------------------------
# Health


async def test_the_process_is_alive_whatever_else_is_not(api):
    api.unready.append("the ledger is 90 s behind")

    answer = await api.get("/healthz", key=None)

    assert (answer.status, answer.document) == (200, {"status": "ok"})


IDLE_WORKER = dict.fromkeys(("log_dropped", "segments_given_up", "under_way", "open_calls", "clients", "upstreams"), 0)
IDLE = {"backlog": {"bytes": 0, "age_s": 0}, "workers": {"alive": 0}}


async def test_readiness_says_why_not(api):
    assert (await api.get("/readyz", key=None)).document == {"status": "ready"} | IDLE

    api.unready.append("the ledger is 90 s behind")
    answer = await api.get("/readyz", key=None)

    assert answer.status == 503
    assert answer.document == {"status": "unready", "reasons": ["the ledger is 90 s behind"]} | IDLE


async def test_where_there_should_be_workers_there_is_no_readiness_without_any(api):
    """Guards the gateway that answers questions and takes no call."""
    api.monitor.expects_workers = True

    answer = await api.get("/readyz", key=None)

    assert answer.status == 503
    assert answer.document == {"status": "unready", "reasons": ["no worker is running"]} | IDLE


async def test_a_worker_whose_disk_is_full_is_a_reason(api):
    """Guards readiness: every call that costs something is refused there."""
    counters = Counters()
    counters.look = lambda: counters.saw(**IDLE_WORKER | {"spool_failed": True})
    counters.open(api.directory / "counters", 3)
    answer = await api.get("/readyz", key=None)
    counters.close()

    assert answer.status == 503
    assert answer.document["reasons"] == ["worker 3 takes no calls: the disk of its spool is full, or refuses"]


async def test_a_change_that_is_kept_and_not_in_force_says_so(api, monkeypatch):
    """Guards a key that was revoked: whoever did it must know that it still works."""

    def refused(path, snapshot):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("gateway.accounts.write", refused)
        answer = await api.ask("POST", "/v1/tenants", {"tenant_id": "acme"})

    assert (answer.status, answer.problem["type"]) == (503, "urn:tollkeeper:not-published")
    assert api.accounts.unpublished
    assert (await api.get("/v1/tenants/acme")).status == 200


async def test_readiness_tells_what_the_ledger_lacks_and_how_many_workers_live(api):
    """Guards readiness: it is read out of what the workers write, not assumed."""
    spool = Spool(api.directory / "spool", "w0-1", fsync=False, segment_bytes=1 << 20)
    spool.open()
    counters = Counters()
    counters.open(api.directory / "counters", 0)
    spool.note(b"what somebody used")
    api.clock.now += dt.timedelta(seconds=90)

    told = (await api.get("/readyz", key=None)).document
    spool.close()
    counters.close()

    assert told["backlog"] == {"bytes": HEADER_BYTES + len(b"what somebody used"), "age_s": 90}
    assert told["workers"] == {"alive": 1}
    assert (await api.get("/readyz", key=None)).document["workers"] == {"alive": 0}


async def test_who_can_not_read_the_data_directory_is_not_ready(api):
    """Guards readiness: a disk that has gone is a reason, and no error of the one who asks."""
    (api.directory / "spool").rmdir()

    answer = await api.get("/readyz", key=None)

    assert answer.status == 503
    assert answer.document == {"status": "unready", "reasons": ["the data directory can not be read"]}


async def test_the_version_says_what_it_is(api):
    document = (await api.get("/version", key=None)).document

    assert document["product"] == "tollkeeper"
    assert document["version"] == "1.2.3"
    assert document["schema"] == HEAD
    assert document["python"].count(".") == 2
    assert document["compiled"] is False
