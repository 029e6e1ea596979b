"""SendGrid's endpoints, as its API reference and the tests of its SDKs have them. Pure.

Whatever is sent, and each address that is validated, is billed, and nothing else: the rest of what a POST makes (lists,
contacts, senders, domains, keys) is part of a plan.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from gateway.messages import ResponseHead
from gateway.providers.api import Endpoint, Meter
from gateway.providers.free import made, makes, reads_back
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Prepared, Usage
from gateway.providers.revised import Revised
from gateway.providers.sendgrid import late
from gateway.providers.sendgrid.mail import MailMeter, MailWatch
from metering.usage import Completeness

CAMPAIGN = "campaign"
"""The type of mail that goes to lists of contacts."""

TESTED_MAX = 1_000
"""No test goes to more addresses than a mail does."""


class Said:
    """The meter of what its request, or success itself, says all of."""

    __slots__ = ("_usage", "concluded")

    def __init__(self, usage: Usage) -> None:
        self.concluded = False
        self._usage = usage

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        return b"", self._usage


def validated(head: ResponseHead, prepared: Prepared) -> Meter:
    """One address, whatever is said of it."""
    return Said(Usage(quantities={"requests": 1}, completeness=Completeness.REPORTED))


def validates_later(head: ResponseHead, prepared: Prepared) -> Meter:
    """A job, whose addresses are uploaded around the gateway."""

    def pending(usage: Usage) -> Usage:
        known = Completeness.UNKNOWN if usage.external_id is None else Completeness.PENDING
        return replace(usage, quantities={}, completeness=known)

    return Revised(made(head, prepared), pending)


def sent_to_lists(head: ResponseHead, prepared: Prepared) -> Meter:
    """A campaign: to how many it goes, neither request nor answer says. The account's statistics do, days later."""
    return Said(Usage(quantities={}, completeness=Completeness.UNKNOWN, resource=CAMPAIGN))


def tested(head: ResponseHead, prepared: Prepared) -> Meter:
    """A campaign that was sent to the addresses in its request."""
    known = Completeness.UNKNOWN if prepared.quantities is None else Completeness.REPORTED
    return Said(Usage(quantities=prepared.quantities or {}, completeness=known, resource=CAMPAIGN))


class _Test(msgspec.Struct):
    """What is read of the request for a test: the older API has `to`, the newer `emails`."""

    to: object = None
    emails: object = None


_read_test = msgspec.json.Decoder(_Test).decode


def read_test(body: bytes) -> Prepared:
    try:
        found = _read_test(body)
    except UNREADABLE:
        return Prepared(body=body, resource=CAMPAIGN)
    given = found.to if found.emails is None else found.emails
    addresses = given if isinstance(given, list) else [given]
    count = sum(isinstance(one, str) and bool(one) for one in addresses[:TESTED_MAX])
    return Prepared(body=body, resource=CAMPAIGN, quantities={"recipients": count} if count else None)


def _campaign(name: str, method: str, path: str) -> Endpoint:
    return Endpoint(
        name=name, method=method, path=path, event_type="email_outbound", describes="mail", meter=sent_to_lists
    )


def _test(name: str, path: str) -> Endpoint:
    return replace(_campaign(name, "POST", path), meter=tested, prepare=read_test)


def costs_nothing(path: str) -> Endpoint:
    """A POST that makes, sets or looks for what no bill has; its name is the path's, as the Python SDK spells it."""
    name = ".".join("_" if part.startswith("{") else part for part in path.split("/")[2:])
    return reads_back(f"{name}.post", "POST", path)


COST_NOTHING = (
    "/v3/access_settings/whitelist",
    "/v3/alerts",
    "/v3/api_keys",
    "/v3/asm/groups",
    "/v3/asm/groups/{group_id}/suppressions",
    "/v3/asm/groups/{group_id}/suppressions/search",
    "/v3/asm/suppressions/global",
    "/v3/campaigns",
    "/v3/contactdb/custom_fields",
    "/v3/contactdb/lists",
    "/v3/contactdb/lists/{list_id}/recipients",
    "/v3/contactdb/lists/{list_id}/recipients/{recipient_id}",
    "/v3/contactdb/recipients",
    "/v3/contactdb/recipients/search",
    "/v3/contactdb/segments",
    "/v3/designs",
    "/v3/designs/{design_id}",
    "/v3/designs/pre-builts/{design_id}",
    "/v3/ips/pools",
    "/v3/ips/pools/{pool_name}/ips",
    "/v3/ips/warmup",
    "/v3/marketing/contacts/batch",
    "/v3/marketing/contacts/exports",
    "/v3/marketing/contacts/search",
    "/v3/marketing/contacts/search/emails",
    "/v3/marketing/field_definitions",
    "/v3/marketing/lists",
    "/v3/marketing/segments",
    "/v3/marketing/segments/2.0",
    "/v3/marketing/senders",
    "/v3/marketing/singlesends",
    "/v3/marketing/singlesends/{singlesend_id}",
    "/v3/marketing/singlesends/search",
    "/v3/messages/download",
    "/v3/senders",
    "/v3/senders/{sender_id}/resend_verification",
    "/v3/sso/certificates",
    "/v3/sso/integrations",
    "/v3/sso/teammates",
    "/v3/subusers",
    "/v3/subusers/{subuser_name}/monitor",
    "/v3/teammates",
    "/v3/teammates/pending/{token}/resend",
    "/v3/user/webhooks/event/settings",
    "/v3/user/webhooks/event/test",
    "/v3/user/webhooks/parse/settings",
    "/v3/user/webhooks/security/policies",
    "/v3/verified_senders",
    "/v3/verified_senders/resend/{sender_id}",
    "/v3/whitelabel/dns/email",
    "/v3/whitelabel/domains",
    "/v3/whitelabel/domains/{domain_id}/ips",
    "/v3/whitelabel/domains/{domain_id}/subuser",
    "/v3/whitelabel/domains/{domain_id}/validate",
    "/v3/whitelabel/ips",
    "/v3/whitelabel/ips/{id}/validate",
    "/v3/whitelabel/links",
    "/v3/whitelabel/links/{id}/validate",
    "/v3/whitelabel/links/{link_id}/subuser",
)
"""Of the POSTs. A further address (`/v3/ips`) is bought, and is not among them; the other methods cost nothing anyway."""

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        name="mail.send",
        method="POST",
        path="/v3/mail/send",
        event_type="email_outbound",
        describes="mail",
        meter=MailMeter,
        watch=MailWatch,
        settles=late.MAIL,
    ),
    makes("mail.batch.create", "/v3/mail/batch"),
    reads_back("mail.batch.get", "GET", "/v3/mail/batch/{batch_id}"),
    reads_back("scheduled_sends.list", "GET", "/v3/user/scheduled_sends", lists=True),
    makes("scheduled_sends.create", "/v3/user/scheduled_sends"),
    reads_back("scheduled_sends.get", "GET", "/v3/user/scheduled_sends/{batch_id}"),
    reads_back("scheduled_sends.update", "PATCH", "/v3/user/scheduled_sends/{batch_id}"),
    reads_back("scheduled_sends.delete", "DELETE", "/v3/user/scheduled_sends/{batch_id}"),
    reads_back("templates.list", "GET", "/v3/templates", lists=True),
    makes("templates.create", "/v3/templates"),
    makes("templates.duplicate", "/v3/templates/{template_id}"),
    reads_back("templates.get", "GET", "/v3/templates/{template_id}"),
    reads_back("templates.update", "PATCH", "/v3/templates/{template_id}"),
    reads_back("templates.delete", "DELETE", "/v3/templates/{template_id}"),
    reads_back("templates.versions.create", "POST", "/v3/templates/{template_id}/versions"),
    reads_back("templates.versions.get", "GET", "/v3/templates/{template_id}/versions/{part}"),
    reads_back("templates.versions.update", "PATCH", "/v3/templates/{template_id}/versions/{part}"),
    reads_back("templates.versions.delete", "DELETE", "/v3/templates/{template_id}/versions/{part}"),
    reads_back("templates.versions.activate", "POST", "/v3/templates/{template_id}/versions/{part}/activate"),
    Endpoint(
        name="validations.email",
        method="POST",
        path="/v3/validations/email",
        event_type="email_validation",
        describes="validation of an address",
        meter=validated,
    ),
    Endpoint(
        name="validations.email.jobs.create",
        method="PUT",
        path="/v3/validations/email/jobs",
        event_type="email_validation",
        describes="validation of a list",
        meter=validates_later,
        settles=late.JOB,
    ),
    reads_back("validations.email.jobs.list", "GET", "/v3/validations/email/jobs", lists=True),
    reads_back("validations.email.jobs.get", "GET", "/v3/validations/email/jobs/{job_id}"),
    _campaign("marketing.singlesends.schedule", "PUT", "/v3/marketing/singlesends/{singlesend_id}/schedule"),
    _test("marketing.test.send_email", "/v3/marketing/test/send_email"),
    _campaign("campaigns.schedules", "POST", "/v3/campaigns/{campaign_id}/schedules"),
    _campaign("campaigns.schedules.now", "POST", "/v3/campaigns/{campaign_id}/schedules/now"),
    _test("campaigns.schedules.test", "/v3/campaigns/{campaign_id}/schedules/test"),
    *map(costs_nothing, COST_NOTHING),
)
