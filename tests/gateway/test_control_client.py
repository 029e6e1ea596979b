"""How a command reaches the control API: of a server that runs, or of its own process, and never of anything else."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway import control_client
from gateway.app import control_listener
from gateway.control_client import ControlError, ControlUnreachable, control_api, control_url
from gateway.installation import operator_key
from gateway.settings import ControlSettings, load_settings

VERSION = {"product": "tollkeeper", "version": "0.1.0"}


class Server:
    """A server on a real socket. It answers `GET /version` with what it is told, other paths with `answer`."""

    def __init__(self):
        self.version = web.json_response(VERSION)
        self.answer = lambda _: web.json_response({"data": [], "next_cursor": None})
        self.asked = []

    async def __call__(self, request):
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.text()))
        if request.path == "/version":
            if isinstance(self.version, Exception):
                raise self.version
            return self.version
        return self.answer(request)

    @property
    def keys_seen(self):
        return [headers.get("Authorization") for _, path, headers, _ in self.asked]


@asynccontextmanager
async def listening(handler, host="127.0.0.1"):
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def server():
    server = Server()
    async with listening(server) as port:
        server.port = port
        yield server


@pytest.fixture
def settings_for(tmp_path):
    def settings(port, host="127.0.0.1"):
        flags = {"data_dir": str(tmp_path / "data"), "control.port": port, "control.host": host}
        return load_settings({}, flags, None)

    return settings


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@asynccontextmanager
async def no_listener(_):
    pytest.fail("a control API was served although one runs")
    yield ""


# ---------------------------------------------------------------------------------------------------------------------
# Which server is asked


async def test_a_running_server_is_asked_with_the_operator_key(server, settings_for):
    settings = settings_for(server.port)

    async with control_api(settings, no_listener) as api:
        answer = await api.get("/v1/tenants")

    assert answer == {"data": [], "next_cursor": None}
    assert server.keys_seen == [None, f"Bearer {operator_key(settings)}"]


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
async def test_a_server_that_listens_everywhere_or_by_name_is_found_on_this_machine(host, server, settings_for):
    async with control_api(settings_for(server.port, host), no_listener) as api:
        assert await api.get("/v1/tenants") == {"data": [], "next_cursor": None}


async def test_without_a_server_the_api_is_served_from_this_process_for_as_long_as_the_command_takes(
    server, settings_for, free_port
):
    events = []

    @asynccontextmanager
    async def listener(settings):
        events.append(("opened", settings.data_dir))
        yield f"http://127.0.0.1:{server.port}"
        events.append("closed")

    settings = settings_for(free_port)
    async with control_api(settings, listener) as api:
        await api.get("/v1/tenants")
        events.append("asked")

    assert events == [("opened", settings.data_dir), "asked", "closed"]
    assert server.keys_seen == [f"Bearer {operator_key(settings)}"]


async def test_a_port_that_the_system_chooses_is_not_guessed_at(server, settings_for):
    @asynccontextmanager
    async def listener(_):
        yield f"http://127.0.0.1:{server.port}"

    async with control_api(settings_for(0), listener) as api:
        await api.get("/v1/tenants")

    assert [path for _, path, _, _ in server.asked] == ["/v1/tenants"]


@pytest.mark.parametrize("port_is_known", [True, False])
async def test_a_server_that_has_the_ledger_and_listens_elsewhere_is_said_to(
    port_is_known, settings_for, free_port, monkeypatch
):
    monkeypatch.setattr(control_client, "BUSY_TIMEOUT_S", 0)
    settings = settings_for(free_port if port_is_known else 0)
    async with control_listener(settings):
        with pytest.raises(ControlUnreachable, match="Another process has the ledger") as refusal:
            async with control_api(settings):
                pytest.fail("the ledger was opened twice")

    assert "set TOLLKEEPER_CONTROL__HOST and TOLLKEEPER_CONTROL__PORT to where its control API listens" in str(
        refusal.value
    )


async def test_a_command_waits_for_another_one_to_give_the_ledger_back(settings_for):
    settings = settings_for(0)

    async def list_tenants():
        async with control_api(settings) as api:
            return await api.get("/v1/tenants")

    assert await asyncio.gather(list_tenants(), list_tenants()) == [{"data": [], "next_cursor": None}] * 2


async def test_a_start_that_is_refused_is_refused_in_its_own_words(settings_for, tmp_path):
    async with control_listener(settings_for(0)):
        pass
    other_secret = {"secret_key": "another-secret-key-of-enough-characters"}
    settings = load_settings({}, {"data_dir": str(tmp_path / "data"), "control.port": 0, **other_secret}, None)

    with pytest.raises(ControlUnreachable, match=r"the secret key .* is not the one this database was made with"):
        async with control_api(settings):
            pytest.fail("the ledger was opened with another secret")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("<h1>It works!</h1>", 200),
        ('{"product": "something else"}', 200),
        ('["tollkeeper"]', 200),
        ("", 204),
        ("x" * 200_000, 200),
        ("not found", 404),
    ],
)
async def test_another_program_on_the_port_is_named_as_such_and_never_sees_the_operator_key(
    version, status, server, settings_for
):
    server.version = web.Response(text=version, status=status)

    with pytest.raises(
        ControlUnreachable, match="is not Tollkeeper; set TOLLKEEPER_CONTROL__HOST and TOLLKEEPER_CONTROL__PORT"
    ):
        async with control_api(settings_for(server.port), no_listener):
            pytest.fail("it was taken for Tollkeeper")

    assert server.keys_seen == [None]


async def test_a_redirect_is_not_followed(server, settings_for):
    other = Server()
    async with listening(other) as other_port:
        server.version = web.Response(status=302, headers={"Location": f"http://127.0.0.1:{other_port}/version"})

        with pytest.raises(ControlUnreachable, match="is not Tollkeeper"):
            async with control_api(settings_for(server.port), no_listener):
                pytest.fail("it was taken for Tollkeeper")

    assert other.asked == []


async def test_a_program_that_does_not_speak_http_is_named_as_not_tollkeeper(settings_for):
    async def speak(_, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]

        with pytest.raises(ControlUnreachable, match=f"http://127.0.0.1:{port} is not Tollkeeper"):
            async with control_api(settings_for(port), no_listener):
                pytest.fail("it was taken for Tollkeeper")


async def test_what_listens_and_says_nothing_is_not_waited_for_for_ever(settings_for, monkeypatch):
    monkeypatch.setattr(control_client, "VERSION_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        with pytest.raises(ControlUnreachable, match=f"http://127.0.0.1:{port} does not answer"):
            async with control_api(settings_for(port), no_listener):
                pytest.fail("it was taken for Tollkeeper")


async def test_an_address_that_leads_nowhere_is_said_to(settings_for):
    with pytest.raises(ControlUnreachable, match=r"cannot be reached .*; set TOLLKEEPER_CONTROL__HOST"):
        async with control_api(settings_for(8081, "no-such-host.invalid"), no_listener):
            pytest.fail("it was reached")


async def test_the_proxy_environment_is_not_obeyed(server, settings_for, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async with control_api(settings_for(server.port), no_listener) as api:
        assert await api.get("/v1/tenants") == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8081"),
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("::", "http://[::1]:8081"),
        ("::1", "http://[::1]:8081"),
        ("10.1.2.3", "http://10.1.2.3:8081"),
    ],
)
def test_where_a_listener_is_reached_from_its_own_machine(host, url):
    assert control_url(ControlSettings(host=host, port=8081)) == url


# ---------------------------------------------------------------------------------------------------------------------
# What is asked, and what comes of it


async def test_documents_go_out_and_come_back_as_json(server, settings_for):
    server.answer = lambda _: web.json_response({"tenant_id": "açme"}, status=201)

    async with control_api(settings_for(server.port)) as api:
        created = await api.post("/v1/tenants", {"tenant_id": "açme"})
        changed = await api.patch("/v1/tenants/a", {"status": "suspended"})

    assert created == changed == {"tenant_id": "açme"}
    assert [(method, path, json.loads(body)) for method, path, _, body in server.asked[1:]] == [
        ("POST", "/v1/tenants", {"tenant_id": "açme"}),
        ("PATCH", "/v1/tenants/a", {"status": "suspended"}),
    ]


async def test_a_path_arrives_as_it_was_encoded(server, settings_for):
    server.answer = lambda _: web.Response(status=204)

    async with control_api(settings_for(server.port)) as api:
        await api.delete("/v1/tenants/..%2F..%2Fx/keys/a%20b")

    assert server.asked[1][:2] == ("DELETE", "/v1/tenants/..%2F..%2Fx/keys/a%20b")


async def test_parameters_that_are_not_given_are_left_out(server, settings_for):
    async with control_api(settings_for(server.port)) as api:
        await api.get("/v1/usage/events", {"from": "2026-11-01T00:00:00Z", "to": None, "limit": 5, "tenant_id": "a&b"})

    assert server.asked[1][1] == "/v1/usage/events?from=2026-11-01T00%3A00%3A00Z&limit=5&tenant_id=a%26b"


async def test_a_list_of_several_pages_comes_as_one(server, settings_for):
    pages = {None: ([1, 2], "c=1"), "c=1": ([3], "c=2"), "c=2": ([4], None)}

    def answer(request):
        data, cursor = pages[request.query.get("cursor")]
        return web.json_response({"data": data, "next_cursor": cursor})

    server.answer = answer

    async with control_api(settings_for(server.port)) as api:
        assert await api.get_all("/v1/tenants") == {"data": [1, 2, 3, 4], "next_cursor": None}


async def test_a_refusal_of_the_api_is_an_error_with_its_own_words(server, settings_for):
    problem = {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "There is a tenant acme already."}
    server.answer = lambda _: web.json_response(problem, status=409, content_type="application/problem+json")

    async with control_api(settings_for(server.port)) as api:
        with pytest.raises(ControlError) as refusal:
            await api.post("/v1/tenants", {"tenant_id": "acme"})

    assert (refusal.value.status, refusal.value.title, refusal.value.detail) == (
        409,
        "Conflict",
        "There is a tenant acme already.",
    )
    assert str(refusal.value) == "There is a tenant acme already."


async def test_a_refusal_without_words_says_where_to_look(server, settings_for):
    server.answer = lambda _: web.Response(status=500, text="<h1>oops</h1>")

    async with control_api(settings_for(server.port)) as api:
        with pytest.raises(ControlError, match="answered 500 without saying why; see the server's log"):
            await api.get("/v1/tenants")


async def test_a_server_of_another_installation_is_recognised_by_its_refusal(server, settings_for):
    server.answer = lambda _: web.json_response({"title": "Unauthorized", "detail": "Unknown key."}, status=401)
    settings = settings_for(server.port)

    async with control_api(settings) as api:
        with pytest.raises(
            ControlError, match="another data directory or another secret; set TOLLKEEPER_DATA_DIR"
        ) as refusal:
            await api.get("/v1/tenants")

    assert operator_key(settings) not in str(refusal.value)


async def test_an_answer_that_breaks_off_is_said_to(server, settings_for):
    def break_off(request):
        request.transport.abort()
        return web.Response()

    server.answer = break_off

    async with control_api(settings_for(server.port)) as api:
        with pytest.raises(ControlUnreachable, match="broke off before it answered"):
            await api.post("/v1/tenants", {"tenant_id": "acme"})
