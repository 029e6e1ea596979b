"""What is refused is not quoted: a key in a broken request, or in a provider's complaint, is in no answer and no log line.

The gateway is a process of its own at log level debug, so that what is read is what an operator would read.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Thread

import pytest

from tests.gateway.peers import Peer, answer, chunked, provider
from tests.gateway.proxied import ACME, OWN, OWN_KEY, PLATFORM_KEY, proxied
from tests.gateway.proxied import request as request_of
from tests.walks.harness import PATIENCE_S, Answered, Installation, basic, eventually, installation
from tests.walks.wire import FORM, JSON, Tenant, ask, new_tenant, request, send

CHAT = "/openai/v1/chat/completions"
SEND = "/sendgrid/v3/mail/send"
BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}'

SHOWN_CHARACTERS_MAX = 8
"""Of a secret, so much may be shown, for people to know which one is meant."""

MUTATIONS = 50

ENDING = "\r\n\r\n" + "\0" * 9 + "\r\n\r\n"
"""What makes an end of a request that was cut short, and then is none itself: the gateway answers and closes."""


def token_of(case: str) -> str:
    """The secret of one case, the same in each run and in no other case."""
    return hashlib.sha256(case.encode()).hexdigest()


def shown(secret: str, text: str) -> list[str]:
    """What of a secret stands in a text: every piece that is longer than what may be shown."""
    size = SHOWN_CHARACTERS_MAX + 1
    return [piece for start in range(len(secret) - size + 1) if (piece := secret[start : start + size]) in text]


def head(*lines: str, target: str = CHAT, method: str = "POST") -> str:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: gateway.example", *lines, "", ""))


def hello(token: str) -> str:
    """What a TLS client sends first, for a host of that name."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=f"{token[:60]}.example")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read().decode("latin-1")


MEASURED: dict[str, Callable[[str], str]] = {
    "a NUL behind the key": lambda token: head(f"Authorization: Bearer {token}\0"),
    "an over-long key": lambda token: head(f"Authorization: Bearer {token * 2000}"),
    "bare line feeds": lambda token: head(f"Authorization: Bearer {token}").replace("\r\n", "\n"),
    "a key in the query of a bad request line": lambda token: head(target=f"{CHAT}?key={token} HTTP/1.1"),
    "a key in a bad chunk": lambda token: head("Transfer-Encoding: chunked") + f"{token}\r\n{token}\r\n0\r\n\r\n",
    "a good key before a bad header": lambda token: head(f"Authorization: Bearer {token}", f"Bad {token}: {token}"),
    "a TLS hello that names it": hello,
}
"""The seven requests at which the HTTP library, used as it is, shows the key or was tried for it."""


def mutated(number: int) -> str:
    """A request with the key in many places and one or more defects, always the same for a number."""
    chance = random.Random(number)
    token = token_of(f"mutation {number}")
    placed = [
        f"Authorization: Bearer {token}",
        f"X-Gateway-Key: tk_0123456789ab_{token}",
        f"Authorization: Basic {base64.b64encode(f'AC:{token}'.encode()).decode()}",
        f"Cookie: session={token}",
        f"X-Gateway-Tags: {token}",
        f"X-Gateway-Category: {token} {token}",
        f"{token}: x",
    ]
    lines = chance.sample(placed, chance.randint(1, 3)) + chance.sample(
        ["Content-Length: 5", "Content-Length: 05, 6", "Transfer-Encoding: chunked", "Expect: nothing", "Upgrade: h2c"],
        1,
    )
    chance.shuffle(lines)
    target = chance.choice(
        [CHAT, f"{CHAT}?key={token}", f"/openai/v1/{token}", f"http://{token}/", f"//{token}/", token]
    )
    text = head(*lines, target=target, method=chance.choice(["POST", "GET", "PRI", token[:12].upper(), "CONNECT"]))
    text += chance.choice(["", f"{token}\r\n", f'{{"key": "{token}', f"5;{token}\r\nhello\r\n{token}\r\n"])
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text))
        text = chance.choice(
            [
                text[:place] + chance.choice("\0\x01\x07\x0b\x7f\r\n \t:\xff") + text[place:],
                text[:place] + text[place + 1 :],
                text.replace("HTTP/1.1", chance.choice(["HTTP/2.0", "HTTP/1.9", "HTTP", "http/1.1", ""]), 1),
                text.replace("\r\n", chance.choice(["\n", "\r", "\r\n ", "\r\r\n"]), chance.randint(1, 4)),
                text.replace(": ", chance.choice([" : ", ":\0", "", ":\r\n\t"]), 1),
            ]
        )
    return text


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("leaks"), log_level="debug") as running:
        yield running


@pytest.fixture(scope="module")
def tenant(gateway):
    return new_tenant(gateway, "acme")


def answered(gateway: Installation, data: bytes) -> str:
    """Everything that comes back for these bytes until the gateway ends the connection, each byte one character."""
    host, _, port = gateway.proxy_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        with suppress(ConnectionError):  # It may have heard enough.
            connection.sendall(data)
        received = b""
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
    return received.decode("latin-1")


def logged(gateway: Installation, tenant: Tenant, target: str = CHAT) -> str:
    """All that the gateway has said by now: up to the line of one call more, which comes behind everything before it."""
    call_id = ask(gateway, tenant, "POST", target, BODY, JSON).headers["x-tollkeeper-call-id"]
    assert call_id

    def whole() -> str:
        text = "".join(list(gateway.gateway.lines))
        return text if call_id in text else ""

    return eventually(whole, "its line in the log")


# ---------------------------------------------------------------------------------------------------------------------
# F02: requests that are none


def assert_nothing_is_shown(gateway, tenant, case: str, text: str, token: str) -> None:
    said = answered(gateway, (text + ENDING).encode("latin-1"))

    assert said.startswith("HTTP/1.1 "), case
    assert shown(token, said) == [], case
    assert shown(token, logged(gateway, tenant)) == [], case


@pytest.mark.parametrize("case", MEASURED)
def test_a_broken_request_with_a_key_is_answered_and_logged_without_a_piece_of_it(gateway, tenant, case):
    token = token_of(case)

    assert_nothing_is_shown(gateway, tenant, case, MEASURED[case](token), token)


@pytest.mark.parametrize("number", range(MUTATIONS))
def test_however_a_request_is_broken_its_key_is_shown_nowhere(gateway, tenant, number):
    token = token_of(f"mutation {number}")

    assert_nothing_is_shown(gateway, tenant, repr(mutated(number)), mutated(number), token)


def test_a_gateway_s_own_key_in_a_broken_request_is_shown_nowhere_either(gateway, tenant):
    secret = tenant.key.split("_", 2)[2]
    for case, text in MEASURED.items():
        said = answered(gateway, (text(tenant.key) + ENDING).encode("latin-1"))

        assert shown(secret, said) == [], case
    assert shown(secret, logged(gateway, tenant)) == []


def test_the_mutations_break_requests_and_not_their_keys():
    """Guards the tests above: the key is still in what is sent, or there would be nothing to show."""
    whole = [number for number in range(MUTATIONS) if token_of(f"mutation {number}") in mutated(number)]

    assert len(whole) > MUTATIONS * 9 // 10
    assert len({mutated(number) for number in range(MUTATIONS)}) == MUTATIONS


def test_what_is_shown_is_found():
    assert shown(token_of("x"), f"no such key {token_of('x')[20:29]}") == [token_of("x")[20:29]]
    assert shown(token_of("x"), f"no such key {token_of('x')[:8]}…") == []


# ---------------------------------------------------------------------------------------------------------------------
# F03: providers that quote the credential


QUOTED: dict[str, Callable[[bytes, bytes], bytes]] = {
    "in the body": lambda status, key: answer(b'{"error":{"message":"Incorrect API key: %b."}}' % key, status=status),
    "in chunks": lambda status, key: (
        b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"Wrong: " + key[:9], key[9:])
    ),
    "in a header": lambda status, key: answer(b"{}", b"WWW-Authenticate: Bearer realm=%b" % key, status=status),
    "packed": lambda status, key: answer(gzip.compress(b"Wrong: " + key), b"Content-Encoding: gzip", status=status),
    "until the end": lambda status, key: b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\nWrong: " + key,
}


def quoting(status: bytes, quoted: str) -> Callable[[Peer], Awaitable[None]]:
    """A provider that answers a request with the credential that came with it."""

    async def script(peer: Peer) -> None:
        message = await peer.message()
        sent = message["authorization"]
        assert sent is not None
        await peer.send(QUOTED[quoted](status, sent.removeprefix("Bearer ").encode()))

    return script


@pytest.mark.parametrize("quoted", QUOTED)
@pytest.mark.parametrize(
    "status", [b"401 Unauthorized", b"403 Forbidden", b"400 Bad Request"], ids=["401", "403", "400"]
)
@pytest.mark.parametrize(("key", "secret"), [(ACME, PLATFORM_KEY), (OWN, OWN_KEY)], ids=["platform's", "tenant's"])
async def test_a_credential_that_the_gateway_added_comes_back_to_no_application(
    tmp_path, capfd, quoted, status, key, secret
):
    async with provider(quoting(status, quoted)) as complaining, proxied(tmp_path, complaining) as gateway:
        got = await gateway.ask(request_of(key=key, body=BODY))

    text = got.raw + (gzip.decompress(got.body) if got.body.startswith(b"\x1f\x8b") else b"")
    said = capfd.readouterr()
    assert secret.encode() in complaining.seen
    assert shown(secret, text.decode("latin-1")) == []
    assert shown(secret, said.out + said.err + repr(gateway.lines)) == []


# ---------------------------------------------------------------------------------------------------------------------
# F04: connections that fail


FAILING = {
    "garbage": lambda asked: asked,
    "a status line that goes on": lambda asked: b"HTTP/1.1 200 " + asked.replace(b"\r\n", b"\0") + b"\r\n\r\n",
    "a length that is none": lambda asked: (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + asked.replace(b"\r\n", b" ") + LINE_END
    ),
    "a header with a NUL": lambda asked: b"HTTP/1.1 200 OK\r\nX: \0" + asked.replace(b"\r\n", b" ") + LINE_END,
    "a bad chunk": lambda asked: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + asked,
    "half an error": lambda asked: b"HTTP/1.1 500 No\r\nContent-Length: 99999\r\n\r\n",
    "a coding that it is not": lambda asked: (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"
    ),
    "nothing": lambda asked: b"",
    "silence": None,
}
"""What a provider says that repeats, in the wrong place, what it was sent; or that says nothing."""

LINE_END = b"\r\n\r\n"
FAILING_KEY = token_of("the platform's own key")


class Failing:
    """A provider that fails with each request as it is told in the path of it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.asked = b""
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # It is closed at the end.
            while True:
                end, _ = self._listening.accept()
                Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            end.settimeout(PATIENCE_S)
            asked = end.recv(65536)
            self.asked += asked
            number = int(asked.partition(b"/how/")[2].partition(b"?")[0] or b"0")
            saying = list(FAILING.values())[number]
            if saying is None:
                end.recv(1)  # Until the gateway has had enough.
            else:
                end.sendall(saying(asked))

    def close(self) -> None:
        self._listening.close()


@contextmanager
def unreachable() -> Iterator[int]:
    """A port on which nobody listens while this lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A gateway whose providers can not be reached, do not speak TLS, or fail after they were asked."""
    directory = tmp_path_factory.mktemp("failing")
    with closing(Failing()) as failing, unreachable() as nobody:
        settings = {
            "providers__openai__base_url": f"http://127.0.0.1:{failing.port}",
            "providers__openai__api_key": FAILING_KEY,
            "providers__sendgrid__base_url": f"http://127.0.0.1:{nobody}",
            "providers__sendgrid__api_key": FAILING_KEY,
            "providers__twilio__base_url": f"https://127.0.0.1:{failing.port}",
            "providers__twilio__auth_token": FAILING_KEY,
            "shared_reads": "true",
            "upstream__first_byte_timeout_s": "1",
        }
        with installation(directory, log_level="debug", **settings) as running:
            yield running, new_tenant(running, "acme"), failing


@pytest.mark.parametrize("number", range(len(FAILING)), ids=FAILING)
def test_a_provider_that_fails_is_reported_without_a_piece_of_what_it_was_sent(failing, number):
    gateway, tenant, asked = failing
    word = token_of(f"a word of call {number}")
    headers = JSON | tenant.authorization(CHAT) | {"X-Anything": word, "Cookie": word}
    data = request("POST", f"/openai/how/{number}?word={word}", headers, f'{{"model":"m","input":"{word}"}}'.encode())

    said = answered(gateway, data)

    assert FAILING_KEY.encode() in asked.asked
    assert word.encode() in asked.asked
    assert shown(FAILING_KEY, said) == []
    # A status and headers in order are the provider's answer, which is passed on; what comes behind them is too.
    if said.startswith("HTTP/1.1 5"):
        assert shown(word, said) == []
    assert shown_in_log(gateway, tenant, FAILING_KEY, word) == []


@pytest.mark.parametrize(
    "target", [SEND, "/twilio/2010-04-01/Accounts/{account}/Messages.json"], ids=["no listener", "no TLS"]
)
def test_a_provider_that_can_not_be_reached_is_reported_without_a_piece_of_the_call(failing, target):
    gateway, tenant, _ = failing
    word = token_of(f"a word of {target}")
    body = b'{"subject":"%b"}' % word.encode() if target == SEND else b"Body=%b" % word.encode()

    reply = ask(
        gateway,
        tenant,
        "POST",
        f"{target.format(account=tenant.account)}?word={word}",
        body,
        FORM if "twilio" in target else JSON,
    )

    assert (reply.status, reply.code) == (502, "upstream_unreachable")
    assert not [
        piece for secret in (word, FAILING_KEY) for piece in shown(secret, str(reply.headers) + reply.body.decode())
    ]
    assert shown_in_log(gateway, tenant, FAILING_KEY, word) == []


def shown_in_log(gateway: Installation, tenant: Tenant, *secrets: str) -> list[str]:
    """What stands of these in the log, once it says of one call more, which fails as well."""
    text = logged(gateway, tenant, SEND)
    return [piece for secret in secrets for piece in shown(secret, text)]


# ---------------------------------------------------------------------------------------------------------------------
# F05: keys that are wrong


def wrong_keys() -> dict[str, dict[str, str]]:
    """Where a key can stand, each with one that no gateway knows."""
    secret = {
        place: token_of(place) for place in ("bearer", "ours", "with a prefix", "basic", "beside", "no form", "doubled")
    }
    return {
        "bearer": {"Authorization": f"Bearer {secret['bearer']}"},
        "ours": {"Authorization": f"Bearer tk_0123456789ab_{secret['ours']}"},
        "with a prefix": {"Authorization": f"Bearer SG.tk_0123456789ab_{secret['with a prefix']}"},
        "basic": {"Authorization": basic("AC" + "0" * 32, f"tk_0123456789ab_{secret['basic']}")},
        "beside": {"X-Gateway-Key": f"tk_0123456789ab_{secret['beside']}", "Authorization": "Bearer sk-x"},
        "no form": {"Authorization": secret["no form"]},
        "doubled": {"Authorization": f"Bearer {secret['doubled']} {secret['doubled']}"},
    }


@pytest.mark.parametrize("place", wrong_keys())
@pytest.mark.parametrize("target", [CHAT, SEND])
def test_of_a_wrong_key_no_more_than_its_beginning_is_shown(gateway, tenant, place, target):
    secret = token_of(place)

    reply = send(gateway.proxy_url, request("POST", target, JSON | wrong_keys()[place], BODY))

    assert reply.status == 401
    assert shown(secret, str(reply.headers) + reply.body.decode()) == []
    assert shown(secret, logged(gateway, tenant)) == []


@pytest.mark.parametrize("form", ["{}", "tka_{}", "tk_0123456789ab_{}"])
def test_of_a_wrong_admin_key_nothing_is_in_the_answer_the_log_or_the_audit(gateway, tenant, form):
    secret = token_of(f"admin {form}")

    with pytest.raises(Answered) as refused:
        gateway.ask("POST", "/v1/tenants", {"tenant_id": "other"}, key=form.format(secret))

    assert refused.value.status == 401
    assert shown(secret, str(refused.value)) == []
    assert shown(secret, logged(gateway, tenant)) == []
    assert shown(secret, json.dumps(gateway.ask("GET", "/v1/audit"))) == []
