"""Asking a provider what became of what is pending: over sockets, to one that answers what the test wants."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from aiohttp import web
from sqlalchemy import select

from gateway import poller as poller_module
from gateway.poller import LINE_BYTES_MAX, PAUSE_S, AsksAs, Poller, Source, _as_fact, _read_lines, _session
from gateway.providers import openai, sendgrid
from gateway.providers.api import ReadOn, Settles
from gateway.providers.learnt import Late, Usage
from gateway.providers.sendgrid import events
from gateway.recorder import late_event
from metering.database import DatabaseUnavailable
from metering.tables import late_facts, pending_events, usage_events
from metering.usage import Completeness
from pricing.ledger import book
from tests.builders import NOON, answer_head, call_id, fact, usage_event
from tests.gateway.served import served

PATIENCE_S = 30

REPORTED = Completeness.REPORTED


def used(external_id, phase="final", **quantities):
    usage = Usage(quantities=quantities, completeness=REPORTED, resource="gpt-4o")
    return Late(external_id=external_id, phase=phase, usage=usage)


class Sums:
    """A file whose lines are numbers."""

    def __init__(self, external_id):
        self.external_id = external_id
        self.tokens, self.lines, self.too_long = 0, 0, 0

    def feed(self, line):
        self.lines += 1
        if line is None:
            self.too_long += 1
        else:
            self.tokens += int(line)

    def finish(self):
        return (used(self.external_id, input_tokens=self.tokens),)


def read(body):
    """`{"id": …}` is under way, `tokens` say that it is over, `file` that it is over and where that stands."""
    said = msgspec.json.decode(body)
    if "file" in said:
        without = (used(said["id"], input_tokens=said["tokens"]),) if "tokens" in said else ()
        return ReadOn(said["file"], partial(Sums, said["id"]), without)
    return (used(said["id"], input_tokens=said["tokens"]),) if "tokens" in said else ()


SETTLES = Settles(path=lambda pending: f"/things/{pending.external_id}", read=read, first_s=2, days_max=1, gone_s=300)


class Clock:
    def __init__(self):
        self.now = NOON + dt.timedelta(seconds=5)

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += dt.timedelta(seconds=seconds)


class Provider:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.base_url = ""

    async def answer(self, request):
        self.asked.append((request.path, request.headers.get("Authorization")))
        said = self.answers.get(request.path, {"status": 404})
        if callable(said):
            return await said(request)
        status = said.get("status", 200)
        return web.Response(status=status, headers=said.get("headers", {}), body=said.get("body", b""))

    def is_over(self, external_id, **fields):
        self.answers[f"/things/{external_id}"] = {"body": msgspec.json.encode({"id": external_id} | fields)}


@pytest.fixture
async def provider():
    made = Provider()
    async with served(made.answer) as base_url:
        made.base_url = base_url
        yield made


@pytest.fixture
def clock():
    return Clock()


class Booked:
    """Books for pollers; fails where it is told to."""

    def __init__(self, database, books, clock):
        self._database, self._books, self._clock = database, books, clock
        self.fails = False
        self.transactions = []

    async def __call__(self, facts):
        if self.fails:
            raise DatabaseUnavailable("cut")
        async with self._database.transaction() as connection:
            appended = await book(connection, facts, self._books, self._clock())
        self.transactions.append(appended)
        return appended


@pytest.fixture
def booked(database, books, clock):
    return Booked(database, books, clock)


@pytest.fixture
def new_poller(database, booked, provider, clock):
    """A poller that remembers nothing; tenants have keys of their own, but one has none."""

    def new():
        def asks_as(tenant_id):
            return None if tenant_id == "without" else AsksAs({"Authorization": f"Bearer {tenant_id}"}, None)

        sources = {"openai": Source(provider.base_url, {"responses": SETTLES}, asks_as)}
        return Poller(database, booked, sources, clock)

    return new


@pytest.fixture
def poller(new_poller):
    return new_poller()


@pytest.fixture
async def session():
    async with _session() as session:
        yield session


async def looks(poller, session):
    await poller.look(session)
    await poller.quiet()


def pending(number=1, **changes):
    values = {"completeness": Completeness.PENDING, "quantities": {}, "external_id": f"thing-{number}"}
    return fact(usage_event(event_id=call_id(number), **{"endpoint": "responses"} | values | changes))


async def rows(database, table):
    async with database.reading() as connection:
        return (await connection.execute(select(table).order_by(*table.primary_key.columns))).all()


async def corrections(database):
    found = [row for row in await rows(database, usage_events) if row.kind == "correction"]
    return [(row.external_id, row.completeness, row.quantities) for row in found]


# ---------------------------------------------------------------------------------------------------------------------
# Asking


async def test_what_is_pending_is_asked_for_with_the_tenants_credential_until_it_is_over(
    database, booked, poller, provider, session, clock
):
    await booked([pending()])
    provider.is_over("thing-1")
    await looks(poller, session)
    assert await corrections(database) == []
    provider.is_over("thing-1", tokens=7)
    clock.passes(3)

    await looks(poller, session)
    clock.passes(3600)
    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]
    assert provider.asked == [("/things/thing-1", "Bearer acme")] * 2
    assert (poller.polls["open"], poller.polls["settled"]) == (1, 1)
    assert await rows(database, pending_events) == []


async def test_a_look_tells_whether_there_is_anything_to_look_for(booked, poller, provider, session, clock):
    nothing = await poller.look(session)
    await booked([_as_fact(late_event("acme", "openai", used("thing-1", output_tokens=7)))])
    waits = await poller.look(session)
    await booked([pending()])
    met = await poller.look(session)
    clock.passes(1)
    over = await poller.look(session)

    assert (nothing, waits, met, over) == (False, True, True, False)


async def test_where_nothing_is_pending_it_is_looked_again_when_something_is(booked, poller, provider, monkeypatch):
    """Guards the wake-up: without it, what this process books would wait as long as what other hosts do."""
    monkeypatch.setattr(poller_module, "LOOK_S", 0.01)
    monkeypatch.setattr(poller_module, "SEARCH_S", 1e6)
    provider.is_over("thing-1", tokens=7)
    task = asyncio.create_task(poller.run())
    await asyncio.sleep(0.2)
    await booked([pending()])
    await asyncio.sleep(0.2)
    before = list(provider.asked)
    poller.wake.set()
    async with asyncio.timeout(PATIENCE_S):
        while not poller.polls["settled"]:  # noqa: ASYNC110  What is looked at knows nothing of who looks.
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert before == []


async def test_the_older_it_is_the_less_often_it_is_asked_for(booked, poller, provider, session, clock):
    await booked([pending()])
    provider.is_over("thing-1")
    asked = []
    for second in range(5, 3605, 20):
        before = len(provider.asked)
        await looks(poller, session)
        if len(provider.asked) > before:
            asked.append(second)
        clock.passes(20)

    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps[:3] == [20, 20, 20]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 300
    assert len(asked) < 50


async def test_nothing_is_asked_before_it_can_be_over(booked, poller, provider, session, clock):
    clock.now = NOON
    await booked([pending()])
    await looks(poller, session)
    assert provider.asked == []

    clock.passes(2)
    await looks(poller, session)

    assert len(provider.asked) == 1


@pytest.mark.parametrize(("due_s", "asked_at_s"), [(3600, 3602), (0, 2), (-900, 2), ("x", 2)])
async def test_what_is_due_later_is_not_asked_for_before(
    database, booked, poller, provider, session, clock, due_s, asked_at_s
):
    clock.now = NOON
    due = int(NOON.timestamp()) + due_s if isinstance(due_s, int) else due_s
    await booked([pending(metadata={"due_s": due})])
    provider.is_over("thing-1", tokens=7)
    clock.passes(asked_at_s - 1)
    await looks(poller, session)
    assert provider.asked == []

    clock.passes(1)
    await looks(poller, session)

    assert [path for path, _ in provider.asked] == ["/things/thing-1"]


async def test_a_file_is_summed_line_by_line_and_a_line_that_no_memory_holds_is_said(
    database, booked, poller, provider, session
):
    async def file(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        for piece in (b"1\n2\n3", b"0\n", b"4"):
            await answer.write(piece)
        return answer

    await booked([pending()])
    provider.is_over("thing-1", file="/file")
    provider.answers["/file"] = file

    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 37})]


async def test_of_a_line_no_more_is_held_than_the_bound(monkeypatch):
    assert LINE_BYTES_MAX == 16 << 20
    monkeypatch.setattr("gateway.poller.LINE_BYTES_MAX", 10)

    async def chunks():
        for piece in (b"1\n" + b"9" * 11, b"9" * 30, b"\n2\n", b"9" * 11):
            yield piece

    lines = Sums("x")
    await _read_lines(chunks(), lines)

    assert (lines.tokens, lines.lines, lines.too_long) == (3, 4, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Once


async def test_a_crash_between_the_answer_and_its_booking_costs_an_interval_and_nothing_else(
    database, booked, new_poller, provider, session, clock
):
    """Guards what was used: all that a poller knows is in the ledger's database, so another goes on."""
    await booked([pending()])
    provider.is_over("thing-1", tokens=7)
    booked.fails = True
    await looks(new_poller(), session)
    assert await corrections(database) == []
    booked.fails = False
    clock.passes(3)

    await looks(new_poller(), session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]


async def test_two_back_offices_at_once_book_it_once(database, booked, new_poller, provider, session):
    """Guards money: both are answered before either has booked."""
    for number in range(1, 6):
        provider.is_over(f"thing-{number}", tokens=number)
    await booked([pending(number) for number in range(1, 6)])

    await asyncio.gather(*[looks(new_poller(), session) for _ in range(2)])

    assert sorted(found[2]["input_tokens"] for found in await corrections(database)) == [1, 2, 3, 4, 5]
    assert await rows(database, pending_events) == []


async def test_a_fact_that_came_before_its_call_is_booked_at_a_look_after_it(
    database, booked, poller, provider, session
):
    found = late_event("acme", "openai", used("thing-1", input_tokens=7))
    await booked([fact(found)])
    await looks(poller, session)
    assert len(await rows(database, late_facts)) == 1
    await booked([pending()])

    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]
    assert await rows(database, late_facts) == []


async def test_a_fact_about_something_made_around_the_gateway_is_let_go_of_after_a_week(
    database, booked, new_poller, session, clock
):
    await booked([fact(late_event("acme", "openai", used("thing-9", input_tokens=7)))])
    clock.passes(6 * 86_400)
    await looks(new_poller(), session)
    assert len(await rows(database, late_facts)) == 1
    clock.passes(86_401)

    await looks(new_poller(), session)

    assert await rows(database, late_facts) == []
    assert await rows(database, usage_events) == []


# ---------------------------------------------------------------------------------------------------------------------
# No answer


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"status": 500}, "refused"),
        ({"status": 401}, "refused"),
        ({"status": 404}, "refused"),
        ({"status": 302, "headers": {"Location": "/things/other"}}, "refused"),
        ({"headers": {"Content-Encoding": "gzip"}, "body": b""}, "unreadable"),
        ({"body": b"{"}, "unreadable"),
        ({"body": b'{"id": "thing-1", "tokens": 99999999999999999}'}, "unreadable"),
        ({"body": b'{"id": "thing-2", "tokens": 3}'}, "open"),
    ],
)
async def test_what_is_no_answer_is_counted_and_asked_again(
    database, booked, poller, provider, session, clock, said, outcome
):
    """Guards also that nobody is followed to another place, and that what is said of something else counts for nothing."""
    await booked([pending()])
    provider.answers["/things/thing-1"] = said
    await looks(poller, session)
    assert +poller.polls == Counter({outcome: 1})
    assert provider.asked == [("/things/thing-1", "Bearer acme")]
    provider.is_over("thing-1", tokens=7)
    clock.passes(3)

    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]


async def test_a_provider_that_can_not_be_reached_is_asked_again(
    database, booked, new_poller, provider, session, clock
):
    await booked([pending()])
    reachable, provider.base_url = provider.base_url, "http://127.0.0.1:1"
    poller = new_poller()
    await looks(poller, session)
    assert poller.polls["unreachable"] == 1
    provider.base_url = reachable
    provider.is_over("thing-1", tokens=7)
    clock.passes(3)

    await looks(new_poller(), session)

    assert len(await corrections(database)) == 1


async def test_a_provider_that_never_ends_its_answer_is_left_and_asked_again(
    database, booked, poller, provider, session, clock, monkeypatch
):
    """Guards the others: a few that drip would take all the places there are."""
    monkeypatch.setattr("gateway.poller.ASK_S_MAX", 0.2)
    left = asyncio.Event()

    async def drips(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        await left.wait()
        return answer

    await booked([pending()])
    provider.answers["/things/thing-1"] = drips
    await looks(poller, session)
    assert poller.polls["unreachable"] == 1
    left.set()
    provider.is_over("thing-1", tokens=7)
    clock.passes(3)

    await looks(poller, session)

    assert len(await corrections(database)) == 1


async def test_a_tenant_without_a_credential_keeps_nobody_waiting(database, booked, poller, provider, session):
    await booked([pending(1, tenant_id="without"), pending(2)])
    provider.is_over("thing-2", tokens=7)

    await looks(poller, session)

    assert poller.polls["no_credential"] == 1
    assert await corrections(database) == [("thing-2", "reported", {"input_tokens": 7})]


async def test_a_provider_that_is_asked_too_often_is_left_alone_for_a_while(
    booked, poller, provider, session, clock, monkeypatch
):
    await booked([pending()])
    provider.answers["/things/thing-1"] = {"status": 429}
    await looks(poller, session)
    clock.passes(3)
    await looks(poller, session)
    assert len(provider.asked) == 1

    assert PAUSE_S == 30
    monkeypatch.setattr(poller, "_paused", {"openai": asyncio.get_running_loop().time()})
    await looks(poller, session)

    assert len(provider.asked) == 2


async def test_what_no_provider_says_in_a_day_is_unknown_and_not_asked_for_again(
    database, booked, new_poller, provider, session, clock
):
    await booked([pending()])
    provider.is_over("thing-1")
    clock.passes(86_400)

    poller = new_poller()
    await looks(poller, session)
    clock.passes(86_400)
    await looks(poller, session)

    assert provider.asked == []
    assert await corrections(database) == [("thing-1", "unknown", {})]
    assert poller.polls["given_up"] == 1


async def test_what_the_provider_does_not_know_is_given_up_after_some_minutes(database, booked, poller, session, clock):
    await booked([pending()])
    clock.passes(SETTLES.gone_s)

    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "unknown", {})]
    assert await rows(database, pending_events) == []


async def test_a_file_that_its_owner_has_deleted_makes_nothing_free(database, booked, provider, poller, session, clock):
    """Guards money: whoever fetches the answers and deletes the file has used them. What is said without it is booked, and
    where nothing is, it is asked for again, since it is not the thing itself that is gone."""
    await booked([pending(1), pending(2, external_id="thing-2")])
    provider.is_over("thing-1", file="/files/1", tokens=7)
    provider.is_over("thing-2", file="/files/2")
    clock.passes(SETTLES.gone_s)

    await looks(poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]
    assert [row.external_id for row in await rows(database, pending_events)] == ["thing-2"]


# ---------------------------------------------------------------------------------------------------------------------
# What OpenAI makes


@pytest.fixture
def openai_poller(database, booked, provider, clock):
    settles = {one.name: one.settles for one in openai.PROVIDER.endpoints if one.settles is not None}
    return Poller(database, booked, {"openai": Source(provider.base_url, settles, lambda _: AsksAs({}, None))}, clock)


async def test_an_evaluation_is_asked_for_where_its_event_says_and_booked_once_for_each_model(
    database, booked, openai_poller, provider, session, clock
):
    await booked([pending(endpoint="evals.runs.create", event_type="job", metadata={"eval_id": "eval_1"})])
    used_of = [
        {"model_name": name, "invocation_count": 1, "prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 4}
        for name in ("gpt-4o", "o3-mini")
    ]
    told = {"id": "thing-1", "object": "eval.run", "status": "completed", "per_model_usage": used_of}
    provider.answers["/v1/evals/eval_1/runs/thing-1"] = {"body": msgspec.json.encode(told)}
    clock.passes(60)

    await looks(openai_poller, session)
    clock.passes(3600)
    await looks(openai_poller, session)

    quantities = {"input_tokens": 5, "input_tokens_cached": 4, "output_tokens": 3}
    assert await corrections(database) == [("thing-1", "reported", quantities)] * 2
    assert provider.asked == [("/v1/evals/eval_1/runs/thing-1", None)]
    assert await rows(database, pending_events) == []


@pytest.mark.parametrize(
    ("held_s", "metadata", "status", "said_s", "added_s"),
    [
        (8, {}, "completed", "8", 0),
        (8, {}, "completed", "12", 4),
        (8, {}, "failed", "8", -8),
        (4, {"as_ordered": True}, "completed", "12", 0),
        (4, {"as_ordered": True}, "failed", "12", -4),
    ],
)
async def test_a_video_settles_at_what_is_billed_of_it(
    database, booked, openai_poller, provider, session, clock, held_s, metadata, status, said_s, added_s
):
    """Guards money: one that failed costs nothing, and one that was made longer costs what it was made longer by."""
    held = {"event_type": "video", "resource": "sora-2", "quantities": {"seconds": held_s}, "metadata": metadata}
    await booked([pending(endpoint="videos.create", **held)])
    told = {"id": "thing-1", "object": "video", "model": "sora-2-2025-10-06", "status": status, "seconds": said_s}
    provider.answers["/v1/videos/thing-1"] = {"body": msgspec.json.encode(told)}
    clock.passes(60)

    await looks(openai_poller, session)

    assert await corrections(database) == [("thing-1", "reported", {"seconds": added_s})]
    assert await rows(database, pending_events) == []


async def test_a_run_whose_last_word_came_with_what_its_tools_put_out_is_booked_once(
    database, booked, openai_poller, provider, session, clock
):
    """Guards money: the stream of the outputs, and whoever asks for the run, say the use of the same run."""
    await booked([pending(endpoint="beta.threads.runs.create", metadata={"thread_id": "thread_1"})])
    told = {"id": "thing-1", "object": "thread.run", "status": "completed", "model": "gpt-4o"}
    told["usage"] = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    submitted = next(one for one in openai.PROVIDER.endpoints if one.name.endswith("submit_tool_outputs"))
    meter = submitted.meter(answer_head(headers=[("Content-Type", "text/event-stream")]), None)
    meter.feed(b"event: thread.run.completed\ndata: %b\n\nevent: done\ndata: [DONE]\n\n" % msgspec.json.encode(told))
    provider.answers["/v1/threads/thread_1/runs/thing-1"] = {"body": msgspec.json.encode(told)}
    clock.passes(60)

    await looks(openai_poller, session)
    await booked([_as_fact(late_event("acme", "openai", one)) for one in meter.finish(whole=True)[1].late])

    assert provider.asked == [("/v1/threads/thread_1/runs/thing-1", None)]
    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 9, "output_tokens": 3})]


async def test_a_longer_video_of_which_nobody_understood_what_was_ordered_is_unknown_and_not_zero(
    database, booked, openai_poller, provider, session, clock
):
    held = {"event_type": "video", "resource": "sora-2", "metadata": {"as_ordered": True}}
    await booked([pending(endpoint="videos.extend", **held)])
    told = {"id": "thing-1", "object": "video", "status": "completed", "seconds": "12"}
    provider.answers["/v1/videos/thing-1"] = {"body": msgspec.json.encode(told)}
    clock.passes(60)

    await looks(openai_poller, session)

    assert await corrections(database) == [("thing-1", "unknown", {})]


# ---------------------------------------------------------------------------------------------------------------------
# What lies below an account, and what is old


def read_when_old(body):
    """What is told to be all there will be once it is old."""
    return (used(msgspec.json.decode(body)["id"], input_tokens=1),)


OF_ACCOUNTS = Settles(
    path=lambda pending: None if pending.account is None else f"/{pending.account}/{pending.external_id}",
    read=read,
    first_s=2,
    days_max=9,
    gone_s=300,
    interval_s_max=21_600,
    read_old=read_when_old,
    old_days=2,
)


@pytest.fixture
def of_accounts(database, booked, provider, clock):
    source = Source(provider.base_url, {"responses": OF_ACCOUNTS}, lambda _: AsksAs({}, "AC1"))
    return Poller(database, booked, {"openai": source}, clock)


async def test_what_lies_below_an_account_is_asked_for_there(database, booked, of_accounts, provider, session):
    await booked([pending()])
    provider.answers["/AC1/thing-1"] = {"body": b'{"id":"thing-1","tokens":7}'}

    await looks(of_accounts, session)

    assert provider.asked == [("/AC1/thing-1", None)]
    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 7})]


async def test_what_can_be_open_for_days_is_asked_for_less_and_less_and_in_the_end_read_otherwise(
    database, booked, of_accounts, provider, session, clock
):
    """Guards the provider's limits: at five minutes between two questions, a thing of ten days costs it thousands."""
    await booked([pending()])
    provider.answers["/AC1/thing-1"] = {"body": b'{"id":"thing-1"}'}

    for _ in range(2 * 24 * 6 - 6):
        await looks(of_accounts, session)
        clock.passes(600)

    assert len(provider.asked) < 100
    assert await corrections(database) == []
    for _ in range(6 * 6):
        await looks(of_accounts, session)
        clock.passes(600)
    assert await corrections(database) == [("thing-1", "reported", {"input_tokens": 1})]


# ---------------------------------------------------------------------------------------------------------------------
# SendGrid


@pytest.fixture
def sendgrid_poller(database, booked, provider, clock):
    settles = {one.name: one.settles for one in sendgrid.PROVIDER.endpoints if one.settles is not None}
    return Poller(database, booked, {"sendgrid": Source(provider.base_url, settles, lambda _: AsksAs({}, None))}, clock)


def scheduled(number, recipients):
    """A mail that is sent an hour after it was taken on."""
    return pending(
        number,
        source="sendgrid",
        endpoint="mail.send",
        event_type="email_outbound",
        resource="transactional",
        quantities={"recipients": recipients},
        metadata={"batch_id": "NGY5/0=", "due_s": int(NOON.timestamp()) + 3600, "as_ordered": True},
    )


BATCH = "/v3/user/scheduled_sends/NGY5/0="
"""As a server reads it."""


CANCELLED = [{"batch_id": "NGY5/0=", "status": "cancel"}]


@pytest.mark.parametrize(
    ("listed", "dropped", "of_first", "of_second"),
    [
        ([], "never", 0, 0),
        ([], "before", -1, 0),
        ([], "after", -1, 0),
        (CANCELLED, "never", -3, -1),
        (CANCELLED, "after", -3, -1),
    ],
)
async def test_mail_of_a_batch_is_sent_or_cancelled_when_its_time_has_come(
    database, booked, sendgrid_poller, provider, session, clock, listed, dropped, of_first, of_second
):
    """Guards money: a cancelled mail costs nothing, and who was dropped of one that was sent stays taken off, whichever is
    heard of first."""
    drop = events.heard(
        b'[{"event":"dropped","email":"ada@example.com","sg_message_id":"thing-1.x.0"}]', lambda value: "keyed"
    )
    drops = [_as_fact(late_event("acme", "sendgrid", one)) for one in drop.late]
    await booked([scheduled(1, 3), scheduled(2, 1)])
    clock.passes(3000)
    await looks(sendgrid_poller, session)
    assert provider.asked == []
    if dropped == "before":
        await booked(drops)
    provider.answers[BATCH] = {"body": msgspec.json.encode(listed)}
    clock.passes(620)

    await looks(sendgrid_poller, session)
    if dropped == "after":
        await booked(drops * 2)

    found = Counter()
    for external_id, _, quantities in await corrections(database):
        found[external_id] += quantities.get("recipients", 0)
    assert found == {"thing-1": of_first, "thing-2": of_second}
    assert await rows(database, pending_events) == []


async def test_mail_of_a_paused_batch_is_not_over(database, booked, sendgrid_poller, provider, session, clock):
    await booked([scheduled(1, 3)])
    provider.answers[BATCH] = {"body": b'[{"batch_id": "NGY5/0=", "status": "pause"}]'}
    clock.passes(4000)

    await looks(sendgrid_poller, session)

    assert len(provider.asked) == 1
    assert await corrections(database) == []
    assert len(await rows(database, pending_events)) == 1


async def test_a_list_that_was_validated_is_at_least_its_whole_segments(
    database, booked, sendgrid_poller, provider, session, clock
):
    order = {"source": "sendgrid", "endpoint": "validations.email.jobs.create", "event_type": "email_validation"}
    await booked([pending(**order)])
    told = {"result": {"id": "thing-1", "status": "Done", "segments": 3, "segments_processed": 3}}
    provider.answers["/v3/validations/email/jobs/thing-1"] = {"body": msgspec.json.encode(told)}
    clock.passes(60)

    await looks(sendgrid_poller, session)

    assert await corrections(database) == [("thing-1", "estimated", {"requests": 3001})]
