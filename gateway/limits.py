"""What the edge grants: to clients, and to providers, in time, bytes and numbers. Each is a setting. Pure."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")
"""The deadline of a connection that waits for nothing of its peer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What one worker grants to its clients. Whoever exceeds a time or a rate loses the connection; a call that is
    already with the provider goes on and is metered."""

    connections_max: int = 12_288
    """Open connections of one worker, TLS handshakes included. Further ones are closed at once: a client that hangs is
    worse off than one that is told. 10,000 idle ones take at most 100 MiB; with a call on each of the next they stay below
    20,000 open files, which is what modest systems allow (:mod:`gateway.open_files` sees to it)."""
    calls_max: int = 4_096
    """Calls under way in one worker. Further ones are refused with 503 and `Retry-After`."""
    lag_max_s: float = 0.25
    """So long a worker may be behind with what has arrived; while it is longer behind, new calls are refused with 503 and
    `Retry-After`, since answers that come too late are asked for again."""
    head_timeout_s: float = 10.0
    """A request head takes no longer than this from its first byte to its last: it fits into a few packets."""
    keepalive_timeout_s: float = 75.0
    """A connection on which no request is under way is closed after this time, as common servers do."""
    body_idle_timeout_s: float = 10.0
    """While a request body is awaited, so long may pass without a byte of it."""
    body_rate_min: int = 256
    """Bytes a second that a request body must come with, on average over each `body_idle_timeout_s`; less than a
    tenth of what a telephone modem gave."""
    write_idle_timeout_s: float = 10.0
    """While an answer waits for its reader, so long may pass without the reader taking `body_rate_min` bytes a second."""
    held_mib_max: int = 256
    """So many MiB of request bodies one worker holds: of those that must be read before they are sent, until the provider
    has taken them. All tenants share them, and one has half of them at most. A call that would need more is refused with
    503 and `Retry-After`, unless its body is brief."""
    linger_s: float = 2.0
    """A client that was refused while it was still sending is listened to so long, so that it hears the refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamLimits:
    """What one worker grants to providers."""

    connect_timeout_s: float = 10.0
    """Longer than two retransmissions of a lost SYN, shorter than the patience of any SDK."""
    first_byte_timeout_s: float = 900.0
    """Until the head of the answer. A reasoning model thinks for minutes before it says a word; SDKs give up after 600 s."""
    idle_timeout_s: float = 600.0
    """Between two pieces of an answer, and between two pieces of a request body that the provider takes. There is no limit
    on the whole: streams run for as long as they run."""
    keepalive_timeout_s: float = 15.0
    """A connection unused for longer is not used again: the longer it lies, the likelier the provider has just closed it."""
    idle_connections_max: int = 512
    """Connections kept for each host; beyond it, the one that has waited longest is closed."""
