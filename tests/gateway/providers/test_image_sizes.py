"""The size of an image out of its first bytes, and what cuts and lies make of it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.openai.image_sizes import size_of, size_of_url

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (640).to_bytes(4) + (480).to_bytes(4) + b"\x08\x02\0\0\0"
GIF = b"GIF89a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little") + b"\0\0\0"
APP = b"\xff\xe1" + (1000).to_bytes(2) + bytes(998)
FRAME = b"\0\x11\x08" + (480).to_bytes(2) + (640).to_bytes(2) + b"\x03" + bytes(9)
JPEG = b"\xff\xd8" + APP + b"\xff\xdb\0\x04ab" + b"\xff\xff\xc0" + FRAME
PROGRESSIVE = b"\xff\xd8\xff\xc4\0\x05abc\xff\xc2" + FRAME
WEBP = b"RIFF\0\0\0\0WEBP"
LOSSY = WEBP + b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
LOSSLESS = WEBP + b"VP8L\0\0\0\0\x2f" + (639 | 479 << 14).to_bytes(4, "little") + bytes(5)
EXTENDED = WEBP + b"VP8X\x0a\0\0\0\0\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
ALL = {
    "png": PNG,
    "gif": GIF,
    "jpeg": JPEG,
    "progressive jpeg": PROGRESSIVE,
    "webp": LOSSY,
    "lossless webp": LOSSLESS,
    "extended webp": EXTENDED,
}


def url_of(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("name", ALL)
def test_the_size_stands_at_the_beginning(name):
    assert size_of(ALL[name]) == (640, 480)
    assert size_of_url(url_of(ALL[name] + bytes(1000))) == (640, 480)


@pytest.mark.parametrize("name", ALL)
def test_an_image_that_is_cut_before_its_size_has_none(name):
    for end in range(len(ALL[name]) - 15):
        size_of(ALL[name][:end])  # Whatever it says, it does not raise.
    assert size_of(ALL[name][:9]) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example/1.png",
        "",
        "data:image/png,plain",
        "data:image/png;base64,",
        "data:image/png;base64,####",
        "data:image/png;base64,é",
        url_of(b"%PDF-1.7"),
        url_of(PNG.replace((640).to_bytes(4), bytes(4))),
    ],
)
def test_where_no_size_is_to_be_found_there_is_none(url):
    assert size_of_url(url) is None


@given(st.sampled_from(sorted(ALL)), st.binary(max_size=40), st.integers(0, 60))
def test_an_image_that_lies_does_not_raise(name, damage, at):
    damaged = ALL[name][:at] + damage + ALL[name][at + len(damage) :]

    found = size_of(damaged)

    assert found is None or min(found) > 0
