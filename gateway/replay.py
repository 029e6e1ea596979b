"""Books a spool once more, from its beginning: for a ledger that was restored from a backup, or damage that was mended.

What the ledger has stays as it is, since the ids come from the records. No position moves and nothing is deleted, so it
does no harm beside the shipper, or twice at once, or when it stops in the middle. A call under way is left to the shipper.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from gateway.shipper import Shipper
from gateway.spool_batches import MISSING, NO_EVENT, UNREADABLE, ReadSpool
from metering import spool_reader
from metering.spool_reader import BEGINNING, Position


class Replayed(msgspec.Struct, frozen=True):
    """What became of a spool's records so far."""

    spool_id: str
    done: bool = False
    """It was read to where it ended."""
    size_bytes: int = 0
    """What it held when the replay began."""
    read_bytes: int = 0
    new: int = 0
    """Events that the ledger lacked."""
    known: int = 0
    conflicting: int = 0
    """Events whose key the ledger has with another content; set aside."""
    not_bookable: int = 0
    """Events that no ledger takes; set aside."""
    unknown: int = 0
    """Calls whose outcome will not come, among the new and the known."""
    unreadable: int = 0
    """Runs of bytes that are no record, and records that are no event; set aside."""


async def replay(shipper: Shipper, spool_id: str) -> AsyncIterator[Replayed]:
    """Book what the ledger lacks of a spool, and say after each batch how far it is. Raises DatabaseUnavailable, OSError.

    A spool that is being written is read to where it ends now: more may be written than is booked.
    """
    directory = shipper.directory
    grows = not spool_reader.abandoned(directory, spool_id)
    contents = await asyncio.to_thread(spool_reader.content_bytes, directory, spool_id)
    end = max((Position(*one) for one in contents.items()), default=BEGINNING)
    spool = _from_beginning(shipper, spool_id, min(contents, default=0))
    so_far = Replayed(spool_id, size_bytes=sum(contents.values()))
    while not so_far.done:
        batch, before = shipper.new_batch(), spool.position
        await shipper.read_on(spool_id, spool, batch)
        # Of what grows, a look may end at a hole.
        ended = (spool.position >= end or spool.position == before) if grows else not batch.full
        # What is gone before it could be read has served its time: no loss.
        aside = [one for one in batch.aside if one.reason != MISSING]
        reasons = Counter(one.reason for one in aside)
        appended = await shipper.book(batch.facts, aside)
        conflicting = sum(len(one.conflicting) for one in appended)
        new = sum(len(one.new) for one in appended)
        known = sum(one.repeated + one.waiting for one in appended)
        at = spool.position
        so_far = Replayed(
            spool_id,
            done=ended,
            size_bytes=so_far.size_bytes,
            read_bytes=sum(held for number, held in contents.items() if number < at.segment) + at.offset,
            new=so_far.new + new,
            known=so_far.known + known,
            conflicting=so_far.conflicting + conflicting,
            not_bookable=so_far.not_bookable + len(batch.facts) - new - known - conflicting,
            unknown=so_far.unknown + batch.left_open,
            unreadable=so_far.unreadable + reasons[UNREADABLE] + reasons[NO_EVENT],
        )
        yield so_far


def _from_beginning(shipper: Shipper, spool_id: str, first: int) -> ReadSpool:
    """The state of somebody who has read nothing of a spool, and misses nothing that is before its first record."""
    position = Position(first, 0)
    records = spool_reader.read(shipper.directory, spool_id, position, 1).records
    return ReadSpool(position, seen=records[0].sequence - 1 if records else 0)
