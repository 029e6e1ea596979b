"""No dependency is below what its known holes ask for: a table of our own, which answers where an auditor has no data.

An auditor that finds nothing and an auditor that knows nothing give the same answer, so the table is first held against a
lock that is known to be bad.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "tests/requirements.lock", ".bootstrap.lock")

FIXES = {
    "aiohttp": {
        "3.7.4": ("CVE-2021-21330",),
        "3.8.0": ("CVE-2023-47641",),
        "3.8.5": ("CVE-2023-37276",),
        "3.8.6": ("CVE-2023-47627", "GHSA-pjjw-qhg8-p2p9"),
        "3.9.0": ("CVE-2023-49081", "CVE-2023-49082"),
        "3.9.2": ("CVE-2024-23334", "CVE-2024-23829"),
        "3.9.4": ("CVE-2024-27306", "CVE-2024-30251"),
        "3.10.2": ("CVE-2024-42367",),
        "3.10.11": ("CVE-2024-52303", "CVE-2024-52304"),
        "3.12.14": ("CVE-2025-53643",),
        "3.13.3": tuple(f"CVE-2025-{number}" for number in range(69223, 69231)),
        "3.13.4": (
            "CVE-2026-22815",
            *(f"CVE-2026-{number}" for number in range(34513, 34521)),
            "CVE-2026-34525",
        ),
        "3.14.0": ("CVE-2026-34993", "CVE-2026-47265", "CVE-2026-50269"),
        "3.14.1": tuple(f"CVE-2026-{number}" for number in range(54273, 54281)),
        "3.14.2": ("CVE-2026-59881", "CVE-2026-69243"),
        "3.14.3": ("CVE-2026-69244",),
        "3.14.4": ("GHSA-2g87-pp6c-29x5",),
        "3.14.5": ("GHSA-494j-54xm-rwp3", "GHSA-5wr8-gcqf-gqf3"),
    },
    "brotli": {"1.2.0": ("CVE-2025-6176",)},
    "cryptography": {
        "46.0.5": ("CVE-2026-26007",),
        "46.0.6": ("CVE-2026-34073",),
        "46.0.7": ("CVE-2026-39892",),
        "48.0.1": ("GHSA-537c",),
        "49.0.0": ("CVE-2026-69248", "CVE-2026-69249"),
        "50.0.0": ("CVE-2026-69247",),
    },
    "gunicorn": {"23.0.0": ("CVE-2024-1135", "CVE-2024-6827")},
    "h11": {"0.16.0": ("CVE-2025-43859",)},
    "jinja2": {"3.1.6": ("CVE-2025-27516",)},
    "multidict": {"6.3.3": ("6.3.2 was withdrawn: it leaks memory",)},
    "orjson": {"3.9.15": ("CVE-2024-27454",), "3.11.6": ("CVE-2025-67221",)},
    "python-multipart": {"0.0.27": ("CVE-2026-42561",)},
}
"""By package and the first version that has the fix: what is wrong before it."""

FLOORS = {name: max(Version(fixed) for fixed in fixes) for name, fixes in FIXES.items()}

NEEDED = {"aiohttp", "brotli", "cryptography", "h11", "multidict"}
"""Of these packages, those that the gateway runs on: a lock in which they are not found was not understood."""


def pinned(lock: str) -> list[tuple[str, Version]]:
    """Every package of a lock with its version. Raises ValueError at a line that is none."""
    found = []
    for line in lock.splitlines():
        if not line.strip() or line.startswith(("#", "    --hash=")):
            continue
        matched = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; .+?)?(?: \\)?", line)
        if matched is None:
            raise ValueError(line)
        found.append((canonicalize_name(matched[1]), Version(matched[2])))
    return found


def holes(lock: str) -> list[str]:
    """What is known to be wrong with the packages of a lock, one sentence each."""
    return [
        f"{name} {at}: {advisory}, fixed in {fixed}"
        for name, at in pinned(lock)
        for fixed, advisories in FIXES.get(name, {}).items()
        if at < Version(fixed)
        for advisory in advisories
    ]


def declared() -> dict[str, Requirement]:
    """What the product says it needs, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonicalize_name((needed := Requirement(text)).name): needed for text in project["dependencies"]}


def test_a_lock_that_is_known_to_be_bad_is_reported():
    found = holes("aiohttp==3.9.1 \\\n    --hash=sha256:00\nattrs==26.1.0\n")

    assert "aiohttp 3.9.1: CVE-2024-23334, fixed in 3.9.2" in found
    assert "aiohttp 3.9.1: GHSA-5wr8-gcqf-gqf3, fixed in 3.14.5" in found
    assert not any("CVE-2023-49081" in hole for hole in found)
    assert len(found) == sum(
        len(FIXES["aiohttp"][fixed]) for fixed in FIXES["aiohttp"] if Version(fixed) > Version("3.9.1")
    )


@pytest.mark.parametrize("name", FIXES)
def test_of_every_package_the_version_before_its_floor_is_reported_and_the_floor_is_not(name):
    floor = FLOORS[name]

    assert holes(f"{name}=={floor}.dev1")
    assert holes(f"{name}=={floor}") == []


@pytest.mark.parametrize("line", ["aiohttp", "aiohttp>=3.9.1", "aiohttp @ file:///aiohttp.whl", "-r more.lock"])
def test_a_lock_that_is_not_understood_is_no_good_lock(line):
    with pytest.raises(ValueError, match=r"aiohttp|more"):
        holes(line)


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_in_a_lock_has_a_known_hole(lock):
    assert holes((ROOT / lock).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("lock", ["requirements.lock", "tests/requirements.lock"])
def test_what_the_gateway_runs_on_was_looked_at(lock):
    assert {name for name, _ in pinned((ROOT / lock).read_text(encoding="utf-8"))} >= NEEDED


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_what_is_installed_is_what_the_lock_says(name):
    locked = dict(pinned((ROOT / "requirements.lock").read_text(encoding="utf-8")))

    assert Version(version(name)) == locked[name]


@pytest.mark.parametrize("name", sorted(FLOORS.keys() & declared().keys()))
def test_nobody_can_install_the_gateway_beside_a_version_that_has_a_hole(name):
    needed = declared()[name]
    bounds = [Version(bound.version) for bound in needed.specifier if bound.operator in (">=", "==", "~=")]

    assert bounds
    assert max(bounds) >= FLOORS[name]


def test_the_library_whose_inner_parts_are_used_is_held_to_one_line_of_versions():
    allowed = declared()["aiohttp"].specifier

    assert [text for text in ("3.14.4", "3.14.5", "3.14.99", "3.15.0", "4.0.0") if allowed.contains(text)] == [
        "3.14.5",
        "3.14.99",
    ]
