"""The process that makes estimates for a worker, and ends with it: `python -m gateway.estimator_process FD`.

A tokenizer takes 80 MiB, a second to load and a second for a megabyte of text, so none of it happens in a worker. What is
to be counted comes through a socket, and numbers go back; nothing of it is written anywhere.

Both sides send frames: four bytes that say how long it is, most significant first, then MessagePack.
"""

from __future__ import annotations

import importlib
import socket
import struct
import sys
from typing import BinaryIO

import msgspec

from gateway.providers.api import CanNotCount, Estimate, Exchanged

LENGTH = struct.Struct("!I")


class Question(msgspec.Struct, frozen=True):
    """What a worker wants to know."""

    function: str
    """`module:name` of what makes the estimate."""
    exchanged: Exchanged


def answered(frame: bytes) -> Estimate | None:
    """The answer to a question, None where there is none. Raises CanNotCount."""
    question = msgspec.msgpack.decode(frame, type=Question)
    module, _, name = question.function.partition(":")
    estimate = getattr(importlib.import_module(module), name)
    try:
        found = estimate(question.exchanged)
    except CanNotCount:
        raise
    except Exception:  # noqa: BLE001  What applications and providers send can be anything; the next question is another.
        return None
    assert found is None or isinstance(found, Estimate)
    return found


def _read(file: BinaryIO) -> bytes | None:
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    frame = file.read(length)
    return frame if len(frame) == length else None


def main(descriptor: int) -> None:
    """Answer questions until whoever asks is gone."""
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as questions:
        while (frame := _read(questions)) is not None:
            answer = msgspec.msgpack.encode(answered(frame))
            connection.sendall(LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
