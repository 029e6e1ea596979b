"""Calls whose answers do not say what was used, before an estimator that does what the test says."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from gateway import proxy
from gateway.estimator import SHARED_BYTES, Allowance, Kept
from gateway.providers.api import Estimate
from metering.usage import Completeness
from tests.gateway.peers import answer, answers, client, eventually, provider, soon, sse
from tests.gateway.proxied import CHAT, COMPLETION, QUANTITIES, USAGE, chat, proxied, request

WORDS = b'data: {"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","choices":[{"delta":{"content":"Hi"}}]}\n\n'
USED = b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
UNTOLD = json.dumps({name: value for name, value in COMPLETION.items() if name != "usage"}).encode()
BROKEN_OFF = sse(WORDS * 3)[: -len(b"0\r\n\r\n")]
STREAMING = chat(stream=True)
FOUND = Estimate(
    quantities={"input_tokens": 8, "output_tokens": 1}, encoding="o200k_base", fallback=True, missing=("reasoning",)
)


class Scripted:
    """An estimator that waits until it is told to answer."""

    def __init__(self, found: Estimate | None = FOUND) -> None:
        self.allowance = Allowance()
        self.asked: list[tuple[bytes | None, bytes, bool, str | None]] = []
        self.waits: list[float] = []
        self.go = asyncio.Event()
        self.go.set()
        self._found = found

    async def estimate(self, estimating, kept: Kept, *, coding, streamed, model, within_s):
        self.asked.append((kept.request, kept.answer, streamed, model))
        self.waits.append(within_s)
        await self.go.wait()
        return self._found


@asynccontextmanager
async def before(directory, script, estimator, **how):
    async with provider(script) as peers, proxied(directory, peers, estimator=estimator, **how) as made:
        yield made
    assert estimator.allowance.left == SHARED_BYTES


def the_event(made):
    """The one event, and the one end of the one intent."""
    assert [what for what in made.order if what in ("intent", "outcome", "closed")] == ["intent", "outcome"]
    (event,) = made.events
    return event


async def breaks_off(peer):
    await peer.message()
    await peer.send(BROKEN_OFF)


async def test_a_stream_that_breaks_off_is_recorded_once_as_estimated(tmp_path):
    async with before(tmp_path, breaks_off, estimator := Scripted()) as made:
        assert not (await made.ask(request(CHAT, STREAMING))).whole
        await eventually(lambda: made.lines)

        event = the_event(made)
        assert (event.completeness, event.quantities) == (Completeness.ESTIMATED, FOUND.quantities)
        assert event.metadata == {
            "model": "gpt-4o",
            "estimated_with": "o200k_base (fallback)",
            "estimated_without": ["reasoning"],
        }
        assert (event.resource, event.external_id) == ("gpt-4o-2024-08-06", "chatcmpl-1")
        assert made.lines[0]["completeness"] == "estimated"
        ((sent, came, streamed, model),) = estimator.asked
        assert json.loads(sent)["messages"] == json.loads(STREAMING)["messages"]
        assert (came, streamed, model) == (WORDS * 3, True, "gpt-4o-2024-08-06")


async def test_the_client_of_a_stream_that_breaks_off_does_not_wait_for_the_estimate(tmp_path):
    async with before(tmp_path, breaks_off, estimator := Scripted()) as made:
        estimator.go.clear()

        assert not (await soon(made.ask(request(CHAT, STREAMING)))).whole

        assert made.events == []
        estimator.go.set()
        await eventually(lambda: made.lines)
        assert the_event(made).completeness is Completeness.ESTIMATED


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (chat(), answer(UNTOLD, b"Content-Type: application/json")),
        (STREAMING, sse(WORDS, DONE)),
        (STREAMING, sse(WORDS)),
    ],
    ids=["whole", "stream", "stream without its last event"],
)
async def test_the_end_of_an_answer_without_usage_waits_for_the_estimate(tmp_path, body, told):
    """Guards the promise of all outcomes: seen to fail where nothing is estimated before the last bytes leave."""
    async with before(tmp_path, answers(told), estimator := Scripted()) as made, client(made.port) as peer:
        estimator.go.clear()
        await peer.send(request(CHAT, body))
        await eventually(lambda: estimator.asked)
        reading = asyncio.ensure_future(peer.message())
        await asyncio.sleep(0.05)

        assert not reading.done()
        assert made.events == []
        estimator.go.set()
        assert (await reading).whole
        assert the_event(made).completeness is Completeness.ESTIMATED
        assert estimator.waits == [proxy.ESTIMATE_S]


async def test_what_can_not_be_estimated_is_unknown(tmp_path):
    async with before(tmp_path, breaks_off, Scripted(found=None)) as made:
        await made.ask(request(CHAT, STREAMING))
        await eventually(lambda: made.lines)

        event = the_event(made)
        assert (event.completeness, event.quantities) == (Completeness.UNKNOWN, {})
        assert event.metadata == {"model": "gpt-4o"}


async def test_a_client_that_leaves_where_calls_end_with_it_is_estimated_by_what_came(tmp_path):
    ended = []

    async def script(peer):
        await peer.message()
        await peer.send(BROKEN_OFF)
        ended.append(await peer.ended())

    async with before(tmp_path, script, estimator := Scripted(), drain=False) as made:
        async with client(made.port) as peer:
            await peer.send(request(CHAT, STREAMING))
            await soon(peer._until(WORDS))

        await eventually(lambda: ended and made.lines)
        event = the_event(made)
        assert (event.completeness, made.lines[0]["error"]) == (Completeness.ESTIMATED, "client_gone")
        assert estimator.asked[0][1].startswith(WORDS)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (CHAT, chat(), answer(json.dumps(COMPLETION).encode(), b"Content-Type: application/json")),
        (CHAT, STREAMING, sse(WORDS, USED, DONE)),
        ("/openai/v1/images/generations", b"{}", answer(b"{}", b"Content-Type: application/json")),
        (CHAT, chat(), answer(b"{}", status=b"400 No")),
    ],
    ids=["whole", "stream", "not a text", "refused"],
)
async def test_where_the_answer_says_it_or_nothing_can_be_counted_nobody_is_asked(tmp_path, path, body, told):
    async with before(tmp_path, answers(told), estimator := Scripted()) as made:
        await made.ask(request(path, body))

        assert estimator.asked == []
        if path == CHAT and b"200 OK" in told:
            assert the_event(made).quantities == QUANTITIES


async def test_once_the_usage_has_come_nothing_more_is_kept(tmp_path, monkeypatch):
    """Guards the memory of long streams: what follows the usage is not kept, and what was before it is let go of."""
    kept: list[Kept] = []

    def watched(*arguments):
        kept.append(Kept(*arguments))
        return kept[-1]

    go = asyncio.Event()

    async def script(peer):
        await peer.message()
        await peer.send(sse(WORDS * 1000, USED, DONE)[: -len(b"0\r\n\r\n")])
        await go.wait()
        await peer.send(b"0\r\n\r\n")

    monkeypatch.setattr(proxy, "Kept", watched)
    async with before(tmp_path, script, estimator := Scripted()) as made:
        asked = asyncio.ensure_future(made.ask(request(CHAT, STREAMING)))
        await eventually(lambda: made.events)

        assert [(one.request, one.answer) for one in kept] == [(None, b"")]
        assert estimator.allowance.left == SHARED_BYTES
        go.set()
        assert (await asked).whole


@pytest.mark.parametrize("header", ["Content-Encoding: gzip", "Content-Encoding: br"])
async def test_a_request_that_is_compressed_is_not_kept(tmp_path, header):
    async with before(tmp_path, breaks_off, estimator := Scripted()) as made:
        await made.ask(request(CHAT, STREAMING, header))
        await eventually(lambda: made.lines)

        assert estimator.asked == []
