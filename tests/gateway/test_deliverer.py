"""Applications get what lies in the inbox: all of it, in order, whatever becomes of them and of the gateway meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict
from openai import OpenAI
from structlog.testing import capture_logs
from twilio.request_validator import RequestValidator

from gateway import deliverer as deliverer_module
from gateway.deliverer import AT_ONCE_OF_DOOR_MAX, AT_ONCE_OF_TENANT_MAX, WAIT_S_MAX, Deliverer, Destination, wait_s
from gateway.directory_changes import DirectoryChanges
from gateway.egress import Answer, Egress, Forbidden, Policy, TooSlow, Unreachable
from gateway.inbox import KEPT_S, Inbox, Kept, Waiting
from gateway.keys import Secrets, new_signing_secret
from gateway.providers.twilio import signatures

SECRETS = Secrets.derived("one installation")
SECRET, PREVIOUS = new_signing_secret(), new_signing_secret()
FORM = "application/x-www-form-urlencoded"
READERS = [OpenAI(api_key="none", webhook_secret=f"whsec_{secret}").webhooks for secret in (SECRET, PREVIOUS)]
"""What reads Standard Webhooks with the secret, and with the one before it."""
PATIENCE_S = 30


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Time that passes when it is told to, besides by itself."""

    def __init__(self) -> None:
        self.passed_ms = 0

    def __call__(self) -> int:
        return now_ms() + self.passed_ms


class Outside:
    """In the place of the network: every application there is, and what each of them does."""

    def __init__(self, answer: Callable[[str, bytes], int | Exception] = lambda url, body: 200) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.under_way: list[str] = []
        self.most_under_way = 0
        self.alongside: list[int] = []
        """How many were under way when each began, itself included."""
        self.released = asyncio.Event()
        self.released.set()

    async def send(self, url, method, headers, body, timeout_s) -> Answer:
        self.asked.append((url, method, dict(headers), body))
        self.under_way.append(url)
        self.alongside.append(len(self.under_way))
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            if not self.released.is_set():
                await self.released.wait()
            await asyncio.sleep(0)
            found = self.answer(url, body)
        finally:
            self.under_way.remove(url)
        if isinstance(found, Exception):
            raise found
        return Answer(found, {}, b"", True)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, _, body in self.asked]


def to_integration(waiting: Waiting) -> Destination | None:
    return Destination(waiting.url or f"https://{waiting.tenant_id}.example/", (SECRET,), signatures.signed)


def kept(number: int = 0, **changes) -> Kept:
    given = {"tenant_id": "acme", "source": "twilio", "webhook": "sms", "order_key": "SM1"}
    return Kept(**{**given, "media_type": FORM, "body": b"N=%d" % number, **changes})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inbox(tmp_path, clock):
    return Inbox(tmp_path / "inbox", SECRETS, clock, fsync=False)


@pytest.fixture
def at_once(monkeypatch):
    """What failed is tried again without a pause."""
    monkeypatch.setattr(deliverer_module, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(deliverer_module, "LOOK_S", 0.01)


@asynccontextmanager
async def delivering(inbox, outside, destination_of=to_integration, clock=now_ms, **more) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(inbox, outside, destination_of, clock, **more)
    task = asyncio.create_task(deliverer.run())
    try:
        yield deliverer
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  What is looked at knows nothing of who looks.
            await asyncio.sleep(0.005)


def left(inbox: Inbox) -> int:
    return len(inbox.look(()).here)


# ---------------------------------------------------------------------------------------------------------------------
# What arrives


class Application:
    """An application that verifies as the documentation tells it to."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        told = {name.lower(): value for name, value in request.headers.items()}
        url = self.url.partition("/hook")[0] + request.raw_path
        form = MultiDict(await request.post()) if request.content_type == FORM else body.decode()
        assert RequestValidator(SECRET).validate(url, form, told["x-twilio-signature"])
        assert not RequestValidator(PREVIOUS).validate(url, form, told["x-twilio-signature"])
        for reader in READERS:
            reader.verify_signature(body, told)
        assert told["webhook-id"] == told["x-tollkeeper-delivery-id"]
        self.received.append((request.raw_path, told, body))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)


@asynccontextmanager
async def application() -> AsyncIterator[Application]:
    one = Application()
    server = web.Application(client_max_size=64 << 20)
    server.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://localhost:{site._server.sockets[0].getsockname()[1]}/hook?for=acme"
    try:
        yield one
    finally:
        await runner.cleanup()


DELIVERIES = {
    "a form": kept(media_type=FORM + "; charset=utf-8", body=b"Body=Gr%C3%BC%C3%9Fe+%F0%9F%91%8B&Empty=&A=2&A=1"),
    "JSON": kept(media_type="application/json", body='[ {"event":"bounce","text":"Grüße"} ]\n'.encode()),
    "no body": kept(media_type="", body=b""),
    "a GET": kept(method="GET", media_type="", body=b"CallSid=CA1&CallStatus=completed&To=%2B1"),
}


@pytest.mark.parametrize("delivery", DELIVERIES)
async def test_what_arrives_is_what_came_and_verifies_with_the_secret_of_the_tenant(inbox, delivery):
    sent = DELIVERIES[delivery]
    async with application() as one, Egress(Policy(callback_hosts=("localhost",))) as egress:
        destination = Destination(one.url, (SECRET, PREVIOUS), signatures.signed)
        delivery_id = await inbox.put(sent)
        async with delivering(inbox, egress, lambda _: destination) as deliverer:
            await eventually(lambda: deliverer.attempts["delivered"])
            await eventually(lambda: not left(inbox))

    ((path, told, body),) = one.received
    assert told["x-tollkeeper-delivery-id"] == delivery_id
    if delivery == "a GET":
        assert path == "/hook?for=acme&" + sent.body.decode()
        assert body == b""
    else:
        assert body == sent.body
        assert told.get("content-type", "") == sent.media_type


async def test_a_mail_of_thirty_mebibytes_arrives_as_it_came(inbox):
    mail = kept(media_type="multipart/form-data; boundary=x", body=b"0123456789abcdef" * (30 << 16))
    async with application() as one, Egress(Policy(callback_hosts=("localhost",))) as egress:
        await inbox.put(mail)
        async with delivering(inbox, egress, lambda _: Destination(one.url, (SECRET, PREVIOUS), signatures.signed)):
            await eventually(lambda: one.received)

    assert one.received[0][2] == mail.body


async def test_headers_that_were_kept_go_on(inbox):
    outside = Outside()
    await inbox.put(kept(headers=(("I-Twilio-Idempotency-Token", "t1"),)))
    async with delivering(inbox, outside):
        await eventually(lambda: outside.asked)

    assert outside.asked[0][2]["I-Twilio-Idempotency-Token"] == "t1"


@pytest.mark.usefixtures("at_once")
async def test_each_attempt_has_the_same_id_and_a_time_of_its_own(inbox, clock):
    def answer(url: str, body: bytes) -> int:
        clock.passed_ms += 1000
        return 200 if len(outside.asked) == 3 else 500

    outside = Outside(answer)
    delivery_id = await inbox.put(kept())
    async with delivering(inbox, outside, clock=clock):
        await eventually(lambda: not left(inbox))

    told = [headers for _, _, headers, _ in outside.asked]
    assert {one["webhook-id"] for one in told} == {delivery_id}
    assert len({one["webhook-timestamp"] for one in told}) == 3


# ---------------------------------------------------------------------------------------------------------------------
# An application that is not well

FAILURES = {
    "it refuses": 500,
    "it is moved": 301,
    "it does not know it": 404,
    "it is too slow": TooSlow("slow"),
    "nobody answers": Unreachable("down"),
    "its URL is not allowed": Forbidden("private"),
    "something unforeseen": RuntimeError("unforeseen"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.usefixtures("at_once")
async def test_what_an_application_does_not_take_is_delivered_when_it_does(inbox, failure):
    outside = Outside(lambda url, body: FAILURES[failure] if len(outside.asked) <= 5 else 200)
    sent = [kept(number) for number in range(3)]
    for one in sent:
        await inbox.put(one)
    async with delivering(inbox, outside) as deliverer:
        await eventually(lambda: not left(inbox))
        assert deliverer.attempts["delivered"] == 3
        assert deliverer.attempts.total() == len(outside.asked) == 8

    assert outside.bodies == [sent[0].body] * 6 + [sent[1].body, sent[2].body]


@pytest.mark.usefixtures("at_once")
async def test_an_application_without_a_url_gets_it_when_it_has_one(inbox):
    destinations: list[Destination] = []
    outside = Outside()
    await inbox.put(kept())
    async with delivering(inbox, outside, lambda _: destinations[0] if destinations else None) as deliverer:
        await eventually(lambda: deliverer.attempts["no_url"] > 1)
        assert left(inbox) == 1
        destinations.append(Destination("https://new.example/", (SECRET,), signatures.signed))
        await eventually(lambda: not left(inbox))

    assert outside.asked[0][0] == "https://new.example/"


async def test_what_an_application_says_it_does_not_want_is_not_delivered_again(inbox):
    outside = Outside(lambda url, body: 410)
    for number in range(2):
        await inbox.put(kept(number))
    with capture_logs() as logs:
        async with delivering(inbox, outside) as deliverer:
            await eventually(lambda: not left(inbox))
            assert deliverer.given_up == 2

    assert len(outside.asked) == 2
    assert [line["status"] for line in logs if line["event"] == "delivery_given_up"] == [410, 410]


@pytest.mark.usefixtures("at_once")
async def test_what_can_not_be_delivered_for_three_days_is_deleted_and_said_once_without_content(inbox, clock):
    outside = Outside(lambda url, body: 500)
    await inbox.put(kept(7, body=b"secret text"))
    with capture_logs() as logs:
        async with delivering(inbox, outside, clock=clock) as deliverer:
            await eventually(lambda: len(outside.asked) > 2)
            clock.passed_ms = (KEPT_S - 60) * 1000
            tried = len(outside.asked)
            await eventually(lambda: len(outside.asked) > tried + 2)
            clock.passed_ms = (KEPT_S + 1) * 1000
            await eventually(lambda: not left(inbox))
            await eventually(lambda: deliverer.given_up == 1)
            assert (deliverer.waiting, deliverer.oldest_ms) == (0, None)

    (line,) = [line for line in logs if line["event"] == "delivery_given_up"]
    assert (line["tenant_id"], line["webhook"], line["reason"]) == ("acme", "sms", "too old")
    assert "secret" not in repr(logs)
    assert "example" not in repr(logs)


def test_the_pauses_grow_are_bounded_and_differ():
    for attempts in range(1, 2000):
        longest = min(2.0 ** (attempts - 1) if attempts < 20 else WAIT_S_MAX, WAIT_S_MAX)
        assert longest / 2 <= wait_s(attempts) <= longest
    assert len({wait_s(5) for _ in range(10)}) > 1


async def test_an_hour_of_an_application_that_is_down_loses_nothing_and_keeps_the_order(inbox, monkeypatch):
    """An hour of the loop's own time: whatever waits, waits as it does, and the clock is put forward meanwhile."""
    loop = asyncio.get_running_loop()
    began_s, passed_s = loop.time(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + passed_s)
    outside = Outside(lambda url, body: 200 if loop.time() - began_s > 3600 else Unreachable("down"))
    sent = [kept(number, order_key=f"SM{number % 7}") for number in range(70)]
    async with delivering(inbox, outside) as deliverer:
        for number, one in enumerate(sent):
            await inbox.put(one)
            if number % 10 == 9:
                await eventually(lambda: deliverer.waiting > 0)
                passed_s += 400
                await asyncio.sleep(0.02)
        while loop.time() - began_s < 3700 + WAIT_S_MAX:
            passed_s += 30
            await asyncio.sleep(0.005)
        await eventually(lambda: not left(inbox))

    arrived = defaultdict(list)
    for body in outside.bodies[-1000:]:
        number = int(body[2:])
        if number not in arrived[number % 7]:
            arrived[number % 7].append(number)
    assert {key: sorted(numbers) for key, numbers in arrived.items()} == arrived
    assert sum(map(len, arrived.values())) == 70
    assert len(outside.asked) < 70 * 30


# ---------------------------------------------------------------------------------------------------------------------
# Order, and who waits for whom


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["acme", "other"]), st.sampled_from(["SM1", "SM2", ""])), max_size=30),
    st.integers(),
)
def test_what_is_about_the_same_arrives_in_order_whatever_fails(tmp_path_factory, deliveries, seed):
    chance = random.Random(seed)
    delivered: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def answer(url: str, body: bytes) -> int | Exception:
        if chance.random() < 0.4:
            return chance.choice([500, 301, TooSlow("slow"), Unreachable("down")])
        number = int(body[2:])
        delivered[deliveries[number]].append(number)
        return 200

    async def run() -> None:
        inbox = Inbox(tmp_path_factory.mktemp("inbox"), SECRETS, now_ms, fsync=False)
        async with delivering(inbox, Outside(answer)):
            for number, (tenant_id, order_key) in enumerate(deliveries):
                await inbox.put(kept(number, tenant_id=tenant_id, order_key=order_key))
            await eventually(lambda: not left(inbox))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deliverer_module, "FIRST_WAIT_S", 0.0)
        patched.setattr(deliverer_module, "LOOK_S", 0.001)
        asyncio.run(run())

    assert sorted(number for numbers in delivered.values() for number in numbers) == list(range(len(deliveries)))
    for (_, order_key), numbers in delivered.items():
        assert numbers == sorted(numbers) or not order_key


async def test_the_inbox_is_searched_only_when_files_have_come_or_gone(inbox, at_once, monkeypatch):
    inbox._changes = DirectoryChanges(inbox._directory, again_s=1e9)
    async with delivering(inbox, Outside()) as deliverer:
        await inbox.put(kept(1))
        await eventually(lambda: deliverer.attempts["delivered"] == 1)
        await asyncio.sleep(0.3)
        searches = []
        look = inbox.look
        monkeypatch.setattr(inbox, "look", lambda known: searches.append(1) or look(known))
        await asyncio.sleep(0.1)
        at_rest = list(searches)
        await inbox.put(kept(2))
        await eventually(lambda: deliverer.attempts["delivered"] == 2)

    assert at_rest == []
    assert searches


async def test_attempts_under_way_at_one_application_are_bounded(inbox):
    outside = Outside()
    outside.released.clear()
    for number in range(200):
        await inbox.put(kept(number, tenant_id=f"hangs{number % 3}", order_key=f"SM{number}"))
    async with delivering(inbox, outside):
        await eventually(lambda: len(outside.under_way) == 3 * AT_ONCE_OF_DOOR_MAX)
        outside.released.set()
        await eventually(lambda: not left(inbox))

    assert outside.most_under_way == 3 * AT_ONCE_OF_DOOR_MAX
    assert len(outside.asked) == 200


async def test_attempts_under_way_for_one_tenant_are_bounded_however_many_urls_its_deliveries_name(inbox):
    outside = Outside()
    outside.released.clear()
    for number in range(100):
        await inbox.put(kept(number, order_key=f"SM{number}", url=f"https://a{number}.example/"))
    async with delivering(inbox, outside):
        await eventually(lambda: len(outside.under_way) == AT_ONCE_OF_TENANT_MAX)
        await inbox.put(kept(tenant_id="other"))
        await eventually(lambda: "https://other.example/" in outside.under_way)
        outside.released.set()
        await eventually(lambda: not left(inbox))

    assert outside.most_under_way == AT_ONCE_OF_TENANT_MAX + 1


async def test_while_one_tenants_application_hangs_another_has_its_own_at_once(inbox):
    hanging = asyncio.Event()

    class Selective(Outside):
        async def send(self, url, method, headers, body, timeout_s) -> Answer:
            if "hangs" in url:
                await hanging.wait()
            return await super().send(url, method, headers, body, timeout_s)

    outside = Selective()
    for number in range(100):
        await inbox.put(kept(number, tenant_id="hangs", order_key=f"SM{number}"))
    async with delivering(inbox, outside) as deliverer:
        await eventually(lambda: deliverer.waiting == 100)
        await inbox.put(kept(tenant_id="other"))
        # And of the same tenant, what goes elsewhere and what is about something else.
        await inbox.put(kept(tenant_id="hangs", order_key="CA1", url="https://elsewhere.example/"))
        await eventually(lambda: left(inbox) == 100)
        assert len(outside.asked) == 2
        hanging.set()
        await eventually(lambda: not left(inbox))


async def test_an_application_that_does_not_answer_is_tried_by_one_delivery_at_a_time(inbox):
    outside = Outside(lambda url, body: TooSlow("slow"))
    for number in range(50):
        await inbox.put(kept(number, order_key=f"SM{number}"))
    async with delivering(inbox, outside):
        await eventually(lambda: len(outside.asked) >= 30)

    assert set(outside.alongside[AT_ONCE_OF_DOOR_MAX:]) == {1}


async def test_large_ones_are_not_held_all_at_once(inbox, monkeypatch):
    monkeypatch.setattr(deliverer_module, "BYTES_AT_ONCE_MAX", 250_000)
    outside = Outside()
    outside.released.clear()
    for number in range(4):
        await inbox.put(kept(number, order_key=f"SM{number}", media_type="", body=os.urandom(100_000)))
    await inbox.put(kept(4, tenant_id="other", media_type="", body=os.urandom(300_000)))
    async with delivering(inbox, outside):
        await eventually(lambda: len(outside.under_way) == 2)
        await asyncio.sleep(0.05)
        assert len(outside.under_way) == 2
        outside.released.set()
        await eventually(lambda: not left(inbox))


# ---------------------------------------------------------------------------------------------------------------------
# The gateway's own end, and what it finds


DELIVERING = """
import asyncio, sys, time
from pathlib import Path
from gateway.deliverer import Deliverer, Destination
from gateway.egress import Egress, Policy
from gateway.inbox import Inbox
from gateway.keys import Secrets
from gateway.providers.twilio.signatures import signed

def now_ms():
    return time.time_ns() // 1_000_000

async def main():
    inbox = Inbox(Path(sys.argv[1]), Secrets.derived("one installation"), now_ms, fsync=False)
    async with Egress(Policy(callback_hosts=("localhost",))) as egress:
        await Deliverer(inbox, egress, lambda _: Destination(sys.argv[2], (sys.argv[3], sys.argv[4]), signed), now_ms).run()

asyncio.run(main())
"""


async def test_killed_between_receipt_and_delivery_again_and_again_nothing_is_lost_and_the_order_is_kept(tmp_path):
    inbox = Inbox(tmp_path, SECRETS, now_ms, fsync=False)
    put = [await inbox.put(kept(number, order_key=f"SM{number % 3}")) for number in range(300)]
    async with application() as one:
        for life in range(5):
            command = [sys.executable, "-c", DELIVERING, str(tmp_path), one.url, SECRET, PREVIOUS]
            process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
            received = len(one.received)
            await eventually(lambda: len(one.received) > received + 20 or not left(inbox))  # noqa: B023
            if life < 4:
                process.kill()
            else:
                await eventually(lambda: not left(inbox))
                process.terminate()
            await process.wait()

    ids = list(dict.fromkeys(told["webhook-id"] for _, told, _ in one.received))
    assert sorted(ids) == sorted(put)
    for key in range(3):
        assert [one_id for one_id in ids if put.index(one_id) % 3 == key] == put[key::3]
    assert len(one.received) <= 300 + 4 * 3


@pytest.mark.usefixtures("at_once")
async def test_a_torn_file_is_set_aside_and_the_next_of_its_kind_arrives(inbox):
    torn = await inbox.put(kept(1))
    await inbox.put(kept(2))
    path = inbox._path(torn)
    path.write_bytes(path.read_bytes()[:-1])  # Its head is whole.
    outside = Outside()
    async with delivering(inbox, outside) as deliverer:
        await eventually(lambda: not left(inbox))
        await eventually(lambda: deliverer.unreadable == 1)

    assert outside.bodies == [b"N=2"]


@pytest.mark.usefixtures("at_once")
async def test_what_the_disk_does_not_let_go_of_is_not_delivered_again(inbox, monkeypatch):
    outside = Outside()
    remove = Inbox.remove
    refusals = [OSError(30, "Read-only file system")] * 5

    def refuse(self: Inbox, delivery_id: str) -> None:
        if refusals:
            raise refusals.pop()
        remove(self, delivery_id)

    monkeypatch.setattr(Inbox, "remove", refuse)
    await inbox.put(kept())
    async with delivering(inbox, outside):
        await eventually(lambda: not left(inbox))

    assert len(outside.asked) == 1


@pytest.mark.usefixtures("at_once")
async def test_an_inbox_that_can_not_be_looked_at_is_looked_at_again(inbox, monkeypatch):
    outside = Outside()
    look = Inbox.look
    refusals = [OSError(5, "Input/output error")] * 3

    def refuse(self: Inbox, known) -> object:
        if refusals:
            raise refusals.pop()
        return look(self, known)

    await inbox.put(kept())
    monkeypatch.setattr(Inbox, "look", refuse)
    async with delivering(inbox, outside):
        await eventually(lambda: outside.asked)


async def test_what_waits_is_shown_and_can_be_tried_at_once(inbox):
    answers = [500]
    outside = Outside(lambda url, body: answers[0])
    first, second = [await inbox.put(kept(number)) for number in range(2)]
    other = await inbox.put(kept(tenant_id="other"))
    async with delivering(inbox, outside) as deliverer:
        await eventually(lambda: deliverer.attempts["refused"] >= 2)
        await deliverer.quiet()
        one, two = deliverer.shown("acme", 10)
        assert [one.waiting.delivery_id, two.waiting.delivery_id] == [first, second]
        assert (one.outcome, one.status, two.attempts, two.next_attempt_ms) == ("refused", 500, 0, None)
        assert one.next_attempt_ms is not None
        assert [shown.waiting.delivery_id for shown in deliverer.shown("other", 10)] == [other]
        assert deliverer.waiting == 3
        assert deliverer.oldest_ms == one.waiting.received_at_ms

        deliverer._lanes["acme", "SM1"].attempts = 1000
        deliverer._put_off(deliverer._lanes["acme", "SM1"], 100_000)
        answers[0] = 200
        assert not deliverer.retry("other", first)
        assert not deliverer.retry("acme", "unknown")
        assert deliverer.retry("acme", second)
        await eventually(lambda: not deliverer.shown("acme", 1))

    assert [body for body in outside.bodies if body != b"N=0"] == [b"N=1"]
