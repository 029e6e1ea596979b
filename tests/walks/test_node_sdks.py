"""The official SDKs for Node through the gateway: what they return is what they return directly."""

from __future__ import annotations

import json
from typing import Any

from gateway.simulator.truth import Exchange
from tests.nodes import SCRIPTS, needs_node, run_script
from tests.walks.harness import ON_BOTH, PROVIDER_KEY, Installation, basic, eventually
from tests.walks.sides import (
    Side,
    alike,
    directly_to_sendgrid,
    directly_to_twilio,
    plain,
    raw,
    through_to_sendgrid,
    through_to_twilio,
)

pytestmark = [ON_BOTH, needs_node]


def walked(script: str, side: Side, name: str, **more: Any) -> dict[str, Any]:
    """What a script was told, call by call."""
    told = {"baseUrl": side.base_url, "key": side.key, "accountSid": side.account_sid, "name": name, **more}
    return json.loads(run_script(SCRIPTS / script, json.dumps(told)))


def both(script: str, walk: str, sides: tuple[Side, Side], **more: Any) -> list[dict[str, Any]]:
    """The same of both sides, without what is made anew; the truth log has the name of the walk, too."""
    return [
        plain(walked(script, side, f"{walk} {name}", **more), side.account_sid)
        for name, side in zip(("directly", "through"), sides, strict=True)
    ]


def done(gateway: Installation, walk: str) -> list[Exchange]:
    """What the provider did for a walk that went through the gateway, in its order."""
    seen = [exchange for exchange in gateway.truth() if exchange.header("x-walk") == f"{walk} through"]
    return [exchange for exchange in seen if 200 <= exchange.status < 300]


def bodies(gateway: Installation, walk: str) -> list[str]:
    """What the provider received, but for the names of what a walk itself has made."""
    return [alike(x.body.decode(), "") for x in gateway.truth() if x.header("x-walk") == walk]


def raised(told: dict[str, Any]) -> dict[str, Any]:
    """Of the calls that failed, how the SDK says so."""
    return {
        name: (result["raised"], result.get("status", result.get("code")))
        for name, result in told.items()
        if isinstance(result, dict) and "raised" in result
    }


def subaccount_of(platform: Side) -> Side:
    """A new account below the platform's, as a tenant has it whose operator made it for it."""
    credential = {"Authorization": basic(platform.account_sid, platform.key)}
    made = json.loads(raw(platform, "POST", "/api/2010-04-01/Accounts.json", b"", credential).body)
    return platform._replace(account_sid=made["sid"], key=made["auth_token"])


def without_empty_usage(told: dict[str, Any]) -> dict[str, Any]:
    """The gateway asks for usage where the application does not, and what tells it is taken out again. That all other
    chunks then say `"usage": null` is documented."""
    for name in ("streamed chat", "streamed chat byte by byte"):
        for chunk in told[name]:
            assert chunk.pop("usage", None) is None
    return told


def test_openais_sdk_returns_what_it_returns_directly_and_every_token_is_in_the_ledger(gateway):
    sides = Side(gateway.direct, PROVIDER_KEY), Side(gateway.openai, gateway.tenant("openai"))

    direct, through = map(without_empty_usage, both("openai.cjs", "openai", sides))

    assert through == direct
    assert raised(through) == {
        "unknown model": ("NotFoundError", 404),
        "no messages": ("BadRequestError", 400),
        "too many requests": ("RateLimitError", 429),
        "provider failing": ("InternalServerError", 503),
        "a stream that breaks off": raised(direct)["a stream that breaks off"],
    }
    seen = done(gateway, "openai")
    events = gateway.events_of("openai", len(seen))
    made = [(x.object_id, x.model, x.usage["total_tokens"]) for x in seen if x.method == "POST" and x.fault is None]
    assert len(made) == 11
    assert [
        (event["external_id"], event["resource"], sum(event["quantities"].values()))
        for event in events
        if event["channel"] == "ai" and event["completeness"] == "reported"
    ] == made
    assert [event["endpoint"] for event in events if event["completeness"] == "estimated"] == ["chat.completions"]


def test_twilios_sdk_returns_what_it_returns_directly_and_every_message_is_in_the_ledger(gateway):
    sides = directly_to_twilio(gateway), through_to_twilio(gateway, "twilio", gateway.tenant("twilio"))

    direct, through = both("twilio.cjs", "twilio", sides)

    assert through == direct
    assert sides[0].account_sid not in json.dumps(through)
    assert raised(through) == {
        "no number": ("RestException", 400),
        "nothing to send": ("RestException", 400),
        "too many requests": ("RestException", 429),
        "provider failing": ("RestException", 500),
    }
    seen = done(gateway, "twilio")
    events = gateway.events_of("twilio", len(seen))
    sent = [(x.object_id, x.usage) for x in seen if x.method == "POST" and x.usage]
    found = [event for event in events if event["direction"] == "outbound"]
    assert [event["external_id"] for event in found] == [sid for sid, _ in sent]
    assert [event["event_type"] for event in found] == [
        *("sms_outbound", "sms_outbound", "mms_outbound", "whatsapp_outbound", "sms_outbound", "sms_outbound"),
        *("call_outbound", "sms_outbound", "mms_outbound"),
    ]
    for event, (_, usage) in zip(found, sent, strict=True):
        assert event["quantities"].get("segments", 0) == int(usage.get("num_segments", "0"))
        assert event["quantities"].get("media", 0) == int(usage.get("num_media", "0"))
    assert bodies(gateway, "twilio through") == bodies(gateway, "twilio directly")
    assert any(body.count("MediaUrl=") == 3 for body in bodies(gateway, "twilio through"))


def test_twilios_sdk_lists_an_account_of_the_tenants_own_page_by_page(gateway):
    platform = directly_to_twilio(gateway)
    subaccount = subaccount_of(platform)
    gateway.tenant("own")
    gateway.ask(
        "POST",
        "/v1/tenants/own/credentials",
        {"provider": "twilio", "account_sid": subaccount.account_sid, "auth_token": subaccount.key},
    )
    own = through_to_twilio(gateway, "own", gateway.key("own"))
    walked("twilio.cjs", own, "of its own", atOnce=True)

    direct, through = both("twilio.cjs", "lists", (subaccount, own), lists=True)

    assert through == direct
    assert {name: len(listed) for name, listed in through.items()} == {
        "all": 7,
        "page by page": 7,
        "the first three": 3,
        "since yesterday": 7,
        "until yesterday": 0,
        "to one number": 5,
        "calls since yesterday": 1,
    }


def test_sendgrids_sdk_returns_what_it_returns_directly_and_every_recipient_is_in_the_ledger(gateway):
    sides = directly_to_sendgrid(gateway), through_to_sendgrid(gateway, gateway.tenant("sendgrid"))
    subuser = json.dumps({"username": "anna", "email": "anna@example.com", "password": "p4ssw0rd", "ips": []}).encode()
    platform = {"Authorization": f"Bearer {sides[0].key}", "Content-Type": "application/json"}
    assert raw(sides[0], "POST", "/v3/subusers", subuser, platform).status == 201
    gateway.ask("PATCH", "/v1/tenants/sendgrid/integrations", {"on_behalf_of": ["anna"]})
    hers = {**platform, "Authorization": f"Bearer {sides[1].key}", "On-Behalf-Of": "anna"}
    eventually(lambda: raw(sides[1], "GET", f"/v3/templates/d-{0:032x}", None, hers).status == 404, "the integration")

    direct, through = both("sendgrid.cjs", "sendgrid", sides)

    assert through == direct
    assert raised(through) == {
        "to nobody": ("ResponseError", 400),
        "to no address": ("ResponseError", 400),
        "too many requests": ("ResponseError", 429),
        "provider failing": ("ResponseError", 500),
    }
    seen = done(gateway, "sendgrid")
    events = gateway.events_of("sendgrid", len(seen))
    assert [x.body for x in seen if x.status == 202 and b"template_id" not in x.body] == [
        x.body
        for x in gateway.truth()
        if (x.header("x-walk"), x.status) == ("sendgrid directly", 202) and b"template_id" not in x.body
    ]
    accepted = [(x.object_id, x.usage["recipients"]) for x in seen if x.status == 202]
    assert [recipients for _, recipients in accepted] == [1, 6, 3, 1, 1]
    assert [
        (event["external_id"], event["quantities"]["recipients"])
        for event in events
        if event["event_type"] == "email_outbound"
    ] == accepted
    assert [event["quantities"] for event in events if event["event_type"] == "email_validation"] == [
        {"requests": 1}
    ] * 2
