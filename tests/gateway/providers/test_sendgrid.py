"""How SendGrid's requests and answers tell what they use."""

import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from sendgrid.helpers import mail as sdk

from gateway.providers import sendgrid
from gateway.providers.bearer import presented_key
from gateway.providers.learnt import Prepared
from gateway.providers.sendgrid.mail import MailMeter, MailWatch
from gateway.providers.sendgrid.refusals import missing, refusal
from metering.usage import Completeness
from tests.builders import answer_head

ADA = {"email": "ada@example.com", "name": 'Ada "{[,:]}" L.'}
MAIL = {
    "personalizations": [{"to": [ADA]}],
    "from": {"email": "toll@example.com", "name": "Toll"},
    "subject": "Hello",
    "content": [{"type": "text/plain", "value": "Hello"}],
}
SENT = Prepared(body=b"", resource="transactional", quantities={"recipients": 3}, parties={"from": "toll@example.com"})


def cut(body, marks):
    edges = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def watched(*chunks, whole=True):
    watch = MailWatch()
    for chunk in chunks:
        watch.feed(chunk)
    return watch.finish(whole=whole)


def recipients(*chunks, whole=True):
    quantities = watched(*chunks, whole=whole).quantities
    return None if quantities is None else quantities["recipients"]


def of(**fields):
    return recipients(json.dumps(MAIL | fields).encode())


# ---------------------------------------------------------------------------------------------------------------------
# Whom a mail is for

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["to", "]", "}", '"', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["to", "cc", "email", "personalizations", "[]", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)
ADDRESSES = st.lists(st.just(ADA), max_size=3)
PERSONALIZATIONS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "to": ADDRESSES,
            "cc": ADDRESSES,
            "bcc": ADDRESSES,
            "from": st.just(ADA),
            "dynamic_template_data": ANYTHING,
            "custom_args": ANYTHING,
            "[]": ANYTHING,
        },
    ),
    min_size=1,
    max_size=4,
)


@given(PERSONALIZATIONS, ANYTHING, st.lists(st.integers(0, 900), max_size=6), st.sampled_from([None, 2]))
def test_recipients_are_all_to_cc_and_bcc_of_all_personalizations_wherever_the_mail_is_cut(parts, other, marks, indent):
    body = json.dumps({"x": other, "personalizations": parts, "attachments": other}, indent=indent).encode()

    counted = recipients(*cut(body, marks))

    assert counted == sum(len(part.get(role, ())) for part in parts for role in ("to", "cc", "bcc"))


def test_a_mail_of_the_official_sdk_is_counted():
    mail = sdk.Mail("toll@example.com", subject="Hello", plain_text_content="{}[]\"'")
    mail.add_to([sdk.To(f"to{number}@example.com", "To") for number in range(3)])
    mail.add_cc("cc@example.com")
    mail.add_bcc([sdk.Bcc("a@example.com"), sdk.Bcc("b@example.com")], p=1)
    mail.add_to("more@example.com", p=1)
    mail.add_attachment(sdk.Attachment(base64.b64encode(b'"}]' * 1000).decode(), "a.bin"))

    prepared = watched(json.dumps(mail.get()).encode())

    assert prepared.quantities == {"recipients": 7}
    assert (prepared.resource, prepared.parties, prepared.body) == ("transactional", {"from": "toll@example.com"}, b"")


@pytest.mark.parametrize(
    ("personalizations", "count"),
    [
        ([{"to": [ADA] * 1000}], 1000),
        ([{"to": [ADA]}] * 1000, 1000),
        ([{"To": [ADA], "CC": [ADA]}], 2),
        ([{"to": [ADA, None, 7, "x", [ADA]]}], 1),
        ([{"to": [{"email": "a", "to": [ADA]}]}], 1),
        ([{"to": ADA}], 0),
        ([{"substitutions": {"to": [ADA]}, "custom_args": {"cc": [ADA]}, "headers": {"bcc": [ADA]}}], 0),
        ([{"to": []}], 0),
        ([{"custom_args": {"[]": 1}, "[]": 1, "to": [ADA]}], 1),
    ],
)
def test_what_counts_is_where_it_stands(personalizations, count):
    assert of(personalizations=personalizations) == count


def test_a_name_that_is_hidden_by_escapes_counts():
    """Guards the names of fields: `t\\u006f` is the same JSON."""
    body = json.dumps(MAIL).replace('"to"', '"t\\u006f"').encode()

    assert recipients(body) == 1


def test_what_stands_twice_counts_twice():
    body = b'{"personalizations":[{"to":[{"email":"a"}],"to":[{"email":"b"}]}],"personalizations":[{"to":[{}]}]}'

    assert recipients(body) == 3


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"personalizations":[]}', b'{"to":[{"email":"a"}]}', b'{"personalizations":{"to":[{}]}}',
     json.dumps(MAIL).encode()[:-1], b"\x1f\x8b\x08", json.dumps(MAIL).encode("utf-16")],
)  # fmt: skip
def test_where_nobody_can_tell_whom_a_mail_is_for_nothing_is_counted(body):
    """Guards absent is not zero: a mail that could not be read has recipients all the same."""
    assert recipients(body) is None


def test_a_mail_of_which_not_all_was_seen_is_not_counted():
    assert recipients(json.dumps(MAIL).encode(), whole=False) is None


def test_the_sender_of_a_mail_is_the_one_that_all_of_it_is_from():
    personalized = [{"to": [ADA], "from": {"email": "other@example.com"}}]

    assert watched(json.dumps(MAIL | {"personalizations": personalized}).encode()).parties == {
        "from": "toll@example.com"
    }


# ---------------------------------------------------------------------------------------------------------------------
# When it is sent, and whether it can be cancelled until then

LATER = {"batch_id": "NGY5NmM0/TMt+NzQ4Yi00=", "send_at": 1_790_000_000}
ASKED = {"batch_id": "NGY5NmM0/TMt+NzQ4Yi00=", "send_at": "1790000000"}


def asked(*chunks, **fields):
    return watched(*(chunks or (json.dumps(MAIL | fields).encode(),))).asked


@given(st.lists(st.integers(0, 900), max_size=6), st.sampled_from([None, 2]), ANYTHING)
def test_the_batch_and_the_time_of_a_mail_are_known_wherever_it_is_cut(marks, indent, other):
    body = json.dumps({"x": other} | MAIL | LATER, indent=indent).encode()

    assert asked(*cut(body, marks)) == ASKED


@pytest.mark.parametrize("size", [1, 3, 40, 63, 64, 65, 200])
def test_they_are_known_in_pieces_of_any_size(size):
    body = json.dumps(LATER | MAIL | {"x": "y" * 300}).encode()

    assert asked(*(body[start : start + size] for start in range(0, len(body), size))) == ASKED


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"send_at": LATER["send_at"]},
        {"batch_id": LATER["batch_id"]},
        LATER | {"batch_id": 'ada@example.com "'},
        LATER | {"batch_id": "x" * 201},
        LATER | {"batch_id": ["x"]},
        LATER | {"send_at": "tomorrow"},
        LATER | {"send_at": 1.5e9},
        LATER | {"personalizations": [{"to": [ADA], "send_at": LATER["send_at"]}]},
        LATER | {"personalizations": [{"to": [ADA]}, {"to": [ADA], "send_at": 1_790_000_001}]},
        LATER | {"personalizations": [{"to": [ADA], "dynamic_template_data": {"send_at": 1}}]},
        {"batch_id": "x", "personalizations": [{"to": [ADA], "send_at": 1_790_000_000}]},
        {"batch_id": "x", "custom_args": {"send_at": 1_790_000_000}},
    ],
)
def test_what_can_not_be_cancelled_as_a_whole_is_sent_when_it_is_taken_on(fields):
    assert asked(**fields) == {}


def test_a_text_that_speaks_of_times_and_batches_is_no_time_and_no_batch():
    text = json.dumps({"send_at": 1, "batch_id": "x"})

    assert asked(subject=text, content=[{"type": "text/plain", "value": text}], **LATER) == ASKED


def test_a_mail_of_a_batch_that_is_sent_later_is_pending():
    prepared = Prepared(body=b"", resource="transactional", quantities={"recipients": 3}, asked=ASKED)
    usage = judged(202, prepared, **{"X-Message-Id": "a"})

    assert (usage.quantities, usage.completeness) == ({"recipients": 3}, Completeness.PENDING)
    assert usage.metadata == {"batch_id": LATER["batch_id"], "due_s": 1_790_000_000, "as_ordered": True}
    assert judged(202, prepared).completeness == Completeness.REPORTED
    assert judged(200, prepared, **{"X-Message-Id": "a"}).completeness == Completeness.REPORTED


# ---------------------------------------------------------------------------------------------------------------------
# What became of it


def judged(status, prepared=SENT, *, whole=True, **headers):
    head = answer_head(status, headers)
    meter = MailMeter(head, prepared)
    assert meter.feed(b"x") == b"x"
    held, usage = meter.finish(whole=whole)
    assert held == b""
    return usage


@pytest.mark.parametrize("whole", [True, False])
def test_a_mail_that_was_taken_on_is_metered_by_its_request_and_named_by_a_header(whole):
    usage = judged(202, whole=whole, **{"X-Message-Id": "14c5d75ce93.dfd.64b469"})

    assert (usage.quantities, usage.completeness) == ({"recipients": 3}, Completeness.REPORTED)
    assert (usage.external_id, usage.resource, usage.event_type) == ("14c5d75ce93.dfd.64b469", "transactional", None)


def test_a_mail_that_was_only_tried_out_bills_nothing():
    """Guards the sandbox mode, which is answered with 200: billed, a test of an application would cost."""
    usage = judged(200, **{"X-Message-Id": "x"})

    assert (usage.quantities, usage.completeness, usage.event_type) == ({}, Completeness.REPORTED, "api_call")
    assert (usage.external_id, usage.metadata) == (None, {"sandbox": True})


def test_a_mail_that_could_not_be_counted_is_unknown():
    usage = judged(202, Prepared(body=b"", resource="transactional"))

    assert (usage.quantities, usage.completeness) == ({}, Completeness.UNKNOWN)


@pytest.mark.parametrize("name", ["", "ada@example.com", "x" * 201, "a b", "a\xe9"])
def test_a_name_that_is_none_is_not_kept(name):
    assert judged(202, **{"X-Message-Id": name}).external_id is None


def test_where_nobody_listed_the_path_what_was_made_has_a_name_and_no_known_cost():
    head = answer_head(201)
    meter = sendgrid.unlisted("POST").meter(head, Prepared(body=b""))

    assert meter.feed(b'{"id":"x"}') == b'{"id":"x"}'
    assert not meter.concluded
    held, usage = meter.finish(whole=True)

    assert (held, usage.quantities, usage.completeness, usage.external_id) == (b"", {}, Completeness.UNKNOWN, "x")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "HEAD"])
def test_only_a_post_can_cost(method):
    assert not sendgrid.unlisted(method).billable


# ---------------------------------------------------------------------------------------------------------------------
# Who is asking, and what it is told


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("Bearer SG.tk_a_b", "SG.tk_a_b"),
        ("bearer tk_a_b", "tk_a_b"),
        ("Bearer ", None),
        ("Basic tk_a_b", None),
        ("", None),
    ],
)
def test_the_key_is_the_bearer_token(value, key):
    assert presented_key(CIMultiDictProxy(CIMultiDict({"Authorization": value}))) == key


def test_a_refusal_is_an_error_as_sendgrid_writes_it():
    (error,) = json.loads(refusal("/v3/x", 403, "some_code", 'A "sentence".').body)["errors"]

    assert error == {"message": 'A "sentence".', "field": None, "help": None, "error_id": "some_code"}


def test_a_missing_object_is_what_sendgrid_says_it_is():
    assert json.loads(missing("/v3/x", "d-1").body) == {
        "errors": [{"message": "resource not found", "field": None, "help": None}]
    }
