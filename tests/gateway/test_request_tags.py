"""Tags out of what requests say of themselves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callers import TAG, TAGS_MAX, RequestTags
from gateway.providers.api import Labels
from gateway.providers.openai.labels import labels
from gateway.request_tags import tagged
from tests.gateway.peers import answer, answers, provider
from tests.gateway.proxied import COMPLETION, chat, hashed, proxied, request

COMPLETED = answer(json.dumps(COMPLETION).encode(), b"Content-Type: application/json")
LABELLED = chat(
    user="ada@example.com",
    safety_identifier="u-7",
    metadata={"team": "blue", "n": 5, "a b": "x", "text": "é", "env": "prod"},
)


def of(body, how=RequestTags.HASHED, tags=None):
    return tagged(tags or {}, labels(body), how, hashed)


def test_end_users_are_keyed_hashes_unless_they_are_asked_for_plain():
    """Guards people's names, which could not be erased: sabotaged (always plain), the first of these holds them."""
    assert of(LABELLED) == {
        "user": hashed("ada@example.com"),
        "safety_identifier": hashed("u-7"),
        "team": "blue",
        "env": "prod",
    }
    assert of(LABELLED, RequestTags.PLAIN) == {
        "user": "ada@example.com",
        "safety_identifier": "u-7",
        "team": "blue",
        "env": "prod",
    }


def test_a_tag_that_is_there_stays_and_metadata_names_no_user():
    body = chat(user="ada", metadata={"user": "eve", "team": "red", "env": "prod"})

    assert of(body, tags={"team": "blue"}) == {"team": "blue", "user": hashed("ada"), "env": "prod"}


def test_there_are_never_more_tags_than_an_application_may_send():
    body = chat(user="ada", metadata={f"k{number}": "v" for number in range(16)})

    tags = of(body, tags={"team": "blue"})

    assert len(tags) == TAGS_MAX
    assert list(tags)[:3] == ["team", "user", "k0"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"user":5,"metadata":[1]}', b'{"metadata":"x"}', b"[" * 9999]
)
def test_what_is_no_label_is_none(body):
    assert of(body, tags={"team": "blue"}) == {"team": "blue"}


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()), st.sampled_from(RequestTags))
def test_whatever_is_said_tags_stay_tags(users, notes, how):
    tags = tagged({}, Labels(users, notes), how, hashed)

    assert len(tags) <= TAGS_MAX
    assert all(TAG.fullmatch(f"{name}={value}") for name, value in tags.items())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), {}),
        (("X-Gateway-Request-Tags: off",), {}),
        (
            ("X-Gateway-Request-Tags: hashed", "X-Gateway-Tags: env=test"),
            {"env": "test", "team": "blue", "user": hashed("lovelace")},
        ),
    ],
)
async def test_a_call_is_tagged_with_what_its_body_says_where_that_is_asked_for(tmp_path, headers, expected):
    body = chat(user="lovelace", metadata={"team": "blue", "env": "prod"})
    async with provider(answers(COMPLETED)) as upstream, proxied(tmp_path, upstream) as gateway:
        answered = await gateway.ask(request("/openai/v1/chat/completions", body, *headers))

    assert answered.status == 200
    assert [record.tags for record in gateway.records] == [expected, expected]
    assert b"lovelace" not in gateway.spooled
