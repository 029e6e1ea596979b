"""What workers know of tenants and keys: one state or the next."""

import os
import stat
import threading

import msgspec
import pytest

from gateway import snapshot
from gateway.snapshot import KeyRecord, RequestTags, Snapshot, SnapshotFile, TenantRecord


def holding(*tenant_ids):
    return Snapshot(
        version=snapshot.VERSION,
        keys={
            "k1": KeyRecord(key_id="k1", digest="00" * 32, tenant_id=None, scopes=frozenset({"proxy"}), tags={"a": "b"})
        },
        tenants={
            tenant_id: TenantRecord(tenant_id=tenant_id, status="active", account_sid="AC" + "0" * 32)
            for tenant_id in tenant_ids
        },
    )


def test_what_was_written_is_read_again(tmp_path):
    file = SnapshotFile(tmp_path / "snapshot.json")

    snapshot.write(tmp_path / "snapshot.json", holding("acme", "other"))

    assert file.refresh()
    assert file.current == holding("acme", "other")


@pytest.mark.parametrize("how", RequestTags)
def test_what_tags_a_tenant_s_calls_is_written_where_something_does(tmp_path, how):
    path = tmp_path / "snapshot.json"
    held = holding("acme")
    tagged = {"acme": msgspec.structs.replace(held.tenants["acme"], request_tags=how)}
    snapshot.write(path, msgspec.structs.replace(held, tenants=tagged))
    file = SnapshotFile(path)
    file.refresh()

    assert file.current.tenants["acme"].request_tags is how
    assert (b"request_tags" in path.read_bytes()) is (how is not RequestTags.OFF)


def test_before_there_is_a_file_nobody_is_known(tmp_path):
    file = SnapshotFile(tmp_path / "snapshot.json")

    assert not file.refresh()
    assert file.current is snapshot.EMPTY


def test_a_file_that_did_not_change_is_not_read_again(tmp_path):
    file = SnapshotFile(tmp_path / "snapshot.json")
    snapshot.write(tmp_path / "snapshot.json", holding("acme"))
    file.refresh()
    before = file.current

    assert not file.refresh()
    assert file.current is before


def test_a_change_of_the_same_size_in_the_same_instant_is_seen(tmp_path):
    """Guards the inode in the file's identity: size and time alone are the same for both states."""
    path = tmp_path / "snapshot.json"
    file = SnapshotFile(path)
    snapshot.write(path, holding("acme"))
    file.refresh()
    moment = path.stat().st_mtime_ns

    snapshot.write(path, holding("emca"))
    os.utime(path, ns=(moment, moment))

    assert file.refresh()
    assert list(file.current.tenants) == ["emca"]


def test_only_its_owner_may_read_it(tmp_path):
    """Guards the mode: it names every tenant and seals their credentials."""
    previous = os.umask(0)
    try:
        snapshot.write(tmp_path / "snapshot.json", holding("acme"))
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "snapshot.json").stat().st_mode) == 0o600


def test_a_reader_never_sees_half_a_state(tmp_path):
    """Guards writing by renaming: written in place, a reader finds a torn file."""
    path = tmp_path / "snapshot.json"
    states = [holding(*(f"tenant-{n}" for n in range(size))) for size in (300, 1)]
    snapshot.write(path, states[0])
    done = threading.Event()

    def write():
        for turn in range(150):
            snapshot.write(path, states[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    file = SnapshotFile(path)
    while not done.is_set():
        if file.refresh():
            seen.append(len(file.current.tenants))
    writer.join()

    assert seen
    assert set(seen) <= {1, 300}


def test_a_file_that_makes_no_sense_leaves_the_last_state_in_force(tmp_path):
    path = tmp_path / "snapshot.json"
    file = SnapshotFile(path)
    snapshot.write(path, holding("acme"))
    file.refresh()

    path.write_bytes(b'{"version":')

    with pytest.raises(ValueError, match="truncated"):
        file.refresh()
    assert list(file.current.tenants) == ["acme"]
