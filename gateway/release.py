"""Which release this is, and in which form it runs."""

from __future__ import annotations

from importlib.util import find_spec

DISTRIBUTION = "tollkeeper"

NOT_INSTALLED = "0+unknown"
"""The version of a copy of the source that runs without having been installed."""


def installed_version() -> str:
    """The version of the distribution."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a fifth of a short command's time

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return NOT_INSTALLED


def is_compiled() -> bool:
    """True where the path of a call runs compiled (hatch_build.py), and false where it runs from its sources."""
    found = find_spec("gateway.strand")
    return found is not None and found.origin is not None and not found.origin.endswith(".py")
