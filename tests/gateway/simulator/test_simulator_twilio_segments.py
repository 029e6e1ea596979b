"""How long a text message is, counted as carriers count it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.twilio_segments import GSM_7, GSM_7_EXTENDED, segments


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("é\n@£Δ" * 32, 1),
        ("€" * 80, 1),
        ("€" * 80 + "a", 2),
        ("ç", 1),
        ("ç" * 70, 1),
        ("ç" * 71, 2),
        ("ç" * 134, 2),
        ("ç" * 135, 3),
        ("\N{SMILING FACE WITH SUNGLASSES}" * 35, 1),
        ("\N{SMILING FACE WITH SUNGLASSES}" * 36, 2),
        ("a" * 69 + "\N{SMILING FACE WITH SUNGLASSES}", 2),
    ],
)
def test_a_text_takes_so_many_segments(text: str, count: int) -> None:
    assert segments(text) == count


def test_what_counts_two_is_not_cut_between_segments() -> None:
    # 152 and a euro sign are 154: the sign goes into the next segment, and leaves one place empty.
    assert segments("a" * 152 + "€" + "a" * 151) == 2
    assert segments("a" * 152 + "€" + "a" * 152) == 3
    assert segments("ç" * 66 + "\N{SMILING FACE WITH SUNGLASSES}" + "ç" * 65) == 2
    assert segments("ç" * 66 + "\N{SMILING FACE WITH SUNGLASSES}" + "ç" * 66) == 3


def test_the_alphabet_has_the_characters_that_it_has() -> None:
    assert len(GSM_7) == 127
    assert len(GSM_7_EXTENDED) == 10
    assert not GSM_7 & GSM_7_EXTENDED


@given(st.text(max_size=400), st.characters())
def test_more_text_never_takes_fewer_segments(text: str, more: str) -> None:
    assert 1 <= segments(text) <= segments(text + more)
