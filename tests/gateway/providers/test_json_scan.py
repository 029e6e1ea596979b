"""Looking through JSON of any size as it goes by."""

import itertools
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.json_scan import DEPTH_MAX, TEXT_BYTES_MAX, JsonScan

AT = ("a", "b")

NAMES = st.sampled_from(["a", "b", "A", "to", "[]", "", "{", '"', "\\", "é", "\U0001f600", "x" * TEXT_BYTES_MAX])
TEXTS = st.sampled_from(
    ["", "}", "]", ",", ":", '"', "\\", '\\"', "{[", "ada@example.com", "é\n", "y" * 600]
) | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=25,
)


def seen(*chunks):
    """What a scan tells of a body, and whether the body is complete."""
    told = []
    scan = JsonScan(told.append, {AT: told.append})
    for chunk in chunks:
        scan.feed(chunk)
    return told, scan.complete


def walked(value, path=()):
    """The same, of the parsed value."""
    told = []
    if isinstance(value, dict):
        if len(path) < DEPTH_MAX:
            told.append(path)
        for name, inner in value.items():
            short = len(json.dumps(name, ensure_ascii=False).encode()) - 2 <= TEXT_BYTES_MAX
            told += walked(inner, (*path, name.lower() if short and name != "[]" else ""))
    elif isinstance(value, list):
        for inner in value:
            told += walked(inner, (*path, "[]"))
    elif (
        isinstance(value, str)
        and path == AT
        and len(json.dumps(value, ensure_ascii=False).encode()) - 2 <= TEXT_BYTES_MAX
    ):
        told.append(value)
    return told


def cut(body, marks):
    edges = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 2000), max_size=8)
STYLES = st.sampled_from([{}, {"indent": 3}, {"separators": (",", ":")}, {"separators": (" ,\r\n", "\t: ")}])


@given(VALUES, STYLES, CUTS)
def test_it_tells_what_a_parser_would_find_wherever_the_body_is_cut(value, style, marks):
    """Guards the state between chunks: without what is carried over, a quote at the end of one opens a text in the next."""
    body = json.dumps(value, ensure_ascii=False, **style).encode()

    assert seen(*cut(body, marks)) == (walked(value), isinstance(value, (dict, list)))


@given(st.lists(st.sampled_from([*b'{}[]",:\\ au']), max_size=40).map(bytes) | st.binary(max_size=60), CUTS)
def test_it_never_raises_and_never_minds_where_nonsense_is_cut(body, marks):
    marks = [mark % 60 for mark in marks]

    assert seen(*cut(body, marks)) == seen(body) == seen(*(body[at : at + 1] for at in range(len(body))))


@pytest.mark.parametrize("written", ["a", "\\u0061", "A", "\\u0041"])
def test_a_field_is_found_however_its_name_is_written(written):
    body = b'{"%b": {"b": "x", "c": "y"}}' % written.encode()

    assert seen(body) == ([(), ("a",), "x"], True)


def test_a_field_that_is_called_like_an_array_hides_nothing():
    """Guards the names of fields: read as an array, this one hid the fields after it, and a mail its recipients."""
    assert seen(b'{"[]": 1, "a": {"[]": {}, "b": "x"}}') == ([(), ("a",), ("a", ""), "x"], True)


@pytest.mark.parametrize("size", [TEXT_BYTES_MAX, TEXT_BYTES_MAX + 1])
@given(marks=CUTS)
def test_a_text_is_told_up_to_its_bound_and_not_at_all_beyond_it(size, marks):
    text = "x" * size

    told, _ = seen(*cut(b'{"a":{"b":"%b"}}' % text.encode(), marks))

    assert told[2:] == ([text] if size <= TEXT_BYTES_MAX else [])


def test_what_lies_deeper_than_is_of_interest_is_counted_in_and_out():
    deep = b'{"x":' * 40 + b"[[[]]]" + b"}" * 40
    levels = [("x",) * depth for depth in range(DEPTH_MAX)]

    assert seen(b'{"x":' + deep[5:-1] + b', "a": {"b": "y"}}') == ([*levels, ("a",), "y"], True)


@pytest.mark.parametrize("body", [b"", b"   ", b"1", b'"x"', b"{", b'{"a":[}', b'{"a":"}', b'{"a":"}"', b"]"])
def test_what_has_not_ended_is_not_complete(body):
    assert not seen(body)[1]


@given(VALUES, st.lists(st.integers(0, 900), max_size=6))
def test_several_texts_and_fields_are_told_of_wherever_the_body_is_cut(value, marks):
    wanted = (("a",), ("a", "b"), ("[]", "a"))
    texts, fields = [], []
    scan = JsonScan(
        lambda path: None,
        {path: lambda text, path=path: texts.append((path, text)) for path in wanted},
        {path: lambda path=path: fields.append(path) for path in wanted},
    )

    for chunk in cut(json.dumps(value).encode(), marks):
        scan.feed(chunk)

    found = list(named(value))
    assert fields == [path for path, _ in found if path in wanted]
    assert texts == [
        (path, text)
        for path, text in found
        if path in wanted and isinstance(text, str) and len(json.dumps(text).encode()) - 2 <= TEXT_BYTES_MAX
    ]


def named(value, path=()):
    """Each field of a parsed value, with its path and what it holds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            short = len(json.dumps(name).encode()) - 2 <= TEXT_BYTES_MAX
            at = (*path, name.lower() if short and name != "[]" else "")
            yield at, inner
            yield from named(inner, at)
    elif isinstance(value, list):
        for inner in value:
            yield from named(inner, (*path, "[]"))


@pytest.mark.parametrize("unit", [b"x", b"\\\\", b"[", b'{"a":', b'{"', b'"" ', b" "])
def test_however_large_a_body_is_next_to_nothing_of_it_is_held(unit):
    """Guards TEXT_BYTES_MAX and DEPTH_MAX: an attachment is one text of megabytes."""
    piece = unit * (16384 // len(unit))
    scan = JsonScan(lambda path: None, {AT: lambda text: None}, {AT: lambda: None})
    scan.feed(b'{"a":"' if unit == b"x" else b"{")
    scan.feed(piece)
    held = []
    tracemalloc.start()
    for _ in range(2):
        for _ in range(30):
            scan.feed(piece)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert held[1] - held[0] < 4096
