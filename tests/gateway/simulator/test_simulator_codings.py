"""Content codings: chosen as clients ask, and undone as they were done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.codings import CODINGS, coder, decoded, preferred


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("", "identity"),
        ("identity", "identity"),
        ("gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "br"),
        ("br;q=0.5, zstd; q=0.9, gzip;q=0", "zstd"),
        ("*", "br"),
        ("*, br;q=0", "zstd"),
        ("gzip;q=0", "identity"),
        ("gzip;q=high, deflate", "deflate"),
    ],
)
def test_a_client_gets_the_coding_that_it_likes_best(accepted: str, taken: str) -> None:
    assert preferred(accepted) == taken


@given(st.sampled_from(CODINGS), st.lists(st.binary(max_size=50), max_size=5))
def test_what_is_coded_in_pieces_is_decoded_as_one(coding: str, pieces: list[bytes]) -> None:
    coding_of_one_body = coder(coding)
    coded = b"".join([*map(coding_of_one_body.piece, pieces), coding_of_one_body.end()])
    assert decoded(coded, coding) == b"".join(pieces)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "rot13"])
def test_a_body_that_is_not_what_it_says_is_a_value_error(coding: str) -> None:
    with pytest.raises(ValueError, match=coding):
        decoded(b"plain", coding)
