"""A body is held until it is over, within a bound."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.body import Gathered


@given(chunks=st.lists(st.binary(max_size=6), max_size=8), bound=st.integers(0, 30))
def test_it_is_known_as_it_came_unless_it_is_too_large_and_then_not_at_all(chunks, bound):
    body = Gathered(bound)
    for chunk in chunks:
        body.feed(chunk)

    whole = b"".join(chunks)
    assert body.known == (whole if len(whole) <= bound else None)
    assert sum(map(len, body._chunks)) <= bound
