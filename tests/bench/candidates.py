"""What is measured, in the order of the tables: each candidate, and what it is given to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench import peers
from tests.bench.gateways import tollkeeper
from tests.bench.recipes import Recipe
from tests.bench.world import World

CHAT, STREAM, RATE, HELD = "chat", "stream", "rate", "booking held"
"""Chat completions as fast as they are answered; streamed ones; chat completions at a fixed rate; the same while the back
office and with it the database rest, as if they were on another machine: what was recorded is booked afterwards."""

DIRECT, NGINX, ENVOY, AIOHTTP = "direct", "nginx", "envoy", "aiohttp"
SQLITE, POSTGRES, TWO_WORKERS, SOURCE = "tollkeeper-sqlite", "tollkeeper", "tollkeeper-2", "tollkeeper-source"
NGINX_HTTPS, HTTPS = "nginx-https", "tollkeeper-https"
INGEST = "ingest"
"""No candidate: how fast the ledger is written, with nobody calling."""
OUTAGES = "outages"
"""None either: what callers notice of a database that is slow, silent or gone."""
LITELLM, PORTKEY, TENSORZERO = "litellm", "portkey", "tensorzero"


class Candidate(NamedTuple):
    """One row of the tables."""

    prepare: Callable[[Path, World], Recipe]
    """Given a directory of its own. Raises Missing or Failed."""
    what: str
    works: tuple[str, ...] = (CHAT, STREAM)
    first_calls: int = 4000
    """Made before the first round: they warm the candidate up and tell how many calls a sample needs."""
    ours: bool = False


CANDIDATES = {
    DIRECT: Candidate(peers.direct, "no proxy; its CPU time is the upstream's own", (CHAT, STREAM, RATE)),
    NGINX: Candidate(peers.nginx, "plain `proxy_pass`, 1 worker; streams unbuffered", (CHAT, STREAM, RATE)),
    ENVOY: Candidate(peers.envoy, "one plain route, 1 worker thread", (CHAT, STREAM, RATE)),
    AIOHTTP: Candidate(peers.plain_aiohttp, "server and ClientSession as in the manual, uvloop"),
    SQLITE: Candidate(partial(tollkeeper, workers=None), "one process, ledger on SQLite", ours=True),
    POSTGRES: Candidate(
        partial(tollkeeper, workers=1), "1 worker, ledger on Postgres", (CHAT, STREAM, RATE, HELD), ours=True
    ),
    TWO_WORKERS: Candidate(partial(tollkeeper, workers=2), "2 workers, ledger on Postgres", ours=True),
    SOURCE: Candidate(
        partial(tollkeeper, workers=1, source=True),
        "the same as tollkeeper, from its sources",
        (CHAT, STREAM),
        ours=True,
    ),
    NGINX_HTTPS: Candidate(partial(peers.nginx, tls=True), "plain `proxy_pass https`, 1 worker", (CHAT,)),
    HTTPS: Candidate(
        partial(tollkeeper, workers=1, tls=True), "1 worker, ledger on Postgres, TLS upstream", (CHAT,), ours=True
    ),
    TENSORZERO: Candidate(peers.tensorzero, "observability off", (CHAT,), 1000),
    PORTKEY: Candidate(peers.portkey, "keeps nothing", (CHAT,), 400),
    LITELLM: Candidate(peers.litellm, "1 worker, no database, one key for all", (CHAT,), 100),
}
