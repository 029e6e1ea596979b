"""What crosses does so as it came; the rest does not cross, however it is spelt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import headers
from gateway.headers import Cut

CUT = Cut(frozenset({b"connection", b"host", b"te"}), b"x-gateway-")

NAMES = st.sampled_from(
    [b"Host", b"hOST", b"TE", b"X-Gateway-Key", b"x-gateway-new", b"Accept", b"ACCEPT", b"X-A", b"x-b"]
)
PAIRS = st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=12)


def by_hand(pairs):
    kept = []
    for name, value in pairs:
        lowered = name.lower()
        if lowered not in {b"host", b"te"} and not lowered.startswith(b"x-gateway-"):
            kept.append((name, value))
    return kept


@given(PAIRS)
def test_what_crosses_keeps_its_order_its_case_and_its_repetitions(pairs):
    assert CUT.crossing(tuple(pairs)) == by_hand(pairs)


@pytest.mark.parametrize("spelt", [b"Connection", b"connection", b"CONNECTION"])
@pytest.mark.parametrize("value", [b"x-a", b"close, X-A", b"keep-alive,x-b ,X-a"])
def test_what_connection_names_does_not_cross_either(spelt, value):
    """Guards RFC 9110 section 7.6.1: sabotaged (Connection is only cut) the named header reaches the other side."""
    found = CUT.crossing(((b"X-A", b"1"), (spelt, value), (b"Accept", b"*/*")))

    assert found == [(b"Accept", b"*/*")]


def test_what_nobody_has_spelt_so_before_is_looked_at_all_the_same(monkeypatch):
    monkeypatch.setattr(headers, "SPELLINGS_MAX", 2)
    cut = Cut(frozenset({b"host"}))

    for number in range(10):
        assert cut.crossing(((b"X-%d" % number, b""), (b"hOsT", b""))) == [(b"X-%d" % number, b"")]
    assert len(cut._fates) == 2


def test_without_a_prefix_what_begins_like_ours_is_the_provider_s():
    assert Cut(frozenset()).crossing(((b"x-gateway-cache", b"hit"),)) == [(b"x-gateway-cache", b"hit")]
