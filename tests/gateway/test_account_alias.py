"""The account that a tenant sees in the place of the real one."""

import gzip
import itertools
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.account_alias import AccountAlias, Restoring
from gateway.providers.decoding import ENCODINGS, UndecodableAnswer
from tests.builders import answer_head
from tests.gateway.providers.test_decoding import CODINGS

OURS = b"AC" + b"0123456789abcdef" * 2
THEIRS = b"AC" + b"fedcba9876543210" * 2
ALIAS = AccountAlias(OURS, THEIRS)
OTHER_LENGTHS = [AccountAlias(OURS, b"real"), AccountAlias(b"AC1", THEIRS)]

TEXTS = st.lists(
    st.sampled_from(
        [THEIRS, THEIRS.lower(), OURS, *(THEIRS[:end] for end in range(34)), THEIRS[1:], b"A", b"AAC", b"{}"]
    )
    | st.binary(max_size=5),
    max_size=12,
).map(b"".join)
"""Full of beginnings of the real name that lead to nothing."""


def encoding(*codings):
    return answer_head(200, [("Content-Encoding", coding) for coding in codings]).encoding


def cut(body, marks):
    edges = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def restored(pieces, *codings, alias=ALIAS):
    restoring = Restoring((alias,), encoding(*codings))
    return b"".join(restoring.feed(piece) for piece in pieces) + restoring.finish()


def test_a_path_and_its_query_name_the_real_account_at_the_provider():
    target = f"/2010-04-01/Accounts/{OURS.decode()}/Messages.json?a={OURS.decode()}&b=%41C"

    assert ALIAS.sent(target) == target.replace(OURS.decode(), THEIRS.decode())


@given(TEXTS, st.lists(st.integers(0, 400), max_size=8), st.sampled_from([ALIAS, *OTHER_LENGTHS]))
def test_wherever_an_answer_is_cut_the_real_account_is_gone_and_nothing_else(body, marks, alias):
    """Guards the end that is held back: sent on, half of the real name leaves, and the other half after it."""
    assert restored(cut(body, marks), alias=alias) == body.replace(alias.theirs, alias.ours)


@given(TEXTS)
def test_an_answer_that_comes_byte_by_byte_names_ours(body):
    assert restored([body[at : at + 1] for at in range(len(body))]) == body.replace(THEIRS, OURS)


@given(TEXTS, st.lists(st.integers(0, 400), max_size=8))
def test_of_an_answer_only_what_could_be_the_real_account_waits(body, marks):
    restoring = Restoring((ALIAS,), encoding())
    came = left = 0

    for piece in cut(body, marks):
        came += len(piece)
        left += len(restoring.feed(piece))

        assert came - left < len(THEIRS)
        assert THEIRS.startswith(body[left:came])


@pytest.mark.parametrize("coding", CODINGS)
@given(marks=st.lists(st.integers(0, 200), max_size=6))
def test_a_compressed_answer_that_nobody_asked_for_is_unpacked_and_names_ours(coding, marks):
    """Guards the unpacking: compressed, the real name stands in no place where it could be found."""
    body = (b'{"account_sid":"' + THEIRS + b'"}') * 20
    name = coding.partition(",")[0]

    assert restored(cut(CODINGS[coding](body), marks), name) == body.replace(THEIRS, OURS)
    assert Restoring((ALIAS,), encoding(name)).cut == {b"content-encoding"}


def test_every_coding_that_can_be_unpacked_is_tested():
    assert {coding.partition(",")[0] for coding in CODINGS} == ENCODINGS


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_answer_that_is_not_whole_does_not_become_one(coding):
    """Guards finish: without its coding, nobody can tell any more that the end is missing."""
    packed = CODINGS[coding](b'{"account_sid":"' + THEIRS + b'"}')

    for size in range(1, len(packed) - 9):
        with pytest.raises(UndecodableAnswer):
            restored([packed[:size]], coding.partition(",")[0])


@pytest.mark.parametrize(
    "codings", [["compress"], ["gzip, br"], ["gzip", "gzip"], ["gzip", "identity", "br"], ["aes128gcm"]]
)
def test_what_can_not_be_looked_into_does_not_leave(codings):
    """Guards looking at every header: by the first alone, an answer under a second coding is passed on as it is."""
    with pytest.raises(UndecodableAnswer):
        Restoring((ALIAS,), encoding(*codings))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_an_answer_that_is_not_coded_as_it_says_does_not_leave(coding):
    with pytest.raises(UndecodableAnswer):
        restored([b'{"account_sid":"' + THEIRS + b'"}'], coding)


@pytest.mark.parametrize("codings", [[], [""], ["identity"], ["Identity"], [" identity "]])
def test_an_answer_without_a_coding_keeps_its_headers_and_its_length(codings):
    restoring = Restoring((ALIAS,), encoding(*codings))

    assert restoring.cut == frozenset()
    assert restoring.keeps_length


def test_an_answer_has_its_length_no_more_when_it_is_unpacked_or_the_names_differ_in_length():
    assert not Restoring((ALIAS,), encoding("gzip")).keeps_length
    assert not any(Restoring((alias,), encoding()).keeps_length for alias in OTHER_LENGTHS)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_an_answer_without_a_body_is_whole_whatever_its_headers_say(coding):
    assert restored([], coding) == restored([b"", b""], coding) == b""


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, brotli.compress])
def test_a_bomb_is_not_unpacked(pack):
    packed = pack(bytes(64 << 20))
    coding = {gzip.compress: "gzip", zlib.compress: "deflate", brotli.compress: "br"}[pack]

    with pytest.raises(UndecodableAnswer):
        restored([packed], coding)


def test_a_header_names_ours():
    restoring = Restoring((ALIAS,), encoding())

    assert restoring.header(b"/2010-04-01/Accounts/" + THEIRS + b"/x") == b"/2010-04-01/Accounts/" + OURS + b"/x"
