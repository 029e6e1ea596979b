"""The command line: what people type, what they read, and what programs get. Commands ask a server on a real socket."""

import asyncio
import datetime as dt
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway.cli import COMMANDS, cli
from gateway.commands import tty
from gateway.commands.serve import serve
from gateway.installation import operator_key
from gateway.providers import PROVIDERS
from gateway.settings import FLAGS, described, load_settings
from metering.spool import Spool
from metering.spool_records import RecordKind
from tests.builders import CALL_ID, intent, payload, usage_event

PROVIDER = PROVIDERS[0]
FIELD = PROVIDER.credential_fields[0]

NEW_KEY = "tk_k1_thekeyitselfwhichisshownonce"

TENANT = {
    "tenant_id": "acme",
    "name": "Acme",
    "status": "active",
    "plan": None,
    "currency": "USD",
    "created_at": "2026-11-20T12:00:00Z",
}


class ControlServer:
    """Answers the routes of the control API out of `answers`, as a server on a real socket in a thread of its own."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.operator_key = ""
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    async def _run(self):
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _answer(self, request):
        if request.path == "/version":
            return web.json_response({"product": "tollkeeper", "version": "0.1.0"})
        assert request.headers["Authorization"] == f"Bearer {self.operator_key}"
        body = await request.text()
        self.asked.append((request.method, request.raw_path, json.loads(body) if body else None))
        status, document = self.answers[request.method, request.path]
        if document is None:
            return web.Response(status=status)
        if isinstance(document, list):
            return web.Response(text="".join(f"{json.dumps(line)}\n" for line in document))
        kind = "application/json" if status < 400 else "application/problem+json"
        return web.json_response(document, status=status, content_type=kind)


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TOLLKEEPER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def tollkeeper():
    """Run a command in this process."""

    def run(*arguments, environment=None, stdin=None):
        return CliRunner().invoke(cli, arguments, env=environment, input=stdin)

    return run


@pytest.fixture
def server(tmp_path, monkeypatch):
    with ControlServer() as server:
        monkeypatch.setenv("TOLLKEEPER_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("TOLLKEEPER_CONTROL__PORT", str(server.port))
        server.operator_key = operator_key(load_settings(os.environ, {}, None))
        yield server


def shown(result):
    """What was printed, without the spaces that keep columns apart."""
    assert result.exit_code == 0, result.stderr
    return [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]


def every_command(group, path=()):
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from every_command(command, (*path, name))
            else:
                yield (*path, name)


COMMAND_PATHS = list(every_command(cli))

# ---------------------------------------------------------------------------------------------------------------------
# Help


def test_without_arguments_the_help_shows_every_command(tollkeeper):
    result = tollkeeper()

    assert result.exit_code == 0
    assert result.stdout == tollkeeper("--help").stdout
    for group, commands in COMMANDS.items():
        assert f"{group}:" in result.stdout
        assert all(f"\n  {name} " in result.stdout for name in commands)
    assert "..." not in result.stdout.partition("\n")[2]


@pytest.mark.parametrize("path", COMMAND_PATHS, ids=" ".join)
def test_every_command_speaks_json_and_its_help_names_the_environment(path, tollkeeper):
    result = tollkeeper(*path, "--help")

    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "TOLLKEEPER_CONFIG" in result.stdout


@pytest.mark.parametrize("command", ["serve", "sandbox"])
def test_the_help_of_serve_names_every_setting(command, tollkeeper):
    said = " ".join(tollkeeper(command, "--help").stdout.split())

    for row in described()[1:]:
        assert row.environment_name in said
        assert " ".join(row.description.split()) in said


def test_every_flag_of_serve_is_called_what_the_settings_call_it():
    flags = {option.name.replace("__", "."): option.opts[0] for option in serve.params if option.name != "role"}

    assert {name: flags[name] for name in FLAGS} == dict(FLAGS)


def test_a_group_without_a_command_shows_its_help(tollkeeper):
    result = tollkeeper("tenant")

    assert result.exit_code == 2
    assert "suspend" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# What is not understood, and what goes wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'"),
        (["tenant", "create"], "Missing argument 'ID'"),
        (["serve", "--role", "king"], "'king' is not one of"),
        (["usage", "--from", "yesterday"], "'yesterday' is neither a date like 2026-11-20 nor a timestamp"),
        (["usage", "--from", "2026-11-02", "--to", "2026-11-02"], "--from must lie before --to"),
        (["usage", "--events", "--group-by", "day"], "leave one of them out"),
        (["usage", "--limit", "5"], "--limit and --cursor belong to --events"),
        (["spool", "replay"], "Name the spools to replay, or give --all"),
        (["spool", "replay", "w0-1", "--all"], "Name the spools to replay, or give --all"),
        (["spool", "inspect", "w0-1", "--quarantine"], "--quarantine is about the ledger"),
    ],
)
def test_what_is_not_understood_is_explained_with_exit_code_2(arguments, said, tollkeeper):
    in_words = tollkeeper(*arguments)
    in_json = tollkeeper(*arguments, "--json")

    assert in_words.exit_code == in_json.exit_code == 2
    assert said in in_words.stderr
    assert said in json.loads(in_json.stderr)["detail"]
    assert in_words.stdout == in_json.stdout == ""


@pytest.mark.parametrize("command", [["serve"], ["sandbox"], ["tenant", "list"], ["db", "upgrade"], ["config", "show"]])
def test_wrong_settings_are_all_reported_before_anything_is_done(command, tollkeeper, tmp_path):
    wrong = {"TOLLKEEPER_PROXY__PORT": "http", "TOLLKEEPER_WORKERS": "4"}

    in_words = tollkeeper(*command, environment=wrong)
    in_json = tollkeeper(*command, "--json", environment=wrong)

    assert in_words.exit_code == in_json.exit_code == 1
    assert in_words.stderr.splitlines() == [
        "tollkeeper: 2 settings are wrong:",
        "  TOLLKEEPER_PROXY__PORT is not a whole number: 'http'; give a port from 0 to 65535, where 0 lets the system choose.",
        (
            "  TOLLKEEPER_WORKERS is 4, but the ledger is SQLite, which has one process; "
            "give 1, or give a Postgres database in TOLLKEEPER_DATABASE_URL."
        ),
    ]
    assert json.loads(in_json.stderr)["problems"][1] == {
        "name": "TOLLKEEPER_WORKERS",
        "wrong": "is 4, but the ledger is SQLite, which has one process",
        "cure": "give 1, or give a Postgres database in TOLLKEEPER_DATABASE_URL",
    }
    assert in_words.stdout == in_json.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_flag_of_serve_is_reported_with_the_wrong_environment(tollkeeper):
    result = tollkeeper("serve", "--port", "99999", environment={"TOLLKEEPER_LOG_LEVEL": "loud"})

    assert result.exit_code == 1
    assert "  --port is 99999" in result.stderr
    assert "  TOLLKEEPER_LOG_LEVEL has no such value: 'loud'" in result.stderr


@pytest.mark.parametrize("role", ["proxy", "backoffice"])
def test_a_role_alone_is_refused_beside_sqlite_in_a_sentence(role, tollkeeper):
    result = tollkeeper("serve", "--role", role)

    assert result.exit_code == 1
    assert result.stderr == (
        f"tollkeeper: --role {role} needs a ledger that several processes can share, and SQLite has one process: "
        "leave --role out, or give a Postgres database in TOLLKEEPER_DATABASE_URL.\n"
    )


def test_what_the_system_refuses_is_a_sentence(tollkeeper, server, tmp_path):
    (tmp_path / "data" / "secret.key").unlink()
    (tmp_path / "data" / "secret.key").mkdir()

    result = tollkeeper("tenant", "list")

    assert result.exit_code == 1
    assert result.stderr == (
        f"tollkeeper: The system refused (Is a directory: {tmp_path}/data/secret.key). Correct that and try again.\n"
    )


def test_a_fault_of_our_own_is_a_sentence_without_what_it_was_about(tollkeeper, server):
    server.answers["GET", "/v1/tenants"] = (200, {"unexpected": "hunter2"})

    result = tollkeeper("tenant", "list")
    with_traceback = tollkeeper("--traceback", "tenant", "list")

    assert result.exit_code == with_traceback.exit_code == 1
    assert result.stderr.startswith("tollkeeper: A fault in Tollkeeper: KeyError at control_client.py:")
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert "Traceback" in with_traceback.stderr


def test_a_refusal_of_the_api_is_given_in_its_own_words(tollkeeper, server):
    problem = {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "There is a tenant acme already."}
    server.answers["POST", "/v1/tenants"] = (409, problem)

    in_words = tollkeeper("tenant", "create", "acme")
    in_json = tollkeeper("tenant", "create", "acme", "--json")

    assert in_words.exit_code == in_json.exit_code == 1
    assert in_words.stderr == "tollkeeper: There is a tenant acme already.\n"
    assert json.loads(in_json.stderr) == {
        "title": "Conflict",
        "detail": "There is a tenant acme already.",
        "status": 409,
    }
    assert in_words.stdout == in_json.stdout == ""


def test_a_port_where_something_else_listens_is_said_to_be(tollkeeper):
    def greet():
        with other.accept()[0] as connection:
            connection.sendall(b"220 mail.example.com ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as other:
        greeting = threading.Thread(target=greet)
        greeting.start()

        result = tollkeeper("tenant", "list", environment={"TOLLKEEPER_CONTROL__PORT": str(other.getsockname()[1])})
        greeting.join(30)

    assert result.exit_code == 1
    assert "is not Tollkeeper; set TOLLKEEPER_CONTROL__HOST and TOLLKEEPER_CONTROL__PORT" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_config_check_says_where_right_settings_came_from(tollkeeper):
    Path("tollkeeper.toml").write_text("proxy.port = 9000\n")

    in_words = tollkeeper("config", "check", environment={"TOLLKEEPER_LOG_LEVEL": "debug"})
    in_json = tollkeeper("config", "check", "--json")

    defaults = len(described(further=())) - 3
    assert shown(in_words) == [
        f"The settings are in order (1 from tollkeeper.toml, 1 from the environment, {defaults} from defaults)."
    ]
    assert json.loads(in_json.stdout) == {"ok": True, "config_file": "tollkeeper.toml", "problems": []}


def test_config_show_shows_each_setting_its_value_and_its_origin_and_no_secret(tollkeeper):
    Path("my.toml").write_text('shared_reads = true\nsecret_key = "hunter2-secret-key-of-enough-characters"\n')
    environment = {"TOLLKEEPER_ADMIN_KEY": "hunter2-admin-key-of-enough-characters", "TOLLKEEPER_PROXY__PORT": "9000"}

    in_words = tollkeeper("--config", "my.toml", "config", "show", environment=environment)
    in_json = tollkeeper("config", "show", "--config", "my.toml", "--json", environment=environment)

    assert "TOLLKEEPER_SHARED_READS true file my.toml" in shown(in_words)
    assert "TOLLKEEPER_SECRET_KEY *** file my.toml" in shown(in_words)
    assert "TOLLKEEPER_ADMIN_KEY *** environment" in shown(in_words)
    assert "TOLLKEEPER_PROXY__PORT 9000 environment" in shown(in_words)
    assert "TOLLKEEPER_CONTROL__PORT 8081 default" in shown(in_words)
    assert "TOLLKEEPER_DATABASE_URL (ledger.db in the data directory) default" in shown(in_words)
    document = json.loads(in_json.stdout)
    assert document["config_file"] == "my.toml"
    assert {
        "name": "proxy.port",
        "environment_name": "TOLLKEEPER_PROXY__PORT",
        "value": 9000,
        "origin": "environment",
    } in document["settings"]
    assert [row["environment_name"] for row in document["settings"]] == [
        row.environment_name for row in described(further=())[1:]
    ]
    assert "hunter2" not in in_words.output + in_json.output


GROQ = {
    "TOLLKEEPER_PROVIDERS__GROQ__KIND": "openai",
    "TOLLKEEPER_PROVIDERS__GROQ__BASE_URL": "https://groq.test",
    "TOLLKEEPER_PROVIDERS__GROQ__API_KEY": "hunter2",
}


def test_config_show_shows_a_further_provider(tollkeeper):
    result = tollkeeper("config", "show", environment=GROQ)

    assert "TOLLKEEPER_PROVIDERS__GROQ__KIND openai environment" in shown(result)
    assert "TOLLKEEPER_PROVIDERS__GROQ__API_KEY *** environment" in shown(result)
    assert "TOLLKEEPER_PROVIDERS__GROQ__PRICES (none) default" in shown(result)
    assert "hunter2" not in result.output


def test_config_check_looks_at_the_prices_of_further_providers(tollkeeper):
    right = tollkeeper("config", "check", environment=GROQ | {"TOLLKEEPER_PROVIDERS__GROQ__LIST_PRICES": "groq"})
    wrong = tollkeeper("config", "check", environment=GROQ | {"TOLLKEEPER_PROVIDERS__GROQ__LIST_PRICES": "grok"})

    assert right.exit_code == 0
    assert wrong.exit_code == 1
    assert "TOLLKEEPER_PROVIDERS__GROQ__LIST_PRICES: no such provider in genai-prices: 'grok'" in wrong.stderr


def test_a_settings_file_that_is_not_there_is_refused_wherever_it_is_named(tollkeeper):
    for arguments in (["--config", "gone.toml", "config", "check"], ["config", "check", "--config", "gone.toml"]):
        result = tollkeeper(*arguments)

        assert result.exit_code == 1
        assert "--config names a file that is not there: gone.toml" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Tenants


def test_a_tenant_is_created_and_the_next_step_named(tollkeeper, server):
    server.answers["POST", "/v1/tenants"] = (201, TENANT)

    in_words = tollkeeper("tenant", "create", "acme", "--name", "Acme", "--plan", "pro")
    in_json = tollkeeper("tenant", "create", "acme", "--json")

    assert server.asked == [
        ("POST", "/v1/tenants", {"tenant_id": "acme", "name": "Acme", "plan": "pro"}),
        ("POST", "/v1/tenants", {"tenant_id": "acme"}),
    ]
    assert "tenant_id acme" in shown(in_words)
    assert "plan -" in shown(in_words)
    assert in_words.stderr.strip() == "Give it a key: tollkeeper key create acme"
    assert json.loads(in_json.stdout) == TENANT
    assert in_json.stderr == ""


def test_what_tags_a_tenant_s_calls_is_set(tollkeeper, server):
    server.answers["POST", "/v1/tenants"] = (201, TENANT)
    server.answers["PATCH", "/v1/tenants/acme"] = (200, {**TENANT, "request_tags": "plain"})

    tollkeeper("tenant", "create", "acme", "--request-tags", "hashed")
    changed = tollkeeper("tenant", "set", "acme", "--request-tags", "plain")
    refused = tollkeeper("tenant", "set", "acme", "--request-tags", "on")

    assert server.asked == [
        ("POST", "/v1/tenants", {"tenant_id": "acme", "request_tags": "hashed"}),
        ("PATCH", "/v1/tenants/acme", {"request_tags": "plain"}),
    ]
    assert "request_tags plain" in shown(changed)
    assert refused.exit_code == 2
    assert "'on' is not one of 'off', 'hashed', 'plain'" in refused.stderr


def test_tenants_are_listed(tollkeeper, server):
    server.answers["GET", "/v1/tenants"] = (200, {"data": [TENANT], "next_cursor": None})

    in_words = tollkeeper("tenant", "list")
    in_json = tollkeeper("tenant", "list", "--json")

    assert shown(in_words)[0] == "tenant name status plan created"
    assert shown(in_words)[2] == "acme Acme active - 2026-11-20T12:00:00Z"
    assert json.loads(in_json.stdout) == {"data": [TENANT], "next_cursor": None}


def test_where_there_is_no_tenant_the_first_step_is_named(tollkeeper, server):
    server.answers["GET", "/v1/tenants"] = (200, {"data": [], "next_cursor": None})

    result = tollkeeper("tenant", "list")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "There are no tenants yet. Create the first: tollkeeper tenant create ID\n"


def test_a_tenant_is_shown_suspended_and_activated(tollkeeper, server):
    server.answers["GET", "/v1/tenants/acme"] = (200, TENANT)
    server.answers["PATCH", "/v1/tenants/acme"] = (200, {**TENANT, "status": "suspended"})

    assert "status active" in shown(tollkeeper("tenant", "show", "acme"))
    assert shown(tollkeeper("tenant", "suspend", "acme")) == [
        "Tenant acme is suspended: within 5 seconds its calls are refused."
    ]
    assert shown(tollkeeper("tenant", "activate", "acme")) == ["Tenant acme is active."]
    assert json.loads(tollkeeper("tenant", "suspend", "acme", "--json").stdout)["status"] == "suspended"
    assert [body for _, _, body in server.asked] == [
        None,
        {"status": "suspended"},
        {"status": "active"},
        {"status": "suspended"},
    ]


def test_an_id_with_a_slash_stays_an_id(tollkeeper, server):
    server.answers["GET", "/v1/tenants/../keys"] = (404, {"title": "Not found", "detail": "There is no such tenant."})

    result = tollkeeper("tenant", "show", "../keys")

    assert server.asked == [("GET", "/v1/tenants/..%2Fkeys", None)]
    assert result.stderr == "tollkeeper: There is no such tenant.\n"


def test_a_name_cannot_steer_the_terminal(tollkeeper, server):
    tenant = {**TENANT, "name": "\x1b[2J[bold]Acme[/bold]\n\u202eevil"}
    server.answers["GET", "/v1/tenants"] = (200, {"data": [tenant], "next_cursor": None})
    server.answers["GET", "/v1/tenants/acme"] = (404, {"detail": "No tenant \x1b]0;evil\x07."})

    result = tollkeeper("tenant", "list")
    refused = tollkeeper("tenant", "show", "acme")

    assert "acme �[2J[bold]Acme[/bold]��evil active - 2026-11-20T12:00:00Z" in shown(result)
    assert refused.stderr == "tollkeeper: No tenant �]0;evil�.\n"


# ---------------------------------------------------------------------------------------------------------------------
# Keys and credentials


def a_key(**others):
    return {
        "key_id": "k1",
        "tenant_id": "acme",
        "name": "web",
        "scopes": ["proxy", "usage:read"],
        "expires_at": None,
        "category": "rag",
        "tags": {},
        "created_at": "2026-11-20T12:00:00Z",
        **others,
    }


def test_a_new_key_alone_is_on_stdout_so_that_a_shell_can_take_it(tollkeeper, server):
    server.answers["POST", "/v1/tenants/acme/keys"] = (201, a_key(key=NEW_KEY))

    result = tollkeeper(
        *["key", "create", "acme", "--name", "web", "--scope", "proxy", "--scope", "usage:read"],
        *["--expires", "2027-01-01", "--category", "rag"],
    )

    assert result.stdout == f"{NEW_KEY}\n"
    assert result.stderr.strip() == "Key k1 (proxy, usage:read). Keep it now: it is not shown again."
    assert server.asked[0][2] == {
        "name": "web",
        "scopes": ["proxy", "usage:read"],
        "expires_at": "2027-01-01T00:00:00Z",
        "category": "rag",
    }


def test_a_key_needs_nothing_but_its_tenant(tollkeeper, server):
    server.answers["POST", "/v1/tenants/acme/keys"] = (201, a_key(key=NEW_KEY))

    result = tollkeeper("key", "create", "acme", "--json")

    assert json.loads(result.stdout) == a_key(key=NEW_KEY)
    assert server.asked[0][2] == {"name": "default"}


def test_a_service_key_is_created_listed_and_revoked(tollkeeper, server):
    service_key = a_key(tenant_id=None)
    server.answers["POST", "/v1/service-keys"] = (201, {**service_key, "key": NEW_KEY})
    server.answers["GET", "/v1/service-keys"] = (200, {"data": [service_key], "next_cursor": None})
    server.answers["DELETE", "/v1/service-keys/k1"] = (204, None)

    assert tollkeeper("key", "create-service", "--name", "crm", "--scope", "proxy").stdout == f"{NEW_KEY}\n"
    assert shown(tollkeeper("key", "list-service"))[2].startswith("k1 web proxy, usage:read")
    assert tollkeeper("key", "revoke-service", "k1").exit_code == 0
    assert [asked[2] for asked in server.asked] == [{"name": "crm", "scopes": ["proxy"]}, None, None]


def test_keys_are_listed_without_the_keys_themselves(tollkeeper, server):
    server.answers["GET", "/v1/tenants/acme/keys"] = (200, {"data": [a_key()], "next_cursor": None})

    in_words = tollkeeper("key", "list", "acme")

    assert shown(in_words)[0] == "key id name scopes category expires created"
    assert shown(in_words)[2] == "k1 web proxy, usage:read rag - 2026-11-20T12:00:00Z"
    assert json.loads(tollkeeper("key", "list", "acme", "--json").stdout)["data"] == [a_key()]


def test_a_tenant_without_keys_is_told_how_to_get_one(tollkeeper, server):
    server.answers["GET", "/v1/tenants/acme/keys"] = (200, {"data": [], "next_cursor": None})

    assert tollkeeper("key", "list", "acme").stderr == (
        "This tenant has no key yet. Create one: tollkeeper key create acme\n"
    )


def test_a_key_is_revoked(tollkeeper, server):
    server.answers["DELETE", "/v1/tenants/acme/keys/k1"] = (204, None)

    in_words = tollkeeper("key", "revoke", "acme", "k1")
    in_json = tollkeeper("key", "revoke", "acme", "k1", "--json")

    assert shown(in_words) == ["Key k1 is revoked: within 5 seconds calls with it are refused."]
    assert (in_json.exit_code, in_json.output) == (0, "")


def test_a_credential_comes_out_of_a_file_or_from_stdin(tollkeeper, server):
    stored = {"provider": PROVIDER.name, "fields": [FIELD], "created_at": "2026-11-20T12:00:00Z"}
    server.answers["POST", "/v1/tenants/acme/credentials"] = (201, stored)
    Path("key.txt").write_text("hunter2\n")

    from_file = tollkeeper("credential", "set", "acme", PROVIDER.name, "--field", f"{FIELD}=@key.txt")
    from_stdin = tollkeeper(
        "credential", "set", "acme", PROVIDER.name, "--field", f"{FIELD}=@-", "--json", stdin="hunter3\n"
    )

    assert [asked[2] for asked in server.asked] == [
        {"provider": PROVIDER.name, FIELD: "hunter2"},
        {"provider": PROVIDER.name, FIELD: "hunter3"},
    ]
    assert shown(from_file) == [f"Calls of acme to {PROVIDER.name} go out with its own credential from now on."]
    assert json.loads(from_stdin.stdout) == stored
    assert "hunter" not in from_file.output + from_stdin.output


def test_a_field_that_a_credential_may_have_is_stored_where_it_is_given_and_not_asked_for(tollkeeper, server):
    server.answers["POST", "/v1/tenants/acme/credentials"] = (201, {"provider": "openai", "fields": []})
    Path("key.txt").write_text("hunter2")
    Path("admin.txt").write_text("hunter3")
    fields = ("--field", "api_key=@key.txt")

    tollkeeper("credential", "set", "acme", "openai", *fields)
    tollkeeper("credential", "set", "acme", "openai", *fields, "--field", "admin_key=@admin.txt")

    key = {"provider": "openai", "api_key": "hunter2"}
    assert [asked[2] for asked in server.asked] == [key, key | {"admin_key": "hunter3"}]
    assert "admin_key if given" in tollkeeper("credential", "set", "--help").output


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        ([PROVIDER.name, "--field", f"{FIELD}=hunter2"], 2, f"give --field {FIELD}=@FILE"),
        ([PROVIDER.name, "--field", "hunter2"], 2, f"NAME one of: {FIELD}"),
        ([PROVIDER.name], 2, f"{FIELD} is missing: give --field {FIELD}=@FILE"),
        ([PROVIDER.name, "--field", f"{FIELD}=@gone.txt"], 1, "names a file that cannot be read"),
        ([PROVIDER.name, "--field", f"{FIELD}=@two-lines.txt"], 1, "holds a line break"),
        (["nobody"], 1, f"There is no provider nobody; those there are: {PROVIDER.name}"),
    ],
)
def test_a_credential_on_the_command_line_or_wrong_is_refused_and_not_repeated(
    arguments, exit_code, said, tollkeeper, server
):
    Path("two-lines.txt").write_text("hunter2\nhunter2\n")

    result = tollkeeper("credential", "set", "acme", *arguments)

    assert result.exit_code == exit_code
    assert said in result.stderr
    assert "hunter2" not in result.output
    assert server.asked == []


def test_credentials_are_listed_and_removed(tollkeeper, server):
    credential = {"provider": PROVIDER.name, "fields": [FIELD], "created_at": "2026-11-20T12:00:00Z"}
    server.answers["GET", "/v1/tenants/acme/credentials"] = (200, {"data": [credential], "next_cursor": None})
    server.answers["DELETE", f"/v1/tenants/acme/credentials/{PROVIDER.name}"] = (204, None)

    assert shown(tollkeeper("credential", "list", "acme"))[2] == f"{PROVIDER.name} {FIELD} 2026-11-20T12:00:00Z"
    assert tollkeeper("credential", "remove", "acme", PROVIDER.name).exit_code == 0
    server.answers["GET", "/v1/tenants/acme/credentials"] = (200, {"data": [], "next_cursor": None})
    assert "with the platform's" in tollkeeper("credential", "list", "acme").stderr


# ---------------------------------------------------------------------------------------------------------------------
# Numbers

CONNECT = "/v1/tenants/acme/twilio/connect"


def numbers_answer(*numbers, **more):
    counts = dict.fromkeys(("changed", "unchanged", "failed", "missing", "left"), 0)
    for one in numbers:
        counts[one["outcome"]] += 1
    return 200, {"undo": False, "dry_run": False, "numbers": numbers, "counts": counts, "adopted": {}, **more}


def number(phone_number, outcome="changed", **more):
    was = {"sms_url": "https://app.example.com/sms", "sms_method": "GET", "voice_url": None}
    now = {"sms_url": "https://gateway.example.com/sms", "sms_method": "POST", "voice_url": None}
    return {
        "phone_number": phone_number,
        "outcome": outcome,
        "was": was,
        "is": now,
        "code": None,
        "problem": None,
    } | more


def test_connected_numbers_are_shown_as_they_were_and_are(tollkeeper, server):
    server.answers["POST", CONNECT] = numbers_answer(
        number("+15005550700"), adopted={"sms_url": "https://app.example.com/sms"}, signing_secret="whsec_once"
    )

    result = tollkeeper("twilio", "connect", "acme")

    lines = shown(result)
    assert "+15005550700 messages GET https://app.example.com/sms https://gateway.example.com/sms changed" in lines
    assert "+15005550700 calls - - changed" in lines
    assert lines[-1] == "whsec_once"
    assert "sms_url is now https://app.example.com/sms" in result.stderr
    assert server.asked == [("POST", CONNECT, {"undo": False, "dry_run": False})]


def test_a_number_that_was_not_changed_is_named_with_its_code_and_fails_the_command(tollkeeper, server):
    problem = "the provider refused the change (21502)"
    server.answers["POST", CONNECT] = numbers_answer(
        number("+15005550700"), number("+15005550701", "failed", code="21502", problem=problem)
    )

    in_words, in_json = tollkeeper("twilio", "connect", "acme"), tollkeeper("twilio", "connect", "acme", "--json")

    assert in_words.exit_code == in_json.exit_code == 1
    assert f"1 of 2 numbers could not be changed: +15005550701 ({problem})" in in_words.stderr
    assert "+15005550700" in in_words.stdout
    assert json.loads(in_json.stdout)["counts"]["failed"] == 1


def test_what_there_was_no_time_for_is_asked_for_again_until_nothing_more_is_done(tollkeeper, server):
    """Guards a tenant of thousands of numbers, and a provider that takes no changes: both come to an end."""
    server.answers["POST", CONNECT] = numbers_answer(number("+15005550700", "left"))

    result = tollkeeper("twilio", "connect", "acme")

    assert result.exit_code == 1
    assert "there was no time" in result.stderr
    assert len(server.asked) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Usage


def money(amount):
    return {"amount": amount, "currency": "USD", "credits": None}


SUMMARY = {
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-12-01T00:00:00Z",
    "groups": [
        {
            "tenant_id": "acme",
            "event_type": "llm_call",
            "resource": "gpt-4o",
            "events": 1234,
            "units": 163000,
            "quantities": {},
            "charge": money("0.000837"),
            "cost": money("0.0006975"),
        },
        {
            "tenant_id": "acme",
            "event_type": "embedding",
            "resource": None,
            "events": 1,
            "units": None,
            "quantities": {},
            "charge": money("12"),
            "cost": None,
        },
    ],
    "total": {
        "events": 1235,
        "units": 163000,
        "quantities": {},
        "charge": money("12.000837"),
        "cost": money("0.0006975"),
    },
}


def test_usage_is_a_table_with_exact_amounts_and_a_total(tollkeeper, server):
    server.answers["GET", "/v1/usage/summary"] = (200, SUMMARY)

    lines = shown(tollkeeper("usage", "--from", "2026-11-01", "--to", "2026-12-01T00:00:00+00:00"))

    assert server.asked[0][1] == (
        "/v1/usage/summary?from=2026-11-01T00%3A00%3A00Z&to=2026-12-01T00%3A00%3A00Z"
        "&group_by=tenant_id%2Cevent_type%2Cresource"
    )
    assert lines[:2] == [
        "Use from 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z (UTC)",
        "tenant_id event_type resource events units charge cost",
    ]
    assert lines[3:5] == [
        "acme llm_call gpt-4o 1,234 163,000 0.000837 USD 0.0006975 USD",
        "acme embedding - 1 - 12.000000 USD -",
    ]
    assert lines[-1] == "total 1,235 163,000 12.000837 USD 0.0006975 USD"


def test_what_the_sums_do_not_hold_is_said_beside_them(tollkeeper, server):
    total = {**SUMMARY["total"], "unknown_events": 2, "unpriced_events": 1}
    server.answers["GET", "/v1/usage/summary"] = (200, {**SUMMARY, "total": total})

    said = tollkeeper("usage").stderr.splitlines()

    assert "Of 2 of these events it is not known yet how much they used." in said
    assert "Of 1 of these events the price is not known: they are not in the charge." in said


def test_usage_in_json_is_what_the_api_said(tollkeeper, server):
    server.answers["GET", "/v1/usage/summary"] = (200, SUMMARY)

    result = tollkeeper("usage", "--tenant", "acme", "--group-by", "day, category", "--json")

    assert json.loads(result.stdout) == SUMMARY
    assert server.asked[0][1] == "/v1/usage/summary?tenant_id=acme&group_by=day%2Ccategory"


def test_no_usage_is_no_error(tollkeeper, server):
    server.answers["GET", "/v1/usage/summary"] = (200, {**SUMMARY, "groups": []})

    result = tollkeeper("usage")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("Nothing was used from 2026-11-01")


def test_events_are_listed_and_the_way_to_the_next_ones_named(tollkeeper, server):
    event = {
        "occurred_at": "2026-11-20T12:00:00.000Z",
        "tenant_id": "acme",
        "event_type": "llm_call",
        "resource": "gpt-4o",
        "units": 163,
        "completeness": "reported",
        "priced": True,
        "charge": money("0.000837"),
    }
    unpriced = {
        **event,
        "resource": "new-model",
        "priced": False,
        "charge": {"amount": None, "currency": "USD", "credits": None},
        "units": None,
        "completeness": "unknown",
    }
    server.answers["GET", "/v1/usage/events"] = (200, {"data": [event, unpriced], "next_cursor": "c2"})

    result = tollkeeper("usage", "--events", "--tenant", "acme", "--limit", "2", "--cursor", "c1")

    assert shown(result)[2:] == [
        "2026-11-20T12:00:00.000Z acme llm_call gpt-4o 163 reported 0.000837 USD",
        "2026-11-20T12:00:00.000Z acme llm_call new-model - unknown unpriced",
    ]
    assert result.stderr.strip() == "There are more: go on with --cursor c2, or raise --limit."
    assert server.asked[0][1] == "/v1/usage/events?tenant_id=acme&limit=2&cursor=c1"


def test_amounts_of_a_column_keep_every_digit_and_have_as_many_decimals_each():
    nothing = {"amount": None, "currency": None, "credits": None}

    amounts = tty.amounts(
        [money("0.000000001"), money("-3"), None, nothing, {**nothing, "credits": 7}, money("1234.5")]
    )

    assert amounts == ["0.000000001 USD", "-3.000000000 USD", "-", "-", "7 credits", "1,234.500000000 USD"]


# ---------------------------------------------------------------------------------------------------------------------
# The spool


def ago(**length):
    return (dt.datetime.now(dt.UTC) - dt.timedelta(**length)).isoformat()


def spool_shown(**changes):
    return {
        "spool_id": "w0-1",
        "worker": "alive",
        "finished": False,
        "readable": True,
        "segments": 2,
        "size_bytes": 64 << 20,
        "unbooked_bytes": 1536,
        "booked_sequence": 1234,
        "booked_at": ago(seconds=1),
        "written_at": ago(seconds=90),
        "kept_until": None,
        **changes,
    }


def spools_shown(*spools, **changes):
    return {
        "data": list(spools),
        "next_cursor": None,
        "unbooked_bytes": sum(one["unbooked_bytes"] for one in spools),
        "unbooked_age_s": 0.1,
        "room_bytes": 5 << 30,
        "room_bytes_min": 256 << 20,
        "failing": None,
        "quarantine": [],
        **changes,
    }


WELL = spools_shown(
    spool_shown(), spool_shown(spool_id="w0-0", worker="gone", finished=True, unbooked_bytes=0, kept_until="tomorrow")
)


def test_spools_are_shown_with_how_far_the_ledger_has_them(tollkeeper, server):
    server.answers["GET", "/v1/spools"] = (200, WELL)

    in_words = tollkeeper("spool", "status")
    in_json = tollkeeper("spool", "status", "--json", "--check")

    # Since they were written, other tests have run.
    lines = [re.sub(r"\d+ min ago", "2 min ago", line) for line in shown(in_words)]
    assert [line for line in lines if "─" not in line] == [
        "spool worker segments on disk not booked booked up to last written finished kept until",
        "w0-1 alive 2 64.0 MiB 1.5 KiB 1,234 2 min ago no -",
        "w0-0 gone 2 64.0 MiB 0 B 1,234 2 min ago yes tomorrow",
        "total 4 128.0 MiB 1.5 KiB",
        "Room on the disk: 5.0 GiB",
    ]
    assert (in_words.stderr, in_json.exit_code) == ("", 0)
    assert json.loads(in_json.stdout) == {**WELL, "wrong": []}


def test_where_there_is_no_spool_it_is_said_who_makes_one(tollkeeper, server):
    server.answers["GET", "/v1/spools"] = (200, spools_shown())

    result = tollkeeper("spool", "status", "--check")

    assert (result.exit_code, result.stdout.split()) == (0, ["Room", "on", "the", "disk:", "5.0", "GiB"])
    assert result.stderr == "There is no spool: each start of `tollkeeper serve` makes one.\n"


def aside(last_at):
    return {"quarantine": [{"reason": "a record that is no event", "records": 3, "last_at": last_at}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"failing": "the disk is full"}, "The ledger can not be written (the disk is full)."),
        ({"unbooked_bytes": 3 << 20, "unbooked_age_s": 75.2}, "The ledger is behind by 3.0 MiB, 1 min:"),
        ({"data": [spool_shown(readable=False)]}, "The disk refuses to give what is in w0-1;"),
        ({"room_bytes": 255 << 20}, "The disk has room for less than 256.0 MiB:"),
        (aside(ago(hours=23)), "3 records set aside: look at them with `tollkeeper spool inspect --quarantine`."),
    ],
)
def test_what_is_wrong_is_said_at_the_end_and_is_the_exit_code_of_a_check(changes, said, tollkeeper, server):
    """Guards each of the alarms."""
    server.answers["GET", "/v1/spools"] = (200, {**WELL, **changes})

    seen, checked = tollkeeper("spool", "status"), tollkeeper("spool", "status", "--check")
    in_json = tollkeeper("spool", "status", "--check", "--json")

    assert (seen.exit_code, checked.exit_code, in_json.exit_code) == (0, 1, 1)
    assert said in seen.stderr
    (wrong,) = json.loads(in_json.stdout)["wrong"]
    assert said in wrong


def test_what_was_set_aside_long_ago_is_shown_and_is_no_alarm(tollkeeper, server):
    server.answers["GET", "/v1/spools"] = (200, {**WELL, **aside("2026-01-01T12:00:00.000Z")})

    result = tollkeeper("spool", "status", "--check")

    assert "a record that is no event 3 2026-01-01T12:00:00.000Z" in shown(result)


def step(spool_id="w0-1", **changes):
    counts = dict.fromkeys(("new", "known", "conflicting", "not_bookable", "unknown", "unreadable"), 0)
    return {"spool_id": spool_id, "done": False, "size_bytes": 100, "read_bytes": 50, **counts, **changes}


def test_spools_are_replayed_one_after_the_other_and_the_counts_shown(tollkeeper, server):
    server.answers["GET", "/v1/spools"] = (200, WELL)
    first, second = step(new=2, known=1, unknown=1, done=True), step("w0-0", known=4, unreadable=1, done=True)
    server.answers["POST", "/v1/spools/w0-1/replay"] = (200, [step(new=1), first])
    server.answers["POST", "/v1/spools/w0-0/replay"] = (200, [second])

    in_words = tollkeeper("spool", "replay", "--all")
    named = tollkeeper("spool", "replay", "w0-0", "--json")

    assert [line for line in shown(in_words) if "─" not in line] == [
        "spool new known unknown conflicting not bookable unreadable",
        "w0-1 2 1 1 0 0 0",
        "w0-0 0 4 0 0 0 1",
        "total 2 5 1 0 0 1",
    ]
    assert "1 call that workers left open" in in_words.stderr
    assert "was set aside: look at them with `tollkeeper spool inspect --quarantine`" in in_words.stderr
    assert [(method, path) for method, path, _ in server.asked] == [
        ("GET", "/v1/spools"),
        ("POST", "/v1/spools/w0-1/replay"),
        ("POST", "/v1/spools/w0-0/replay"),
        ("GET", "/v1/spools"),
        ("POST", "/v1/spools/w0-0/replay"),
    ]
    assert json.loads(named.stdout)["data"] == [second]
    assert json.loads(named.stdout)["total"]["known"] == 4


def test_a_replay_that_broke_off_is_not_taken_for_done(tollkeeper, server):
    """Guards the last line of a replay's answer: a server that stopped in the middle has not booked it all."""
    server.answers["GET", "/v1/spools"] = (200, WELL)
    server.answers["POST", "/v1/spools/w0-1/replay"] = (200, [step(new=1)])

    result = tollkeeper("spool", "replay", "--all")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "tollkeeper: The replay of w0-1 broke off; the server's log says why. "
        "Begin it again: what it has booked stays, and is not booked twice.\n"
    )


def test_a_spool_that_is_not_there_is_refused_before_any_is_replayed(tollkeeper, server):
    server.answers["GET", "/v1/spools"] = (200, WELL)

    replayed, inspected = tollkeeper("spool", "replay", "w0-1", "w9-1"), tollkeeper("spool", "inspect", "w9-1")

    assert replayed.exit_code == inspected.exit_code == 1
    assert replayed.stderr == "tollkeeper: There is no spool w9-1 here; there are: w0-1, w0-0.\n"
    assert inspected.stderr == "tollkeeper: There is no spool w9-1 here; there are: none.\n"
    assert [method for method, *_ in server.asked] == ["GET"]


def recorded(tmp_path, name):
    spool = Spool(tmp_path / "data" / "spool", name, fsync=False, segment_bytes=1 << 20)
    spool.open()
    spool.settle(spool.admit(payload(intent())), RecordKind.OUTCOME, payload(usage_event()))
    return spool


def test_records_are_listed_as_they_lie_of_a_living_worker_and_nobody_is_asked(tollkeeper, server, tmp_path):
    """Guards that looking needs no server, no ledger and no lock."""
    living = recorded(tmp_path, "w0-2")
    recorded(tmp_path, "w0-1").close()

    in_words = tollkeeper("spool", "inspect", "w0-2")
    every = json.loads(tollkeeper("spool", "inspect", "--json", "--limit", "4").stdout)
    damaged = tollkeeper("spool", "inspect", "--damaged")
    elsewhere = tollkeeper("spool", "inspect", "w0-2", "--segment", "7")
    living.close()

    head, _, begun, first, outcome = shown(in_words)
    assert head == "spool segment bytes sequence kind ends call tenant source type completeness note"
    assert begun == "w0-2 0 0-28 0 begun - - - - - - -"
    assert first.endswith(f" 1 intent - {CALL_ID} acme openai llm_call - -")
    assert outcome.endswith(f" 2 outcome 1 {CALL_ID} acme openai llm_call reported -")
    assert [(one["spool_id"], one["kind"]) for one in every["data"]] == [
        ("w0-1", "begun"),
        ("w0-1", "intent"),
        ("w0-1", "outcome"),
        ("w0-2", "begun"),
    ]
    assert every["more"]
    assert (damaged.exit_code, damaged.stdout, damaged.stderr) == (0, "", "Nothing is damaged.\n")
    assert elsewhere.stderr.startswith("There is nothing")
    assert server.asked == []


def shown_on(screen):
    """All that was written to a terminal that nobody has open any more; closes it.

    Its other end reads it in pieces, and is refused once there is no more.
    """
    seen = b""
    with suppress(OSError):
        while data := os.read(screen, 1 << 16):
            seen += data
    os.close(screen)
    return seen


def test_long_work_shows_how_far_it_is_on_a_terminal_and_to_no_program(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # Whatever the tests were started on.
    screen, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with tty.progress("w0-quiet", quiet=True) as advance:
            advance(1, 2)
        with tty.progress("w0-shown", quiet=False) as advance:
            advance(1, 2)
    seen = shown_on(screen)

    assert b"w0-shown" in seen
    assert b"w0-quiet" not in seen


def test_damage_is_listed_with_where_it_lies(tollkeeper, server, tmp_path):
    recorded(tmp_path, "w0-1").close()
    path = tmp_path / "data" / "spool" / "w0-1-00000000.spool"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)

    result = tollkeeper("spool", "inspect", "--damaged")
    more = tollkeeper("spool", "inspect", "--limit", "1")

    (damage,) = shown(result)[2:]
    assert damage.startswith("w0-1 0 28-")
    assert " damaged " in damage
    assert "There are more: name a SPOOL and a --segment, or raise --limit." in more.stderr


def test_what_was_set_aside_is_listed(tollkeeper, server):
    one = {"quarantine_id": "w0-1:7", "reason": "a record that is no event", "tenant_id": None, "set_aside_at": "then"}
    server.answers["GET", "/v1/quarantine"] = (200, {"data": [one], "next_cursor": "c"})

    in_words = tollkeeper("spool", "inspect", "--quarantine", "--limit", "1")
    server.answers["GET", "/v1/quarantine"] = (200, {"data": [], "next_cursor": None})
    nothing = tollkeeper("spool", "inspect", "--quarantine")

    assert shown(in_words)[2:] == ["then - a record that is no event w0-1:7"]
    assert "raise --limit" in in_words.stderr
    assert (nothing.exit_code, nothing.stderr) == (0, "Nothing was ever set aside.\n")
    assert server.asked[0][1] == "/v1/quarantine?limit=1"


# ---------------------------------------------------------------------------------------------------------------------
# Without a server


def test_without_a_server_commands_find_what_earlier_ones_left(tollkeeper, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {"TOLLKEEPER_DATA_DIR": str(tmp_path / "data"), "TOLLKEEPER_CONTROL__PORT": str(port)}

    created = tollkeeper("tenant", "create", "acme", environment=environment)
    key = tollkeeper("key", "create", "acme", environment=environment)
    tenants = tollkeeper("tenant", "list", "--json", environment=environment)
    usage = tollkeeper("usage", "--tenant", "acme", environment=environment)
    again = tollkeeper("tenant", "create", "acme", environment=environment)

    assert "tenant_id acme" in shown(created)
    assert key.stdout.startswith("tk_")
    assert [tenant["tenant_id"] for tenant in json.loads(tenants.stdout)["data"]] == ["acme"]
    assert usage.stderr.startswith("Nothing was used")
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr.startswith("tollkeeper: ")


def test_without_a_server_a_spool_is_replayed_and_what_the_log_says_is_no_part_of_the_answer(tollkeeper, tmp_path):
    """Guards the answer in JSON: what is said of damage while a command books goes to stderr."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {"TOLLKEEPER_DATA_DIR": str(tmp_path / "data"), "TOLLKEEPER_CONTROL__PORT": str(port)}
    spool = recorded(tmp_path, "w0-1")
    spool.note(b"{}")
    spool.close()

    replayed = tollkeeper("spool", "replay", "--all", "--json", environment=environment)
    status = tollkeeper("spool", "status", "--check", "--json", environment=environment)

    (done,) = json.loads(replayed.stdout)["data"]
    assert (done["new"], done["known"], done["unreadable"], done["done"]) == (0, 1, 1, True)
    assert "record_not_bookable" in replayed.stderr
    (one,) = json.loads(status.stdout)["data"]
    assert (one["spool_id"], one["finished"], one["unbooked_bytes"]) == ("w0-1", True, 0)
    assert (status.exit_code, json.loads(status.stdout)["quarantine"][0]["records"]) == (1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# The program itself


def program(*arguments, environment=None, **others):
    """Start `tollkeeper` as a process of its own."""
    root = Path(__file__).parents[2]
    given = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments],
        env={**given, "PYTHONPATH": str(root), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **others,
    )


def test_the_version_is_shown_as_a_line_and_as_json(tollkeeper):
    with program("version") as process:
        out, err = process.communicate(timeout=60)
    document = json.loads(tollkeeper("version", "--json").stdout)

    assert (out, err) == (f"tollkeeper {document['version']} (from source)\n", "")
    assert (document["product"], document["compiled"]) == ("tollkeeper", False)
    assert tollkeeper("--version").stdout == f"tollkeeper {document['version']}\n"


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["tenant", "create", "--help"]])
def test_version_and_help_do_not_wait_for_the_gateway_to_be_imported(arguments):
    heavy = ("aiohttp", "sqlalchemy", "pydantic", "rich", "msgspec", "cryptography", "asyncio", "gateway.providers")
    script = (
        "import sys\nfrom gateway.cli import cli\n"
        f"try: cli.main({arguments!r})\n"
        f"except SystemExit: print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == "[]\n"


def test_a_worker_does_not_inherit_what_it_has_no_use_for(tmp_path):
    """Guards the memory of each worker, a fork that has what is imported before it: rich, which structlog takes in where it
    is installed, was 3 MiB of 80. The control API comes along: a back office that is started anew is of its release."""
    unused = {"alembic", "genai_prices", "rich", "tiktoken"}
    script = (
        "import sys\nfrom gateway.cli import cli\nfrom gateway.supervisor import Supervisor\n"
        f"Supervisor.run = lambda _: print({unused!r} & sys.modules.keys(), 'gateway.worker' in sys.modules)\n"
        "cli.main(['serve'])"
    )
    names = {"DATABASE_URL": "postgresql://nobody@127.0.0.1/none", "PROXY__PORT": "0", "CONTROL__PORT": "0"}
    settings = {f"TOLLKEEPER_{name}": value for name, value in {**names, "DATA_DIR": str(tmp_path)}.items()}

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("set() True\n", "")


def test_interrupting_a_command_is_quiet(server):
    # Where these tests run in a shell's background, interruptions are ignored, and what they start would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    silent = socket.create_server(("127.0.0.1", 0))
    process = program("tenant", "list", environment={"TOLLKEEPER_CONTROL__PORT": str(silent.getsockname()[1])})
    with silent, process, silent.accept()[0] as connection:
        assert connection.recv(4) == b"GET "
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    signal.signal(signal.SIGINT, before)

    assert process.returncode == 130
    assert (out, err.strip()) == ("", "")


def test_a_reader_that_has_seen_enough_is_no_error(server):
    server.answers["GET", "/v1/tenants"] = (200, {"data": [TENANT] * 5000, "next_cursor": None})

    with program("tenant", "list", "--json") as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()

    assert err == ""


def test_a_credential_is_asked_for_on_a_terminal_without_showing_it(server):
    stored = {"provider": PROVIDER.name, "fields": [FIELD], "created_at": "2026-11-20T12:00:00Z"}
    server.answers["POST", "/v1/tenants/acme/credentials"] = (201, stored)
    ours, theirs = pty.openpty()

    with program("credential", "set", "acme", PROVIDER.name, stdin=theirs, start_new_session=True) as process:
        asked = process.stderr.read(len(FIELD))
        os.write(ours, b"hunter2\n")
        out, err = process.communicate(timeout=60)
    os.close(theirs)
    echoed = shown_on(ours)

    assert process.returncode == 0, err
    assert asked == FIELD
    assert server.asked[0][2] == {"provider": PROVIDER.name, FIELD: "hunter2"}
    assert "hunter2" not in out + err + echoed.decode()
