"""What the short form of the chaos suite kills."""

from __future__ import annotations

from collections import Counter

from tests.chaos.points import POINTS
from tests.chaos.run import VARIANTS, Variant, points_of, shares
from tests.chaos.short import KILLS, SEED, kills_of


def test_every_named_point_is_killed_at_once_and_something_of_every_kind_at_random():
    """Guards the choice of points: with a share left out, or one that is given twice, the counts differ."""
    kills = Counter(kill.what for variant in VARIANTS for kill in kills_of(variant))

    assert kills.total() == KILLS == 60
    assert {name: kills.pop(name) for name in POINTS} == dict.fromkeys(POINTS, 1)
    assert set(kills) == {"worker", "office", "group", "one"}
    assert min(kills.values()) >= 5


def test_every_point_is_one_of_some_installation_that_passes_it():
    for variant, names in shares(SEED).items():
        assert set(names) <= set(points_of(variant))


def test_the_same_seed_kills_the_same_in_the_same_order():
    variant = Variant("postgres", fsync=True)

    assert kills_of(variant) == kills_of(variant)
    assert kills_of(variant, seed=2) != kills_of(variant, seed=3)
