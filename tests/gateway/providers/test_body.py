"""A body is held until it is over, within a bound."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.body import Gathered, WhenOver
from gateway.providers.learnt import Usage
from metering.usage import Completeness


@given(chunks=st.lists(st.binary(max_size=6), max_size=8), bound=st.integers(0, 30))
def test_it_is_known_as_it_came_unless_it_is_too_large_and_then_not_at_all(chunks, bound):
    body = Gathered(bound)
    for chunk in chunks:
        body.feed(chunk)

    whole = b"".join(chunks)
    assert body.known == (whole if len(whole) <= bound else None)
    assert sum(map(len, body._chunks)) <= bound


@given(chunks=st.lists(st.binary(max_size=6), max_size=8), bound=st.integers(0, 30), whole=st.booleans())
def test_an_answer_is_judged_once_when_it_is_over_and_passes_as_it_came(chunks, bound, whole):
    judged = []
    usage = Usage(quantities={}, completeness=Completeness.REPORTED)
    meter = WhenOver(lambda body: judged.append(body) or usage, bound)

    passed = [meter.feed(chunk) for chunk in chunks]

    assert judged == []
    assert meter.finish(whole=whole) == (b"", usage)
    assert passed == chunks
    body = b"".join(chunks)
    assert judged == [body if whole and len(body) <= bound else None]
    assert not meter.concluded
