"""What every provider owes the path of a call. Being in PROVIDERS is being tested here."""

import gzip
import itertools
import json
import re
import string
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.providers import PROVIDERS, Kind, compatible
from gateway.providers.learnt import Prepared, as_it_came
from gateway.providers.sendgrid.endpoints import COST_NOTHING, costs_nothing
from gateway.routing import Routes
from metering.event_types import DIMENSIONS, EVENT_TYPES
from metering.facts import validated
from metering.usage import Completeness, UsageEvent
from tests.builders import answer_head

EVERY = (
    *PROVIDERS,
    compatible("groq", Kind.OPENAI, asks_for_usage=True),
    compatible("azure", Kind.AZURE_OPENAI, asks_for_usage=False),
)
"""Those that are built in, and one further provider of each kind."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ENDPOINTS = [
    pytest.param(endpoint, id=f"{provider.name}-{endpoint.method}-{endpoint.name}")
    for provider in EVERY
    for endpoint in {
        (endpoint.meter, endpoint.prepare, endpoint.watch): endpoint
        for endpoint in (*provider.endpoints, *(provider.unlisted(method) for method in METHODS))
    }.values()
]
"""One of each kind: many endpoints have the same meter."""
EACH = [pytest.param(provider, id=provider.name) for provider in EVERY]
endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS)
providers = pytest.mark.parametrize("provider", EACH)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "queued", "in_progress", "completed", "response.completed", "[DONE]", "gpt-4o", "tts-1", "image_generation.completed",
                       "transcript.text.done", "speech.audio.done", "thread.run", "duration", "12", "1024x1024", "hd",
                       "web_search_call", "image_generation_call", "code_interpreter_call", "é\ud7ff\U0001f600",
                       "+12025550143", "whatsapp:+905321234567", "SM" + "0" * 32, "1", "-0.0075"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(
            ["id", "sid", "model", "status", "type", "usage", "choices", "response", "prompt_tokens", "input_tokens", "output_tokens",
             "prompt_tokens_details", "cached_tokens", "total_tokens", "price", "num_segments", "stream", "stream_options", "include_usage",
             "num_media", "to", "from", "personalizations", "email", "batch_id", "object", "data", "n", "size", "quality",
             "seconds", "duration", "input", "session", "svg_usage", "tool_usage", "image_gen", "web_search", "output",
             "tools", "action", "container_id", "memory_limit", "metadata", "model_grader_token_usage_per_model"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
TEXTS = VALUES.map(lambda value: json.dumps(value).encode())
USAGE = b'{"id":"x","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}'
LINES = st.one_of(TEXTS, st.just(USAGE), st.just(b"[DONE]"), st.binary(max_size=20)).map(lambda text: b"data: " + text)
STREAMS = st.lists(
    st.tuples(
        LINES | st.sampled_from([b": comment", b"event: x", b"\xef\xbb\xbf"]),
        st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n", b"\r\r"]),
    ).map(b"".join),
    max_size=6,
).map(b"".join)
FORMS = st.lists(
    st.tuples(
        st.sampled_from(["To", "From", "MessagingServiceSid", "MediaUrl", "Body", "%54o", ""]),
        st.sampled_from(
            ["+12025550143", "%2B12025550143", "whatsapp%3A%2B1202", "SHOP", "", "%", "%FF", "a=b", "\xff"]
        ),
    ).map("=".join),
    max_size=5,
).map(lambda pairs: "&".join(pairs).encode("latin-1"))
ELEMENTS = st.lists(
    st.sampled_from(
        [
            b"<Sid>",
            b"</Sid>",
            b"SM" + b"0" * 32,
            b"<To>+12025550143</To>",
            b"<NumSegments>2</NumSegments>",
            b"<",
            b"&#0;",
            b"\xff",
        ]
    ),
    max_size=8,
).map(lambda parts: b"<TwilioResponse>" + b"".join(parts))
PARTS = st.lists(
    st.one_of(
        st.sampled_from([b"\r\n", b"\r\n\r\n", b"\r\n--x\r\n", b"\r\n--x--\r\n", b"--", b"\r\n--y", b" "]),
        st.sampled_from(["model", "n", "size", "seconds", "session", "file"]).map(
            lambda name: b'Content-Disposition: form-data; name="%b"\r\n\r\n' % name.encode()
        ),
        st.sampled_from([b"gpt-4o", b"2", b"1024x1024", b'{"model":"m"}', b"-", b"\r"]),
    ),
    max_size=12,
).map(lambda parts: b"--x\r\n" + b"".join(parts))
BODIES = st.one_of(st.binary(max_size=200), TEXTS, STREAMS, FORMS, ELEMENTS, PARTS)
CODED = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress, "br": bytes, "zstd": bytes, "nonsense": bytes}
HEADS = st.builds(
    lambda status, media_type, coding: (status, media_type, coding),
    st.sampled_from([200, 201, 202, 204]),
    st.sampled_from(["application/json", "text/event-stream", "text/plain", "", "audio/mpeg", "\xff"]),
    st.sampled_from(sorted(CODED)),
)
PREPARED = st.builds(
    Prepared,
    body=st.just(b""),
    resource=st.none() | st.just("gpt-4o"),
    stream=st.booleans(),
    usage_injected=st.booleans(),
    event_type=st.none() | st.sampled_from(sorted(EVENT_TYPES)),
    quantities=st.none() | st.just({"recipients": 3}),
    parties=st.just({}) | st.just({"to": "+12025550143"}),
)
CUTS = st.lists(st.integers(0, 300), max_size=6)


def head(status, media_type, coding):
    return answer_head(status, {"Content-Type": media_type, "Content-Encoding": coding})


def fed(endpoint, of_head, prepared, body, cuts, *, whole=True):
    """What the client gets, and the usage, of an answer that the network cut in some places."""
    meter = endpoint.meter(head(*of_head), prepared)
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    passed = b""
    for start, end in itertools.pairwise(marks):
        before = meter.concluded
        passed += meter.feed(body[start:end])
        assert meter.concluded or not before, "what was concluded stays so"
        if meter.concluded:
            meter.finish(whole=True)  # As the proxy does, to record before it passes on.
    held, usage = meter.finish(whole=whole)
    return passed + held, usage


@endpoints
@given(of_head=HEADS, prepared=PREPARED, body=BODIES, cuts=CUTS, whole=st.booleans())
def test_a_meter_never_raises_and_never_minds_where_the_answer_is_cut(endpoint, of_head, prepared, body, cuts, whole):
    """Guards every decision on a cut: sabotaged in sse.Frames (no lookahead) it fails with CRLF cut in two."""
    coded = CODED[of_head[2]](body)

    at_once = fed(endpoint, of_head, prepared, coded, (), whole=whole)
    in_pieces = fed(endpoint, of_head, prepared, coded, cuts, whole=whole)

    assert in_pieces == at_once


@endpoints
@given(of_head=HEADS, prepared=PREPARED, body=BODIES, cuts=CUTS)
def test_a_client_gets_what_was_answered_less_only_what_we_caused(endpoint, of_head, prepared, body, cuts):
    coded = CODED[of_head[2]](body)

    passed, _ = fed(endpoint, of_head, prepared, coded, cuts)

    if prepared.usage_injected and of_head[1] == "text/event-stream":
        # What is missing are whole events, each with a usage in it.
        missing = re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)", coded)
        kept = b"".join(event for event in missing if b"usage" not in event)
        assert len(kept) <= len(passed) <= len(coded)
    else:
        assert passed == coded


@endpoints
@given(of_head=HEADS, prepared=PREPARED, body=BODIES, whole=st.booleans())
def test_what_a_meter_says_is_a_fact_that_the_ledger_can_hold(endpoint, of_head, prepared, body, whole):
    """Guards the counts: a negative, a float or an unknown dimension would stop the shipper, or bill nonsense."""
    _, usage = fed(endpoint, of_head, prepared, CODED[of_head[2]](body), (), whole=whole)

    event = UsageEvent(
        event_id="e",
        tenant_id="t",
        source="s",
        event_type=usage.event_type or endpoint.event_type,
        endpoint=endpoint.name,
        occurred_at_ms=1,
        completeness=usage.completeness,
        quantities=dict(usage.quantities),
        metadata=msgspec.to_builtins(usage.metadata),
    )
    assert validated(event) is event
    assert event.event_type in EVENT_TYPES
    assert all(type(amount) is int and name in DIMENSIONS for name, amount in usage.quantities.items())
    for name in (usage.resource, usage.external_id):
        assert name is None or (isinstance(name, str) and 0 < len(name) <= 200)
    assert not (usage.completeness is Completeness.UNKNOWN and usage.quantities)
    json.dumps(event.metadata)
    if not endpoint.billable:
        assert usage.quantities == {}


@endpoints
@given(body=BODIES)
def test_preparing_a_request_never_raises_and_changes_nothing_but_what_it_says(endpoint, body):
    prepared = (endpoint.prepare or as_it_came)(body)

    assert prepared.usage_injected or prepared.body == body
    assert prepared.resource is None or 0 < len(prepared.resource) <= 200
    if prepared.usage_injected:
        before, after = json.loads(body), json.loads(prepared.body)
        assert {name for name in before | after if before.get(name) != after.get(name)} == {"stream_options"}


@pytest.mark.parametrize("endpoint", [param for param in ENDPOINTS if param.values[0].watch is not None])
@given(body=BODIES, cuts=CUTS, whole=st.booleans())
def test_a_watch_never_raises_and_never_minds_where_the_request_is_cut(endpoint, body, cuts, whole):
    def learnt(marks):
        watch = endpoint.watch()
        marks = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
        for start, end in itertools.pairwise(marks):
            watch.feed(body[start:end])
            watch.finish(whole=False)  # As the proxy does, for the intent.
        return watch.finish(whole=whole)

    at_once = learnt(())

    assert learnt(cuts) == learnt(range(len(body))) == at_once
    assert at_once.body == b""
    assert not at_once.quantities or set(at_once.quantities) <= set(DIMENSIONS)
    assert whole or at_once.quantities is None


@providers
def test_a_request_body_is_read_in_one_way(provider):
    for endpoint in provider.endpoints:
        assert endpoint.prepare is None or endpoint.watch is None
        assert endpoint.billable or (endpoint.prepare is None and endpoint.watch is None)


@providers
def test_its_hosts_stand_in_its_base_url_if_there_are_several(provider):
    assert ("{product}" in provider.base_url) == (len(provider.products) > 1) == ("" not in provider.products)
    for endpoint in provider.endpoints:
        product = Routes(EVERY).match(endpoint.method, f"/{provider.name}{endpoint.path}").product
        assert product in provider.products


@providers
def test_its_account_stands_in_paths_only_where_it_is_exchanged(provider):
    in_paths = any("{account}" in endpoint.path for endpoint in provider.endpoints)

    assert in_paths == (provider.account_field is not None)
    assert provider.account_field is None or provider.account_field in provider.credential_fields


@providers
def test_its_endpoints_are_told_apart_and_each_is_found_by_its_own_path(provider):
    routes = Routes(EVERY)

    names = [endpoint.name for endpoint in provider.endpoints]

    assert len(names) == len(set(names))
    for endpoint in provider.endpoints:
        path = re.sub(r"\{\w+\}", "abc123", endpoint.path)
        route = routes.match(endpoint.method, f"/{provider.name}{path}?a=b")
        assert route.endpoint is endpoint
        assert route.listed
        assert endpoint.event_type in EVENT_TYPES
        assert endpoint.billable or endpoint.event_type == "api_call"


def test_no_two_providers_have_one_name():
    names = [provider.name for provider in EVERY]

    assert len(names) == len(set(names))
    assert all(set(name) <= set(string.ascii_lowercase + string.digits + "_-") for name in names)


@providers
def test_its_credential_becomes_headers_that_the_application_s_own_give_way_to(provider):
    credential = {field: f"secret-of-{field}" for field in provider.credential_fields}

    headers = provider.authorize(credential)

    assert headers
    for name, _ in headers:
        assert name.lower() in provider.credential_headers
    for name in provider.credential_headers | provider.account_headers:
        assert name == name.lower()


@providers
def test_what_opens_its_lists_is_not_what_calls_go_out_with(provider):
    credential = {field: f"secret-of-{field}" for field in provider.every_credential_field}
    of_calls, of_lists = provider.authorize(credential), provider.authorize_lists(credential)

    if provider.lists_field is None:
        assert of_lists == of_calls
        return
    lists_key = credential.pop(provider.lists_field).encode()
    assert not any(lists_key in value for _, value in of_calls)
    assert any(lists_key in value for _, value in of_lists)
    assert provider.authorize_lists(credential) is None


@providers
@given(value=st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=100))
def test_no_header_makes_looking_for_its_key_raise(provider, value):
    for name in ("Authorization", *(header.decode() for header in provider.credential_headers)):
        provider.presented_key(CIMultiDictProxy(CIMultiDict({name: value})))
    assert provider.presented_key(CIMultiDictProxy(CIMultiDict())) is None


@providers
@given(status=st.sampled_from([400, 401, 402, 403, 404, 415, 429, 500, 502, 503, 504]), message=st.text(max_size=50))
def test_its_refusals_are_json_that_holds_code_and_sentence(provider, status, message):
    told = json.dumps(json.loads(provider.refusal("/v1/x.json", status, "the_code", message).body), ensure_ascii=False)

    assert "the_code" in told
    assert json.dumps(message, ensure_ascii=False) in told


@providers
@given(name=st.text(max_size=50))
def test_its_word_for_a_missing_object_is_json(provider, name):
    assert json.loads(provider.missing("/v1/x.json", name).body)


CLOSED = (
    *("admin.", "realtime.", "webhooks.", "safety."),
    *("beta.realtime.", "beta.chatkit.", "beta.agents."),
    *("usage.records.", "conversations.", "studio."),
    *("marketing.", "campaigns.", *(endpoint.name for endpoint in map(costs_nothing, COST_NOTHING))),
)
"""So begin the names of endpoints that are known and yet closed on a shared account; by mistake no other may be."""

NAMES = ["SM" + "0a" * 16, "d-" + "0a" * 16, "resp_0123456789abcdef"]


@providers
def test_what_guards_a_shared_account_is_of_the_form_that_is_compared(provider):
    name = next(name for name in NAMES if provider.object_id.fullmatch(name))
    closed = {
        endpoint.name
        for endpoint in provider.endpoints
        if provider.administration.fullmatch(re.sub(r"\{\w+\}", name, endpoint.path))
    }
    assert {name for name in closed if not name.startswith(CLOSED)} == set()
    assert all(name == name.lower() for name in provider.speaks_for)
    assert all(pattern.groups == 1 for pattern in provider.references)
    assert provider.object_id.fullmatch("") is None
    # A further provider is where the settings say.
    assert provider.base_url.startswith("https://") or provider not in PROVIDERS
    assert not provider.base_url.endswith("/")


@providers
def test_its_first_steps_can_be_pasted(provider):
    steps = provider.first_steps

    assert steps.media_type != "application/json" or json.loads(steps.body)
    assert "{key}" in steps.exports
    assert "'" not in steps.body
    assert '"' not in steps.sdk_call
    assert steps.path.startswith("{proxy}/" + provider.name)
