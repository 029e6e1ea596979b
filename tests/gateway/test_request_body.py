"""A request's body on its way to the provider."""

import asyncio
import gzip
import itertools
import json
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import request_body
from gateway.errors import EncodedBody, ObjectMissing
from gateway.messages import RequestHead
from gateway.providers import sendgrid
from gateway.providers.learnt import Prepared
from gateway.request_body import RequestBody, codings_of
from gateway.sharing import References

TEMPLATE = "d-" + "0a" * 16
BODY = json.dumps({"a": "x" * 300, "template_id": TEMPLATE, "b": "y" * 300}).encode()


class Coming:
    """The client's side: a body that comes in these pieces."""

    whole = False

    def __init__(self, pieces, *codings):
        headers = CIMultiDictProxy(CIMultiDict([("Content-Encoding", coding) for coding in codings]))
        self.head = RequestHead("POST", "/v3/mail/send", headers, ())
        self._pieces = list(pieces)

    @property
    def body_read(self):
        return not self._pieces

    async def read(self):
        return self._pieces.pop(0)


class Seeing:
    """A watch that remembers the plain form."""

    def __init__(self):
        self.seen = b""
        self.size = 0

    def feed(self, chunk):
        self.size += len(chunk)
        self.seen = (self.seen + chunk)[:100_000]

    def finish(self, *, whole):
        return Prepared(body=b"", resource="whole" if whole else "not whole")


class Passed:
    """A body read to its end: what was forwarded, and what was seen and found in it."""

    def __init__(self, pieces, *codings, shared=False, watched=True):
        self.watch = Seeing()
        self.named = []
        self.forwarded = b""
        coming = Coming(pieces, *codings)
        self.body = RequestBody(
            coming,
            codings_of(coming.head.headers),
            References(sendgrid.PROVIDER) if shared else None,
            self.own,
            self.watch if watched else None,
        )

    async def own(self, names):
        self.named += names

    async def read(self):
        while not self.body.ended:
            self.forwarded += await self.body.read()
        return self


def passed(pieces, *codings, **how):
    return asyncio.run(Passed(pieces, *codings, **how).read())


def cut(body, marks):
    edges = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 700), max_size=6)
MEMBERS = gzip.compress(BODY[:100]) + gzip.compress(b"") + gzip.compress(BODY[100:])


@pytest.mark.parametrize(
    ("packed", "codings"),
    [(BODY, []), (BODY, ["identity"]), (gzip.compress(BODY), ["GZIP"]), (MEMBERS, ["gzip"])],
    ids=["plain", "identity", "gzip", "members"],
)
@given(cuts=CUTS, shared=st.booleans())
def test_a_body_passes_as_it_came_and_is_seen_in_its_plain_form(packed, codings, cuts, shared):
    """Guards the members of a gzip: read to the end of the first alone, the rest is seen by nobody but the provider."""
    made = passed(cut(packed, cuts), *codings, shared=shared)

    assert made.forwarded == packed
    assert made.watch.seen == BODY
    assert made.body.learnt.resource == "whole"
    assert set(made.named) == ({TEMPLATE} if shared else set())


@pytest.mark.parametrize("size", [0, 1, request_body.LOOK_BYTES, request_body.LOOK_BYTES + 1, 1_000_000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_body_of_any_size_is_seen_whole(size, pack):
    body = random.Random(size).randbytes(size)

    made = passed([pack(body)] if size else [], *(["gzip"] if pack is gzip.compress else []))

    assert made.watch.size == size
    assert made.watch.seen == body[:100_000]
    assert made.body.learnt.resource == "whole"


def test_of_a_gzip_that_is_cut_all_is_seen_that_anybody_could_read():
    """Guards the output that is left when all input is in: a lenient server would read more than was looked at."""
    packed = gzip.compress(bytes(300_000))

    for size in range(20, len(packed), 7):
        readable = len(zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(packed[:size]))

        assert passed([packed[:size]], "gzip").watch.size == readable


def test_where_nobody_looks_nothing_is_learnt():
    made = passed([gzip.compress(BODY)], "gzip", watched=False)

    assert made.forwarded == gzip.compress(BODY)
    assert made.body.learnt is None


async def test_a_body_that_is_still_coming_is_not_whole():
    made = Passed([BODY[:10], BODY[10:]])
    await made.body.read()

    assert made.body.learnt.resource == "not whole"


# ---------------------------------------------------------------------------------------------------------------------
# What can not be looked into

NONSENSE = {
    "no gzip": ([BODY], ["gzip"]),
    "gzip, then something else": ([gzip.compress(BODY) + b"more"], ["gzip"]),
    "a wrong checksum": ([gzip.compress(BODY)[:-8] + bytes(8)], ["gzip"]),
    "another coding": ([BODY], ["br"]),
    "an unknown coding": ([BODY], ["x"]),
    "two in one": ([gzip.compress(gzip.compress(BODY))], ["gzip, gzip"]),
    "two": ([gzip.compress(gzip.compress(BODY))], ["gzip", "gzip"]),
    "a name that is empty": ([BODY], [""]),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_on_a_shared_account_nothing_passes_that_can_not_be_looked_into(what):
    """Guards the list of codings: as a set, `gzip` twice was `gzip` once, and what lies under the second went unseen."""
    pieces, codings = NONSENSE[what]

    with pytest.raises(EncodedBody):
        passed(pieces, *codings, shared=True)


@pytest.mark.parametrize("what", NONSENSE)
def test_on_an_account_of_its_own_it_passes_and_nothing_is_known_of_it(what):
    pieces, codings = NONSENSE[what]

    made = passed([*pieces, BODY], *codings)

    assert made.forwarded == b"".join(pieces) + BODY
    assert made.body.learnt.resource == "not whole"


def test_a_request_without_a_body_has_nothing_that_could_be_hidden():
    assert passed([], "br", shared=True).forwarded == b""


BOMB = gzip.compress(bytes(64 << 20))


def test_on_a_shared_account_a_bomb_is_refused():
    with pytest.raises(EncodedBody, match="larger"):
        passed(cut(BOMB, range(0, len(BOMB), 10_000)), "gzip", shared=True)


def test_on_an_account_of_its_own_a_bomb_passes_and_costs_no_more_than_its_bound():
    """Guards PLAIN_BYTES_MAX and RATIO_MAX: looking through what 64 KiB can hold takes as long as 10,000 calls."""
    tracemalloc.start()

    made = passed(cut(BOMB, range(0, len(BOMB), 10_000)), "gzip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert made.forwarded == BOMB
    assert made.watch.size <= request_body.PLAIN_BYTES_MAX + request_body.RATIO_MAX * len(BOMB)
    assert made.body.learnt.resource == "not whole"
    assert peak < 2 << 20


@pytest.mark.parametrize("shared", [True, False])
def test_the_largest_mail_in_gzip_is_no_bomb(shared):
    """Guards RATIO_MAX from below: a mail to 1000 recipients that all get nearly the same, and an attachment of 10 MB."""
    some = random.Random(7)
    part = {"subject": "Your order", "substitutions": {"-greeting-": "Hello", "-footer-": "Good bye, and thank you."}}
    people = [{"to": [{"email": f"{some.randbytes(8).hex()}@example.com"}], **part} for _ in range(1000)]
    content = [{"type": "text/html", "value": "<p class='line'>This line stands in it often.</p>\n" * 2000}]
    attached = [{"content": some.randbytes(5_000_000).hex(), "filename": "a.bin"}]
    body = json.dumps({"personalizations": people, "content": content, "attachments": attached}).encode()

    made = passed(cut(gzip.compress(body), range(0, 6_000_000, 50_000)), "gzip", shared=shared)

    assert made.body.learnt.resource == "whole"
    assert made.watch.size == len(body)


# ---------------------------------------------------------------------------------------------------------------------
# What is not the caller's, and everybody else


async def test_what_is_not_the_caller_s_ends_the_reading_before_it_is_forwarded():
    async def own(names):
        for name in names:
            raise ObjectMissing(name)

    body = RequestBody(Coming([BODY]), (), References(sendgrid.PROVIDER), own, None)

    with pytest.raises(ObjectMissing):
        await body.read()


@pytest.mark.parametrize("shape", ["plain", "gzip", "many members"])
async def test_while_a_large_body_is_looked_through_other_calls_get_their_turn(shape):
    """Guards the pauses. A body of many empty members comes out empty, and takes as long as one that does not."""
    pieces, codings = {
        "plain": (bytes(1 << 20), []),
        "gzip": (gzip.compress(bytes(1 << 20)), ["gzip"]),
        "many members": (gzip.compress(b"") * 5000, ["gzip"]),
    }[shape]
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.ensure_future(others())
    await Passed([pieces], *codings).read()
    waiting.cancel()

    assert turns > 50


async def test_a_small_body_is_read_without_a_pause():
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)

    await Passed([BODY], shared=True).read()

    assert turns == []
