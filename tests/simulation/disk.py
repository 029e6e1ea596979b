"""A disk that fails as real ones do, under the product's own code.

The files lie in a real directory, so that whatever reads them reads them. What changes them goes through here, as the spool's
`os` and as its paths: each operation may be refused, done in part, or be the last of its process; and of each file is known
which pages the disk really has. So the power can be lost: the directory is made again from what was synced, and from as much
of the rest as chance would have it.

As in Linux, a sync that fails leaves its pages clean: what was in them is on the disk or not, and no later sync of the file
writes them. A directory that could not be synced is no better.
"""

from __future__ import annotations

import errno
import os
from contextvars import ContextVar
from pathlib import Path
from random import Random
from types import SimpleNamespace

from metering.spool import SUFFIX

PAGE_BYTES = 256
"""What the disk writes or does not write: less than most records of this world have."""


class Killed(BaseException):
    """The process ends here."""


class Process:
    """What can be killed, and what it has open. It may be doomed to die at one of its next operations."""

    def __init__(self) -> None:
        self.alive = True
        self.doom: int | None = None
        self.fds: dict[int, tuple[str, File | None]] = {}
        """Each with the name it was opened by; directories have no file."""

    def die(self) -> None:
        """As by SIGKILL: what is open is closed, so locks are free, and what was written stays with the system."""
        self.alive = False
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def may_go_on(self) -> bool:
        """Count one operation; False where it is the process's last. Raises Killed for those after it."""
        if not self.alive:
            raise Killed
        if self.doom is None:
            return True
        self.doom -= 1
        return self.doom >= 0


ACTOR: ContextVar[Process] = ContextVar("actor")
"""The process whose code runs."""


class File:
    """What the system has of a file, and what the disk has of it."""

    def __init__(self, durable: bytes = b"") -> None:
        self.content = bytearray(durable)
        self.durable = bytearray(durable)
        self.dirty: set[int] = set()
        """Pages that a sync would write."""

    def resize(self, size: int) -> None:
        self.content = self.content[:size].ljust(size, b"\0")

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        self.resize(max(len(self.content), end))
        self.content[offset:end] = data
        self.dirty.update(range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)))

    def write_back(self, share: float, chance: Random) -> None:
        """Have the disk write that share of the dirty pages. None is dirty then."""
        self.durable = self.durable[: len(self.content)].ljust(len(self.content), b"\0")
        for page in sorted(self.dirty):
            if share == 1 or chance.random() < share:
                extent = slice(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(self.content)))
                self.durable[extent] = self.content[extent]
        self.dirty.clear()

    def after_power_loss(self, chance: Random) -> bytes:
        """What is there when the machine is on again: any part of what was not synced, page by page, some of them torn."""
        sizes = sorted((len(self.durable), len(self.content)))
        size = chance.choice([*sizes, chance.randint(*sizes)])
        image = self.durable[:size].ljust(size, b"\0")
        share = chance.choice([0, 0.3, 0.7, 1])
        for page in sorted(self.dirty):
            start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size, len(self.content))
            if start < end and chance.random() < share:
                if chance.random() < 0.2:
                    start, end = sorted((chance.randint(start, end), chance.choice([start, end])))
                image[start:end] = self.content[start:end]
        return bytes(image)


class Disk:
    """One directory, and the operations of `os` that the spool asks of it."""

    def __init__(self, root: Path, chance: Random, now_s, watch) -> None:
        """`watch` is told the name of a file before it is written."""
        self.root = root
        self.os = SimpleNamespace(
            **{name: getattr(os, name) for name in dir(os) if name.startswith("O_")},
            strerror=os.strerror,
            **{name: getattr(self, name) for name in OPERATIONS},
        )
        """What stands for `os`: what is not here, the spool does not ask."""
        self.odds: dict[str, float] = {}
        """How likely each operation is to be refused."""
        self.next_fails: str | None = None
        """The operation that is refused once, when it comes."""
        self.torn = False
        """A part of a record may have stayed at the end of a segment."""
        self.discarded = False
        """A segment was deleted."""
        self._chance = chance
        self._now_s = now_s
        self._watch = watch
        self._changed_ns = 0
        self._files: dict[str, File] = {}
        self._durable: dict[str, File] = {}
        """What the disk has of the directory."""
        self._lost: set[str] = set()
        """Names whose last change a failed sync of the directory has left off the disk."""

    # -----------------------------------------------------------------------------------------------------------------
    # What the world does to it

    def refuses_nothing(self) -> None:
        self.odds.clear()
        self.next_fails = None

    def content(self, name: str) -> bytes:
        return bytes(self._files[name].content)

    def names(self) -> list[str]:
        return sorted(self._files)

    def put(self, name: str, content: bytes) -> None:
        """Have a file hold this, as if somebody had copied it there or cut it."""
        if (file := self._files.get(name)) is None:
            file = self._files[name] = self._durable[name] = File()
            self._directory_changes()
        file.content, file.durable = bytearray(content), bytearray(content)
        file.dirty.clear()
        # As it is, if it is there: somebody may have it open.
        with (self.root / name).open("r+b" if (self.root / name).exists() else "wb") as real:
            real.truncate(len(content))
            real.write(content)
            self._date(real.fileno())

    def lose_power(self) -> None:
        """All processes are dead. Of what was synced everything is there again, and any part of the rest."""
        images: dict[str, bytes] = {}
        for name in sorted(self._files.keys() | self._durable.keys()):
            file = self._chance.choice([self._files.get(name), self._durable.get(name)])
            if file is not None:
                images[name] = file.after_power_loss(self._chance)
        for path in self.root.iterdir():
            path.unlink()
        self._files.clear()
        self._durable.clear()
        self._lost.clear()
        for name, content in images.items():
            self.put(name, content)

    # -----------------------------------------------------------------------------------------------------------------
    # What is asked of it as `os`

    def open(self, path: Path | str, flags: int, mode: int = 0o777) -> int:
        path = Path(path)
        creates = bool(flags & os.O_CREAT)
        self._begins("create" if creates else "open", errno.ENOSPC if creates else errno.EMFILE)
        fd = os.open(path, flags, mode)
        file = self._files.get(path.name)
        if creates and (file is None or flags & os.O_TRUNC):
            file = File()
            self._names(path.name, file)
        ACTOR.get().fds[fd] = (path.name, file)
        return fd

    def dup(self, fd: int) -> int:
        self._begins("dup", errno.EMFILE)
        fds = ACTOR.get().fds
        twin = os.dup(fd)
        fds[twin] = fds[fd]
        return twin

    def close(self, fd: int) -> None:
        self._begins("close")
        del ACTOR.get().fds[fd]
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._begins("pread")
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Where it is refused, or never returns, it may have done nothing, a part or all of it; or it tells of a part."""
        failure = self._failure("pwrite", self._chance.choice([errno.EIO, errno.ENOSPC]))
        name, file = ACTOR.get().fds[fd]
        self._watch(name)
        done = data
        if failure is not None:
            self.torn = True
            done = data[: self._chance.choice([0, self._chance.randrange(len(data)), len(data)])]
        os.pwrite(fd, done, offset)
        file.write(done, offset)
        self._date(fd)
        if failure is not None and (isinstance(failure, Killed) or done == data or self._chance.random() < 0.5):
            self._fails(failure)
        return len(done)

    def posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        self._begins("allocate", errno.ENOSPC)
        os.posix_fallocate(fd, offset, size)
        file = ACTOR.get().fds[fd][1]
        file.resize(max(size, len(file.content)))

    def ftruncate(self, fd: int, size: int) -> None:
        self._begins("ftruncate")
        name, file = ACTOR.get().fds[fd]
        self._watch(name)
        os.ftruncate(fd, size)
        file.resize(size)

    def fsync(self, fd: int) -> None:
        failure = self._failure("sync", errno.EIO)
        _, file = ACTOR.get().fds[fd]
        if file is not None:
            file.write_back(1 if failure is None else 0.3, self._chance)
        else:
            changed = {
                name
                for name in self._files.keys() | self._durable.keys()
                if self._files.get(name) is not self._durable.get(name)
            }
            if failure is not None:
                self._lost |= changed
            for name in changed - self._lost:
                if name in self._files:
                    self._durable[name] = self._files[name]
                else:
                    del self._durable[name]
        if failure is not None:
            self._fails(failure)

    fdatasync = fsync

    def truncate(self, path: Path, size: int) -> None:
        self._begins("truncate")
        os.truncate(path, size)
        self._files[path.name].resize(size)

    def statvfs(self, path: Path) -> SimpleNamespace:
        """Mostly there is room; where there is none, whoever asks lets go of what the ledger has."""
        return SimpleNamespace(f_frsize=1, f_bavail=0 if self._chance.random() < 0.05 else 1 << 40)

    def stat(self, path: Path) -> SimpleNamespace:
        """Of the directory."""
        assert path == self.root
        return SimpleNamespace(st_mtime_ns=self._changed_ns)

    def utime(self, path: Path, ns: tuple[int, int]) -> None:
        self._begins("utime")
        os.utime(path, ns=ns)

    # -----------------------------------------------------------------------------------------------------------------
    # What is asked of it by way of paths

    def rename(self, path: Path, target: Path) -> None:
        self._begins("rename")
        self._watch(path.name)
        os.rename(path, target)  # noqa: PTH104 - the path's own method comes here
        self._names(target.name, self._files[path.name])
        self._names(path.name, None)

    def unlink(self, path: Path) -> None:
        self._begins("unlink")
        os.unlink(path)  # noqa: PTH108 - the path's own method comes here
        self._names(path.name, None)
        self.discarded |= path.suffix == SUFFIX

    def touch(self, path: Path, mode: int) -> None:
        self._begins("create")
        os.close(os.open(path, os.O_CREAT, mode))
        if path.name not in self._files:
            self._names(path.name, File())

    # -----------------------------------------------------------------------------------------------------------------

    def _directory_changes(self) -> None:
        # The clock of file systems ticks more slowly than ours.
        self._changed_ns = int(self._now_s() * 100) * 10_000_000

    def _names(self, name: str, file: File | None) -> None:
        self._directory_changes()
        self._lost.discard(name)
        if file is None:
            del self._files[name]
        else:
            self._files[name] = file

    def _failure(self, operation: str, code: int = errno.EIO) -> BaseException | None:
        if not ACTOR.get().may_go_on():
            return Killed()
        if self.next_fails == operation:
            self.next_fails = None
        elif operation not in self.odds or self._chance.random() >= self.odds[operation]:
            return None
        return OSError(code, os.strerror(code))

    @staticmethod
    def _fails(failure: BaseException) -> None:
        if isinstance(failure, Killed):
            ACTOR.get().die()
        raise failure

    def _begins(self, operation: str, code: int = errno.EIO) -> None:
        if (failure := self._failure(operation, code)) is not None:
            self._fails(failure)

    def _date(self, fd: int) -> None:
        now_s = self._now_s()
        os.utime(fd, (now_s, now_s))


OPERATIONS = (
    *("open", "close", "dup", "pread", "pwrite", "posix_fallocate", "ftruncate", "fsync", "fdatasync"),
    *("truncate", "utime", "statvfs", "stat"),
)

REFUSED = ("create", "open", "dup", "pread", "pwrite", "allocate", "ftruncate", "sync", "truncate", "rename", "unlink")
"""What the disk may refuse."""


class DiskPath(type(Path())):  # type: ignore[misc]
    """A path in the directory of the disk that the world has at the moment."""

    disk: Disk

    def rename(self, target):
        self.disk.rename(self, target)

    def unlink(self, missing_ok=False):  # noqa: FBT002 - the standard library's
        try:
            self.disk.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def touch(self, mode=0o666, exist_ok=True):  # noqa: FBT002 - the standard library's
        self.disk.touch(self, mode)

    def iterdir(self):
        # Real directories have no order; the same seed has.
        return iter(sorted(super().iterdir(), key=lambda path: path.name))
