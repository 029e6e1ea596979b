"""Spools as bytes, and what can happen to bytes on a disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from metering.spool import LOCK_SUFFIX, segment_path
from metering.spool_records import HEADER_BYTES, RecordKind, encode, seed_of

PAGE_BYTES = 4096


class Written(NamedTuple):
    """A spool as its worker wrote it."""

    spool_id: str
    segments: dict[int, bytes]
    records: dict[int, tuple[int, bytes, int]]
    """Kind, payload and intent by sequence."""
    encoded: dict[int, bytes]


def written(spool_id: str, chance: Random, payloads: Sequence[tuple[RecordKind, bytes, int]]) -> Written:
    """Records in one to four segments. Some begin with copies of the last records, as after a refusal of the disk."""
    seed = seed_of(spool_id)
    encoded = {
        sequence: encode(kind, sequence, said, of, seed) for sequence, (kind, said, of) in enumerate(payloads, 1)
    }
    cuts = sorted(chance.randint(0, len(payloads)) for _ in range(chance.randrange(4)))
    segments = {}
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(payloads)], strict=True)):
        first = max(0, start - chance.choice([0, 0, 0, 2]))
        begun = encode(RecordKind.BEGUN, first, b"", number, seed)
        segments[number] = begun + b"".join(encoded[sequence] for sequence in range(first + 1, end + 1))
    if chance.random() < 0.5:
        # The worker lived, or was killed: its last segment is as long as it was made.
        segments[max(segments)] += bytes(chance.choice([50, 5_000]))
    return Written(spool_id, segments, {at: (*one,) for at, one in enumerate(payloads, 1)}, encoded)


def noted(chance: Random, count: int, bytes_max: int) -> list[tuple[RecordKind, bytes, int]]:
    """Contents that mean nothing, of many lengths."""
    kinds = [RecordKind.INTENT, RecordKind.OUTCOME, RecordKind.CLOSED]
    sizes = [0, 1, 30, 300, bytes_max - HEADER_BYTES]
    return [
        (
            chance.choice(kinds),
            chance.randbytes(min(chance.choice(sizes), bytes_max - HEADER_BYTES)),
            chance.randrange(9),
        )
        for _ in range(count)
    ]


def corrupted(
    segments: dict[int, bytes], others: Sequence[bytes], chance: Random
) -> tuple[dict[int, bytes], list[str]]:
    """The segments after one to four accidents, and their names. `others` are segments of other spools."""
    segments = dict(segments)
    done = []
    for _ in range(chance.choice([1, 1, 1, 2, 3, 4])):
        what = chance.choice(ACCIDENTS)
        done.append(what)
        if not segments:
            continue
        number = chance.choice(sorted(segments))
        data = segments[number]
        at = chance.randrange(len(data) + 1)
        size = chance.choice([1, 2, 28, 100, 1_000, PAGE_BYTES, chance.randrange(3 * PAGE_BYTES)])
        new = chance.choice([max(segments) + 1, max(segments) + 2, chance.randrange(max(segments) + 1)])
        match what:
            case "flip a bit":
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :] if data else data
            case "overwrite a range":
                noise = chance.randbytes(len(data[at : at + size]))
                data = data[:at] + noise + data[at + size :]
            case "zero a range":
                data = data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
            case "cut a range out":
                data = data[:at] + data[at + size :]
            case "insert noise":
                data = data[:at] + chance.randbytes(size) + data[at:]
            case "insert a copy":
                other = segments[chance.choice(sorted(segments))]
                of = chance.randrange(len(other) + 1)
                data = data[:at] + other[of : of + size] + data[at:]
            case "swap pages":
                pages = [data[start : start + PAGE_BYTES] for start in range(0, len(data), PAGE_BYTES)]
                if pages:
                    one, two = chance.randrange(len(pages)), chance.randrange(len(pages))
                    pages[one], pages[two] = pages[two], pages[one]
                data = b"".join(pages)
            case "truncate":
                data = data[:at]
            case "copy a file":
                segments[new] = data
                continue
            case "another spool's file":
                segments[new] = chance.choice(others)
                continue
            case "an empty file":
                segments[new] = b""
                continue
            case "lose a file":
                del segments[number]
                continue
        segments[number] = data
    return segments, done


ACCIDENTS = (
    *("flip a bit", "overwrite a range", "zero a range", "cut a range out", "insert noise", "insert a copy"),
    *("swap pages", "truncate", "copy a file", "another spool's file", "an empty file", "lose a file"),
)


def put(directory: Path, spool_id: str, segments: dict[int, bytes]) -> None:
    """The files of a worker that is gone."""
    for number, data in segments.items():
        segment_path(directory, spool_id, number).write_bytes(data)
    (directory / (spool_id + LOCK_SUFFIX)).touch()
