"""What the path of a call knows of tenants and keys, without asking the database.

The back office writes it to one file of mode 0600 after every change, whole and by renaming, so that a reader sees one
state or the next. Workers look at the file's identity twice a second and read it when it changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.integrations import Integration

VERSION = 1


class RequestTags(StrEnum):
    """How what the body of a call says of itself becomes tags."""

    OFF = "off"
    HASHED = "hashed"
    """End users as keyed hashes."""
    PLAIN = "plain"


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One gateway key, as far as a call needs it. A revoked key is not in the snapshot."""

    key_id: str
    digest: str
    """Hex of the keyed hash of the whole key."""
    tenant_id: str | None
    """None for a service key, which names the tenant in each call."""
    scopes: frozenset[str]
    category: str | None = None
    tags: dict[str, str] = {}
    expires_at_ms: int | None = None


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tenant that is not closed."""

    tenant_id: str
    status: str
    account_sid: str
    plan: str | None = None
    credentials: dict[str, str] = {}
    """Provider → the tenant's own credential, sealed."""
    request_tags: RequestTags = RequestTags.OFF
    integration: Integration | None = None
    signing: str | None = None
    """What is passed on to its applications is signed with: :class:`SigningSecrets`, sealed."""


class SigningSecrets(NamedTuple):
    """What a tenant's applications verify by that something is passed on by the gateway."""

    current: str
    previous: str | None
    """The one before, while both are valid."""

    @classmethod
    def of(cls, unsealed: Mapping[str, str], now: str) -> SigningSecrets:
        """Out of what is sealed; `now` as in JSON."""
        previous = unsealed.get("previous") if unsealed.get("previous_until", "") > now else None
        return cls(unsealed["current"], previous)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    version: int
    keys: Mapping[str, KeyRecord]
    tenants: Mapping[str, TenantRecord]


EMPTY = Snapshot(version=VERSION, keys={}, tenants={})

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def write(path: Path, snapshot: Snapshot) -> None:
    """Put a snapshot in the place of the one before. Raises OSError."""
    draft = path.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(_encoder.encode(snapshot))
    draft.rename(path)


class SnapshotFile:
    """The newest snapshot in a file; EMPTY until there is one."""

    def __init__(self, path: Path) -> None:
        self.current = EMPTY
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> bool:
        """Read the file if it is another one than last time; True if it was."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if identity == self._seen:
            return False
        self.current = _decoder.decode(self._path.read_bytes())
        self._seen = identity
        return True
