"""What an application is not there to take: it waits sealed, is seen waiting, outlives the gateway, and arrives in order."""

from __future__ import annotations

import itertools
import json
from urllib.request import Request, urlopen

import pytest
from twilio.rest import Client

from gateway.simulator.truth import read_deliveries
from tests.walks.applications import Application, free_port
from tests.walks.harness import eventually
from tests.walks.sides import directly_to_twilio
from tests.walks.told import Tenant, told_gateway

pytestmark = pytest.mark.parametrize("reached", ["sqlite", "postgres"], indirect=True, scope="module")

CANARY = "nobody but the application reads this"


@pytest.fixture(scope="module")
def reached(request, tmp_path_factory):
    with told_gateway(request, tmp_path_factory) as running:
        yield running


def comes_in(gateway, number, text):
    control = gateway.simulator.said("simulator_listening")["control_url"]
    body = json.dumps({"to": number, "from": "+12025550143", "body": text}).encode()
    request = Request(f"{control}/twilio/inbound-message", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["sid"]


def test_what_an_application_does_not_take_outlives_the_gateway_and_arrives_whole(reached):
    application = Application(free_port(), answers=lambda _: (500, b""))
    tenant = Tenant(reached, "acme", phone_numbers=["+15005550100"], sms_url=f"{application.base_url}/sms")
    direct = directly_to_twilio(reached)
    client = Client(direct.account_sid, direct.key)
    client.api.base_url = direct.base_url + "/api"
    ours = f"{reached.proxy_url}/webhooks/twilio/acme/sms"
    client.incoming_phone_numbers.create(phone_number="+15005550100", sms_url=ours)

    def waiting():
        return reached.ask("GET", "/v1/tenants/acme/deliveries")["data"]

    with application.up():
        sids = [comes_in(reached, "+15005550100", f"{CANARY} {n}") for n in range(3)]
        eventually(lambda: len(waiting()) == 3 and all(one["last_status"] == 500 for one in waiting()), "refusals")

    told = [one for one in read_deliveries(reached.directory / "truth.jsonl") if one.object_id in sids]
    assert [one.status for one in told] == [200] * 3, "the provider is answered whatever the application does"
    assert {one["target"] for one in waiting()} == {"sms"}
    refused = {one.headers["Webhook-Id"] for one in application.got}
    assert refused == {one["delivery_id"] for one in waiting()}
    with urlopen(f"{reached.control_url}/metrics", timeout=30) as answer:
        assert b"tollkeeper_deliveries_waiting 3.0" in answer.read()

    reached.gateway.kill()
    lying = list((reached.data_dir / "inbox").iterdir())
    assert len(lying) == 3
    for path, said in itertools.product(reached.data_dir.rglob("*"), (CANARY, "12025550143", *sids)):
        if path.is_file() and path.parent.name == "inbox":
            assert said.encode() not in path.read_bytes()
            assert said not in path.name

    application.got.clear()
    application.answers = lambda _: (204, b"")
    with application.up():
        reached.start_gateway()
        eventually(lambda: not waiting() and len(application.got) >= 3, "deliveries")

    assert {one.headers["Webhook-Id"] for one in application.got} == refused
    assert sorted(one.fields["MessageSid"] for one in application.got) == sorted(sids)
    assert {one.fields["Body"] for one in application.got} == {f"{CANARY} {n}" for n in range(3)}
    assert all(one.is_signed_with(tenant.secret) for one in application.got)
    assert list((reached.data_dir / "inbox").iterdir()) == []
