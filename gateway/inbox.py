"""What providers delivered for applications and the applications do not have yet: a file for each, sealed.

A worker writes the file, whole, before it answers the provider; the back office delivers it and deletes it. So the death
of either loses nothing, and with `fsync` that of the machine neither. The same delivery is one file, however often and to
however many workers it comes: its id is a keyed hash of what it says.

Nothing of what a delivery says is readable at rest: head and body are sealed for the tenant and for this one file, and a
file's name holds its id alone. A file that can not be read is set aside under another name, where it holds up no other.

Everything that can grow is bounded: beyond so many files or bytes, of one tenant or of all, or where the disk has no more
room than the spools need, nothing more is taken, and the provider is told to come again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.directory_changes import DirectoryChanges
from gateway.keys import NotSealedHere, Secrets
from gateway.telemetry import log

FILES_MAX = 100_000
TENANT_FILES_MAX = 50_000
"""An hour of ten messages a second is 36,000."""

BYTES_MAX = 4 << 30
TENANT_BYTES_MAX = 1 << 30

ROOM_BYTES_MIN = 512 << 20
"""With less room on the disk nothing is taken: the spools need it, and what they can not record is not forwarded."""

BODY_BYTES_MAX = 30 << 20
"""The largest mail that a provider passes on."""

MEASURE_S = 1.0
MEASURE_PART = 0.05
"""How full the inbox is is looked at so often, and never for more than this part of the time. Between two looks a worker
counts what it takes itself, so that several may exceed the bounds by what they take in that time."""

SEARCH_S = 2.0
"""So often it is looked at though no file has come or gone: for what is too old, or could not be looked at before."""

KEPT_S = 72 * 3600
"""What could not be delivered or read for so long is deleted."""

DRAFT_S = 3600
"""A file that was not finished for so long never will be."""

SUFFIX = ".delivery"
DRAFT_SUFFIX = ".new"
UNREADABLE_SUFFIX = ".unreadable"

_MAGIC = b"tollkeeper delivery 1\n"
_LENGTHS = struct.Struct(">BI")
_HEAD_BYTES_MAX = 64 << 10
_TAG_CHARACTERS = 8


class InboxFull(Exception):
    """Nothing more is taken; the message says why."""


class Unreadable(Exception):
    """A file that is no delivery of this installation's, or not a whole one."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery as it came, and how it is to go on."""

    tenant_id: str
    source: str
    """The provider."""
    webhook: str
    """What of it is delivered, by the provider's webhook of that name."""
    order_key: str = ""
    """What it is about: deliveries of one tenant about the same go on in the order in which they came. Empty where order
    does not matter."""
    url: str | None = None
    """Where it goes, where it says so itself; else the tenant's integration does, at the time of the delivery."""
    method: str = "POST"
    media_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Further ones that go on with it."""
    body: bytes = b""
    """Byte for byte; of a GET, its query."""
    identity: bytes | None = None
    """What tells it from any other where that is not its body byte for byte: what is signed of it, for whoever sends a
    delivery again can change the rest."""


class _Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything but the body and the tenant."""

    source: str
    webhook: str
    order_key: str
    url: str | None
    method: str
    media_type: str
    headers: tuple[tuple[str, str], ...]
    received_at_ms: int
    sequence: int


class Waiting(NamedTuple):
    """What is known of a delivery that is in the inbox, without its body."""

    delivery_id: str
    tenant_id: str
    source: str
    webhook: str
    order_key: str
    url: str | None
    received_at_ms: int
    sequence: int
    """Tells those apart that one worker received within a millisecond."""
    size_bytes: int


class Seen(NamedTuple):
    """What is in the inbox."""

    here: frozenset[str]
    """The ids of all deliveries."""
    new: tuple[Waiting, ...]
    """Those that whoever looks does not know yet."""
    unreadable: int
    """Files that are set aside."""


class Inbox:
    """The inbox of an installation. Workers put, the back office takes."""

    def __init__(self, directory: Path, keys: Secrets, now_ms: Callable[[], int], *, fsync: bool) -> None:
        self._directory = directory
        self._changes = DirectoryChanges(directory, SEARCH_S)
        self._keys = keys
        self._now_ms = now_ms
        self._fsync = fsync
        self._sequence = count()
        self._lock = threading.Lock()
        self._files: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        """By the tag of the tenant, and under "" those of all."""
        self._room = True
        self._measure_at = float("-inf")

    # -- a worker's side

    async def put(self, kept: Kept) -> str:
        """Keep a delivery, so that its sender can be told that it has arrived; return its id. Raises InboxFull, OSError."""
        return await asyncio.to_thread(self._put, kept, self._now_ms(), next(self._sequence))

    def _put(self, kept: Kept, received_at_ms: int, sequence: int) -> str:
        delivery_id = self.delivery_id(kept)
        path = self._path(delivery_id)
        if path.exists():
            self._sync_directory()  # Whoever wrote it may not have come so far.
            return delivery_id
        content = self._sealed(kept, delivery_id, received_at_ms, sequence)
        self._admit(_tag(delivery_id), len(content))
        draft = path.with_suffix(f".{secrets.token_hex(8)}{DRAFT_SUFFIX}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            draft.rename(path)  # Or in the place of the same, from somebody who was faster.
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
        self._sync_directory()
        return delivery_id

    def delivery_id(self, kept: Kept) -> str:
        """The same for the same delivery, whenever it comes. Its beginning is the tenant's, by which a tenant's are counted."""
        of_tenant = hashlib.blake2b(kept.tenant_id.encode(), key=self._keys.reference, digest_size=4)
        said = hashlib.blake2b(key=self._keys.reference, digest_size=12)
        said.update(msgspec.json.encode((kept.tenant_id, kept.source, kept.webhook, kept.url, kept.method)))
        said.update(kept.body if kept.identity is None else kept.identity)
        return of_tenant.hexdigest() + said.hexdigest()

    def _sealed(self, kept: Kept, delivery_id: str, received_at_ms: int, sequence: int) -> bytes:
        head = _Head(
            source=kept.source,
            webhook=kept.webhook,
            order_key=kept.order_key,
            url=kept.url,
            method=kept.method,
            media_type=kept.media_type,
            headers=kept.headers,
            received_at_ms=received_at_ms,
            sequence=sequence,
        )
        sealed_head = self._keys.seal_bytes(msgspec.json.encode(head), owner=_owner(kept.tenant_id, delivery_id))
        if len(sealed_head) > _HEAD_BYTES_MAX or len(kept.body) > BODY_BYTES_MAX:
            raise InboxFull("a delivery of this size is not taken")
        tenant = kept.tenant_id.encode()
        return b"".join(
            (
                _MAGIC,
                _LENGTHS.pack(len(tenant), len(sealed_head)),
                tenant,
                sealed_head,
                self._keys.seal_bytes(kept.body, owner=_owner(kept.tenant_id, delivery_id, "body")),
            )
        )

    def _admit(self, tag: str, size_bytes: int) -> None:
        """Raises InboxFull, OSError."""
        with self._lock:
            now_s = time.monotonic()
            if now_s >= self._measure_at:
                self._measure()
                took_s = time.monotonic() - now_s
                self._measure_at = now_s + max(MEASURE_S, took_s / MEASURE_PART)
            if not self._room:
                raise InboxFull("the disk has no room for deliveries to applications")
            for of, files_max, bytes_max in (("", FILES_MAX, BYTES_MAX), (tag, TENANT_FILES_MAX, TENANT_BYTES_MAX)):
                if self._files[of] >= files_max or self._bytes[of] + size_bytes > bytes_max:
                    whose = "one tenant's applications" if of else "applications"
                    raise InboxFull(f"as many deliveries to {whose} wait as may")
            for of in ("", tag):
                self._files[of] += 1
                self._bytes[of] += size_bytes

    def _measure(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files: Counter[str] = Counter()
        size: Counter[str] = Counter()
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    taken = entry.stat(follow_symlinks=False).st_size
                    for of in ("", _tag(entry.name)):
                        files[of] += 1
                        size[of] += taken
        found = os.statvfs(self._directory)
        self._files, self._bytes = files, size
        self._room = found.f_bavail * found.f_frsize >= ROOM_BYTES_MIN

    def _sync_directory(self) -> None:
        if self._fsync:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    # -- the back office's side; in a thread, for it waits for the disk

    def changed(self) -> bool:
        """True if it is to be looked at. Costs so little that it needs no thread."""
        return self._changes.any()

    def look(self, known: Collection[str]) -> Seen:
        """What is there. Of what is not known yet, the heads are read; what is long over is deleted. Raises OSError."""
        here, new, unreadable = set(), [], 0
        try:
            names = os.listdir(self._directory)  # noqa: PTH208  Tens of thousands of names need no objects.
        except FileNotFoundError:
            names = []  # Nobody has put anything yet.
        for name in names:
            if not name.endswith(SUFFIX):
                unreadable += self._look_at_other(name)
                continue
            delivery_id = name.removesuffix(SUFFIX)
            here.add(delivery_id)
            if delivery_id in known:
                continue
            try:
                new.append(self._head(delivery_id)[0])
            except FileNotFoundError:
                here.discard(delivery_id)
            except Unreadable:
                here.discard(delivery_id)
                self.set_aside(delivery_id)
                unreadable += 1
        new.sort(key=lambda one: (one.received_at_ms, one.sequence))
        return Seen(frozenset(here), tuple(new), unreadable)

    def _look_at_other(self, name: str) -> bool:
        """Delete what is left of writers that died, and what was set aside long ago; True for what is set aside."""
        path = self._directory / name
        kept_s = {DRAFT_SUFFIX: DRAFT_S, UNREADABLE_SUFFIX: KEPT_S}.get(path.suffix)
        if kept_s is None:
            return False
        with suppress(FileNotFoundError):
            if path.stat().st_mtime * 1000 < self._now_ms() - kept_s * 1000:
                path.unlink()
                return False
        return path.suffix == UNREADABLE_SUFFIX

    def take(self, waiting: Waiting) -> Kept:
        """All of a delivery. It stays until it is removed. Raises FileNotFoundError, Unreadable, OSError."""
        _, head, sealed_body = self._head(waiting.delivery_id, whole=True)
        try:
            body = self._keys.unseal_bytes(sealed_body, owner=_owner(waiting.tenant_id, waiting.delivery_id, "body"))
        except NotSealedHere as error:
            raise Unreadable("the body is not what it was") from error
        return Kept(
            tenant_id=waiting.tenant_id,
            source=head.source,
            webhook=head.webhook,
            order_key=head.order_key,
            url=head.url,
            method=head.method,
            media_type=head.media_type,
            headers=head.headers,
            body=body,
        )

    def _head(self, delivery_id: str, *, whole: bool = False) -> tuple[Waiting, _Head, bytes]:
        with self._path(delivery_id).open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            begun = file.read(len(_MAGIC) + _LENGTHS.size)
            if not begun.startswith(_MAGIC) or len(begun) < len(_MAGIC) + _LENGTHS.size:
                raise Unreadable("not a delivery")
            tenant_bytes, head_bytes = _LENGTHS.unpack_from(begun, len(_MAGIC))
            if head_bytes > _HEAD_BYTES_MAX or size_bytes > BODY_BYTES_MAX + 2 * _HEAD_BYTES_MAX:
                raise Unreadable("not a delivery")
            try:
                tenant_id = file.read(tenant_bytes).decode()
                sealed = file.read(head_bytes)
                head = msgspec.json.decode(
                    self._keys.unseal_bytes(sealed, owner=_owner(tenant_id, delivery_id)), type=_Head
                )
            except (NotSealedHere, UnicodeDecodeError, msgspec.DecodeError) as error:
                raise Unreadable("not a delivery of this installation's") from error
            sealed_body = file.read() if whole else b""
        waiting = Waiting(
            delivery_id=delivery_id,
            tenant_id=tenant_id,
            source=head.source,
            webhook=head.webhook,
            order_key=head.order_key,
            url=head.url,
            received_at_ms=head.received_at_ms,
            sequence=head.sequence,
            size_bytes=size_bytes,
        )
        return waiting, head, sealed_body

    def remove(self, delivery_id: str) -> None:
        """Delete a delivery: it has arrived, or never will. Raises OSError."""
        with suppress(FileNotFoundError):
            self._path(delivery_id).unlink()

    def set_aside(self, delivery_id: str) -> None:
        """Rename what can not be read, and say so. Raises OSError."""
        path = self._path(delivery_id)
        with suppress(FileNotFoundError):
            path.rename(path.with_suffix(UNREADABLE_SUFFIX))
            log.error("delivery_unreadable", delivery_id=delivery_id, reason="torn, or of another installation")

    def _path(self, delivery_id: str) -> Path:
        return self._directory / (delivery_id + SUFFIX)


def _tag(name: str) -> str:
    """What the names of one tenant's files begin with."""
    return name[:_TAG_CHARACTERS]


def _owner(tenant_id: str, delivery_id: str, part: str = "head") -> str:
    """For whom a part is sealed: moved to another tenant, another file or another part it does not open."""
    return f"{tenant_id}/inbox/{delivery_id}/{part}"
