"""Reading short fields of a form of any size."""

import itertools
import os
import tracemalloc

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.multipart import HEADERS_BYTES_MAX, VALUE_BYTES_MAX, Fields

WANTED = ("model", "n")


def read(body, cuts=()):
    fields = Fields(WANTED)
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(marks):
        fields.feed(body[start:end])
    return fields


def part(disposition, content, *headers):
    return b"\r\n".join([b"--b", b"Content-Disposition: form-data; " + disposition, *headers, b"", content, b""])


END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (part(b'name="model"', b"gpt-image-1") + END, {"model": "gpt-image-1"}),
        (part(b"name=model", b"m") + END, {"model": "m"}),
        (part(b'name="model"', b"") + END, {"model": ""}),
        (part(b'filename="x"; name="model"', b"m") + END, {"model": "m"}),
        (part(b'NAME="model"', b"m", b"Content-Type: text/plain", b"Content-Length: 1") + END, {"model": "m"}),
        (part(b'name="model"', "größer".encode()) + END, {"model": "größer"}),
        (part(b'name="model"', b"\xff") + END, {"model": "\ufffd"}),
        (part(b'name="model"', b"one") + part(b'name="model"', b"two") + END, {"model": "one"}),
        (part(b'name="other"', b"m") + part(b'name="n"', b"2") + END, {"n": "2"}),
        (part(b'filename="; name=\\"model\\""', b"m") + END, {}),
        (part(b'name="file"; filename="model"', b'\r\n--bx\r\nname="model"\r\n--c\r\n') + END, {}),
        (part(b'name="file"', b"\r\n--") + part(b'name="n"', b"-\r\n--") + END, {"n": "-\r\n--"}),
        (part(b'name="n"', b"2") + b"--b \t\r\n" + part(b'name="model"', b"m").partition(b"\r\n")[2] + END,
         {"n": "2", "model": "m"}),
        (part(b'name="model"', b"x" * VALUE_BYTES_MAX) + END, {"model": "x" * VALUE_BYTES_MAX}),
        (part(b'name="model"', b"x" * (VALUE_BYTES_MAX + 1)) + END, {}),
        (part(b'name="model"', b"m", b"X: " + b"x" * HEADERS_BYTES_MAX) + END, {}),
        (b"--" + b"b" * 70 + b"\r\n" + part(b'name="n"', b"2").partition(b"\r\n")[2], {}),
        (b'{"model": "gpt-image-1"}', {}),
        (b"", {}),
        (b"-", {}),
        (b"--\r\n", {}),
        (b"--" + b"b" * 71 + b"\r\n", {}),
    ],
)  # fmt: skip
def test_the_wanted_fields_are_found_and_nothing_else(body, found):
    assert read(body).found == found
    assert read(body, range(len(body))).found == found


def test_what_comes_after_the_end_is_no_part_of_the_form():
    fields = read(END.replace(b"--b--", b"--b\r\nA: b\r\n\r\nx\r\n--b--") + part(b'name="model"', b"m"))

    assert (fields.complete, fields.found) == (True, {})


@given(
    st.lists(
        st.sampled_from([b"\r\n", b"\r\n\r\n", b"--b", b"--b--", b"\r", b"\n", b"-", b"content-disposition: form-data",
                         b'; name="model"', b'; name="n"', b"x", b" ", b"y" * 600, b"z" * 8190]),
        max_size=14,
    ).map(lambda pieces: b"--b\r\n" + b"".join(pieces)),
    st.lists(st.integers(0, 9000), max_size=8),
)  # fmt: skip
def test_where_the_network_cuts_a_form_does_not_matter(body, cuts):
    """Guards each step's look-ahead: without it a delimiter or a header's end in two pieces is none."""
    whole, cut = read(body), read(body, cuts)

    assert (cut.found, cut.complete) == (whole.found, whole.complete)


def test_a_form_as_an_http_library_writes_it():
    sent = httpx.Request(
        "POST",
        "http://a.example/",
        data={"model": "whisper-1", "n": "3", "response_format": "json"},
        files={"file": ('a "quoted" name.wav', os.urandom(100_000), "audio/wav")},
    ).read()

    fields = read(sent, range(0, len(sent), 16_384))

    assert (fields.found, fields.complete) == ({"model": "whisper-1", "n": "3"}, True)


def test_a_large_file_goes_by_without_being_held():
    """Guards the memory: a recording may have gigabytes."""
    fields, piece = Fields(WANTED), os.urandom(16 << 10)
    fields.feed(part(b'name="model"', b"m") + part(b'name="file"', b"")[:-2])
    tracemalloc.start()
    try:
        for _ in range(2_000):
            fields.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fields.feed(b"\r\n" + part(b'name="n"', b"2") + END)

    assert peak < 200 << 10
    assert fields.found == {"model": "m", "n": "2"}
