"""What crosses does so as it came; the rest does not cross, however it is spelt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import OF_ANSWERS, OF_REQUESTS, of_answer, of_request
from gateway.http1 import response

KEY = frozenset({b"authorization"})

NAMES = st.sampled_from(
    [
        b"Host",
        b"hOST",
        b"TE",
        b"X-Gateway-Key",
        b"x-gateway-new",
        b"X_Gateway-Key",
        b"Authorization",
        b"AUTHORIZATION",
        b"Accept",
        b"ACCEPT",
        b"X-A",
        b"x-b",
        b"X-Gatewa",
    ]
)
PAIRS = st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=12)


def told(*lines):
    """The head of an answer with these lines."""
    return response(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b"")), [], to_head=False).head


def crossing(*lines, cut=OF_ANSWERS, and_cut=frozenset()):
    """Those of an answer's lines that cross."""
    crosses = of_answer(told(*lines), cut | and_cut)
    first, *found = crosses.split(b"\r\n")
    assert first == b""
    return found


@given(PAIRS)
def test_what_crosses_of_a_request_keeps_its_order_its_case_and_its_repetitions(pairs):
    crosses = (b"accept", b"x-a", b"x-b", b"x-gatewa")

    assert of_request(tuple(pairs), KEY) == [pair for pair in pairs if pair[0].lower() in crosses]


@pytest.mark.parametrize("name", sorted(OF_REQUESTS))
def test_what_is_between_a_client_and_us_does_not_reach_the_provider(name):
    for spelt in (name, name.upper(), name.title()):
        assert of_request(((spelt, b"x"), (b"Accept", b"*/*")), frozenset()) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize(
    "name",
    [
        b"X-Gateway-Key",
        b"x-gateway-whatever-comes",
        b"X_GATEWAY_KEY",
        b"X-Gateway_Tags",
        b"x_gateway-idempotency-key",
        b"X-Tenant-ID",
        b"X_Tenant_Id",
    ],
)
def test_what_speaks_to_us_does_not_reach_the_provider_however_it_is_spelt(name):
    """Guards the underscore, which many servers take for a hyphen: the gateway key went to the provider."""
    assert of_request(((name, b"x"), (b"Accept", b"*/*")), frozenset()) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize("spelt", [b"Connection", b"connection", b"CONNECTION"])
@pytest.mark.parametrize("value", [b"x-a", b"close, X-A", b"keep-alive,x-b ,X-a", b"\tX-A\t"])
def test_what_connection_names_does_not_cross_either(spelt, value):
    """Guards RFC 9110 section 7.6.1: sabotaged (Connection is only cut) the named header reaches the other side."""
    request = of_request(((b"X-A", b"1"), (spelt, value), (b"Accept", b"*/*")), frozenset())
    answer = crossing(b"X-A: 1", spelt + b": " + value, b"Accept: */*")

    assert request == [(b"Accept", b"*/*")]
    assert answer == [b"Accept: */*"]


def test_each_connection_header_names_what_does_not_cross():
    request = of_request(
        ((b"Connection", b"X-A"), (b"X-A", b""), (b"X-B", b""), (b"Connection", b"X-B"), (b"X-C", b"")), frozenset()
    )
    answer = crossing(b"Connection: X-A", b"X-A: 1", b"X-B: 1", b"Connection: X-B", b"X-C: 1")

    assert request == [(b"X-C", b"")]
    assert answer == [b"X-C: 1"]


def test_what_crosses_of_an_answer_is_byte_for_byte_as_it_came():
    lines = [b"X-Odd-CASE:  a\t", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"x-bytes:\xe9", b"x-gateway-cache: hit"]

    assert crossing(*lines) == lines


@pytest.mark.parametrize("name", sorted(OF_ANSWERS | {b"openai-organization"}))
def test_what_is_between_a_provider_and_us_does_not_reach_the_client(name):
    cut = OF_ANSWERS | {b"openai-organization"}
    value = {b"transfer-encoding": b"chunked", b"content-length": b"5"}.get(name, b"x")
    for spelt in (name, name.upper(), name.title()):
        assert crossing(spelt + b": " + value, b"A: b", cut=cut) == [b"A: b"]
        assert crossing(b"A: b", spelt + b": " + value, cut=cut) == [b"A: b"]
        assert crossing(spelt + b"-s: " + value, b"A-" + spelt + b": " + value, cut=cut) == [
            spelt + b"-s: " + value,
            b"A-" + spelt + b": " + value,
        ]


def test_what_is_cut_of_one_answer_alone_does_not_cross_however_it_is_spelt():
    """Guards the coding of an answer that was taken off on its way."""
    lines = b"Content-Encoding: gzip", b"A: b", b"CONTENT-ENCODING:br", b"Content-Encoding-X: y"

    assert crossing(*lines, and_cut=frozenset({b"content-encoding"})) == [b"A: b", b"Content-Encoding-X: y"]
