"""What is done with a tenant's numbers: what each is to be, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway import connector as connector_module
from gateway.accounts import Accounts
from gateway.collector import Credential
from gateway.connector import (
    Connector,
    NotConnected,
    Outcome,
    Source,
    remembered,
    to_connect,
    to_undo,
)
from gateway.keys import Secrets
from gateway.providers import twilio
from gateway.providers.api import OwnNumber, Way
from gateway.tables import integrations
from tests.gateway.api.conftest import Clock
from tests.gateway.served import served

REAL, OWN = "AC" + "5" * 32, "AC" + "6" * 32
NUMBER = "+15005550700"
OURS = {name: Way(f"https://gateway.example.com/webhooks/twilio/acme/{name}") for name in ("sms", "voice")}
MOVED = {name: Way(f"https://moved.example.com/webhooks/twilio/acme/{name}") for name in ("sms", "voice")}

ways = st.dictionaries(
    st.sampled_from(["sms", "voice"]),
    st.builds(
        Way,
        st.sampled_from(["", "https://a.example.com/x", "https://b.example.com/y"]),
        st.sampled_from(["GET", "POST"]),
        st.sampled_from(["", "AP" + "0" * 32]),
    ),
)


def carried_out(number, steps):
    (step,) = steps
    return number._replace(ways={**number.ways, **step.to})


@given(ways, st.lists(st.sampled_from([OURS, MOVED]), min_size=1, max_size=6))
def test_however_often_and_to_whichever_of_our_addresses_it_is_led_undoing_restores_it(was, addresses):
    first = number = OwnNumber("PN1", NUMBER, was)
    before = {}
    for target in addresses:
        steps = to_connect([number], before, target)
        before |= remembered(steps, before, REAL, target)
        number = carried_out(number, steps)
        assert all(number.ways[name] == target[name] for name in number.ways)
        assert not to_connect([number], before, target)[0].to
    if before:
        number = carried_out(number, to_undo([number], before))

    assert number == first


def test_a_change_that_did_not_arrive_can_be_undone_all_the_same():
    """Guards a move to another address of ours that failed: the number has the address before it."""
    number = OwnNumber("PN1", NUMBER, {"sms": Way("https://a.example.com/x")})
    steps = to_connect([number], {}, OURS)
    before = remembered(steps, {}, REAL, OURS)
    led = carried_out(number, steps)
    before |= remembered(to_connect([led], before, MOVED), before, REAL, MOVED)

    assert carried_out(led, to_undo([led], before)) == number


def test_what_led_here_before_anybody_asked_for_it_is_not_taken_for_what_it_was():
    number = OwnNumber("PN1", NUMBER, {"sms": OURS["sms"], "voice": Way("https://a.example.com/x")})

    kept = remembered(to_connect([number], {}, OURS), {}, REAL, OURS)["PN1"]

    assert kept.ways == {"voice": number.ways["voice"]}


# ---------------------------------------------------------------------------------------------------------------------


class FakeTwilio:
    """Numbers on an account, and how it answers to changes."""

    def __init__(self):
        self.numbers = [self.number(0), self.number(1)]
        self.changed = []
        self.refuses = {}
        self.hangs = False

    @staticmethod
    def number(n, **said):
        return {
            "sid": f"PN{n:032x}",
            "phone_number": f"+1500555{n:04}",
            "sms_url": "https://app.example.com/sms",
        } | said

    async def answer(self, request):
        if request.method == "GET":
            return web.json_response({"incoming_phone_numbers": self.numbers, "next_page_uri": None})
        if self.hangs:
            await asyncio.sleep(60)
        sid = request.path.rpartition("/")[2].removesuffix(".json")
        form = dict(parse_qsl(await request.text(), keep_blank_values=True))
        self.changed.append((sid, form))
        if sid in self.refuses:
            return web.json_response({"code": self.refuses[sid], "message": "secret of theirs"}, status=400)
        return web.json_response({})


@pytest.fixture
async def walk(database, tmp_path):
    fake = FakeTwilio()
    async with served(fake.answer) as base_url:
        accounts = Accounts(database, Secrets.derived("a secret"), tmp_path / "snapshot.json", Clock())
        async with accounts.changing("test") as change:
            await change.create_tenant("acme")
        credentials = {None: Credential({}, REAL), "acme": Credential({}, OWN)}
        source = Source(twilio.PROVIDER, base_url, credentials.get)
        connector = Connector(accounts, {"twilio": source}, "https://gateway.example.com")

        async def connect(**flags):
            return await connector.connect("test", "twilio", "acme", **flags)

        yield SimpleNamespace(
            fake=fake,
            accounts=accounts,
            credentials=credentials,
            connector=connector,
            connect=connect,
            database=database,
        )


async def test_a_number_that_is_refused_has_its_code_and_the_others_are_changed(walk):
    walk.fake.refuses = {walk.fake.numbers[0]["sid"]: 21502}

    done = await walk.connect()

    assert [(one.outcome, one.code) for one in done.numbers] == [(Outcome.FAILED, "21502"), (Outcome.CHANGED, None)]
    assert "theirs" not in done.numbers[0].problem
    assert done.numbers[0].now["sms"].url == "https://app.example.com/sms"
    assert done.signing_secret is not None


async def test_what_numbers_were_is_kept_before_they_are_changed_and_unreadable_at_rest(walk, monkeypatch):
    """Guards a process that ends between the two: what it changed must not be all that is known."""
    walk.fake.numbers = [walk.fake.number(0, sms_url="https://app.example.com/sms?token=hunter2")]
    monkeypatch.setattr(connector_module._Work, "change", _ended)
    with pytest.raises(RuntimeError):
        await walk.connect()

    (known,) = (await walk.accounts.connected("acme")).values()
    assert "hunter2" in known
    async with walk.database.reading() as connection:
        document = (await connection.execute(integrations.select())).one().document
    assert "hunter2" not in document["connected"]


async def _ended(*_):
    raise RuntimeError


async def test_workers_are_not_told_what_numbers_were(walk, tmp_path):
    await walk.connect()

    assert "connected" not in (tmp_path / "snapshot.json").read_text()


async def test_a_number_that_does_not_answer_is_named_and_the_rest_is_left_for_the_next_time(walk, monkeypatch):
    monkeypatch.setattr(connector_module, "ANSWER_S_MAX", 1)
    walk.fake.hangs = True

    done = await walk.connect()

    assert [one.outcome for one in done.numbers] == [Outcome.FAILED, Outcome.LEFT]
    walk.fake.hangs = False
    monkeypatch.setattr(connector_module, "ANSWER_S_MAX", 30)
    assert [one.outcome for one in (await walk.connect()).numbers] == [Outcome.CHANGED] * 2


async def test_calls_of_a_number_on_a_trunk_are_left_to_it(walk):
    walk.fake.numbers = [walk.fake.number(0, trunk_sid="TK" + "0" * 32, voice_url="https://app.example.com/voice")]

    await walk.connect()

    ((_, form),) = walk.fake.changed
    assert {name for name in form if name.startswith("Voice")} == set()
    assert form["SmsUrl"] == "https://gateway.example.com/webhooks/twilio/acme/sms"


async def test_without_an_address_or_a_credential_or_numbers_nothing_is_asked(walk):
    walk.connector.public_url = None
    with pytest.raises(NotConnected, match="TOLLKEEPER_PUBLIC_URL"):
        await walk.connect()
    walk.connector.public_url = "https://gateway.example.com"
    del walk.credentials["acme"]
    with pytest.raises(NotConnected, match="phone-number"):
        await walk.connect()
    walk.credentials.clear()
    with pytest.raises(NotConnected, match="credential set acme"):
        await walk.connect()
    with pytest.raises(NotConnected, match="credential set acme"):
        await walk.connect(undo=True)


async def test_numbers_of_an_account_that_is_the_tenants_no_more_are_not_forgotten(walk):
    await walk.connect()
    walk.credentials["acme"] = Credential({}, "AC" + "7" * 32)

    done = await walk.connect(undo=True)

    assert [one.outcome for one in done.numbers] == [Outcome.FAILED] * 2
    assert len(await walk.accounts.connected("acme")) == 2


async def test_a_number_that_was_given_up_since_is_forgotten(walk):
    await walk.connect()
    walk.fake.numbers = []

    done = await walk.connect(undo=True)

    assert [one.outcome for one in done.numbers] == [Outcome.MISSING] * 2
    assert await walk.accounts.connected("acme") == {}


async def test_what_is_no_list_changes_nothing(walk):
    walk.fake.numbers = json.loads("3")

    with pytest.raises(NotConnected, match="Nothing was changed"):
        await walk.connect()
    assert await walk.accounts.connected("acme") == {}


async def test_numbers_of_a_tenant_that_was_closed_since_are_led_back_and_forgotten(walk):
    del walk.credentials["acme"]
    async with walk.accounts.changing("test") as change:
        await change.change_integration("acme", {"phone_numbers": ["+15005550000"]})
    await walk.connect()
    async with walk.accounts.changing("test") as change:
        await change.change_tenant("acme", status="closed")
    walk.fake.numbers = [walk.fake.number(0, sms_url="https://gateway.example.com/webhooks/twilio/acme/sms")]

    done = await walk.connect(undo=True)

    assert [one.outcome for one in done.numbers] == [Outcome.CHANGED]
    assert walk.fake.changed[-1][1]["SmsUrl"] == "https://app.example.com/sms"
    assert await walk.accounts.connected("acme") == {}
