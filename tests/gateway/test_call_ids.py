"""Ids of our own making."""

import os
import subprocess
import sys
import uuid

from gateway.call_ids import new_call_id


def test_an_id_is_a_uuid_of_version_7():
    for _ in range(1000):
        found = uuid.UUID(new_call_id())

        assert (found.version, found.variant) == (7, uuid.RFC_4122)


def test_an_id_begins_with_its_moment_so_that_ids_sort_by_time():
    moments = [0, 1, 255, 1_700_000_000_000, 1_700_000_000_001, (1 << 48) - 1]

    ids = [new_call_id(moment) for moment in moments]

    assert ids == sorted(ids)
    assert [int(made.replace("-", "")[:12], 16) for made in ids] == moments


def test_no_two_ids_of_one_moment_are_the_same():
    assert len({new_call_id(1_700_000_000_000) for _ in range(10_000)}) == 10_000


FORKING = """
import os
from gateway.call_ids import new_call_id

new_call_id()
forked = os.fork()
ids = "".join(f"{new_call_id(1_700_000_000_000)}\\n" for _ in range(300))
os.write(1, ids.encode())
if forked:
    os.waitpid(forked, 0)
"""


def test_a_forked_process_makes_other_ids_than_its_parent():
    """Guards register_at_fork: what the parent drew and did not use would be used by each of its workers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    told = subprocess.run(
        (sys.executable, "-c", FORKING), env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    assert len(set(told.stdout.split())) == 600
