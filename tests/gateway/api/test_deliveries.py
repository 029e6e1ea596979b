"""What waits for applications, as the control API shows it."""

from __future__ import annotations

import datetime as dt

from gateway.api import parts
from gateway.inbox import Kept


async def put(api, number, **changes) -> str:
    api.clock.now += dt.timedelta(seconds=1)
    given = {"tenant_id": "acme", "source": "twilio", "webhook": "sms", "order_key": f"SM{number}"}
    return await api.inbox.put(Kept(**{**given, "body": b"a secret text %d" % number, **changes}))


async def attempted(api) -> None:
    await api.deliverer.look()
    api.deliverer.begin()
    await api.deliverer.quiet()


async def test_what_waits_is_listed_oldest_first_without_what_it_says(api, acme):
    await api.tenant("globex")
    first = await put(api, 1)
    second = await put(api, 2, webhook="status", order_key="SM1")
    await put(api, 3, tenant_id="globex")
    await attempted(api)

    answer = await api.get("/v1/tenants/acme/deliveries")

    one, two = answer.document["data"]
    next_attempt_at = dt.datetime.fromisoformat(one.pop("next_attempt_at"))
    assert dt.timedelta(0) < next_attempt_at - api.clock.now <= dt.timedelta(seconds=1)
    assert one == {
        "delivery_id": first,
        "source": "twilio",
        "target": "sms",
        "size_bytes": one["size_bytes"],
        "received_at": "2026-11-20T12:00:01.000Z",
        "attempts": 1,
        "last_outcome": "no_url",
        "last_status": None,
    }
    assert (two["delivery_id"], two["target"], two["attempts"], two["next_attempt_at"]) == (second, "status", 0, None)
    assert b"secret text" not in answer.body
    assert b"SM1" not in answer.body


async def test_pages_together_are_the_whole_list(api, acme):
    ids = [await put(api, number) for number in range(7)]
    await api.deliverer.look()

    found, cursor, pages = [], "", 0
    while cursor is not None:
        page = (await api.get(f"/v1/tenants/acme/deliveries?limit=3{cursor and '&cursor=' + cursor}")).document
        found += [one["delivery_id"] for one in page["data"]]
        cursor, pages = page["next_cursor"], pages + 1

    assert (found, pages) == (ids, 3)


async def test_what_waits_can_be_tried_at_once_which_is_noted(api, acme):
    delivery_id = await put(api, 1)
    await attempted(api)
    api.deliverer._put_off(api.deliverer._known[delivery_id], 100_000)

    answer = await api.post(f"/v1/tenants/acme/deliveries/{delivery_id}/retry")
    await attempted(api)

    assert (answer.status, answer.document["attempts"]) == (202, 1)
    assert api.deliverer.find("acme", delivery_id).attempts == 2
    noted = (await api.get("/v1/audit")).document["data"][0]
    assert (noted["action"], noted["tenant_id"], noted["subject"]) == ("delivery.retry", "acme", delivery_id)


async def test_what_is_not_there_is_not_tried_and_not_noted(api, acme):
    await api.tenant("globex")
    delivery_id = await put(api, 1, tenant_id="globex")
    await api.deliverer.look()

    for path in ("acme", "globex"):
        answer = await api.post(f"/v1/tenants/{path}/deliveries/{'0' * 32 if path == 'globex' else delivery_id}/retry")
        assert (answer.status, answer.problem["type"]) == (404, "urn:tollkeeper:no-such-delivery")

    assert "delivery.retry" not in {one["action"] for one in (await api.get("/v1/audit")).document["data"]}


async def test_while_no_server_runs_it_is_said_that_deliveries_are_not_known(api, acme):
    application = api.runner.app
    deliverer = application._state.pop(parts.DELIVERER)
    try:
        answer = await api.get("/v1/tenants/acme/deliveries")
    finally:
        application._state[parts.DELIVERER] = deliverer

    assert (answer.status, answer.problem["type"]) == (503, "urn:tollkeeper:not-serving")


async def test_metrics_tell_what_waits(api, acme):
    await put(api, 1)
    await attempted(api)
    api.clock.now += dt.timedelta(seconds=90)

    text = (await api.get("/metrics")).body.decode()

    assert "tollkeeper_deliveries_waiting 1.0" in text
    assert "tollkeeper_deliveries_oldest_seconds 90.0" in text
    assert 'tollkeeper_delivery_attempts_total{outcome="no_url"} 1.0' in text
    assert 'tollkeeper_delivery_attempts_total{outcome="delivered"} 0.0' in text
    assert "tollkeeper_deliveries_given_up_total 0.0" in text
    assert "tollkeeper_deliveries_unreadable 0.0" in text
