"""Answers, damaged at random: what looks whole to a client was well-formed, and nobody gets the answer of another call.

What an answer says is read here a second time, from all of its bytes at once, by code that shares nothing with the
gateway's.
"""

import json
import random
import re
from dataclasses import dataclass

import pytest

from tests.edge.upstreams import JSON, WHOLE, Telling, asked, before, completion, ended_once, read
from tests.gateway.peers import answer, chunked
from tests.gateway.proxied import COMPLETION, USAGE

BATCHES = 16
ANSWERS_PER_BATCH = 160


# ---------------------------------------------------------------------------------------------------------------------
# The second reader


@dataclass(frozen=True)
class Reading:
    """The one thing that an answer says."""

    status: int
    body: bytes
    plain: bool
    """True if it is well-formed to the letter; False if a recipient may take it, and may as well refuse it."""


class Unreadable(Exception):
    """It says nothing, or not one thing."""


LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
HIDDEN_LINE = re.compile(rb"HTTP/1\.[0-9] 1[0-9][0-9](?: [^\0\r\n]*)?")
HIDDEN_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0\r\n]*")
"""What may stand in an interim answer, of which nothing reaches anybody, and be passed over."""
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*?)[\t ]*")
EXTENSIONS = re.compile(rb"(?:;[a-z]+(?:=[a-z]+)?)*")
SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?)")


def reading(raw):
    """What the answer says if the connection is closed after it. Raises Unreadable."""
    plain = True
    for _ in range(17):
        while raw.startswith((b"\r\n", b"\n")):
            raw, plain = raw.removeprefix(b"\r").removeprefix(b"\n"), False
        end = re.search(rb"\r?\n\r?\n", raw)
        if end is None:
            raise Unreadable
        head, rest = raw[: end.start()], raw[end.end() :]
        plain = plain and end[0] == b"\r\n\r\n" and b"\n" not in head.replace(b"\r\n", b"")
        start, *lines = re.split(rb"\r?\n", head)
        if HIDDEN_LINE.fullmatch(start) and all(map(HIDDEN_FIELD.fullmatch, lines)) and start[9:12] != b"101":
            plain = plain and LINE.fullmatch(start) is not None and all(map(FIELD.fullmatch, lines))
            raw = rest
            continue
        line = LINE.fullmatch(start)
        if line is None or line[2] < b"200":
            raise Unreadable
        version, status = int(line[1]), int(line[2])
        fields, folded = _fields(lines)
        plain = plain and not folded
        plain = plain and version <= 1 and status < 600
        body, framed_plainly = _body(status, version, fields, rest)
        return Reading(status, body, plain and framed_plainly)
    raise Unreadable


def _fields(lines):
    fields: list[tuple[bytes, bytes]] = []
    folded = False
    for line in lines:
        if line.startswith((b" ", b"\t")):
            if not fields or FIELD.fullmatch(b"X:" + line) is None:
                raise Unreadable
            name, value = fields[-1]
            fields[-1] = name, (value + b" " + line.strip(b" \t")).strip(b" \t")
            folded = True
            continue
        field = FIELD.fullmatch(line)
        if field is None:
            raise Unreadable
        fields.append((field[1].lower(), field[2]))
    return fields, folded


def _body(status, version, fields, rest):
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if codings:
        if lengths or [coding.lower() for coding in codings] != [b"chunked"]:
            raise Unreadable
        if status in (204, 304):
            return b"", False
        body, plain = _chunks(rest)
        return body, plain and version == 1
    told = {int(part) for value in lengths for part in _numbers(value)}
    if len(told) > 1:
        raise Unreadable
    if status in (204, 304):
        return b"", not rest and not told
    if not told:
        return rest, True
    (length,) = told
    if length > len(rest):
        raise Unreadable
    plain = len(lengths) == 1 and lengths[0] == b"%d" % length and length == len(rest)
    return rest[:length], plain


def _numbers(value):
    parts = [part.strip(b" \t") for part in value.split(b",")]
    if not all(re.fullmatch(rb"[0-9]{1,19}", part) for part in parts):
        raise Unreadable
    return parts


def _chunks(rest):
    body, plain = b"", True
    while True:
        line, mark, rest = rest.partition(b"\r\n")
        size = SIZE.fullmatch(line)
        if not mark or size is None:
            raise Unreadable
        length = int(size[1], 16)
        plain = plain and EXTENSIONS.fullmatch(size[2]) is not None
        if not length:
            break
        if len(rest) < length + 2 or rest[length : length + 2] != b"\r\n":
            raise Unreadable
        body, rest = body + rest[:length], rest[length + 2 :]
    trailers, mark, after = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if not mark:
        raise Unreadable
    names = [name for name, _ in _fields(trailers.split(b"\r\n")[1:])[0]]
    return body, plain and not after and not names


def test_the_second_reader_reads_what_is_written():
    assert reading(answer(b"hi")) == Reading(200, b"hi", plain=True)
    assert reading(b"HTTP/1.1 103 E\r\n\r\nHTTP/1.0 404\r\n\r\nhi") == Reading(404, b"hi", plain=True)
    assert reading(SEEDS["chunks"]) == Reading(200, WHOLE, plain=True)
    assert reading(answer(b"hi") + b"more") == Reading(200, b"hi", plain=False)
    for bad in (b"", answer(b"hi")[:-1], SEEDS["chunks"][:-1], b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n"):
        with pytest.raises(Unreadable):
            reading(bad)


# ---------------------------------------------------------------------------------------------------------------------
# The damage

STREAM = b"".join(
    b"data: " + (item if isinstance(item, bytes) else json.dumps(COMPLETION | item).encode()) + b"\n\n"
    for item in ({"choices": [{"delta": {"content": "Hi"}}], "usage": None}, {"choices": [], "usage": USAGE}, b"[DONE]")
)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
SEEDS = {
    "a length": answer(WHOLE, JSON, b"X-Request-Id: req_1"),
    "chunks": CHUNKED % b"application/json" + chunked(WHOLE[:50], WHOLE[50:]),
    "a stream": CHUNKED % b"text/event-stream" + chunked(*STREAM.splitlines(keepends=True)),
    "extensions and trailers": CHUNKED % b"application/json"
    + b"%x;a=b\r\n%b\r\n0;c\r\nX-Trailer: y\r\n\r\n" % (len(WHOLE), WHOLE),
    "the close": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE,
    "an older version": b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE,
    "an early hint": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(WHOLE, JSON),
    "nothing": b"HTTP/1.1 204 No Content\r\nX-Message-Id: 1\r\n\r\n",
    "a failure": answer(b'{"error":{"message":"slow"}}', JSON, b"Retry-After: 1", status=b"429 Too Many Requests"),
}
ODD = [
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"-", b"+", b"0", b"1", b"f", b"x", b"\x7f", b"\x0b", b"\xff",
    b"\r\n\r\n", b"\n\n", b"\r\n ", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"Connection: close\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"ffffffffffffffff", b"0x", b"chunked", b"identity, ", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
]  # fmt: skip


def damaged(raw, chance):
    """The answer, changed in a place or three; heads and chunk sizes are short, so half of the damage is done to them."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        marks = [found.start() for found in re.finditer(rb"[\r\n:;]|[0-9a-f]+\r\n", raw)] or [0]
        at = chance.choice(marks) if chance.random() < 0.6 else chance.randrange(len(raw) + 1)
        upto = min(len(raw), at + chance.choice((1, 1, 2, 5, 30)))
        how = chance.randrange(8)
        if how == 0:
            raw = raw[:at] + raw[upto:]
        elif how in (1, 2, 3):
            raw = raw[:at] + chance.choice(ODD) + raw[at:]
        elif how == 4:
            raw = raw[:at] + chance.choice(ODD) + raw[upto:]
        elif how == 5:
            raw = raw[:upto] + raw[at:]
        elif how == 6:
            raw = raw[:at] + bytes((chance.randrange(256),)) + raw[at + 1 :]
        else:
            raw = raw[:at]
    return raw


def pieces(raw, chance):
    """The answer in one to three pieces, as a network may deliver it."""
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.choice((0, 0, 0, 1, 2))))
    return [piece for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if (piece := raw[begin:end])]


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_a_damaged_answer_is_told_as_what_it_says_or_as_broken(tmp_path, batch):
    """Guards every check of an answer's form at once; each damaged answer is followed by a marker that must be read right.

    2,560 answers in each run, the same ones in every run.
    """
    chance = random.Random(batch)
    wrong: list[tuple[str, bytes]] = []
    script = Telling([], "close")
    billable = 0
    async with before(tmp_path, script) as made:
        for _ in range(ANSWERS_PER_BATCH):
            raw = damaged(chance.choice(list(SEEDS.values())), chance)
            script.pieces = pieces(raw, chance)
            posted = chance.random() < 0.7
            billable += posted
            call = completion(stream=True, stream_options={"include_usage": True}) if posted else read()
            try:
                said = reading(raw)
            except Unreadable:
                said = None
            try:
                answered = await asked(made, call)
            except AssertionError as error:
                wrong.append((f"the gateway's own answer is none: {error}"[:200], raw))
                continue
            if answered is None or not answered.whole:
                if said is not None and said.plain:
                    wrong.append(("well-formed, and broken off", raw))
            elif answered.refused:
                if said is not None and said.plain:
                    wrong.append(("well-formed, and refused", raw))
            elif said is None:
                wrong.append(("not well-formed, and looks whole", raw))
            elif answered.head["x-tollkeeper-error"] == "upstream_unauthorized":
                if said.status != 401:
                    wrong.append(("another status", raw))
            elif (answered.status, answered.body) != (said.status, said.body):
                wrong.append(("read as something else", raw))
        assert wrong == []
        assert [line["error"] for line in made.lines if line.get("error") not in (None, "upstream_broke")] == []
        assert ended_once(made, billable)
        assert script.misused == 0
