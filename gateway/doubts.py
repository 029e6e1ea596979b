"""Whose deliveries could not be verified, told by workers to the back office: what they are signed with may be another now.

A doubt is an empty file that has the tenant's name. A worker leaves one with each such delivery, which anybody can send as
often as they like; it is one file all the same, and how soon something follows from it is for the back office to say.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Doubts:
    """The doubts of one installation."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def leave(self, tenant_id: str) -> None:
        """Leave one. Where that can not be, nobody is asked sooner than planned."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._directory / tenant_id, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def take(self) -> frozenset[str]:
        """The tenants in doubt, once."""
        taken = set()
        with suppress(OSError):
            for path in list(self._directory.iterdir()):
                with suppress(OSError):
                    path.unlink()
                    taken.add(path.name)
        return frozenset(taken)
