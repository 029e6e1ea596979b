"""What SendGrid says later, whatever it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import Pending
from gateway.providers.sendgrid import late
from metering.usage import Completeness

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.sampled_from(["cancel", "pause", "Done", "Error", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status", "id", "result", "segments_processed"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())))
def test_whatever_is_answered_raises_nothing(body):
    late.batch(body)
    late.job(body)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([], ({"recipients": 1}, "sent")),
        ([{"batch_id": "x", "status": "cancel"}], ({}, "cancelled")),
        ([{"batch_id": "x", "status": "pause"}], None),
        ([{"batch_id": "x", "status": "cancel"}, {"batch_id": "x", "status": "pause"}], None),
        ([{"batch_id": "x"}], None),
        ([{"status": ["cancel"]}], None),
        ({}, None),
        (None, None),
        ({"errors": [{"message": "access forbidden"}]}, None),
    ],
)
def test_a_mail_is_sent_unless_its_batch_was_cancelled(listed, said):
    found = late.batch(json.dumps(listed).encode())

    assert [(one.usage.quantities, one.usage.metadata["status"]) for one in found] == ([] if said is None else [said])
    assert all(one.usage.completeness == Completeness.REPORTED and not one.external_id for one in found)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": "Done", "segments_processed": 1}, ("final", {"requests": 1}, Completeness.ESTIMATED)),
        ({"status": "Done", "segments_processed": 4}, ("final", {"requests": 4501}, Completeness.ESTIMATED)),
        ({"status": "Done", "segments_processed": 0}, ("final", {}, Completeness.REPORTED)),
        ({"status": "Error", "segments_processed": 2}, ("final", {"requests": 1501}, Completeness.ESTIMATED)),
        ({"status": "Error"}, ("ended", {}, Completeness.UNKNOWN)),
        ({"status": "Done", "segments_processed": -1}, ("ended", {}, Completeness.UNKNOWN)),
        ({"status": "Done", "segments_processed": True}, ("ended", {}, Completeness.UNKNOWN)),
        ({"status": "Processing", "segments_processed": 3}, None),
        ({"status": "Initiated"}, None),
        ({}, None),
    ],
)
def test_a_job_is_at_least_so_many_addresses_when_it_is_over(fields, said):
    found = late.job(json.dumps({"result": {"id": "j"} | fields}).encode())

    assert [(one.phase, one.usage.quantities, one.usage.completeness) for one in found] == (
        [] if said is None else [said]
    )


def test_a_batch_is_asked_for_where_the_mail_says():
    assert late.MAIL.path(Pending("m", {"batch_id": "NGY/+="})) == "/v3/user/scheduled_sends/NGY%2F%2B%3D"
    assert late.MAIL.path(Pending("m", {})) is None
    assert late.MAIL.path(Pending("m", {"batch_id": 7})) is None
    assert late.JOB.path(Pending("../j", {})) == "/v3/validations/email/jobs/..%2Fj"
