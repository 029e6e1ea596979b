"""Reading a compressed answer without touching it."""

import gzip
import itertools
import sys
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import decoding
from gateway.providers.learnt import Usage
from metering.usage import Completeness

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def raw_deflate(plain):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(plain) + packer.flush()


CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate, as some send it": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
PLAIN = b'{"id":"chatcmpl-1","usage":{"prompt_tokens":3}}' * 50


class Seeing:
    """A meter that remembers what it was fed."""

    def __init__(self):
        self.seen = b""
        self.size = 0
        self.concluded = False
        self.whole = None

    def feed(self, chunk):
        self.size += len(chunk)
        self.seen = (self.seen + chunk)[:100_000]
        self.concluded = b"[DONE]" in self.seen
        return b"what the client would get"

    def finish(self, *, whole):
        self.whole = whole
        return b"held", Usage(quantities={}, completeness=Completeness.UNKNOWN)


def fed(coding, *chunks):
    inner = Seeing()
    meter = decoding.Decoded(inner, coding.partition(",")[0])
    passed = b"".join(meter.feed(chunk) for chunk in chunks)
    return meter, inner, passed


@pytest.mark.parametrize("coding", CODINGS)
@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_a_compressed_body_is_read_and_passed_on_as_it_came(coding, cuts):
    coded = CODINGS[coding](PLAIN)
    marks = [0, *sorted(min(cut, len(coded)) for cut in cuts), len(coded)]

    meter, inner, passed = fed(coding, *(coded[start:end] for start, end in itertools.pairwise(marks)))

    assert passed == coded
    assert inner.seen == PLAIN
    assert meter.finish(whole=True)[0] == b""
    assert inner.whole


def test_every_coding_that_is_known_is_tested():
    assert {coding.partition(",")[0] for coding in CODINGS} == decoding.ENCODINGS


@pytest.mark.parametrize("coding", CODINGS)
def test_a_conclusion_is_seen_through_the_compression(coding):
    packed = CODINGS[coding](b"data: [DONE]\n\n")

    meter, _, _ = fed(coding, packed)

    assert meter.concluded


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_costs_its_bound_and_is_passed_on_whole(coding):
    """Guards PLAIN_BYTES_MAX and STEP_BYTES_MAX: unbounded, 64 KiB become 64 MiB for nobody's use."""
    bomb = CODINGS[coding](bytes(64 << 20))
    tracemalloc.start()

    meter, inner, passed = fed(coding, *(bomb[start : start + 16384] for start in range(0, len(bomb), 16384)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    meter.finish(whole=True)

    assert passed == bomb
    assert inner.size <= decoding.PLAIN_BYTES_MAX + decoding.STEP_BYTES_MAX  # Brotli rounds up to its blocks.
    assert peak < decoding.PLAIN_BYTES_MAX + (8 << 20)
    assert inner.whole is False


@pytest.mark.parametrize("label", sorted(decoding.ENCODINGS))
@pytest.mark.parametrize("coding", CODINGS)
def test_a_wrong_label_harms_nobody(label, coding):
    coded = CODINGS[coding](PLAIN)

    meter, inner, passed = fed(label, coded[:40], coded[40:], b"", coded)
    meter.finish(whole=True)

    assert passed == coded + coded
    assert inner.seen in (b"", PLAIN, PLAIN + PLAIN) or not inner.whole


@pytest.mark.parametrize("label", sorted(decoding.ENCODINGS))
def test_a_plain_body_with_a_label_is_not_known(label):
    """Guards giving up: what came after the fault was not read, so the meter must not take the body for whole."""
    meter, inner, passed = fed(label, PLAIN, PLAIN)
    meter.finish(whole=True)

    assert passed == PLAIN + PLAIN
    assert not inner.whole or inner.seen == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_after_the_end_are_passed_on_and_not_read(coding):
    meter, inner, passed = fed(coding, CODINGS[coding](PLAIN), b"", b"more", b"")
    meter.finish(whole=True)

    assert passed == CODINGS[coding](PLAIN) + b"more"
    assert inner.seen == PLAIN
    assert inner.whole


PARTED = ["gzip", "zstd"]


@pytest.mark.parametrize("coding", PARTED)
@given(cuts=st.lists(st.integers(0, 700), max_size=6))
def test_a_body_in_parts_is_read_to_its_end_wherever_it_is_cut(coding, cuts):
    """Guards the usage, which stands last: sabotaged (the first part alone), it goes unread and the rest is taken for whole."""
    pack = CODINGS[coding]
    coded = pack(PLAIN) + pack(b"") + pack(b"between") + pack(PLAIN)
    marks = [0, *sorted(min(cut, len(coded)) for cut in cuts), len(coded)]

    meter, inner, passed = fed(coding, *(coded[start:end] for start, end in itertools.pairwise(marks)))
    meter.finish(whole=True)

    assert passed == coded
    assert inner.seen == PLAIN + b"between" + PLAIN
    assert inner.whole


@pytest.mark.parametrize("coding", PARTED)
def test_one_byte_at_a_time_brings_all_parts(coding):
    coded = CODINGS[coding](b"one") + CODINGS[coding](b"two")

    _, inner, passed = fed(coding, *(bytes((byte,)) for byte in coded))

    assert (passed, inner.seen) == (coded, b"onetwo")


@pytest.mark.parametrize("coding", PARTED)
@pytest.mark.parametrize(("parts", "known"), [(decoding.PARTS_MAX, True), (decoding.PARTS_MAX + 1, False)])
def test_a_body_of_too_many_parts_is_passed_on_and_not_known(coding, parts, known):
    coded = CODINGS[coding](b"") * parts

    meter, inner, passed = fed(coding, coded[:1000], coded[1000:])
    meter.finish(whole=True)

    assert passed == coded
    assert inner.whole is known


@pytest.mark.parametrize("coding", PARTED)
def test_a_bomb_in_parts_costs_what_one_costs(coding):
    bomb = CODINGS[coding](bytes(4 << 20)) * 16

    meter, inner, passed = fed(coding, *(bomb[start : start + 16384] for start in range(0, len(bomb), 16384)))
    meter.finish(whole=True)

    assert passed == bomb
    assert inner.size <= decoding.PLAIN_BYTES_MAX + decoding.RATIO_MAX * len(bomb)
    assert not inner.whole


@pytest.mark.parametrize("coding", PARTED)
def test_a_body_in_parts_that_is_changed_on_its_way_keeps_all_of_them(coding):
    plain = decoding.Plain(coding)

    assert plain.feed(CODINGS[coding](b"one") + CODINGS[coding](b"two")[:-3]) + plain.feed(
        CODINGS[coding](b"two")[-3:]
    ) == (b"onetwo")
    plain.finish()


@given(st.sampled_from(sorted(decoding.ENCODINGS)), st.lists(st.binary(max_size=100), max_size=10))
def test_no_bytes_make_it_raise_or_change_what_is_passed_on(label, chunks):
    meter, _, passed = fed(label, *chunks)
    meter.finish(whole=True)

    assert passed == b"".join(chunks)
