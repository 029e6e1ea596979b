"""Requests that are read in two ways somewhere: each has one verdict, and a marker after it is never read as part of it."""

import pytest

from tests.edge.between import marker, problem
from tests.edge.cases import CASES, Verdict
from tests.gateway.proxied import OWN

CUTS_MAX = 400
"""A request is cut in two at each of so many places."""

LARGE_BYTES = 8 << 10
LARGE_CUTS_MAX = 40
"""A large one at its beginning only: the rest is sent as often as it is cut."""


def fault(edge, case, told):
    """What is wrong with what came of a case; None if nothing is."""
    found = problem(edge, told)
    if found is not None:
        return found
    if not told.ended:
        return "the connection was left open"
    attacks = [seen for seen in told.seen if not seen.request.all(b"x-mark")[0].endswith(b"z")]
    markers = [seen for seen in told.seen if seen not in attacks]
    refused = _refused(case, told)
    forwarded = (
        len(attacks) == 1
        and told.answers[0].status == 200
        and (markers != [] or told.answers[-1].get(b"connection") == b"close")
    )
    match case.verdict:
        case Verdict.REFUSED:
            right = refused
        case Verdict.FORWARDED:
            right = forwarded
        case Verdict.EITHER:
            right = refused or forwarded
        case Verdict.LAST:
            right = refused or (forwarded and not markers)
        case Verdict.ELSEWHERE:
            right = not attacks and 400 <= told.answers[0].status < 500
        case Verdict.CUT:
            right = refused or (not told.seen and not told.answers)
    return None if right else f"not {case.verdict.value}: {[seen.request for seen in told.seen]}, {told.raw[:600]!r}"


def _refused(case, told):
    if told.seen or len(told.answers) != 1:
        return False
    (answer,) = told.answers
    return (
        answer.status in case.statuses
        and answer.get(b"connection") == b"close"
        and answer.get(b"content-type") == b"application/json"
        and answer.get(b"x-tollkeeper-error") is not None
    )


@pytest.mark.parametrize("name", CASES)
async def test_a_request_has_one_reading_or_none(edge, name):
    case = CASES[name]

    told = await edge.tell(case.data + marker())

    assert fault(edge, case, told) is None
    await edge.recorded()


@pytest.mark.parametrize("name", CASES)
async def test_where_a_request_is_cut_does_not_change_how_it_is_read(edge, name):
    case = CASES[name]
    bound = CUTS_MAX if len(case.data) < LARGE_BYTES else LARGE_CUTS_MAX
    cuts = [cut for cut in range(1, min(len(case.data), bound)) if not _in_key(case.data, cut)]

    whole = await edge.tell(case.data + marker())
    told = await edge.tell_cut(case.data + marker(), cuts)

    faults = [(cut, found) for cut, one in zip(cuts, told, strict=True) if (found := fault(edge, case, one))]
    assert faults[:1] == []
    if case.verdict is Verdict.EITHER:
        assert {_refused(case, one) for one in told} == {_refused(case, whole)}
    await edge.recorded()


def _in_key(data, cut):
    """True for a place inside a key, where nothing is read in any way."""
    start = data.find(OWN.encode())
    return start < cut < start + len(OWN)


async def test_refusals_are_the_same_whatever_was_sent(edge):
    """Guards the fixed text: an answer that quotes what it refuses shows a key to whoever reads errors."""
    texts = {}
    for case in CASES.values():
        if case.verdict is Verdict.REFUSED:
            told = await edge.tell(case.data + marker())
            for answer in told.answers:
                if answer.status >= 400:
                    texts.setdefault(answer.status, set()).add(told.raw)

    assert texts[400]
    assert {status: len(found) for status, found in texts.items() if len(found) > 1} == {}
