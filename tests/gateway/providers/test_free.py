"""What costs nothing, and which objects it makes."""

import gzip
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import free
from gateway.providers.learnt import Prepared
from metering.usage import Completeness
from tests.builders import answer_head

PREPARED = Prepared(body=b"")


def metered(meter_of, body, *, cuts=(), whole=True, **headers):
    """What a client gets, and the usage."""
    head = answer_head(201, headers)
    meter = meter_of(head, PREPARED)
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    passed = b"".join(meter.feed(body[start:end]) for start, end in itertools.pairwise(marks))
    held, usage = meter.finish(whole=whole)
    return passed + held, usage


def made(body, **how):
    return metered(free.made, body, **how)[1]


@given(st.binary(max_size=100), st.booleans())
def test_what_is_read_back_uses_nothing_whatever_it_repeats(body, whole):
    passed, usage = metered(free.free, body, whole=whole)

    assert passed == body
    assert (usage.quantities, usage.completeness, usage.external_id) == ({}, Completeness.REPORTED, None)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"id": "d-1234"}, "d-1234"),
        ({"batch_id": "HkJ5yLYULb7Rj8GKSx7u025ouWVlMgAi"}, "HkJ5yLYULb7Rj8GKSx7u025ouWVlMgAi"),
        ({"id": "", "batch_id": "b"}, "b"),
        ({"id": None}, None),
        ({"id": 7}, None),
        ({"id": {"id": "x"}}, None),
        ({"id": "x" * 201}, None),
        ({}, None),
        ([{"id": "x"}], None),
        ("x", None),
    ],
)
@given(cuts=st.lists(st.integers(0, 40), max_size=5))
def test_the_object_that_was_made_is_named_and_costs_nothing(told, name, cuts):
    body = json.dumps(told).encode()

    passed, usage = metered(free.made, body, cuts=cuts)

    assert passed == body
    assert (usage.external_id, usage.quantities, usage.completeness) == (name, {}, Completeness.REPORTED)


def test_the_object_is_found_in_a_compressed_answer():
    assert made(gzip.compress(b'{"id":"x"}'), **{"Content-Encoding": "gzip"}).external_id == "x"


@pytest.mark.parametrize("body", [b"", b"{", b'{"id":"x"', b"\xff", b'{"id":"\xff"}', b"[" * 100_000])
def test_an_answer_that_makes_no_sense_names_nothing(body):
    assert made(body).external_id is None


def test_an_answer_that_broke_off_names_nothing():
    assert made(b'{"id":"x"}', whole=False).external_id is None


def test_an_answer_too_large_to_be_held_is_passed_on_and_names_nothing():
    """Guards BODY_BYTES_MAX: beyond it, nothing more is kept."""
    body = b'{"id":"x"}' + b" " * free.BODY_BYTES_MAX

    passed, usage = metered(free.made, body, cuts=[10, 1000])

    assert passed == body
    assert usage.external_id is None
