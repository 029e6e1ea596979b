"""`tollkeeper twilio connect`: numbers of an application led here, what comes in counted and passed on, and all undone."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import zlib
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest
from twilio.rest import Client

from tests.walks.applications import Application, free_port
from tests.walks.harness import PATIENCE_S, REPOSITORY, Answered, eventually
from tests.walks.sides import directly_to_twilio
from tests.walks.told import told_gateway

pytestmark = pytest.mark.parametrize("reached", ["sqlite", "postgres"], indirect=True, scope="module")

ADA = "+12025550143"
NUMBERS = (f"+1500555{number:04}" for number in itertools.count(700))
NAMES = (f"connected-{number}" for number in itertools.count())
ELSEWHERE = "https://elsewhere.example.com/sms"


@pytest.fixture(scope="module")
def reached(request, tmp_path_factory):
    with told_gateway(request, tmp_path_factory) as running:
        yield running


@pytest.fixture
def application():
    with Application(free_port()).up() as running:
        yield running


@pytest.fixture
def platform(reached):
    """Twilio, asked by whoever has the platform's account."""
    direct = directly_to_twilio(reached)
    client = Client(direct.account_sid, direct.key)
    client.api.base_url = direct.base_url + "/api"
    return client


@pytest.fixture
def tenant(reached, platform, application):
    """A tenant with two numbers that lead to its application, one by GET, and no URLs in its integration."""
    tenant_id, numbers = next(NAMES), [next(NUMBERS), next(NUMBERS)]
    reached.tenant(tenant_id)
    reached.ask("PATCH", f"/v1/tenants/{tenant_id}/integrations", {"phone_numbers": numbers})
    sms_url, voice_url = f"{application.base_url}/sms?of=mine", f"{application.base_url}/voice"
    made = [
        platform.incoming_phone_numbers.create(
            phone_number=number, sms_url=sms_url, voice_url=voice_url, voice_method=method
        )
        for number, method in zip(numbers, ("POST", "GET"), strict=True)
    ]
    ours = f"{reached.proxy_url}/webhooks/twilio/{tenant_id}"
    return SimpleNamespace(
        tenant_id=tenant_id,
        numbers=numbers,
        sids=[one.sid for one in made],
        sms_url=sms_url,
        voice_url=voice_url,
        ours=ours,
    )


def command(reached, *arguments):
    """Run it as its user does; exit code, what it printed, and what it said to people."""
    environment = {**os.environ, **reached.gateway.environment, "PYTHONPATH": str(REPOSITORY)}
    environment["TOLLKEEPER_CONTROL__PORT"] = reached.control_url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "twilio", "connect", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def connect(reached, tenant, *flags):
    code, out, err = command(reached, tenant.tenant_id, "--json", *flags)
    assert code == 0, err
    return json.loads(out)


def as_they_are(platform, tenant):
    found = [platform.incoming_phone_numbers(sid).fetch() for sid in tenant.sids]
    return [(one.sms_url, one.sms_method, one.voice_url, one.voice_method, one.sms_application_sid) for one in found]


def integration(reached, tenant):
    return reached.ask("GET", f"/v1/tenants/{tenant.tenant_id}/integrations")


def comes_in(reached, number):
    control = reached.simulator.said("simulator_listening")["control_url"]
    body = json.dumps({"to": number, "from": ADA, "body": "Hello"}).encode()
    request = Request(f"{control}/twilio/inbound-message", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())["sid"]


def audited(reached, tenant):
    entries = reached.ask("GET", f"/v1/audit?tenant_id={tenant.tenant_id}")["data"]
    return [one["action"] for one in entries if one["action"].startswith("numbers.")]


def test_what_comes_in_is_counted_and_still_reaches_the_application_and_all_of_it_can_be_undone(
    reached, platform, tenant, application
):
    before = as_they_are(platform, tenant)

    done = connect(reached, tenant)

    ours = (f"{tenant.ours}/sms", "POST", f"{tenant.ours}/voice", "POST", None)
    assert [one[:4] for one in as_they_are(platform, tenant)] == [ours[:4]] * 2
    assert [one["was"]["voice_method"] for one in sorted(done["numbers"], key=lambda one: one["phone_number"])] == [
        "POST",
        "GET",
    ]
    assert {one["is"]["sms_url"] for one in done["numbers"]} == {f"{tenant.ours}/sms"}
    assert done["adopted"] == {"sms_url": tenant.sms_url, "voice_url": tenant.voice_url}
    known = integration(reached, tenant)
    assert (known["sms_url"], known["voice_url"]) == (tenant.sms_url, tenant.voice_url)
    assert "connected" not in known

    def arrived():
        # A worker knows of the new URL within a second.
        comes_in(reached, tenant.numbers[0])
        return application.got_at("/sms")

    sid = eventually(arrived, "a message")[0].fields["MessageSid"]
    eventually(
        lambda: [one for one in reached.events(tenant.tenant_id) if one["external_id"] == sid], "the message's event"
    )

    connected = as_they_are(platform, tenant)
    again = connect(reached, tenant)
    assert again["counts"]["unchanged"] == 2
    assert {one["was"]["sms_url"] for one in again["numbers"]} == {tenant.sms_url}
    assert as_they_are(platform, tenant) == connected

    connect(reached, tenant, "--undo")
    assert [one[:4] for one in as_they_are(platform, tenant)] == [one[:4] for one in before]
    assert connect(reached, tenant, "--undo")["numbers"] == []
    assert audited(reached, tenant) == ["numbers.disconnect", "numbers.connect"]


def test_a_dry_run_shows_it_and_changes_nothing(reached, platform, tenant):
    before, known = as_they_are(platform, tenant), integration(reached, tenant)

    done = connect(reached, tenant, "--dry-run")
    code, table, hints = command(reached, tenant.tenant_id, "--dry-run")

    assert {one["is"]["sms_url"] for one in done["numbers"]} == {f"{tenant.ours}/sms"}
    assert code == 0
    assert f"{tenant.ours}/voice" in table
    assert f"GET {tenant.voice_url}" in table
    assert "Nothing was changed" in hints
    assert (as_they_are(platform, tenant), integration(reached, tenant)) == (before, known)
    assert audited(reached, tenant) == []


def test_a_number_that_names_an_application_of_twilios_leads_where_that_leads_and_names_it_again(
    reached, platform, tenant
):
    """Guards numbers whose own URLs count for nothing: they would go on past the gateway."""
    named = platform.applications.create(sms_url=ELSEWHERE, friendly_name="named")
    for sid in tenant.sids:
        platform.incoming_phone_numbers(sid).update(sms_application_sid=named.sid)

    done = connect(reached, tenant)

    assert done["adopted"]["sms_url"] == ELSEWHERE
    assert not any(one[4] for one in as_they_are(platform, tenant))
    connect(reached, tenant, "--undo")
    assert {one[4] for one in as_they_are(platform, tenant)} == {named.sid}


def test_a_number_that_can_not_be_changed_is_named_and_stops_no_other(reached, platform, tenant):
    strange = next(NUMBERS)
    wanted = {"phone_numbers": [*tenant.numbers, strange]}
    reached.ask("PATCH", f"/v1/tenants/{tenant.tenant_id}/integrations", wanted)

    code, out, err = command(reached, tenant.tenant_id, "--json")

    assert code == 1
    assert strange in json.loads(err)["detail"]
    assert json.loads(out)["counts"] | {"changed": 2, "missing": 1} == json.loads(out)["counts"]
    assert {one[0] for one in as_they_are(platform, tenant)} == {f"{tenant.ours}/sms"}


def test_numbers_that_lead_to_different_applications_wait_until_somebody_says_which(reached, platform, tenant):
    """Guards what comes in: with nowhere to go on to it would be lost to the application."""
    platform.incoming_phone_numbers(tenant.sids[0]).update(sms_url=ELSEWHERE)
    before = as_they_are(platform, tenant)

    code, _, err = command(reached, tenant.tenant_id)

    assert code == 1
    assert "sms_url" in err
    assert as_they_are(platform, tenant) == before
    reached.ask("PATCH", f"/v1/tenants/{tenant.tenant_id}/integrations", {"sms_url": tenant.sms_url})
    connect(reached, tenant)
    connect(reached, tenant, "--undo")
    assert as_they_are(platform, tenant)[0][0] == ELSEWHERE


def test_what_somebody_led_elsewhere_since_is_left_there(reached, platform, tenant):
    connect(reached, tenant)
    platform.incoming_phone_numbers(tenant.sids[0]).update(sms_url=ELSEWHERE)

    connect(reached, tenant, "--undo")

    first, second = as_they_are(platform, tenant)
    assert (first[0], first[2]) == (ELSEWHERE, tenant.voice_url)
    assert second[0] == tenant.sms_url


def test_an_integration_that_knows_what_numbers_were_can_not_be_removed(reached, tenant):
    connect(reached, tenant)

    with pytest.raises(Answered) as refused:
        reached.ask("DELETE", f"/v1/tenants/{tenant.tenant_id}/integrations")
    assert refused.value.status == 409
    connect(reached, tenant, "--undo")
    reached.ask("DELETE", f"/v1/tenants/{tenant.tenant_id}/integrations")


def test_all_numbers_of_a_tenants_own_account_and_no_others(reached, platform, tenant):
    """Guards an account that is the platform's: of that, a tenant's credential would lead everybody's numbers to it."""
    stranger = platform.incoming_phone_numbers.create(phone_number=next(NUMBERS), sms_url=ELSEWHERE)
    own = platform.api.accounts.create(friendly_name="own")
    theirs = Client(own.sid, own.auth_token)
    theirs.api.base_url = platform.api.base_url
    number = theirs.incoming_phone_numbers.create(phone_number=next(NUMBERS), sms_url=tenant.sms_url)
    direct = directly_to_twilio(reached)

    def with_credential(account_sid, token):
        document = {"provider": "twilio", "account_sid": account_sid, "auth_token": token}
        reached.ask("POST", f"/v1/tenants/{tenant.tenant_id}/credentials", document)

    with_credential(direct.account_sid, direct.key)
    assert {one["phone_number"] for one in connect(reached, tenant)["numbers"]} == set(tenant.numbers)
    connect(reached, tenant, "--undo")
    with_credential(own.sid, own.auth_token)
    connect(reached, tenant)

    assert theirs.incoming_phone_numbers(number.sid).fetch().sms_url == f"{tenant.ours}/sms"
    assert platform.incoming_phone_numbers(stranger.sid).fetch().sms_url == ELSEWHERE


def test_the_numbers_of_a_subaccount_are_led_here_once_its_token_is_known(reached, platform, tenant):
    below = platform.api.accounts.create(friendly_name="below")
    theirs = Client(below.sid, below.auth_token)
    theirs.api.base_url = platform.api.base_url
    number = theirs.incoming_phone_numbers.create(phone_number=next(NUMBERS), sms_url=ELSEWHERE)
    reached.ask("PATCH", f"/v1/tenants/{tenant.tenant_id}/integrations", {"twilio_subaccount": below.sid})

    eventually(lambda: command(reached, tenant.tenant_id)[0] == 0, "the token")

    assert theirs.incoming_phone_numbers(number.sid).fetch().sms_url == f"{tenant.ours}/sms"


def test_a_subaccount_whose_signatures_nobody_could_verify_is_not_connected(reached, tenant):
    unknown = {"twilio_subaccount": "AC" + f"{zlib.crc32(tenant.tenant_id.encode()):032x}"}
    reached.ask("PATCH", f"/v1/tenants/{tenant.tenant_id}/integrations", unknown)

    code, _, err = command(reached, tenant.tenant_id)

    assert code == 1
    assert "credential set" in err
