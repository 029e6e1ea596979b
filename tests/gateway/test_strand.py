"""A coroutine that runs when there is something for it, and not otherwise."""

import asyncio

import pytest

from gateway.strand import PARK, Strand
from tests.gateway.peers import eventually, soon


class Waiting:
    """A coroutine that waits for a number of things, and what became of it."""

    def __init__(self, coroutine=None):
        self.there = 0
        self.looked = 0
        self.did = []
        self.ends = []
        self.strand = Strand(
            self.taking(3) if coroutine is None else coroutine, asyncio.get_running_loop(), self.ends.append
        )

    async def taking(self, number):
        for taken in range(number):
            while self.there <= taken:
                self.looked += 1
                await PARK
            self.did.append(taken)

    def give(self):
        self.there += 1
        self.strand.wake()


async def test_nothing_runs_before_it_is_woken():
    waiting = Waiting()

    assert waiting.looked == 0
    waiting.strand.wake()
    assert waiting.looked == 1
    while not waiting.ends:
        waiting.give()


async def test_what_arrives_is_dealt_with_before_the_one_who_brings_it_goes_on():
    """The promise of the whole: no turn of the loop lies between the bytes and the code that waits for them."""
    waiting = Waiting()
    waiting.strand.wake()
    for number in range(3):
        waiting.give()

        assert waiting.did == list(range(number + 1))
    assert waiting.ends == [None]


async def test_who_is_woken_for_something_else_looks_again_and_waits_on():
    waiting = Waiting()
    waiting.strand.wake()

    for _ in range(5):
        waiting.strand.wake()

    assert (waiting.looked, waiting.did) == (6, [])
    while not waiting.ends:
        waiting.give()


async def test_what_came_before_anybody_waited_is_found():
    waiting = Waiting()
    waiting.there = 3

    waiting.strand.wake()

    assert (waiting.did, waiting.looked, waiting.ends) == ([0, 1, 2], 0, [None])


async def test_a_waking_while_it_runs_does_nothing():
    """Guards `_parked`: without it, a coroutine that writes and is told at once that it may would run inside itself."""
    did = []

    async def waking_itself():
        for number in range(3):
            waiting.strand.wake()
            did.append(number)
        await PARK
        did.append("woken")

    waiting = Waiting(waking_itself())
    waiting.strand.wake()
    assert (did, waiting.ends) == ([0, 1, 2], [])

    waiting.strand.wake()
    assert (did[-1], waiting.ends) == ("woken", [None])


async def test_what_a_future_gives_is_waited_for_and_no_waking_disturbs_it():
    """Guards the same: woken while it waits for a commit, a call would go on before it is durable."""
    future = asyncio.get_running_loop().create_future()
    got = []

    async def committing():
        got.append(await future)
        await PARK
        got.append("woken")

    waiting = Waiting(committing())
    for _ in range(3):
        waiting.strand.wake()
    assert got == []

    future.set_result("durable")
    for _ in range(3):
        waiting.strand.wake()
    assert got == []
    await eventually(lambda: got)

    assert got == ["durable"]
    waiting.strand.wake()
    assert (got, waiting.ends) == (["durable", "woken"], [None])


async def test_a_future_that_is_done_is_not_waited_for():
    future = asyncio.get_running_loop().create_future()
    future.set_result("there")
    got = []

    async def asking():
        got.append(await future)

    waiting = Waiting(asking())
    waiting.strand.wake()

    assert (got, waiting.ends) == (["there"], [None])


async def test_what_a_future_raises_is_raised_where_it_is_awaited():
    future = asyncio.get_running_loop().create_future()
    caught = []

    async def asking():
        try:
            await future
        except ZeroDivisionError as error:
            caught.append(error)

    waiting = Waiting(asking())
    waiting.strand.wake()
    future.set_exception(ZeroDivisionError())
    await eventually(lambda: waiting.ends)

    assert len(caught) == 1
    assert waiting.ends == [None]


async def test_a_future_that_is_cancelled_says_so_to_who_waits():
    future = asyncio.get_running_loop().create_future()

    async def asking():
        await future

    waiting = Waiting(asking())
    waiting.strand.wake()
    future.cancel()
    await eventually(lambda: waiting.ends)

    assert isinstance(waiting.ends[0], asyncio.CancelledError)


async def test_tasks_and_everything_built_of_futures_can_be_awaited():
    async def slow(number):
        async with asyncio.timeout(60):  # It runs in a task of its own, which the timeout needs.
            await asyncio.sleep(0.01)
        return number

    async def asking():
        task = asyncio.ensure_future(slow(2))
        one, (two, three) = await asyncio.ensure_future(slow(1)), await asyncio.gather(task, slow(3))
        lock = asyncio.Lock()
        async with lock:
            waiting.did += [one, two, three]

    waiting = Waiting(asking())
    waiting.strand.wake()
    await eventually(lambda: waiting.ends)

    assert (waiting.did, waiting.ends) == ([1, 2, 3], [None])


async def test_letting_others_go_first_lets_them():
    order = []

    async def polite():
        order.append("polite")
        await asyncio.sleep(0)
        order.append("polite again")

    waiting = Waiting(polite())
    asyncio.get_running_loop().call_soon(order.append, "other")
    for _ in range(3):
        waiting.strand.wake()
    await eventually(lambda: waiting.ends)

    assert order == ["polite", "other", "polite again"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError(), SystemExit()], ids=repr)
async def test_how_it_ends_is_told_once_and_never_raised_at_who_woke_it(error):
    async def failing():
        await PARK
        raise error

    waiting = Waiting(failing())
    waiting.strand.wake()
    for _ in range(3):
        waiting.strand.wake()

    assert waiting.ends == [error]


async def test_who_is_told_of_the_end_may_begin_the_next():
    """A connection begins its next request there."""
    loop = asyncio.get_running_loop()
    order = []

    async def one(number):
        order.append(number)
        await PARK

    def ended(error):
        if len(order) < 3:
            strands.append(Strand(one(len(order)), loop, ended))
            strands[-1].wake()

    strands = [Strand(one(0), loop, ended)]
    strands[0].wake()
    for place in range(3):
        strands[place].wake()

    assert order == [0, 1, 2]


async def test_strands_wait_for_each_other_as_bytes_pass_between_them():
    """Two sides that hand pieces to each other: neither runs inside the other, and none is lost."""
    loop = asyncio.get_running_loop()
    box, got, ends = [], [], []

    async def giving():
        for number in range(100):
            box.append(number)
            taker.wake()
            while box:
                await PARK

    async def taking():
        while len(got) < 100:
            while not box:
                await PARK
            got.append(box.pop())
            giver.wake()

    taker = Strand(taking(), loop, ends.append)
    giver = Strand(giving(), loop, ends.append)
    taker.wake()
    giver.wake()
    while len(ends) < 2:
        giver.wake()
        taker.wake()

    assert got == list(range(100))


async def test_a_strand_is_no_task_and_is_over_when_it_ends():
    before = len(asyncio.all_tasks())
    waiting = Waiting()
    waiting.strand.wake()

    assert len(asyncio.all_tasks()) == before
    while not waiting.ends:
        waiting.give()
    await soon(asyncio.sleep(0))
    assert waiting.ends == [None]
