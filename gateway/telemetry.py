"""The gateway's own log: JSON lines to stdout, readable on a terminal. Not its customers' usage.

No line holds a body, a key, a number or an address. Lines about the process go through structlog; the one line a call
costs is written by :mod:`gateway.access_log` in the same form, because structlog would cost as much as parsing the request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """What is imported meanwhile does without this package, as where it is not installed."""
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # Importing it fails then.
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


# It imports rich where that is installed, for tracebacks that are not used here: 3 MiB in each process of the gateway.
with _absent("rich"):
    import structlog


def configure(*, as_json: bool, level: str) -> None:
    """Set up structlog, and what libraries say through logging, for this process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(
            serializer=lambda value, **_: msgspec.json.encode(value, enc_hook=str).decode()
        )
        if as_json
        # Not with rich's tracebacks, which show what variables hold: bodies and keys among it.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        # It would keep what was configured before a reload.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    # asyncio's reports and aiohttp's tracebacks can quote what came over the wire.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextmanager
def speaking_to_stderr() -> Iterator[None]:
    """Keeps what a command's process says of itself out of the command's answer."""
    before = structlog.get_config()
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


log: structlog.stdlib.BoundLogger = structlog.get_logger()
