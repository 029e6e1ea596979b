"""Changes of a directory: none is missed for long, and where there is none nobody lists it."""

from __future__ import annotations

import os

import pytest

from gateway import directory_changes
from gateway.directory_changes import DirectoryChanges

LONG_AGO_NS = 10**18
FOREVER_S = 1e9


@pytest.fixture
def changes(tmp_path):
    return DirectoryChanges(tmp_path, FOREVER_S)


def settled(directory, at_ns=LONG_AGO_NS):
    """Have the last change of a directory be long ago."""
    os.utime(directory, ns=(at_ns, at_ns))


def test_the_first_time_there_may_be_anything_and_then_nothing_new(tmp_path, changes):
    settled(tmp_path)

    assert [changes.any() for _ in range(3)] == [True, False, False]


def test_what_comes_is_renamed_or_goes_is_a_change(tmp_path, changes):
    settled(tmp_path)
    changes.any()
    seen = []
    for change in (
        (tmp_path / "one").touch,
        lambda: (tmp_path / "one").rename(tmp_path / "two"),
        (tmp_path / "two").unlink,
    ):
        change()
        seen.append(changes.any())
        settled(tmp_path, LONG_AGO_NS + len(seen))
        changes.any()
        seen.append(changes.any())

    assert seen == [True, False] * 3


def test_what_changed_a_moment_ago_may_change_again_without_its_showing(tmp_path, changes, monkeypatch):
    """Guards a file that comes within one tick of the file system's clock of another, and after the list was made."""
    settled(tmp_path)
    monkeypatch.setattr(directory_changes.time, "time_ns", lambda: LONG_AGO_NS + 10_000_000)
    lately = [changes.any() for _ in range(3)]
    monkeypatch.setattr(directory_changes.time, "time_ns", lambda: LONG_AGO_NS + 10_000_000_000)

    assert lately == [True, True, True]
    assert [changes.any() for _ in range(3)] == [True, False, False]


def test_after_a_while_it_counts_as_changed_all_the_same(tmp_path):
    settled(tmp_path)
    changes = DirectoryChanges(tmp_path, again_s=0)

    assert [changes.any() for _ in range(3)] == [True, True, True]


def test_a_directory_that_comes_later_is_seen_when_it_is_there(tmp_path):
    changes = DirectoryChanges(tmp_path / "later", FOREVER_S)
    before = [changes.any() for _ in range(2)]
    (tmp_path / "later").mkdir()
    settled(tmp_path / "later")

    assert before == [True, False]
    assert [changes.any() for _ in range(2)] == [True, False]
