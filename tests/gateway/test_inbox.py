"""What lies in the inbox: it is there when it was said to be, once, sealed, and bounded."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import inbox as inbox_module
from gateway.inbox import (
    BODY_BYTES_MAX,
    DRAFT_S,
    DRAFT_SUFFIX,
    KEPT_S,
    SUFFIX,
    UNREADABLE_SUFFIX,
    Inbox,
    InboxFull,
    Kept,
    Unreadable,
)
from gateway.keys import Secrets

SECRETS = Secrets.derived("one installation")
CANARY = "a text that nobody may read"
NOW_MS = 1_790_000_000_000


@pytest.fixture
def clock():
    moments = count(NOW_MS)
    return lambda: next(moments)


@pytest.fixture
def inbox(tmp_path, clock):
    return Inbox(tmp_path / "inbox", SECRETS, clock, fsync=False)


def kept(number: int = 0, **changes) -> Kept:
    given = {"tenant_id": "acme", "source": "twilio", "webhook": "sms", "order_key": f"SM{number}"}
    return Kept(**{**given, "media_type": "text/plain", "body": f"{CANARY} {number}".encode(), **changes})


def files(inbox: Inbox) -> list[Path]:
    return sorted(inbox._directory.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# In and out


@given(
    st.builds(
        Kept,
        tenant_id=st.sampled_from(["acme", "b.c_d-e"]),
        source=st.just("twilio"),
        webhook=st.sampled_from(["sms", "status"]),
        order_key=st.text(st.characters(codec="utf-8"), max_size=40),
        url=st.none() | st.just("https://app.example/a?b"),
        method=st.sampled_from(["GET", "POST"]),
        media_type=st.text(st.characters(codec="utf-8"), max_size=40),
        headers=st.just(()) | st.just((("I-Twilio-Idempotency-Token", "1"), ("X", "é"))),
        body=st.binary(max_size=2000),
    )
)
def test_what_was_put_is_taken(tmp_path_factory, delivery):
    inbox = Inbox(tmp_path_factory.mktemp("inbox"), SECRETS, lambda: NOW_MS, fsync=False)

    delivery_id = asyncio.run(inbox.put(delivery))
    (waiting,) = inbox.look(()).new

    assert inbox.take(waiting) == delivery
    assert (waiting.delivery_id, waiting.tenant_id, waiting.received_at_ms) == (delivery_id, delivery.tenant_id, NOW_MS)


async def test_the_largest_body_is_taken_and_a_larger_one_is_not(inbox):
    largest = kept(body=os.urandom(BODY_BYTES_MAX))
    await inbox.put(largest)
    with pytest.raises(InboxFull):
        await inbox.put(kept(body=bytes(BODY_BYTES_MAX + 1)))

    (waiting,) = inbox.look(()).new
    assert inbox.take(waiting) == largest


async def test_deliveries_are_found_in_the_order_in_which_they_came(tmp_path):
    inbox = Inbox(tmp_path, SECRETS, lambda: NOW_MS, fsync=False)  # All within a millisecond.
    put = [await inbox.put(kept(number)) for number in range(50)]

    assert [one.delivery_id for one in inbox.look(()).new] == put


async def test_what_is_known_is_not_read_again(inbox):
    first, second = [await inbox.put(kept(number)) for number in range(2)]

    seen = inbox.look({first})

    assert [one.delivery_id for one in seen.new] == [second]
    assert seen.here == {first, second}


async def test_what_was_removed_is_gone_and_removing_it_again_does_no_harm(inbox):
    delivery_id = await inbox.put(kept())
    for _ in range(2):
        inbox.remove(delivery_id)

    assert inbox.look({delivery_id}).here == set()
    assert files(inbox) == []


def test_where_nothing_was_put_nothing_is_found(inbox):
    assert inbox.look(()) == (frozenset(), (), 0)


# ---------------------------------------------------------------------------------------------------------------------
# Once


async def test_the_same_delivery_a_hundred_times_at_once_is_one_file_with_one_id(tmp_path, clock):
    replicas = [Inbox(tmp_path, SECRETS, clock, fsync=True) for _ in range(2)]

    ids = await asyncio.gather(*(replicas[n % 2].put(kept()) for n in range(100)))

    assert len(set(ids)) == 1
    assert [path.name for path in files(replicas[0])] == [ids[0] + SUFFIX]


async def test_a_delivery_that_comes_again_after_it_was_delivered_has_the_id_that_it_had(inbox):
    first = await inbox.put(kept())
    inbox.remove(first)

    assert await inbox.put(kept(headers=(("I-Twilio-Idempotency-Token", "another"),), order_key="")) == first


async def test_what_is_signed_tells_deliveries_apart_where_it_is_given(inbox):
    one = await inbox.put(kept(body=b"a=1&b=2", identity=b"a1b2"))

    assert await inbox.put(kept(body=b"b=2&a=1", identity=b"a1b2")) == one
    assert await inbox.put(kept(body=b"b=2&a=1")) != one


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "other"},
        {"source": "sendgrid"},
        {"webhook": "status"},
        {"url": "https://app.example/"},
        {"method": "GET"},
        {"body": b"another"},
    ],
)
async def test_different_deliveries_have_different_ids(inbox, changes):
    assert await inbox.put(kept()) != await inbox.put(kept(**changes))


async def test_an_id_says_nothing_of_what_it_is_the_id_of(inbox, tmp_path):
    other = Inbox(tmp_path / "other", Secrets.derived("another installation"), lambda: NOW_MS, fsync=False)

    assert await inbox.put(kept()) != await other.put(kept())


# ---------------------------------------------------------------------------------------------------------------------
# Sealed


async def test_nothing_of_a_delivery_can_be_read_at_rest(inbox):
    await inbox.put(kept(7, url=f"https://{CANARY.replace(' ', '-')}.example/", headers=(("X", CANARY),)))

    (path,) = files(inbox)
    content = path.read_bytes()
    for said in (CANARY, CANARY.replace(" ", "-"), "SM7", "text/plain", "twilio", "https"):
        assert said.encode() not in content
        assert said not in path.name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_in_the_place_of_another_is_set_aside(inbox):
    await inbox.put(kept(1))
    await inbox.put(kept(2, tenant_id="other"))
    first, second = files(inbox)
    second.write_bytes(first.read_bytes())

    seen = inbox.look(())

    assert [one.delivery_id for one in seen.new] == [first.stem]
    assert seen.unreadable == 1


async def test_a_body_in_the_place_of_another_is_not_taken(inbox):
    await inbox.put(kept(1, body=b"one"))
    await inbox.put(kept(2, body=b"two"))
    first, second = files(inbox)
    sealed_bytes = 12 + 3 + 16
    second.write_bytes(second.read_bytes()[:-sealed_bytes] + first.read_bytes()[-sealed_bytes:])
    told = {one.delivery_id: one for one in inbox.look(()).new}

    with pytest.raises(Unreadable):
        inbox.take(told[second.stem])


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.5])
async def test_a_torn_file_is_set_aside_and_holds_up_no_other(inbox, part):
    torn = await inbox.put(kept(1))
    whole = await inbox.put(kept(2))
    path = inbox._path(torn)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])

    seen = inbox.look(())

    assert ([one.delivery_id for one in seen.new], seen.unreadable) == ([whole], 1)
    assert path.with_suffix(UNREADABLE_SUFFIX).exists()
    assert not path.exists()
    assert inbox.look(seen.here).unreadable == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"tollkeeper delivery 1\n", b"tollkeeper delivery 1\n\xff\xff\xff\xff\xff", os.urandom(300)],
)
async def test_a_foreign_file_is_set_aside(inbox, content):
    whole = await inbox.put(kept())
    (inbox._directory / f"{'0' * 32}{SUFFIX}").write_bytes(content)

    seen = inbox.look(())

    assert ([one.delivery_id for one in seen.new], seen.unreadable) == ([whole], 1)


async def test_a_body_that_was_cut_short_is_not_taken(inbox):
    delivery_id = await inbox.put(kept())
    path = inbox._path(delivery_id)
    path.write_bytes(path.read_bytes()[:-1])
    (waiting,) = inbox.look(()).new

    with pytest.raises(Unreadable):
        inbox.take(waiting)


async def test_what_is_left_behind_is_deleted_and_what_is_young_is_not(inbox):
    await inbox.put(kept())
    directory = inbox._directory
    ages_s = {
        f"a{DRAFT_SUFFIX}": DRAFT_S + 60,
        f"b{DRAFT_SUFFIX}": DRAFT_S - 60,
        f"c{UNREADABLE_SUFFIX}": KEPT_S + 60,
        f"d{UNREADABLE_SUFFIX}": KEPT_S - 60,
        "somebody's": KEPT_S + 60,
    }
    for name, age_s in ages_s.items():
        (directory / name).touch()
        os.utime(directory / name, (NOW_MS / 1000 - age_s,) * 2)

    seen = inbox.look(())

    left = {path.name for path in files(inbox) if path.suffix != SUFFIX}
    assert left == {f"b{DRAFT_SUFFIX}", f"d{UNREADABLE_SUFFIX}", "somebody's"}
    assert (len(seen.here), seen.unreadable) == (1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Bounds


@pytest.mark.parametrize("bound", ["FILES_MAX", "TENANT_FILES_MAX"])
async def test_beyond_so_many_files_nothing_is_taken(inbox, monkeypatch, bound):
    monkeypatch.setattr(inbox_module, bound, 3)
    for number in range(3):
        await inbox.put(kept(number))

    with pytest.raises(InboxFull, match="as many"):
        await inbox.put(kept(3))
    await inbox.put(kept(0))  # Which is there.
    if bound == "TENANT_FILES_MAX":
        await inbox.put(kept(3, tenant_id="other"))


@pytest.mark.parametrize("bound", ["BYTES_MAX", "TENANT_BYTES_MAX"])
async def test_beyond_so_many_bytes_nothing_is_taken(inbox, monkeypatch, bound):
    monkeypatch.setattr(inbox_module, bound, 100_000)
    await inbox.put(kept(0, body=b"0" * 60_000))

    with pytest.raises(InboxFull, match="as many"):
        await inbox.put(kept(1, body=b"1" * 60_000))
    await inbox.put(kept(1))


async def test_what_others_have_put_counts_and_what_was_delivered_does_not(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(inbox_module, "FILES_MAX", 3)
    monkeypatch.setattr(inbox_module, "MEASURE_S", 0.0)
    monkeypatch.setattr(inbox_module, "MEASURE_PART", 1e9)
    here, elsewhere = (Inbox(tmp_path, SECRETS, clock, fsync=False) for _ in range(2))
    ids = [await elsewhere.put(kept(number)) for number in range(3)]
    with pytest.raises(InboxFull):
        await here.put(kept(3))

    elsewhere.remove(ids[0])

    await here.put(kept(3))


async def test_where_the_disk_has_no_more_room_than_the_spools_need_nothing_is_taken(inbox, monkeypatch):
    monkeypatch.setattr(inbox_module, "ROOM_BYTES_MIN", 1 << 62)

    with pytest.raises(InboxFull, match="room"):
        await inbox.put(kept())

    assert files(inbox) == []


async def test_a_disk_that_refuses_is_said_and_leaves_nothing_behind(inbox, monkeypatch):
    await inbox.put(kept(0))

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    inbox._fsync = True
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="space"):
        await inbox.put(kept(1))

    assert len(files(inbox)) == 1


async def test_with_fsync_file_and_directory_are_synced_before_it_is_said_to_be_there(inbox, monkeypatch):
    synced = []
    fsync = os.fsync

    def watch(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append((path.suffix, (inbox._directory / (inbox.delivery_id(kept()) + SUFFIX)).exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    inbox._fsync = True
    await inbox.put(kept())

    assert synced == [(DRAFT_SUFFIX, False), ("", True)]


# ---------------------------------------------------------------------------------------------------------------------
# Killed

WRITER = """
import asyncio, sys, time
from pathlib import Path
from gateway.inbox import Inbox, Kept
from gateway.keys import Secrets

async def main():
    inbox = Inbox(Path(sys.argv[1]), Secrets.derived("one installation"), lambda: time.time_ns() // 1_000_000, fsync=False)
    for number in range(1_000_000):
        body = b"%d " % number * (1 + number % 5000)
        delivery_id = await inbox.put(Kept(tenant_id="acme", source="twilio", webhook="sms", order_key="SM1", body=body))
        print(number, delivery_id, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("life", range(4))
def test_killed_at_any_instant_what_was_said_to_be_there_is_there_whole(tmp_path, life):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(0.05 * life)
    writer.kill()
    told = [line.split() for line in [first, *writer.stdout] if line.endswith("\n")]
    writer.stdout.close()
    writer.wait()

    inbox = Inbox(tmp_path, SECRETS, lambda: time.time_ns() // 1_000_000, fsync=False)
    seen = inbox.look(())

    assert seen.unreadable == 0
    found = [inbox.take(waiting).body for waiting in seen.new]
    assert [one.delivery_id for one in seen.new][: len(told)] == [delivery_id for _, delivery_id in told]
    assert len(told) <= len(found) <= len(told) + 1
    assert found == [b"%d " % number * (1 + number % 5000) for number in range(len(found))]
