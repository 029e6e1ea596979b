"""Two tenants whose calls go over the same connections: of what belongs to one, the other never gets a byte."""

import asyncio
import random

import pytest

from tests.edge.upstreams import JSON, READ, ended_once, got, turns
from tests.gateway.peers import answer, chunked, client, provider, soon
from tests.gateway.proxied import ACME, CHAT, OTHER, chat, proxied, request

CANARY = b"of-acme"
OF_ACME = b'{"id":"chatcmpl-1","to":"of-acme"}'
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Mine: of-acme\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nX-Mine: of-acme\r\nContent-Length: 7\r\n\r\nof-acme"

POISONED = {
    "nothing": [answer(OF_ACME, JSON, b"X-Mine: of-acme")],
    "a second answer": [answer(OF_ACME) + EVIL],
    "a second answer, apart": [answer(OF_ACME), EVIL],
    "a hundred more": [answer(OF_ACME), EVIL * 100],
    "half an answer": [answer(OF_ACME) + EVIL[:-9]],
    "half an answer, apart": [answer(OF_ACME), EVIL[:-9]],
    "half a head": [answer(OF_ACME) + EVIL[:34]],
    "half a head, apart": [answer(OF_ACME), EVIL[:34]],
    "half a status line": [answer(OF_ACME) + b"HTTP/1.1 20"],
    "half a body": [answer(OF_ACME) + EVIL[:-3]],
    "an interim answer": [answer(OF_ACME) + b"HTTP/1.1 103 Early\r\nX-Mine: of-acme\r\n\r\n"],
    "an interim answer, apart": [answer(OF_ACME), b"HTTP/1.1 103 Early\r\nX-Mine: of-acme\r\n\r\n"],
    "half an interim answer": [answer(OF_ACME) + b"HTTP/1.1 103 Early\r\nX-Mine: of-acme\r\n"],
    "a blank line": [answer(OF_ACME) + b"\r\n"],
    "bytes of no form": [answer(OF_ACME) + b"of-acme" * 20],
    "trailers": [CHUNKS + chunked(OF_ACME)[:-2] + b"X-Mine: of-acme\r\nSet-Cookie: of-acme\r\n\r\n"],
    "trailers, apart": [CHUNKS + chunked(OF_ACME)[:-2], b"X-Mine: of-acme\r\n", b"\r\n"],
    "trailers and an answer": [CHUNKS + chunked(OF_ACME)[:-2] + b"X-Mine: of-acme\r\n\r\n" + EVIL],
    "a chunk after the last": [CHUNKS + chunked(OF_ACME) + b"7\r\nof-acme\r\n0\r\n\r\n"],
    "bytes after a 204": [b"HTTP/1.1 204 No\r\nX-Mine: of-acme\r\n\r\n" + EVIL],
    "a body of a 204": [b"HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\nof-acme"],
    "a body of a 304": [b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\nof-acme"],
    "a failure and an answer": [answer(b"of-acme", status=b"429 Slow") + EVIL],
    "a length that is too short": [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + OF_ACME],
}


class Shared:
    """A script: what names a poison gets it, and what names a marker gets that; on whatever connection it comes."""

    def __init__(self):
        self.poisoned = set()
        self.reached = 0
        """How many requests came on a connection that carried a poison before."""
        self.at_rest = asyncio.Event()
        """Set while no poison is half sent."""

    async def __call__(self, peer):
        while True:
            asking = await peer._message(bodiless=False)
            self.reached += peer in self.poisoned
            if asking["x-poison"] is None:
                await peer.send(answer(asking["x-marker"].encode(), JSON))
                continue
            pieces = POISONED[asking["x-poison"]]
            if asking["x-poison"] != "nothing":
                self.poisoned.add(peer)
            self.at_rest.clear()
            for number, piece in enumerate(pieces):
                if number:
                    await turns()
                await peer.send(piece)
            self.at_rest.set()


async def attack(made, what, *, leaves=False):
    async with client(made.port) as peer:
        peer.writer.write(request(CHAT, chat(), f"X-Poison: {what}", key=ACME))
        if leaves:
            await turns(3)
            peer.reset()
            return
        answered = await got(peer)
        assert answered is not None
        assert answered.status in (200, 204, 304, 429, 502)


async def probe(made, marker):
    """A call of the other tenant's: it gets its own answer, all of it, and nothing of anybody else's."""
    async with client(made.port) as peer:
        for number in range(2):
            name = f"{marker}-{number}"
            peer.writer.write(request(CHAT, chat(), f"X-Marker: {name}", key=OTHER))
            answered = await got(peer)

            assert CANARY not in bytes(peer.seen)
            assert answered is not None
            assert (answered.status, answered.body, answered.whole) == (200, name.encode(), True)


@pytest.mark.parametrize("what", POISONED)
async def test_what_is_added_to_an_answer_of_one_tenant_s_reaches_no_other(tmp_path, what):
    script = Shared()
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for number in range(10):
            await probe(made, f"before-{number}")
            await attack(made, what)
            # What a provider sends once the next request is there is, for all that anybody can know, the answer to it.
            await soon(script.at_rest.wait())
            await turns()
            await probe(made, f"after-{number}")
        if what not in ("a blank line", "trailers", "trailers, apart"):
            assert script.reached == 0
        assert ended_once(made, 50)


@pytest.mark.parametrize("seed", range(4))
async def test_a_thousand_rounds_of_attack_and_probe_mix_nothing_up(tmp_path, seed):
    """Guards the connections that are kept: attacks and probes at once, in any order, on the same ones."""
    script = Shared()
    chance = random.Random(seed)
    names = [name for name, pieces in POISONED.items() if len(pieces) == 1]
    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for number in range(250):
            calls = [
                attack(made, chance.choice(names), leaves=chance.random() < 0.1),
                probe(made, f"{seed}-{number}-a"),
                probe(made, f"{seed}-{number}-b"),
            ]
            chance.shuffle(calls)
            if chance.random() < 0.5:
                await asyncio.gather(*calls)
            else:
                for call in calls:
                    await call


async def test_what_one_tenant_left_unread_reaches_no_other(tmp_path):
    """Guards the drain: a client that left in the middle leaves the rest of its answer on the connection."""
    go = asyncio.Event()

    async def script(peer):
        while True:
            asking = await peer._message(bodiless=False)
            if asking["x-marker"] is not None:
                await peer.send(answer(asking["x-marker"].encode()))
                continue
            await peer.send(CHUNKS + chunked(OF_ACME * 100)[:300])
            await turns()  # Of what has come, the gateway holds the last piece.
            await peer.send(chunked(OF_ACME * 100)[300:500])
            await go.wait()
            await peer.send(chunked(OF_ACME * 100)[500:])

    async with provider(script) as serving, proxied(tmp_path, serving) as made:
        for number in range(20):
            go.clear()
            async with client(made.port) as peer:
                peer.writer.write(request(CHAT, chat(), key=ACME))
                await peer._until(b"\r\n\r\n")
                peer.reset()
            await probe(made, f"during-{number}")
            go.set()
            await probe(made, f"after-{number}")


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
async def test_an_answer_to_one_method_is_read_as_none_to_another(tmp_path, method):
    """Guards the parser of a connection, which knows what was asked for: HEAD, then GET, then HEAD."""

    async def script(peer):
        while True:
            asking = await peer._message(bodiless=False)
            marker = asking["x-marker"]
            whole = answer(marker.encode())
            await peer.send(whole if not asking.start.startswith(b"HEAD") else whole[: -len(marker)])

    async with provider(script) as serving, proxied(tmp_path, serving, shared_reads=True) as made:
        for number in range(30):
            asked = method if number % 2 else "HEAD" if number % 4 else "GET"
            key = OTHER if number % 3 else ACME
            async with client(made.port) as peer:
                path, body = (CHAT, b"{}") if asked == "POST" else (READ, b"")
                peer.writer.write(request(path, body, f"X-Marker: {'m' * number}x", key=key, method=asked))
                answered = await got(peer, method=asked)

                assert answered is not None
                assert (answered.status, answered.whole) == (200, True)
                assert answered.head["content-length"] == str(number + 1)
                assert answered.body == (b"" if asked == "HEAD" else b"m" * number + b"x")
        assert len(serving.peers) == 1
