"""Where providers tell us what becomes of calls, and that a URL in it is of use to one tenant alone."""

from __future__ import annotations

import msgspec
import pytest

from gateway.callback_addresses import CallbackAddresses
from gateway.integrations import Integration, SubaccountSecret
from gateway.keys import Secrets
from gateway.providers import openai, twilio
from gateway.providers.api import Carried
from gateway.snapshot import TenantRecord

SECRETS = Secrets.derived("the secret of these tests")
ADDRESSES = CallbackAddresses("https://tolls.example/", SECRETS)
URL = "https://app.example/told?a=1"
BELOW = Integration(twilio_subaccount="AC" + "5" * 32)


def tenant(tenant_id="acme", **fields):
    sealed = SECRETS.seal({"current": "secret"}, owner=tenant_id)
    return TenantRecord(tenant_id=tenant_id, status="active", account_sid="AC1", **{"signing": sealed} | fields)


def bound(url=URL, method="", redirects=0, said="", heard=False, **of):  # noqa: FBT002 - as Carried has it
    address = ADDRESSES.of(twilio.PROVIDER, tenant(**of))
    return address.bound(Carried(url, method, redirects=redirects, said=said, heard=heard))


def test_a_tenants_address_names_provider_and_tenant():
    assert ADDRESSES.of(twilio.PROVIDER, tenant()).base_url == "https://tolls.example/webhooks/twilio/acme"


@pytest.mark.parametrize("method", ["", "GET"])
def test_what_is_sealed_for_a_tenant_opens_for_it_alone(method):
    sealed = bound(method=method)

    assert ADDRESSES.opened(sealed, "acme") == Carried(URL, method)
    assert ADDRESSES.opened(sealed, "other") is None
    changed = "B" if sealed[-6] == "A" else "A"
    assert ADDRESSES.opened(sealed[:-6] + changed + sealed[-5:], "acme") is None
    assert CallbackAddresses("https://tolls.example", Secrets.derived("another")).opened(sealed, "acme") is None


def test_what_led_there_is_sealed_with_it():
    sealed = bound(redirects=3, said="Digits=1&SpeechResult=ja%2C+bitte")

    assert "Digits" not in sealed
    assert ADDRESSES.opened(sealed, "acme") == Carried(URL, "", redirects=3, said="Digits=1&SpeechResult=ja%2C+bitte")
    assert ADDRESSES.opened(bound(heard=True), "acme") == Carried(URL, heard=True)


@pytest.mark.parametrize(
    "sealed",
    ["", "v1.", URL, SECRETS.seal({"auth_token": "x"}, owner="acme")],
    ids=["nothing", "a version", "a URL", "another secret"],
)
def test_nothing_else_is_a_url(sealed):
    assert ADDRESSES.opened(sealed, "acme") is None


def test_a_tenant_with_nothing_to_sign_with_has_nothing_passed_on():
    assert ADDRESSES.of(twilio.PROVIDER, tenant(signing=None)).bound is None


def test_a_provider_that_tells_nothing_by_itself_is_given_no_address():
    assert ADDRESSES.of(openai.PROVIDER, tenant()) is None


def test_what_an_account_below_the_platforms_signs_can_be_verified_by_its_own_secret_alone():
    """Guards callbacks: asked for and not believed, they would be lost to their application."""
    assert ADDRESSES.of(twilio.PROVIDER, tenant(integration=BELOW)) is None
    others = msgspec.structs.replace(BELOW, subaccount_secret=SubaccountSecret("AC" + "6" * 32, "sealed"))
    assert ADDRESSES.of(twilio.PROVIDER, tenant(integration=others)) is None
    known = msgspec.structs.replace(BELOW, subaccount_secret=SubaccountSecret(BELOW.twilio_subaccount, "sealed"))
    assert ADDRESSES.of(twilio.PROVIDER, tenant(integration=known)) is not None
    assert ADDRESSES.of(twilio.PROVIDER, tenant(integration=BELOW, credentials={"twilio": "sealed"})) is not None
