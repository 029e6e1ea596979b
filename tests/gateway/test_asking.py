"""Asking a provider on our own account: evenly, patiently, and no more than it allows."""

from __future__ import annotations

import asyncio
import email.utils
import time
from itertools import pairwise

import pytest
from aiohttp import web

from gateway import asking
from gateway.asking import RETRY_AFTER_S_MAX, TRIES_MAX, Asker, NotAnswered, retry_after_s
from tests.gateway.served import served


class Provider:
    def __init__(self):
        self.at = []
        self.answers = []
        self.url = ""

    async def answer(self, request):
        self.at.append(asyncio.get_running_loop().time())
        said = self.answers.pop(0) if self.answers else web.Response(body=b"there")
        return said if isinstance(said, web.StreamResponse) else await said(request)


@pytest.fixture
async def provider():
    made = Provider()
    async with served(made.answer) as base_url:
        made.url = f"{base_url}/list"
        yield made


@pytest.fixture
async def asker():
    made = Asker(20)
    yield made
    await made.close()


async def test_however_many_ask_they_are_asked_evenly(provider, asker):
    await asyncio.gather(*(asker.ask(provider.url, {}) for _ in range(10)))

    gaps = [later - earlier for earlier, later in pairwise(provider.at)]
    # Never sooner than it is its turn, give or take how exact a clock and a socket are.
    assert min(gaps) > 0.05 * 0.5
    assert provider.at[-1] - provider.at[0] > 9 * 0.05 * 0.9


async def test_one_that_is_asked_too_often_is_left_alone_by_everybody(provider, asker):
    provider.answers = [web.Response(status=429, headers={"Retry-After": "1"})]

    await asyncio.gather(*(asker.ask(provider.url, {}) for _ in range(3)))

    assert min(provider.at[1:]) - provider.at[0] >= 0.95


async def test_what_fails_is_asked_again_at_growing_intervals_and_given_up(provider, asker, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE_S", 0.02)
    provider.answers = [web.Response(status=503) for _ in range(20)]
    asked = []

    with pytest.raises(NotAnswered, match="503") as given_up:
        await asker.ask(provider.url, {}, lambda: asked.append(1))

    assert (len(provider.at), len(asked), given_up.value.again) == (TRIES_MAX, TRIES_MAX, True)
    assert provider.at[-1] - provider.at[-2] > provider.at[2] - provider.at[1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
async def test_a_refusal_is_final(provider, asker, status):
    provider.answers = [web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})]

    with pytest.raises(NotAnswered, match=str(status)):
        await asker.ask(provider.url, {})

    assert len(provider.at) == 1


async def test_an_answer_without_end_is_not_held(provider, asker, monkeypatch):
    monkeypatch.setattr(asking, "BODY_BYTES_MAX", 1 << 20)

    async def endless(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    provider.answers = [endless]

    with pytest.raises(NotAnswered, match="longer than"):
        await asker.ask(provider.url, {})


async def test_nobody_there_is_said_without_an_address(asker, monkeypatch):
    monkeypatch.setattr(asking, "PAUSE_S", 0.001)

    with pytest.raises(NotAnswered) as refused:
        await asker.ask("http://127.0.0.1:1/Accounts/AC1", {})

    assert str(refused.value) == "the provider can not be reached"


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("0", 0),
        ("7", 7),
        ("999999", RETRY_AFTER_S_MAX),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("٣", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_what_retry_after_says(said, wait_s):
    assert retry_after_s({"Retry-After": said}) == wait_s


def test_a_date_is_understood_as_well():
    wait_s = retry_after_s({"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)})

    assert wait_s is not None
    assert 50 < wait_s <= 60


async def test_a_form_is_sent_and_a_refusal_of_it_has_its_words(asker):
    got = []

    async def answer(request):
        got.append((request.method, dict(await request.post())))
        return web.Response(status=400, body=b'{"code": 21502}' + b" " * 100_000)

    async with served(answer) as base_url:
        with pytest.raises(NotAnswered) as refused:
            await asker.ask(f"{base_url}/", {}, form={"SmsUrl": "x", "Y": ""})

    assert got == [("POST", {"SmsUrl": "x", "Y": ""})]
    assert refused.value.body.startswith(b'{"code": 21502}')
    assert len(refused.value.body) <= asking.REFUSAL_BYTES_MAX
    assert "21502" not in str(refused.value)
