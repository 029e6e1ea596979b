"""What SendGrid's endpoints bill besides mail, and what none of them does."""

import json

import pytest

from gateway.providers import PROVIDERS
from gateway.providers.learnt import Prepared
from gateway.providers.sendgrid import endpoints
from gateway.providers.sendgrid.endpoints import COST_NOTHING, read_test
from gateway.routing import Routes
from metering.usage import Completeness
from tests.builders import answer_head

ROUTES = Routes(PROVIDERS)
REPORTED, PENDING, UNKNOWN = Completeness.REPORTED, Completeness.PENDING, Completeness.UNKNOWN


def used(method, path, request=b"", answer=b"", status=200):
    endpoint = ROUTES.match(method, f"/sendgrid{path}").endpoint
    prepared = endpoint.prepare(request) if endpoint.prepare else Prepared(body=request)
    meter = endpoint.meter(answer_head(status), prepared)
    assert meter.feed(answer) == answer
    _, usage = meter.finish(whole=True)
    return usage.event_type or endpoint.event_type, usage.quantities, usage.completeness, usage.resource


def test_each_address_that_is_validated_is_billed_whatever_is_said_of_it():
    body = b'{"result": {"email": "ada@example.com", "verdict": "Invalid"}}'

    assert used("POST", "/v3/validations/email", answer=body) == ("email_validation", {"requests": 1}, REPORTED, None)


def test_a_list_that_is_validated_is_pending_under_the_name_of_its_job():
    endpoint = ROUTES.match("PUT", "/sendgrid/v3/validations/email/jobs").endpoint
    meter = endpoint.meter(answer_head(200), Prepared(body=b""))
    meter.feed(b'{"job_id": "01H793APATD899ESMY25ZNPNCF", "upload_uri": "https://example.com", "upload_headers": []}')
    _, usage = meter.finish(whole=True)

    assert (usage.quantities, usage.completeness) == ({}, PENDING)
    assert usage.external_id == "01H793APATD899ESMY25ZNPNCF"
    assert used("PUT", "/v3/validations/email/jobs", answer=b"{}")[2] == UNKNOWN


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v3/marketing/singlesends/27c21bbf-a12c-440b-b8bf-c526975328ca/schedule"),
        ("POST", "/v3/campaigns/4/schedules"),
        ("POST", "/v3/campaigns/4/schedules/now"),
    ],
)
def test_to_how_many_a_campaign_goes_nobody_says(method, path):
    """Guards absent is not zero: these answers hold a time and a status."""
    found = used(
        method, path, b'{"send_at": "now"}', b'{"send_at": "2026-11-22T00:00:00Z", "status": "scheduled"}', 201
    )

    assert found == ("email_outbound", {}, UNKNOWN, "campaign")


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"template_id": "x", "emails": ["a@example.com", "b@example.com"]}, 2),
        ({"to": "a@example.com"}, 1),
        ({"to": ["a@example.com"]}, 1),
        ({"emails": []}, None),
        ({"emails": [1, None, ""]}, None),
        ({}, None),
        ([], None),
    ],
)
@pytest.mark.parametrize("path", ["/v3/marketing/test/send_email", "/v3/campaigns/4/schedules/test"])
def test_a_test_of_a_campaign_goes_to_whom_it_names(path, body, count):
    quantities = {} if count is None else {"recipients": count}
    known = UNKNOWN if count is None else REPORTED

    found = used("POST", path, json.dumps(body).encode(), status=202)

    assert found == ("email_outbound", quantities, known, "campaign")
    assert read_test(b"{").quantities is None


def test_a_test_of_a_campaign_counts_no_more_than_a_mail_has():
    prepared = read_test(json.dumps({"emails": ["a@example.com"] * 5000}).encode())

    assert prepared.quantities == {"recipients": endpoints.TESTED_MAX}


@pytest.mark.parametrize("path", COST_NOTHING)
def test_what_is_part_of_a_plan_costs_nothing(path):
    route = ROUTES.match("POST", "/sendgrid" + path.replace("{", "").replace("}", ""))

    assert (route.listed, route.endpoint.path, route.endpoint.billable) == (True, path, False)


def test_an_address_to_send_from_is_bought_and_not_known_to_be_free():
    assert ROUTES.match("POST", "/sendgrid/v3/ips").endpoint.billable
