"""Estimates of what calls used whose answers did not say it: what is kept for them, and the process that makes them.

Each worker has a process of its own for that (:mod:`gateway.estimator_process`), started with the first question and ended when
none has come for a while, or with the worker. Where it can not be asked, is too slow or has too much to do, there is no
estimate, and the call is recorded as what it is: unknown.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from gateway.estimator_process import LENGTH, Question
from gateway.providers.api import Estimate, Exchanged
from gateway.telemetry import log

QUESTIONS_MAX: Final = 256
QUESTIONS_BYTES_MAX: Final = 64 << 20
"""So many calls, and so much of them, may wait for their estimates; of more, the use is unknown."""

QUESTION_S: Final = 20
"""What one question may take: to start the process a second or two, to count the largest one three. Then it is stuck."""

RESTART_S: Final = 1
"""After the process has failed, the next is started no sooner."""

IDLE_S: Final = 300
"""With no question for so long, the process is ended and its memory given back."""

REQUEST_BYTES_MAX: Final = 1 << 20
"""A request body up to this size is kept while its answer is under way; a larger one can not be counted."""
ANSWER_BYTES_MAX: Final = 1 << 20
"""Of an answer, no more than this is kept; what follows is taken to be like it."""

FREE_BYTES: Final = 16 << 10
"""So much each call keeps as it likes: about what else there is of a call."""
SHARED_BYTES: Final = 64 << 20
"""So much all calls of a worker may keep beyond that."""
STEP_BYTES: Final = 16 << 10
"""What is beyond is asked for in steps, so that few chunks need to."""

Estimating = Callable[[Exchanged], Estimate | None]


class Allowance:
    """The bytes that the calls of one worker share."""

    __slots__ = ("left",)

    def __init__(self, shared_bytes: int = SHARED_BYTES) -> None:
        self.left = shared_bytes


class Kept:
    """What is kept of one call, by reference: its request, and its answer as it comes, or the beginning."""

    __slots__ = ("_allowance", "_borrowed", "_chunks", "_room", "answer_bytes", "request")

    def __init__(self, request: bytes, allowance: Allowance) -> None:
        self._allowance = allowance
        self._borrowed = 0
        self._chunks: list[bytes] = []
        self.request: bytes | None = request
        """None where it is too large, or too many others are kept."""
        self.answer_bytes = 0
        """How much of the answer has come."""
        self._room = FREE_BYTES - len(request)
        """Up to so many of them are kept."""
        if self._room < 0 and not (len(request) <= REQUEST_BYTES_MAX and self._borrow(-self._room)):
            self.request = None

    def _borrow(self, size: int) -> bool:
        if self._allowance.left < size:
            return False
        self._allowance.left -= size
        self._borrowed += size
        self._room += size
        return True

    def feed(self, chunk: bytes) -> None:
        """See the next bytes of the answer."""
        self.answer_bytes += len(chunk)
        if self.answer_bytes <= self._room:
            self._chunks.append(chunk)
        elif self._room >= 0:
            self._feed_beyond(chunk)

    def _feed_beyond(self, chunk: bytes) -> None:
        short = self.answer_bytes - self._room
        if self.request is not None and self.answer_bytes <= ANSWER_BYTES_MAX and self._borrow(max(short, STEP_BYTES)):
            self._chunks.append(chunk)
        else:
            self._room = -1  # What is kept has no gaps.

    @property
    def answer(self) -> bytes:
        """What is kept of the answer."""
        return b"".join(self._chunks)

    def drop(self) -> None:
        """Let go of it. Called at any time, any number of times; nothing is kept from then on."""
        self._allowance.left += self._borrowed
        self._borrowed = 0
        self._chunks.clear()
        self._room = -1
        self.request = None


class Estimator:
    """Has estimates made."""

    def __init__(self, *, idle_s: float = IDLE_S, question_s: float = QUESTION_S, restart_s: float = RESTART_S) -> None:
        self.allowance = Allowance()
        self._idle_s = idle_s
        self._question_s = question_s
        self._restart_s = restart_s
        self._questions: deque[tuple[bytes, asyncio.Future[Estimate | None]]] = deque()
        self._waiting_bytes = 0
        self._asked = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    async def estimate(
        self, estimating: Estimating, kept: Kept, *, coding: str, streamed: bool, model: str | None, within_s: float
    ) -> Estimate | None:
        """What the call used, or None where that can not be had in time. What is kept is then let go of."""
        if self._closed or kept.request is None or len(self._questions) >= QUESTIONS_MAX:
            return None
        exchanged = Exchanged(
            request=kept.request,
            answer=kept.answer,
            answer_bytes=kept.answer_bytes,
            coding=coding,
            streamed=streamed,
            model=model,
        )
        frame = msgspec.msgpack.encode(Question(f"{estimating.__module__}:{estimating.__qualname__}", exchanged))
        del exchanged
        kept.drop()
        if self._waiting_bytes + len(frame) > QUESTIONS_BYTES_MAX:
            return None
        answer: asyncio.Future[Estimate | None] = asyncio.get_running_loop().create_future()
        self._questions.append((frame, answer))
        self._waiting_bytes += len(frame)
        self._asked.set()
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        with suppress(TimeoutError):
            return await asyncio.wait_for(answer, within_s)
        return None

    async def close(self) -> None:
        """End the process. Whoever waits for an estimate gets none."""
        self._closed = True
        if self._serving is not None:
            self._serving.cancel()
            with suppress(asyncio.CancelledError):
                await self._serving

    async def _serve(self) -> None:
        """Ask one question after the other, until none has come for a while."""
        process: _Process | None = None
        try:
            while await self._next():
                frame, answer = self._questions.popleft()
                self._waiting_bytes -= len(frame)
                if answer.done():
                    continue  # Nobody waits for it any more.
                try:
                    async with asyncio.timeout(self._question_s):
                        if process is not None and process.gone:
                            await process.end()
                            process = None
                        if process is None:
                            process = await _Process.started()
                        found = await process.ask(frame)
                except (OSError, EOFError, TimeoutError, msgspec.DecodeError) as error:
                    log.warning("estimate_failed", error=type(error).__name__)
                    _tell(answer, None)
                    if process is not None:
                        await process.end()
                        process = None
                    await asyncio.sleep(self._restart_s)
                except asyncio.CancelledError:
                    _tell(answer, None)
                    raise
                else:
                    _tell(answer, found)
        finally:
            self._serving = None
            while self._closed and self._questions:
                frame, answer = self._questions.popleft()
                self._waiting_bytes -= len(frame)
                _tell(answer, None)
            if process is not None:
                await process.end()

    async def _next(self) -> bool:
        """Wait for a question; False if none comes for a while."""
        try:
            async with asyncio.timeout(self._idle_s):
                while not self._questions:
                    self._asked.clear()
                    await self._asked.wait()
        except TimeoutError:
            return bool(self._questions)
        return True


def _tell(answer: asyncio.Future[Estimate | None], found: Estimate | None) -> None:
    if not answer.done():
        answer.set_result(found)


class _Process:
    """The process that counts."""

    def __init__(self, popen: subprocess.Popen[bytes], reader: StreamReader, writer: StreamWriter) -> None:
        self._popen = popen
        self._reader = reader
        self._writer = writer

    @classmethod
    async def started(cls) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = await asyncio.to_thread(_spawned, theirs.fileno())
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(popen, reader, writer)

    @property
    def gone(self) -> bool:
        return self._reader.at_eof()

    async def ask(self, frame: bytes) -> Estimate | None:
        """Raises OSError, EOFError or msgspec.DecodeError where the process does not answer as it should."""
        self._writer.write(LENGTH.pack(len(frame)))
        self._writer.write(frame)
        await self._writer.drain()
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return msgspec.msgpack.decode(await self._reader.readexactly(length), type=Estimate | None)

    async def end(self) -> None:
        """It has nothing to lose."""
        self._writer.close()
        self._popen.kill()
        await asyncio.to_thread(self._popen.wait)


def _spawned(descriptor: int) -> subprocess.Popen[bytes]:
    """A process with the code of this one, and of all else of this one nothing: no files, no environment, no terminal."""
    return subprocess.Popen(  # noqa: S603  Nothing of it comes from outside.
        [sys.executable, "-P", "-m", "gateway.estimator_process", str(descriptor)],
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )
