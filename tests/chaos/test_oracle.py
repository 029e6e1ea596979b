"""The oracle of the chaos suite notices whatever is lost, doubled or altered, and nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest

from gateway.simulator.truth import Exchange
from tests.chaos.load import Call
from tests.chaos.oracle import GROUPED, figures, problems
from tests.walks.test_ledger_equals_truth import nano


def exchange(number, *, status=200, object_id=None):
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    return Exchange(
        run="r",
        n=number,
        at_ms=0,
        provider="openai",
        credential=None,
        method="POST",
        target="/openai/v1/chat/completions",
        headers=[("x-walk-call", str(number))],
        body_bytes=0,
        body_sha256="",
        status=status,
        stream=False,
        object_id=object_id or f"made-{number}",
        model="gpt-4o",
        usage=usage,
        fault=None,
    )


def event(number, *, known=True):
    return {
        "event_id": f"id-{number}",
        "tenant_id": "acme",
        "source": "openai",
        "kind": "usage",
        "event_type": "llm_call",
        "resource": "gpt-4o",
        "external_id": f"made-{number}" if known else None,
        "quantities": {"input_tokens": 6, "input_tokens_cached": 4, "output_tokens": 5} if known else {},
        "completeness": "reported" if known else "unknown",
        "priced": known,
        "charge": {"amount": "0.5" if known else None},
        "cost": {"amount": "0.25" if known else None},
        "tags": {"call": str(number)},
    }


def call(number, *, status=200, seen=True, slow=False):
    told = None if status is None else f"id-{number}"
    return Call(number, "chat", (0, 1), status, f"made-{number}" if seen else None, told, slow)


class World:
    """Six calls: two seen, one refused, and three cut off: before it was sent, at the provider, after it was recorded."""

    def __init__(self):
        cut = {"status": None, "seen": False}
        self.calls = [call(1), call(2), call(3, status=429, seen=False), *(call(n, **cut) for n in (4, 5, 6))]
        self.truth = [exchange(1), exchange(2), exchange(3, status=429), exchange(5), exchange(6)]
        self.events = [event(1), event(2), event(4, known=False), event(5, known=False), event(6)]
        self.sums = self.summed()

    def summed(self):
        groups = {}
        for one in self.events:
            group = groups.setdefault(
                tuple(one[name] for name in GROUPED), {"events": 0, "quantities": {}, "charge": 0, "cost": 0}
            )
            group["events"] += 1
            for name, amount in one["quantities"].items():
                group["quantities"][name] = group["quantities"].get(name, 0) + amount
            for name in ("charge", "cost"):
                group[name] += nano(one[name]["amount"])
        return [
            dict(zip(GROUPED, names, strict=True))
            | group
            | {name: {"amount": f"{group[name] // 10**9}.{group[name] % 10**9:09}"} for name in ("charge", "cost")}
            for names, group in groups.items()
        ]

    def problems(self):
        return problems(self.calls, self.truth, self.events, self.sums)


def test_a_ledger_that_is_right_has_no_problem_and_is_counted():
    world = World()

    assert world.problems() == []
    assert figures(world.calls, world.truth, world.events) == (6, 2, 4, 5, 2)


def lose(world):
    del world.events[0]


def lose_what_nobody_saw(world):
    del world.events[3]


def double(world):
    world.events.append(deepcopy(world.events[0]))


def double_under_another_id(world):
    world.events.append(world.events[0] | {"event_id": "another", "external_id": None, "completeness": "unknown"})


def give_an_id_twice(world):
    world.events[3]["event_id"] = world.events[4]["event_id"]


def give_a_name_twice(world):
    world.calls[1] = world.calls[1]._replace(seen="made-1")
    world.truth[1] = exchange(2, object_id="made-1")
    world.events[1]["external_id"] = "made-1"


def alter_a_quantity(world):
    world.events[0]["quantities"]["output_tokens"] = 6


def alter_the_name(world):
    world.events[0]["external_id"] = "made-7"


def alter_the_id(world):
    world.events[0]["event_id"] = "id-7"


def forget(world):
    world.events[0] = event(1, known=False)


def invent(world):
    world.events.append(event(3))


def invent_of_a_refusal(world):
    world.events.append(event(3, known=False))


def invent_a_call(world):
    world.events.append(event(7))


def claim_what_the_provider_did_not_do(world):
    world.events[2] = event(4)


def charge_nothing(world):
    world.events[0]["charge"]["amount"] = None


def price_nothing(world):
    world.events[0]["priced"] = False


def ask_twice(world):
    world.truth.append(exchange(1))


def answer_what_nobody_made(world):
    world.calls[0] = world.calls[0]._replace(seen="made-8")


def let_a_client_wait(world):
    world.calls[3] = world.calls[3]._replace(slow=True)


@pytest.mark.parametrize(
    "wrong",
    [
        lose,
        lose_what_nobody_saw,
        double,
        double_under_another_id,
        give_an_id_twice,
        give_a_name_twice,
        alter_a_quantity,
        alter_the_name,
        alter_the_id,
        forget,
        invent,
        invent_of_a_refusal,
        invent_a_call,
        claim_what_the_provider_did_not_do,
        charge_nothing,
        price_nothing,
        ask_twice,
        answer_what_nobody_made,
        let_a_client_wait,
    ],
    ids=lambda wrong: wrong.__name__,
)
def test_each_thing_that_is_wrong_is_noticed_though_all_sums_agree(wrong):
    """Guards each of the oracle's questions: with any one of them taken out, at least one case finds nothing."""
    world = World()
    wrong(world)
    world.sums = world.summed()

    assert world.problems() != []


@pytest.mark.parametrize(
    ("name", "value"),
    [("events", 4), ("charge", {"amount": "0.5"}), ("cost", {"amount": "9"}), ("quantities", {"input_tokens": 1})],
)
def test_a_sum_that_is_not_that_of_its_events_is_noticed(name, value):
    """Guards the comparison of each sum; and a sum that is missing, or of nothing, is one that differs."""
    world = World()
    world.sums[0][name] = value

    assert any(problem.startswith("the sums of ") for problem in world.problems())


def test_a_sum_that_is_missing_or_of_nothing_is_noticed():
    missing, of_nothing = World(), World()
    missing.sums.pop()
    of_nothing.sums.append(of_nothing.sums[0] | {"resource": "gpt-5"})

    assert len(missing.problems()) == len(of_nothing.problems()) == 1


def test_a_problem_names_the_call_and_the_kills_around_it():
    world = World()
    lose(world)

    assert world.problems()[0].startswith("call 1 (chat, begun after kill 0, ended after kill 1): LOST")
