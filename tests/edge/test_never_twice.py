"""What may have reached a provider is not sent to it again, and what it was sent is what the client is told of."""

import asyncio
import random

import pytest

from metering.usage import Completeness
from tests.edge.upstreams import CALLS, JSON, WHOLE, completion, ended_once, got, mail, message, read, turns
from tests.gateway.peers import answer, client, provider, soon
from tests.gateway.proxied import OWN, proxied, request

POSTS = {"a chat completion": completion, "a message": message, "a mail": mail}
WHOLE_ANSWER = answer(WHOLE, JSON)


class Counting:
    """A script that counts requests, a part of one being one, and fails each of a kind in one way.

    `first` is how many requests of a connection are answered before the failure.
    """

    def __init__(self, how, *, first=0):
        self.how, self.first = how, first
        self.requests = 0
        self.connections = 0
        self.failed = 0

    async def __call__(self, peer):
        self.connections += 1
        for _ in range(self.first):
            await self._request(peer)
            await peer.send(WHOLE_ANSWER)
        await self._fail(peer)

    async def _request(self, peer):
        asking = await peer._message(bodiless=True)
        self.requests += 1
        await peer._exactly(int(asking["content-length"] or 0))

    async def _fail(self, peer):
        if self.how == "at the first byte":
            await peer._exactly(1)
            self.requests += 1
        elif self.how == "in the head":
            await peer._exactly(20)
            self.requests += 1
        elif self.how == "after the head":
            await peer._message(bodiless=True)
            self.requests += 1
        else:
            await self._request(peer)
        self.failed += 1
        if self.how == "reset":
            peer.reset()
        elif self.how == "half an answer":
            await peer.send(WHOLE_ANSWER[:20])
        elif self.how == "an interim answer":
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")


HOW = ["close", "reset", "at the first byte", "in the head", "after the head", "half an answer", "an interim answer"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("call", POSTS)
async def test_a_post_of_which_the_provider_got_a_byte_is_never_sent_again(tmp_path, call, first, how):
    """Guards the one attempt, on a new connection and on one that was kept: the provider counts."""
    script = Counting(how, first=first)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for _ in range(first):
            assert (await made.ask(POSTS[call]())).status == 200
        answered = await asked_once(made, POSTS[call]())

        assert answered is not None
        assert answered.refused
        assert (script.requests, script.failed, script.connections) == (first + 1, 1, 1)
        assert ended_once(made, first + 1)
        assert made.events[-1].completeness is not Completeness.PENDING
        assert made.lines[-1]["error"] == "upstream_broke"


async def asked_once(made, call, method="POST"):
    async with client(made.port) as peer:
        peer.writer.write(call)
        return await got(peer, method=method)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("part", [1, 70_000, 400_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_that_broke_off_is_not_begun_again(tmp_path, framing, part, kept, how):
    """Guards bodies that are forwarded as they come: what was passed on is gone, and its beginning was sent."""
    size = 1 << 20
    uploads = 0

    async def script(peer):
        nonlocal uploads
        if kept:
            await peer.message()
            await peer.send(WHOLE_ANSWER)
        await peer._message(bodiless=True)
        uploads += 1
        await peer._exactly(part)
        if how == "reset":
            peer.reset()

    body = bytes(size)
    whole = request("/openai/v1/files", body, key=OWN)
    if framing == "chunked":
        head, _, _ = request("/openai/v1/files", b"", "Transfer-Encoding: chunked", key=OWN).partition(
            b"Content-Length: 0"
        )
        whole = head + b"\r\n%x\r\n" % size + body + b"\r\n0\r\n\r\n"
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        if kept:
            assert (await made.ask(read())).status == 200
        answered = await asked_once(made, whole)

        assert answered is None or answered.refused
        assert (uploads, len(serving.peers)) == (1, 1)
        assert ended_once(made, 1)
        assert [line["error"] for line in made.lines if "error" in line] == ["upstream_broke"]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("before", [1, 2, 7])
async def test_a_read_on_a_connection_that_was_just_closed_is_asked_once_more_and_answered(
    tmp_path, before, method, how
):
    """Guards the one repetition: on a new connection, and never on another one that was kept."""
    connections = 0

    async def script(peer):
        nonlocal connections
        connections += 1
        reply = WHOLE_ANSWER if method == "GET" else WHOLE_ANSWER[: -len(WHOLE)]
        for _ in range(before):
            await peer.message()
            await peer.send(reply)
        await peer.message()
        if how == "reset":
            peer.reset()

    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for number in range(4 * before):
            answered = await asked_once(made, read(method=method), method)

            assert answered is not None
            assert (answered.status, answered.whole, answered.body) == (200, True, WHOLE if method == "GET" else b"")
            assert connections == 1 + number // before


async def test_a_read_is_asked_again_on_a_new_connection_though_others_were_kept(tmp_path):
    """Guards the new connection: a provider that restarts ends all that were kept, and each would fail in its turn."""
    number, arrived, all_there = 6, 0, asyncio.Event()

    async def script(peer):
        nonlocal arrived
        arrived += 1
        await peer.message()
        if arrived >= number:
            all_there.set()
        await soon(all_there.wait())
        await peer.send(WHOLE_ANSWER)
        await peer.message()

    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        await asyncio.gather(*(asked_once(made, read(), "GET") for _ in range(number)))
        assert len(serving.peers) == number
        answered = await asked_once(made, read(), "GET")

        assert answered is not None
        assert (answered.status, answered.body, answered.whole) == (200, WHOLE, True)
        assert len(serving.peers) == number + 1


async def test_a_read_that_was_not_answered_on_a_new_connection_is_not_asked_again(tmp_path):
    script = Counting("close")
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        answered = await asked_once(made, read(), "GET")

        assert answered is not None
        assert answered.refused
        assert (script.requests, script.connections) == (1, 1)


async def test_a_read_is_asked_twice_at_most(tmp_path):
    script = Counting("close", first=1)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        assert (await made.ask(read())).status == 200
        script.first = 0
        answered = await asked_once(made, read(), "GET")

        assert answered is not None
        assert answered.refused
        assert (script.requests, script.connections) == (3, 2)


@pytest.mark.parametrize("how", ["half an answer", "an interim answer"])
async def test_a_read_whose_answer_had_begun_is_not_asked_a_third_time(tmp_path, how):
    script = Counting(how, first=1)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        assert (await made.ask(read())).status == 200
        answered = await asked_once(made, read(), "GET")

        assert answered is not None
        assert answered.refused or (answered.status, answered.body, answered.whole) == (200, WHOLE, True)
        assert script.requests <= 3


# ---------------------------------------------------------------------------------------------------------------------
# Connections that a provider closes at the moment of their reuse


class Leaving:
    """A script that answers, and ends the connection at a moment that may be that of its next use.

    Each request is counted by what it names. `silences` is how likely it is that one which was read is not answered.
    """

    def __init__(self, seed, silences=0.0):
        self.random = random.Random(seed)
        self.silences = silences
        self.counted = {}
        self.answered = set()

    async def __call__(self, peer):
        for _ in range(self.random.randint(1, 3)):
            asking = await peer._message(bodiless=False)
            name = asking["x-name"]
            self.counted[name] = self.counted.get(name, 0) + 1
            await turns(self.random.randint(0, 3))
            if self.random.random() < self.silences:
                return
            await peer.send(WHOLE_ANSWER)
            self.answered.add(name)
        await turns(self.random.randint(0, 12))
        if self.random.random() < 0.3:
            peer.reset()


@pytest.mark.parametrize("seed", range(4))
async def test_at_the_moment_of_a_close_a_post_is_sent_once_or_not_at_all_and_its_answer_says_which(tmp_path, seed):
    """Guards both sides of the race: no call is sent twice, and none is told to have succeeded that was not answered."""
    script = Leaving(seed, silences=0.2)
    told = {}
    async with provider(script) as serving, proxied(tmp_path, serving) as made:

        async def caller(name, chance):
            for number in range(60):
                one = f"{name}-{number}"
                answered = await asked_once(made, completion(f"X-Name: {one}"))
                told[one] = answered
                await turns(chance.randint(0, 10))

        await asyncio.gather(*(caller(name, random.Random(f"{seed} {name}")) for name in range(3)))
        for name, answered in told.items():
            assert script.counted.get(name, 0) <= 1
            assert answered is not None
            assert answered.whole
            if answered.status == 200:
                assert answered.body == WHOLE
                assert name in script.answered
            else:
                assert answered.status == 502
                if answered.head["x-tollkeeper-error"] == "upstream_unreachable":
                    assert name not in script.counted
        reported = [event for event in made.events if event.completeness is Completeness.REPORTED]
        assert len(reported) == sum(answered.status == 200 for answered in told.values())
        assert ended_once(made, len(told))


@pytest.mark.parametrize("seed", range(4))
async def test_at_the_moment_of_a_close_every_read_is_answered(tmp_path, seed):
    """Guards against a 502 that nobody deserves: a read that met a closing connection is asked on a new one."""
    script = Leaving(seed)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:

        async def caller(name, chance):
            for number in range(60):
                answered = await asked_once(made, read(f"X-Name: {name}-{number}"), "GET")

                assert answered is not None
                assert (answered.status, answered.body, answered.whole) == (200, WHOLE, True)
                await turns(chance.randint(0, 10))

        await asyncio.gather(*(caller(name, random.Random(f"{seed} {name}")) for name in range(3)))
        assert max(script.counted.values()) <= 2


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_was_closed_in_peace_costs_no_call_its_answer(tmp_path, call, how):
    """Guards what the gateway knows already: a close that it has seen is not a failure of the next call."""

    async def script(peer):
        await peer.message()
        await peer.send(WHOLE_ANSWER)
        await turns(20)
        if how == "reset":
            peer.reset()

    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for number in range(20):
            answered = await asked_once(made, CALLS[call](), CALLS[call]().split(b" ")[0].decode())
            await turns(60)

            assert answered is not None
            assert (answered.status, answered.body) == (200, WHOLE)
            assert len(serving.peers) == number + 1
        assert serving.seen.count(b" HTTP/1.1\r\n") == 20


async def test_a_provider_that_refuses_connections_is_sent_nothing_and_the_call_is_closed(tmp_path):
    async with provider(Counting("close")) as serving, proxied(tmp_path, serving, port=9) as made:
        for call in POSTS.values():
            answered = await asked_once(made, call())

            assert answered is not None
            assert (answered.status, answered.head["x-tollkeeper-error"]) == (502, "upstream_unreachable")
        assert serving.peers == []
        assert made.closed == ["unreachable"] * 3
        assert made.events == []


async def test_a_client_that_asks_again_itself_is_two_calls(tmp_path):
    """What is not repeated here may be repeated there: each is a call of its own, and each is told the truth."""
    script = Counting("close", first=1)
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        first = await asked_once(made, completion())
        second = await asked_once(made, completion())
        third = await asked_once(made, completion())

        assert [one.status for one in (first, second, third) if one] == [200, 502, 200]
        assert script.requests == 3
        assert [event.completeness for event in made.events] == [
            Completeness.REPORTED,
            Completeness.UNKNOWN,
            Completeness.REPORTED,
        ]
