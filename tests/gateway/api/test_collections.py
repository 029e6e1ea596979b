"""Collections over the control API: asked for, listed, cancelled, refused with the cure."""

from __future__ import annotations

import pytest

DAY = {"source": "twilio", "from": "2026-11-19", "to": "2026-11-21"}


async def test_a_collection_is_asked_for_once_and_shows_how_far_it_is(api):
    first = await api.post("/v1/collections", DAY)
    again = await api.post("/v1/collections", DAY)

    made = first.document
    assert (first.status, again.document) == (202, made)
    assert (made["status"], made["steps"], made["done_steps"], made["from"], made["to"]) == (
        "waiting",
        4,
        0,
        "2026-11-19",
        "2026-11-21",
    )
    assert set(made["counts"].values()) == {0}
    assert (await api.get(f"/v1/collections/{made['collection_id']}")).document == made
    assert [row["action"] for row in (await api.get("/v1/audit")).document["data"]] == ["collection.create"] * 2


async def test_collections_are_listed_newest_first_page_by_page_and_filtered(api):
    made = []
    for day in range(2, 7):
        api.clock.now = api.clock.now.replace(second=day)
        made.append(await api.collection(10 + day))

    page = (await api.get("/v1/collections?limit=3")).document
    rest = (await api.get(f"/v1/collections?limit=3&cursor={page['next_cursor']}")).document

    assert [row["collection_id"] for row in page["data"] + rest["data"]] == made[::-1]
    assert (await api.get("/v1/collections?status=done")).document["data"] == []


async def test_a_collection_that_is_cancelled_waits_to_be_asked_for_again(api):
    collection_id = await api.collection()

    assert (await api.ask("DELETE", f"/v1/collections/{collection_id}")).status == 204
    assert (await api.get(f"/v1/collections/{collection_id}")).document["status"] == "cancelled"
    assert (await api.ask("DELETE", f"/v1/collections/{collection_id}")).status == 409
    assert await api.collection() == collection_id
    assert (await api.get(f"/v1/collections/{collection_id}")).document["status"] == "waiting"


@pytest.mark.parametrize(
    ("changes", "status", "names"),
    [
        ({"source": "openai"}, 400, "twilio"),
        ({"source": "nobody"}, 400, "twilio"),
        ({"from": "yesterday"}, 400, "2026-11-20"),
        ({"to": "2026-11-19"}, 400, "not included"),
        ({"from": "2026-11-21", "to": "2026-11-25"}, 400, "ahead"),
        ({"from": "2024-01-01"}, 400, "400 days"),
        ({"tenant_id": "nobody"}, 404, "tenant"),
        ({"days": 3}, 400, "not known"),
    ],
)
async def test_what_can_not_be_collected_is_refused_with_the_cure(api, changes, status, names):
    answer = await api.post("/v1/collections", DAY | changes)

    assert answer.status == status
    assert names in answer.problem["detail"]
