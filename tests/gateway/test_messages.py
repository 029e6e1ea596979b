"""What the thinking modules see of HTTP."""

import pytest

from tests.builders import answer_head


def head(status=200, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer_head(status, named)


@pytest.mark.parametrize(
    ("status", "succeeded"),
    [(199, False), (200, True), (201, True), (299, True), (300, False), (304, False), (500, False)],
)
def test_only_the_two_hundreds_are_success(status, succeeded):
    assert head(status).succeeded is succeeded


@pytest.mark.parametrize(
    ("content_type", "media_type"),
    [
        ("application/json", "application/json"),
        ("Text/Event-Stream; charset=utf-8", "text/event-stream"),
        (" text/plain ;x=y", "text/plain"),
        ("", ""),
    ],
)
def test_the_media_type_is_the_content_type_without_its_parameters(content_type, media_type):
    assert head(content_type=content_type).media_type == media_type


def test_an_answer_without_a_content_type_has_no_media_type():
    assert head().media_type == ""
