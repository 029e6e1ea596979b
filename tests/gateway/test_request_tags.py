"""Tags out of what requests say of themselves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.callers import TAG, TAGS_MAX
from gateway.providers.api import Labels
from gateway.providers.openai.labels import labels
from gateway.request_tags import tagged
from gateway.snapshot import RequestTags
from tests.gateway.peers import answer, answers, provider
from tests.gateway.proxied import COMPLETION, OWN, chat, hashed, proxied, request

COMPLETED = answer(json.dumps(COMPLETION).encode(), b"Content-Type: application/json")
LABELLED = chat(
    user="ada@example.com",
    safety_identifier="u-7",
    metadata={"team": "blue", "n": 5, "a b": "x", "text": "é", "env": "prod"},
)


HOW = st.sampled_from([RequestTags.HASHED, RequestTags.PLAIN])


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


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()), HOW)
def test_whatever_is_said_tags_stay_tags(users, notes, how):
    tags = tagged({}, Labels(users, notes), how, hashed)

    assert len(tags) <= TAGS_MAX
    assert all(TAG.fullmatch(f"{name}={value}") for name, value in tags.items())


async def test_calls_are_tagged_with_what_their_bodies_say_where_and_when_the_tenant_is_set_to_it(tmp_path):
    """Guards those who did not ask for it, and that a change counts for the very next call of the same kind: sabotaged
    (tagged whoever calls; a plan kept for ever), the first and the second of these are wrong."""
    body = chat(user="lovelace", metadata={"team": "blue", "env": "prod"})
    call = request("/openai/v1/chat/completions", body, "X-Gateway-Tags: env=test")
    async with provider(answers(COMPLETED, COMPLETED, COMPLETED)) as upstream, proxied(tmp_path, upstream) as gateway:
        acme = gateway.published.current.tenants["acme"]
        await gateway.ask(call)
        gateway.publish(replace(acme, request_tags=RequestTags.HASHED))
        await gateway.ask(call)
        gateway.publish(acme)
        await gateway.ask(call)

    assert [event.tags for event in gateway.events] == [
        {"env": "test"},
        {"env": "test", "user": hashed("lovelace"), "team": "blue"},
        {"env": "test"},
    ]
    assert b"lovelace" not in gateway.spooled


async def test_no_header_of_an_application_s_decides_what_is_kept_of_its_users(tmp_path):
    body = chat(user="lovelace")
    call = request("/openai/v1/chat/completions", body, "X-Gateway-Request-Tags: plain")
    async with provider(answers(COMPLETED)) as upstream, proxied(tmp_path, upstream) as gateway:
        answered = await gateway.ask(call)

    assert answered.status == 200
    assert [event.tags for event in gateway.events] == [{}]


async def test_calls_whose_bodies_nobody_else_looks_at_are_tagged_too(tmp_path):
    """Guards tenants with a credential of their own, whose bodies are not looked through for what others made:
    sabotaged (the body is not held for its labels), the call has no tags."""
    call = request("/openai/v1/containers", b'{"name":"c","metadata":{"team":"blue"}}', key=OWN)
    created = answer(b'{"id":"cntr_1","object":"container"}', b"Content-Type: application/json")
    async with provider(answers(created)) as upstream, proxied(tmp_path, upstream) as gateway:
        own = gateway.published.current.tenants["own"]
        gateway.publish(replace(own, request_tags=RequestTags.HASHED))
        answered = await gateway.ask(call)

    assert answered.status == 200
    assert gateway.records[0].tags == {"team": "blue"}
