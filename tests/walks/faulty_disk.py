"""The gateway's command, its spool in small segments on a disk that can be told to fail.

As a process: `python -m tests.walks.faulty_disk serve`. A file in the directory `FAULTS` has every call of that name in
`metering.spool` fail, such as `fdatasync`; with `.once` after its name, one call, in whichever process makes it first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.__main__ import main
from metering import spool

SEGMENT_BYTES = "TESTS_SEGMENT_BYTES"
FAULTS = "TESTS_FAULTS"

CALLS = ("pwrite", "fdatasync", "fsync")


def failing(name: str, directory: Path) -> Callable[..., Any]:
    """The system call of that name, which fails while that is asked for."""
    real = getattr(os, name)
    always, once = directory / name, directory / f"{name}.once"

    def call(*arguments: object) -> Any:
        if always.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        with suppress(FileNotFoundError):
            once.unlink()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    return call


if __name__ == "__main__":
    spool.Spool.__init__.__kwdefaults__["segment_bytes"] = int(os.environ[SEGMENT_BYTES])
    faulty = {name: failing(name, Path(os.environ[FAULTS])) for name in CALLS}
    spool.os = SimpleNamespace(**vars(os) | faulty)  # type: ignore[attr-defined]
    main()
