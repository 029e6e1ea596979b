"""Which providers are asked, where, and as whom."""

from __future__ import annotations

import base64

import msgspec
import pytest

from gateway.office import open_office
from gateway.provider_access import listed, numbered, origins, polled
from gateway.settings import load_settings

PLATFORM, SUBACCOUNT, OWN = "AC" + "1" * 32, "AC" + "2" * 32, "AC" + "3" * 32

TOKEN = "f" * 32


def basic(account):
    return {"Authorization": "Basic " + base64.b64encode(f"{account}:{TOKEN}".encode()).decode()}


@pytest.fixture
async def office(tmp_path):
    settings = load_settings(
        {
            "TOLLKEEPER_DATA_DIR": str(tmp_path / "data"),
            "TOLLKEEPER_PROVIDERS__TWILIO__BASE_URL": "http://127.0.0.1:1/{product}",
            "TOLLKEEPER_PROVIDERS__TWILIO__ACCOUNT_SID": PLATFORM,
            "TOLLKEEPER_PROVIDERS__TWILIO__AUTH_TOKEN": TOKEN,
        },
        {},
        None,
    )
    async with open_office(settings) as office:
        async with office.accounts.changing("test") as change:
            for name in ("shares", "below", "own"):
                await change.create_tenant(name)
            await change.change_integration("below", {"twilio_subaccount": SUBACCOUNT})
            await change.set_credential("own", "twilio", {"account_sid": OWN, "auth_token": TOKEN})
        yield office


async def test_what_is_told_later_is_asked_for_with_the_credential_that_made_it_below_the_account_that_has_it(office):
    asks_as = polled(office, office.settings)["twilio"].asks_as

    assert asks_as("own") == (basic(OWN), OWN)
    assert asks_as("shares") == (basic(PLATFORM), PLATFORM)
    assert asks_as("below") == (basic(PLATFORM), SUBACCOUNT)
    assert asks_as("nobody") == (basic(PLATFORM), PLATFORM)


@pytest.mark.parametrize("asked", [listed, numbered])
async def test_lists_and_numbers_are_asked_for_with_one_s_own_credential_or_as_the_platform_and_never_another_s(
    office, asked
):
    credential = asked(office, office.settings)["twilio"].credential

    assert credential("own") == (basic(OWN), OWN)
    assert credential(None) == (basic(PLATFORM), PLATFORM)
    assert credential("shares") is credential("nobody") is None


async def test_a_credential_that_was_sealed_for_another_tenant_opens_for_nobody(office):
    current = office.snapshot.current
    moved = msgspec.structs.replace(current.tenants["shares"], credentials=current.tenants["own"].credentials)
    office.snapshot.current = msgspec.structs.replace(current, tenants={**current.tenants, "shares": moved})

    assert listed(office, office.settings)["twilio"].credential("shares") is None
    assert polled(office, office.settings)["twilio"].asks_as("shares") is None


async def test_where_there_is_no_credential_nobody_is_asked(office):
    assert polled(office, office.settings)["openai"].asks_as("shares") is None
    assert listed(office, office.settings)["sendgrid"].credential(None) is None


async def test_each_product_has_a_host_of_its_own(office):
    hosts = origins(office.settings)

    assert hosts["twilio", "api"].prefix != hosts["twilio", "verify"].prefix
