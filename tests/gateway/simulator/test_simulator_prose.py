"""Words, arguments and vectors: the same for the same seed, and fitting what was asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator import prose


@given(seed=st.integers(0, 1 << 48), count=st.integers(0, 200))
def test_a_text_has_as_many_words_as_it_should_and_is_always_the_same(seed: int, count: int) -> None:
    text = "".join(prose.words(seed, count))
    assert len(text.split()) == count
    assert text == "".join(prose.words(seed, count))
    assert text == text.strip()


def test_texts_hold_characters_of_several_bytes() -> None:
    text = "".join(prose.words(1, 1000))
    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (None, {}),
        ({"type": "object"}, {}),
        ({"type": ["string", "null"]}, "toll"),
        ({"type": "array", "items": {"type": "number"}}, [7.5]),
        ({"type": "array"}, []),
        ({"properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}}, {"a": True, "b": None}),
        ({"enum": [3, 4]}, 3),
    ],
)
def test_an_example_fits_its_schema(schema: object, value: object) -> None:
    assert prose.example(schema) == value


def test_a_schema_within_a_schema_has_an_end() -> None:
    schema: dict[str, object] = {"type": "object"}
    schema["properties"] = {"again": schema}
    assert isinstance(prose.example(schema), dict)


@given(seed=st.integers(0, 1 << 48), dimensions=st.integers(1, 100))
def test_a_vector_has_length_one(seed: int, dimensions: int) -> None:
    vector = prose.vector(seed, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1)
