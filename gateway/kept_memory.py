"""Memory that one batch has used stays with the process for the next one, where the C library can be told to.

By itself, that of the GNU system gives memory back as soon as a batch is over, and asks for it again page by page: nearly two
faults for each event that is booked, and a fifth of all CPU time (measured). Other libraries do as they do.
"""

from __future__ import annotations

from typing import Final

KEPT_BYTES_MAX: Final = 64 << 20
"""More than this that is free at the end of the heap is given back. Three batches hold some 30 MB."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Names of options, as malloc.h has them."""

_MMAP_BYTES: Final = 32 << 20
"""From this size on a block is a mapping of its own, whose pages are never kept. The largest that the library takes."""


def keep_memory() -> None:
    """From here on, keep what was used. Does nothing where the C library has no such option."""
    try:
        import ctypes  # noqa: PLC0415  Only one process asks, and not every Python has it.

        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, ImportError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES_MAX)
