"""An installation that is given secrets and other people's words, and goes through everything that can go wrong with them.

Afterwards none of it stands in what the gateway said, in what it wrote, or in the errors that it answered.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import psutil
import pytest

from tests import canaries
from tests.canaries import OUTPUT, POSTGRES, Canaries, Scan, rows_of, secrets_in
from tests.walks.harness import (
    PATIENCE_S,
    REPOSITORY,
    Answered,
    Installation,
    basic,
    installation,
    on_postgres,
)
from tests.walks.wire import FORM, JSON, Reply, Tenant, ask, new_tenant, request, send

pytestmark = pytest.mark.timeout(300)

CHAT = "/openai/v1/chat/completions"
SEND = "/sendgrid/v3/mail/send"

NEVER_FORWARDED = {
    *("wrong key", "wrong admin key", "half a body", "word of a bad request", "field of the control API"),
    *("setting of a wrong kind", "short setting", "longer setting"),
}
"""What is said to the gateway alone, or is in a request that is refused or never whole."""


def unique(name: str) -> str:
    """Something that stands nowhere by accident."""
    return f"canary-{name}-{secrets.token_hex(8)}"


def number() -> str:
    return f"+1202555{secrets.randbelow(100):02}{secrets.randbelow(100):02}"


class Given(NamedTuple):
    """What goes into the installation, by names that may be shown."""

    own: Mapping[str, str]
    """Credentials of a tenant's own."""
    words: Mapping[str, str]
    """What applications send that is nobody's business: words, numbers, addresses, keys that are none."""


def given() -> Given:
    own = ("own openai key", "own auth token", "own sendgrid key", "its own beside ours", "credential that is refused")
    words = (
        *("prompt", "name", "text of a message", "subject", "mail", "attachment", "query", "cookie", "header"),
        *("wrong key", "wrong admin key", "half a body", "word of a bad request", "field of the control API"),
        "setting of a wrong kind",
    )
    numbers = {f"number {role}": number() for role in ("to", "from", "wrong")}
    numbers["number wrong"] += "000000000"
    addresses = {f"address {role}": f"{unique(role)}@example.com" for role in ("to", "from", "wrong")}
    short = {"short setting": secrets.token_hex(6), "longer setting": secrets.token_hex(12)}
    made = {name: unique(name.replace(" ", "-")) for name in words}
    return Given({name: unique(name.replace(" ", "-")) for name in own}, numbers | addresses | short | made)


class Walk:
    """One installation under way; keeps what it answered."""

    def __init__(self, gateway: Installation, given: Given) -> None:
        self.gateway = gateway
        self.given = given
        self.keys: dict[str, str] = {}
        self.errors: list[Reply] = []
        """What was answered to applications without success."""
        self.said: list[str] = []
        """What the control API and the command line said."""
        self.completions: list[str] = []
        self.shared = self._tenant("shared")
        self.owning = self._tenant("owning")
        self.refused = self._tenant("refused")

    def _tenant(self, name: str) -> Tenant:
        tenant = new_tenant(self.gateway, name)
        self.keys[f"key of {name}"] = tenant.key
        return tenant

    @property
    def secrets(self) -> dict[str, str]:
        """What nobody may read in any answer: the installation's secrets, and tenants' credentials."""
        return {**secrets_in(self.gateway.gateway.environment), **self.given.own}

    @property
    def everything(self) -> dict[str, str]:
        """What may stand nowhere at rest."""
        completions = {f"completion {place}": text for place, text in enumerate(self.completions)}
        own_part = {name: key.split("_", 2)[2] for name, key in self.keys.items()}
        return {**self.secrets, **self.given.words, **self.keys, **own_part, **completions}

    # -- calls

    def call(self, tenant: Tenant, target: str, body: bytes, method: str = "POST", **headers: str) -> Reply:
        """One call, which may fail."""
        kind = FORM if target.startswith("/twilio") else JSON
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = ask(self.gateway, tenant, method, target, body, {**kind, **given})
        if reply.status >= 400:
            self.errors.append(reply)
        return reply

    def chat(self, **more: object) -> bytes:
        words = self.given.words
        message = {"role": "user", "content": f"{words['prompt']} {words['number to']}", "name": words["name"]}
        return json.dumps({"model": "gpt-4o", "messages": [message], "user": words["address to"], **more}).encode()

    def message(self, **more: str) -> bytes:
        words = self.given.words
        body = {"To": words["number to"], "From": words["number from"], "Body": words["text of a message"]}
        return urlencode(body | more).encode()

    def mail(self, **more: object) -> bytes:
        words = self.given.words
        attached = base64.b64encode(words["attachment"].encode()).decode()
        return json.dumps(
            {
                "personalizations": [{"to": [{"email": words["address to"], "name": words["name"]}]}],
                "from": {"email": words["address from"]},
                "subject": words["subject"],
                "content": [{"type": "text/plain", "value": words["mail"]}],
                "attachments": [{"content": attached, "filename": "a.txt", "type": "text/plain"}],
                **more,
            }
        ).encode()

    def messages(self, tenant: Tenant) -> str:
        return f"/twilio/2010-04-01/Accounts/{tenant.account}/Messages.json"

    # -- what happens

    def successes(self) -> None:
        words = self.given.words
        aside = {"Cookie": f"session={words['cookie']}", "X_Anything": words["header"], "Referer": words["header"]}
        target = f"{CHAT}?note={quote(words['query'])}"
        whole = self.call(self.shared, target, self.chat(), **aside)
        streamed = self.call(self.shared, CHAT, self.chat(stream=True), x_gateway_category="rag")
        assert (whole.status, streamed.status) == (200, 200)
        assert b"[DONE]" in streamed.body
        self.completions.append(whole.document["choices"][0]["message"]["content"])
        packed = self.call(
            self.shared, SEND, gzip.compress(self.mail()), Content_Encoding="gzip", X_Gateway_Idempotency_Key="1"
        )
        assert packed.status == 202
        assert self.call(self.shared, SEND, self.mail()).status == 202
        assert self.call(self.shared, self.messages(self.shared), self.message()).status == 201
        calls = self.messages(self.shared).replace("Messages", "Calls")
        spoken = f"<Response><Say>{words['text of a message']}</Say></Response>"
        assert self.call(self.shared, calls, self.message(Twiml=spoken)).status == 201
        beside = {"X-Gateway-Key": self.shared.key, "Authorization": f"Bearer {self.given.own['its own beside ours']}"}
        own = send(self.gateway.proxy_url, request("POST", CHAT, JSON | beside, self.chat()))
        assert own.status == 401  # The simulator knows no such key, and says so with a part of it.

    def failures(self) -> None:
        """Refusals of the provider's, with what it quotes of the request."""
        words = self.given.words
        for status in ("400", "401", "403", "404", "429", "500", "503"):
            assert self.call(self.shared, CHAT, self.chat(), x_simulator_status=status).status == int(status)
        self.call(self.shared, CHAT, self.chat()[:-1])
        self.call(self.shared, CHAT, self.chat(model="no-such-model"))
        self.call(self.shared, f"/openai/v1/{words['query']}", self.chat())
        self.call(self.shared, self.messages(self.shared), self.message(To=words["number wrong"]))
        self.call(self.shared, SEND, self.mail(**{"from": {"email": "<" + words["address wrong"]}}))
        self.call(self.shared, SEND, self.mail()[:-20])
        for target, body in (
            (CHAT, self.chat()),
            (self.messages(self.refused), self.message()),
            (SEND, self.mail()),
        ):
            reply = self.call(self.refused, target, body)
            assert (reply.status, reply.code) == (401, "upstream_unauthorized")

    def breaks(self) -> None:
        """Providers that break off, or say nothing."""
        for fault in ("reset-before-head", "hang", "cut-body", "cut-chunked", "cut-stream"):
            with suppress(Exception):  # What is half an answer raises something or other.
                self.call(self.shared, CHAT, self.chat(stream=fault == "cut-stream"), x_simulator_fault=fault)
        with suppress(Exception):
            self.call(self.shared, SEND, self.mail(), x_simulator_fault="reset-before-head")
            self.call(self.shared, self.messages(self.shared), self.message(), x_simulator_fault="reset-before-head")

    def leaves(self) -> None:
        """Clients that go: with half a body sent, and with an answer under way."""
        whole = request("POST", CHAT, JSON | self.shared.authorization(CHAT), self.chat(stream=True))
        half = self.given.words["half a body"].encode()
        for sent in (
            whole[:-9],
            request("POST", SEND, self.shared.authorization(SEND) | {"Content-Length": "20000000"}) + half * 500_000,
            whole,
        ):
            with suppress(ConnectionError), self._connected() as connection:
                connection.sendall(sent)

    def _connected(self) -> socket.socket:
        host, _, port = self.gateway.proxy_url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE_S)

    def malformed(self) -> None:
        word = self.given.words["word of a bad request"]
        key = f"Authorization: Bearer {self.shared.key}"
        for data in (
            f"GET {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.shared.key}\0\r\n\r\n",
            f"GET {CHAT}?key={self.shared.key} HTTP/9.9\r\n\r\n",
            f"{word} {self.shared.key}\r\n\r\n",
            f"GET {CHAT} HTTP/1.1\nHost: x\n{key}\n\n",
            f"GET {CHAT} HTTP/1.1\r\nHost: x\r\n{key}\r\n{word} : {word}\r\n\r\n",
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{key}\r\nTransfer-Encoding: chunked\r\n\r\n{word}\r\n{self.shared.key}\r\n",
            f"GET {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.shared.key * 2000}\r\n\r\n",
        ):
            with self._connected() as connection, suppress(ConnectionError):
                connection.sendall(data.encode())
                connection.shutdown(socket.SHUT_WR)
                said = b"".join(iter(partial(connection.recv, 65536), b""))
                self.said.append(said.decode("latin-1"))

    def refusals(self) -> None:
        """What the gateway itself refuses."""
        words = self.given.words
        wrong = words["wrong key"]
        for key in (wrong, f"tk_0123456789ab_{wrong}", f"SG.tk_0123456789ab_{wrong}", self.shared.key[:-1] + "~"):
            for target, body in ((CHAT, self.chat()), (SEND, self.mail())):
                headers = JSON | {"Authorization": f"Bearer {key}"}
                self.errors.append(send(self.gateway.proxy_url, request("POST", target, headers, body)))
            headers = FORM | {"Authorization": basic(self.shared.account, key)}
            target = self.messages(self.shared)
            self.errors.append(send(self.gateway.proxy_url, request("POST", target, headers, self.message())))
        self.call(self.shared, CHAT, self.chat(), X_Tenant_ID=words["name"])
        self.call(self.shared, CHAT, self.chat(), X_Gateway_Tags=words["header"])
        self.call(self.shared, CHAT, self.chat(), X_Gateway_Category=words["header"] + " b")
        self.call(self.shared, f"/{words['query']}", self.chat())
        self.call(self.shared, "/openai/v1/organization/admin_api_keys", self.chat())
        self.call(self.shared, SEND, self.mail(), Content_Encoding=words["header"])
        self.call(self.shared, SEND, self.mail(), On_Behalf_Of=words["name"])

    def control_api(self) -> None:
        """Its errors, and what it shows of itself."""
        words, own = self.given.words, self.given.own
        field, wrong = words["field of the control API"], words["wrong admin key"]
        for tenant, provider, credential in (
            ("owning", "openai", {"api_key": own["own openai key"]}),
            ("owning", "twilio", {"account_sid": "AC" + "0" * 32, "auth_token": own["own auth token"]}),
            ("owning", "sendgrid", {"api_key": own["own sendgrid key"]}),
            ("refused", "openai", {"api_key": own["credential that is refused"]}),
            ("refused", "twilio", {"account_sid": "AC" + "1" * 32, "auth_token": own["credential that is refused"]}),
            ("refused", "sendgrid", {"api_key": own["credential that is refused"]}),
        ):
            self._asked("POST", f"/v1/tenants/{tenant}/credentials", {"provider": provider, **credential})
        asked = (
            (
                "POST",
                "/v1/tenants/owning/credentials",
                {"provider": "openai", "api_key": own["own openai key"], "a": 1},
            ),
            ("POST", "/v1/tenants/owning/credentials", {"provider": field, "api_key": own["own openai key"]}),
            ("POST", "/v1/tenants/owning/credentials", {"provider": "twilio", "auth_token": own["own auth token"]}),
            ("POST", "/v1/tenants/nobody/credentials", {"provider": "openai", "api_key": own["own openai key"]}),
            ("POST", "/v1/tenants", {"tenant_id": field, "name": field, field: field}),
            ("POST", "/v1/tenants", {"tenant_id": "a b"}),
            ("GET", f"/v1/tenants/{field}", None),
            ("GET", f"/v1/usage/events?from={field}", None),
            ("GET", f"/v1/usage/events?key={self.shared.key}", None),
            *(("GET", path, None) for path in ("/healthz", "/readyz", "/version", "/v1/audit", "/v1/usage/events")),
            *(
                ("GET", f"/v1/tenants/{name}/{what}", None)
                for name in ("owning", "refused")
                for what in ("keys", "credentials")
            ),
        )
        for method, path, document in asked:
            self._asked(method, path, document)
        with urllib.request.urlopen(f"{self.gateway.control_url}/metrics") as answer:
            self.said.append(answer.read().decode())
        for key in (wrong, f"tka_{wrong}", self.shared.key + wrong, ""):
            self._asked("GET", "/v1/tenants", None, key)
        self._asked("POST", "/v1/tenants/owning/credentials", body=b'{"api_key": "' + own["own openai key"].encode())
        self._asked("POST", "/v1/tenants/owning/credentials", body=b'"' + b"\xff" + own["own openai key"].encode())
        made = self._made_twice()
        self.keys["key that was made under an idempotency key"] = made
        self.keys["key that was rotated"] = self._rotated()

    def _asked(self, *asked: object, **more: object) -> None:
        try:
            self.said.append(json.dumps(self.gateway.ask(*asked, **more)))  # type: ignore[arg-type]
        except Answered as error:
            self.said.append(str(error))

    def _made_twice(self) -> str:
        """A key whose answer is kept, because it may be asked for again."""
        asked = urllib.request.Request(
            f"{self.gateway.control_url}/v1/tenants/shared/keys",
            data=b'{"name": "again"}',
            headers={
                "Authorization": f"Bearer {self.gateway.gateway.environment['TOLLKEEPER_ADMIN_KEY']}",
                "Content-Type": "application/json",
                "Idempotency-Key": "once",
            },
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            return str(json.loads(answer.read())["key"])

    def _rotated(self) -> str:
        made = self.gateway.ask("POST", "/v1/tenants/shared/keys", {"name": "turned"})
        self.keys["key before it was rotated"] = made["key"]
        return str(self.gateway.ask("POST", f"/v1/tenants/shared/keys/{made['key_id']}/rotate", {})["key"])

    def command_line(self, directory: Path) -> None:
        """Commands that show settings, and commands that fail."""
        words, own = self.given.words, self.given.own
        wrong = words["setting of a wrong kind"]
        file = directory / "credential"
        file.write_text(own["own openai key"])
        commands = (
            (("config", "show", "--json"), {}),
            (("config", "check"), {"TOLLKEEPER_DATABASE_URL": f"mysql://role:{wrong}@127.0.0.1/x"}),
            (
                ("config", "check"),
                {
                    "TOLLKEEPER_ADMIN_KEY": words["short setting"],
                    "TOLLKEEPER_SECRET_KEY": words["longer setting"],
                    "TOLLKEEPER_PROVIDERS__OPENAI__API_KEY": f"{wrong}\n{wrong}",
                    "TOLLKEEPER_PROVIDERS__OPENAI__BASE_URL": f"https://user:{wrong}@127.0.0.1/",
                },
            ),
            (("key", "list", "shared"), {}),
            (("credential", "set", "owning", "openai", "--field", f"api_key=@{file}"), {}),
            (("credential", "set", "owning", "openai", "--field", f"api_kei=@{file}"), {}),
            (("--traceback", "credential", "set", "nobody", "openai", "--field", f"api_key=@{file}"), {}),
            (("usage", "--tenant", "shared", "--events"), {}),
            (("usage", "--tenant", "shared", "--from", wrong), {}),
        )
        with ThreadPoolExecutor(2) as threads:
            self.said += threads.map(lambda command: self._run(*command), commands)
        file.unlink()

    def _run(self, arguments: tuple[str, ...], changed: Mapping[str, str]) -> str:
        given = {name: value for name, value in self.gateway.gateway.environment.items() if not name.endswith("__PORT")}
        port = self.gateway.control_url.rpartition(":")[2]
        ran = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={**os.environ, **given, "TOLLKEEPER_CONTROL__PORT": port, "PYTHONPATH": str(REPOSITORY), **changed},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S * 2,
        )
        assert ran.stdout or ran.stderr, arguments
        return ran.stdout + ran.stderr

    def unreachable(self) -> None:
        """After the providers have gone."""
        for target, body in (
            (CHAT, self.chat()),
            (self.messages(self.shared), self.message()),
            (SEND, self.mail()),
        ):
            for tenant in (self.shared, self.owning):
                path = target.replace(self.shared.account, tenant.account)
                assert self.call(tenant, path, body).code == "upstream_unreachable"


@dataclass
class Walked:
    """What an installation left behind."""

    walk: Walk
    running: Scan
    """What was at rest while it ran."""
    stopped: Scan
    """What was at rest when it had ended."""
    command_lines: Scan
    on_postgres: bool


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def walked(request, tmp_path_factory) -> Walked:
    """An installation with secrets that no other has, after everything has happened in it."""
    directory = tmp_path_factory.mktemp("canaries")
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    settings = {} if server is None else on_postgres(server)
    settings |= {"secret_key": f"{unique('secret')}-{unique('key')}", "upstream__first_byte_timeout_s": "1"}

    with installation(directory, "--record-bodies", log_level="debug", **settings) as gateway:
        walk = Walk(gateway, given())
        walk.control_api()
        walk.successes()
        walk.failures()
        walk.breaks()
        walk.leaves()
        walk.malformed()
        walk.refusals()
        walk.command_line(directory)
        running = at_rest(walk, server)
        command_lines = Scan(Canaries(walk.everything))
        process = psutil.Process(gateway.gateway.popen.pid)
        for one in (process, *process.children(recursive=True)):
            command_lines.look("\0".join(one.cmdline()).encode(), f"command line of {one.pid}")
        gateway.simulator.stop()
        walk.unreachable()
    return Walked(walk, running, at_rest(walk, server), command_lines, server is not None)


def at_rest(walk: Walk, server: Any) -> Scan:
    """What the gateway has said and written so far, looked through for all that it was given."""
    process = next(one for one in canaries.WATCHED if one.said is walk.gateway.gateway.lines)
    if process.database is not None:
        process.rows = rows_of(partial(server.execute, database=process.database))
    return process.scan(walk.everything)


def test_nothing_of_it_stands_in_the_output_the_spool_the_ledger_or_any_other_file(walked):
    assert walked.running.hits == []
    assert walked.stopped.hits == []


def test_nothing_of_it_stands_on_a_command_line(walked):
    assert walked.command_lines.hits == []
    # And those that estimate what a call used whose answer did not say it.
    assert len(walked.command_lines.bytes_of) >= (4 if walked.on_postgres else 1)


def test_no_answer_of_any_kind_holds_a_secret_of_the_installation_or_a_credential_of_a_tenant(walked):
    looking = Scan(Canaries(walked.walk.secrets))
    for reply in walked.walk.errors:
        looking.look(str(reply.headers).encode() + reply.body, f"{reply.status} {reply.code}")
    for text in walked.walk.said:
        looking.look(text.encode(), text[:60])

    assert looking.hits == []
    assert len(walked.walk.errors) > 40
    assert len(walked.walk.said) > 40


def test_what_the_gateway_itself_says_holds_nothing_of_what_it_was_sent(walked):
    looking = Scan(Canaries(walked.walk.everything))
    for reply in walked.walk.errors:
        if reply.code is not None:
            looking.look(str(reply.headers).encode() + reply.body, reply.code)

    assert looking.hits == []
    assert looking.bytes_of.keys() >= {
        *("invalid_key", "invalid_header", "tenant_mismatch", "not_on_shared_account", "unknown_provider"),
        *("upstream_unauthorized", "upstream_unreachable", "upstream_broke", "upstream_timeout"),
    }


def test_every_place_was_looked_at(walked):
    """Guards the tests above: where nothing was written, nothing can be found."""
    places = walked.running.bytes_of
    files = ("snapshot.json", *(() if walked.on_postgres else ("ledger.db-wal",)))

    assert [name for name in (OUTPUT, *files) if places[name] < 1000] == []
    assert sum(size for name, size in places.items() if name.startswith("spool/")) > 10_000
    assert (places[POSTGRES] > 10_000) == walked.on_postgres
    assert walked.stopped.bytes_of[OUTPUT] > places[OUTPUT]
    assert walked.on_postgres or walked.stopped.bytes_of["ledger.db"] > 100_000


def test_what_was_looked_for_had_been_there(walked):
    """Guards the same: the provider got every word that was looked for, and the gateway was asked to log all it does."""
    got = b"".join(
        exchange.target.encode() + str(exchange.headers).encode() + _plain(exchange.body)
        for exchange in walked.walk.gateway.truth()
    )
    looked_for = set(walked.walk.given.words) - NEVER_FORWARDED
    found = {hit.name for hit in Canaries(walked.walk.given.words).hits(got, "the provider")}

    assert found >= looked_for


def _plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
