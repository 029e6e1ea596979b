"""The process that estimates: begun when needed, ended when not, killed in the middle, slow, and asked too much."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from gateway import estimator
from gateway.estimator import (
    ANSWER_BYTES_MAX,
    FREE_BYTES,
    QUESTIONS_BYTES_MAX,
    QUESTIONS_MAX,
    REQUEST_BYTES_MAX,
    STEP_BYTES,
    Allowance,
    Estimator,
    Kept,
)
from gateway.estimator_process import Question, answered
from gateway.providers.api import CanNotCount, Exchanged
from gateway.providers.openai import estimates
from tests.gateway.peers import eventually

PATIENCE_S = 60
"""To start the process takes a moment, on a machine that is busy a long one."""

REQUEST = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
ANSWER = b'data: {"choices":[{"index":0,"delta":{"content":"Hi there! How can I help?"}}]}\n\n'
FOUND = {"input_tokens": 9, "output_tokens": 8}


def processes() -> list[psutil.Process]:
    """Those that count for this one."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "gateway.estimator_process" in child.cmdline()]


@pytest.fixture
async def estimating():
    made = Estimator(restart_s=0, question_s=PATIENCE_S)
    yield made
    await made.close()
    assert processes() == []


async def ask(made: Estimator, request: bytes = REQUEST, within_s: float = PATIENCE_S):
    kept = Kept(request, made.allowance)
    kept.feed(ANSWER)
    found = await made.estimate(estimates.chat, kept, coding="", streamed=True, model=None, within_s=within_s)
    kept.drop()
    return None if found is None else found.quantities


async def test_there_is_no_process_until_there_is_a_question_and_one_for_all_of_them(estimating):
    assert processes() == []

    assert await asyncio.gather(*(ask(estimating) for _ in range(20))) == [FOUND] * 20
    assert len(processes()) == 1


async def test_the_process_gets_nothing_of_this_one_but_its_code(estimating, monkeypatch):
    """Guards its environment, which would hold the installation's secrets, and its files: the lock of a spool that it
    shared would say that a dead worker lives."""
    monkeypatch.setenv("TOLLKEEPER_SECRET_KEY", "a secret")
    with Path(__file__).open("rb"):  # noqa: ASYNC230  It is there to be inherited.
        await ask(estimating)
    (process,) = processes()

    assert set(process.environ()) <= {"PYTHONPATH", "LC_CTYPE"}
    assert [file.path for file in process.open_files()] == []


async def test_killed_in_the_middle_it_is_unknown_and_the_next_question_begins_another(estimating):
    await ask(estimating)
    (process,) = processes()
    process.send_signal(signal.SIGSTOP)
    asked = asyncio.ensure_future(ask(estimating))
    await asyncio.sleep(0.05)

    process.kill()

    assert await asked is None
    assert await ask(estimating) == FOUND
    assert processes() != [process]


async def test_killed_between_two_questions_it_is_begun_again(estimating):
    await ask(estimating)
    (process,) = processes()
    process.kill()
    await eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    await asyncio.sleep(0.05)

    assert await ask(estimating) == FOUND


async def test_who_asks_waits_no_longer_than_it_said_and_does_not_end_it_for_the_others(estimating):
    await ask(estimating)
    (process,) = processes()
    process.send_signal(signal.SIGSTOP)
    patient = asyncio.ensure_future(ask(estimating))
    began = time.monotonic()

    assert await ask(estimating, within_s=0.1) is None
    assert time.monotonic() - began < PATIENCE_S / 2
    process.send_signal(signal.SIGCONT)
    assert await patient == FOUND
    assert processes() == [process]


async def test_a_process_that_is_stuck_is_replaced():
    made = Estimator(restart_s=0, question_s=PATIENCE_S)
    await ask(made)
    (process,) = processes()
    process.send_signal(signal.SIGSTOP)
    made._question_s = 0.1

    assert await ask(made) is None
    made._question_s = PATIENCE_S
    assert await ask(made) == FOUND
    assert processes() != [process]
    await made.close()


async def test_after_a_while_without_questions_it_is_ended_and_begun_again_with_the_next():
    made = Estimator(idle_s=0.2)
    assert await ask(made) == FOUND

    await eventually(lambda: processes() == [])

    assert await ask(made) == FOUND
    await made.close()
    assert processes() == []


async def test_closed_it_answers_nothing_and_nobody_waits():
    made = Estimator(restart_s=0)
    await ask(made)
    processes()[0].send_signal(signal.SIGSTOP)
    asked = [asyncio.ensure_future(ask(made)) for _ in range(5)]
    await asyncio.sleep(0.05)

    await made.close()

    assert await asyncio.gather(*asked) == [None] * 5
    assert await ask(made) is None
    assert processes() == []


async def test_more_questions_than_it_takes_are_unknown_at_once(estimating):
    await ask(estimating)
    (process,) = processes()
    process.send_signal(signal.SIGSTOP)
    many = [asyncio.ensure_future(ask(estimating))]
    await asyncio.sleep(0.05)
    many += [asyncio.ensure_future(ask(estimating)) for _ in range(QUESTIONS_MAX)]
    await asyncio.sleep(0.05)

    assert await ask(estimating, within_s=5) is None
    process.send_signal(signal.SIGCONT)
    assert await asyncio.gather(*many) == [FOUND] * len(many)
    large = json.dumps({"messages": [{"role": "user", "content": "x " * 400_000}]}).encode()
    process.send_signal(signal.SIGSTOP)
    many = [asyncio.ensure_future(ask(estimating, large, 0.5)) for _ in range(QUESTIONS_BYTES_MAX // len(large) + 20)]
    await asyncio.sleep(0.2)
    assert estimating._waiting_bytes <= QUESTIONS_BYTES_MAX
    process.kill()
    await asyncio.gather(*many)
    assert estimating.allowance.left == estimator.SHARED_BYTES


async def test_the_process_ends_with_the_one_that_asks(tmp_path):
    """Guards the socket: it is the only thing that a worker which is killed takes with it."""
    script = (
        "import asyncio, sys; sys.path[:0] = ['.']\n"
        "from tests.gateway.test_estimator import Estimator, ask, processes\n"
        "async def main():\n"
        "    assert await ask(Estimator())\n"
        "    print(processes()[0].pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    helper = psutil.Process(int(await worker.stdout.readline()))

    worker.kill()
    await worker.wait()

    await eventually(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE)


def failing(exchanged):
    raise LookupError("of something that nobody has thought of")


def without_ranks(exchanged):
    raise CanNotCount("not installed")


def test_an_estimate_that_fails_is_none_and_the_next_question_is_another():
    exchanged = Exchanged(request=b"", answer=b"", answer_bytes=0, coding="", streamed=False, model=None)

    assert answered(msgspec.msgpack.encode(Question(f"{__name__}:failing", exchanged))) is None


def test_where_nothing_can_be_counted_the_process_ends_and_does_not_call_it_an_answer():
    """Guards what the log then says: an installation that lacks its rank files would be silent about it for ever."""
    exchanged = Exchanged(request=b"", answer=b"", answer_bytes=0, coding="", streamed=False, model=None)

    with pytest.raises(CanNotCount):
        answered(msgspec.msgpack.encode(Question(f"{__name__}:without_ranks", exchanged)))


# -- what is kept


def test_what_is_kept_of_a_call_is_its_request_and_its_answer():
    kept = Kept(b"request", Allowance())
    kept.feed(b"one")
    kept.feed(b"two")

    assert (kept.request, kept.answer, kept.answer_bytes) == (b"request", b"onetwo", 6)


def test_what_many_calls_keep_together_has_a_bound_and_each_keeps_its_beginning():
    allowance = Allowance(3 * STEP_BYTES)
    calls = [Kept(b"", allowance) for _ in range(5)]
    for _ in range(100):
        for call in calls:
            call.feed(bytes(1024))

    kept = [len(call.answer) for call in calls]
    assert allowance.left == 0
    assert sum(kept) <= 5 * FREE_BYTES + 3 * STEP_BYTES
    assert min(kept) == FREE_BYTES
    assert [call.answer_bytes for call in calls] == [100 << 10] * 5
    for call in calls:
        call.drop()
    assert allowance.left == 3 * STEP_BYTES


def test_of_a_long_answer_the_beginning_is_kept_without_gaps():
    kept = Kept(b"", Allowance())
    for number in range(3 * ANSWER_BYTES_MAX // 1000):
        kept.feed(number.to_bytes(4) * 250)

    assert ANSWER_BYTES_MAX - 1000 <= len(kept.answer) <= ANSWER_BYTES_MAX
    assert [kept.answer[at : at + 4] for at in (0, 1000, 500_000)] == [n.to_bytes(4) for n in (0, 1, 500)]


@pytest.mark.parametrize(("size", "shared"), [(REQUEST_BYTES_MAX + 1, 64 << 20), (FREE_BYTES + 2, 1)])
def test_a_request_that_is_too_large_is_not_kept_nor_its_answer(size, shared):
    allowance = Allowance(shared)
    kept = Kept(bytes(size), allowance)
    kept.feed(b"answer")

    assert (kept.request, kept.answer) == (None, b"")
    assert allowance.left == shared


def test_dropped_twice_it_gives_back_once():
    allowance = Allowance()
    kept = Kept(bytes(FREE_BYTES + 100), allowance)
    kept.drop()
    kept.drop()
    kept.feed(b"more")

    assert allowance.left == estimator.SHARED_BYTES
    assert kept.answer == b""
