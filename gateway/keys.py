"""Secrets: making and recognising keys, sealing credentials. Everything is derived from one installation secret.

A gateway key has 256 bits of entropy, so a keyed hash is all it needs (a password hash would cost 40 ms a call and add
nothing). What is compared is compared in constant time, and nothing here has a `repr` that shows a secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_ID_CHARACTERS = 12
NONCE_BYTES = 12

SCOPES = ("proxy", "usage:read", "billing:read", "events:write", "metering:off")
"""Besides these, `proxy:<provider>` allows the calls to one provider alone."""

DEFAULT_SCOPES = ("proxy", "usage:read")


class NotSealedHere(Exception):
    """A sealed value that this installation's secret, or this tenant, did not seal."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The keys derived from the installation's secret (HKDF-like: HMAC-SHA256 over a label for each purpose)."""

    pepper: bytes = field(repr=False)
    """Keys the hashes of gateway keys and admin keys."""
    sealing: bytes = field(repr=False)
    """AES-256-GCM key of everything sealed at rest."""
    reference: bytes = field(repr=False)
    """Keys the hashes that stand for numbers and addresses."""
    operator: bytes = field(repr=False)
    fingerprint: str
    """Tells two secrets apart, and nothing about either."""

    @classmethod
    def derived(cls, secret: str) -> Secrets:
        def purpose(label: str) -> bytes:
            return hmac.digest(secret.encode(), b"tollkeeper/" + label.encode(), "sha256")

        return cls(
            pepper=purpose("pepper"),
            sealing=purpose("sealing"),
            reference=purpose("reference"),
            operator=purpose("operator"),
            fingerprint=purpose("fingerprint").hex()[:16],
        )

    def digest(self, key: str) -> bytes:
        """The keyed hash under which a gateway key or an admin key is stored."""
        return hmac.digest(self.pepper, key.encode("utf-8", "surrogateescape"), "sha256")

    def matches(self, key: str, digest: bytes) -> bool:
        return hmac.compare_digest(self.digest(key), digest)

    @property
    def operator_key(self) -> str:
        """The admin key of whoever can read the data directory: what the command line uses."""
        return "tka_local_" + _text(self.operator)

    def seal(self, value: Mapping[str, str], *, owner: str) -> str:
        """Encrypt a value for one owner; a sealed value that is moved to another owner does not open."""
        return "v1." + _text(self.seal_bytes(msgspec.json.encode(value), owner=owner))

    def unseal(self, sealed: str, *, owner: str) -> dict[str, str]:
        """Decrypt what :meth:`seal` made for this owner; raises NotSealedHere for anything else."""
        version, _, text = sealed.partition(".")
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError as error:
            raise NotSealedHere("not a sealed value") from error
        if version != "v1":
            raise NotSealedHere("sealed by another release")
        plain = self.unseal_bytes(raw, owner=owner)
        return msgspec.json.decode(plain, type=dict[str, str])

    def seal_bytes(self, value: bytes, *, owner: str) -> bytes:
        """As :meth:`seal`, of bytes and into bytes: what is large has no other form at rest."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.sealing).encrypt(nonce, value, owner.encode())

    def unseal_bytes(self, sealed: bytes | memoryview, *, owner: str) -> bytes:
        """Decrypt what :meth:`seal_bytes` made for this owner; raises NotSealedHere for anything else."""
        try:
            return AESGCM(self.sealing).decrypt(bytes(sealed[:NONCE_BYTES]), sealed[NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError) as error:
            raise NotSealedHere("sealed with another secret, or for another owner") from error


def new_gateway_key() -> tuple[str, str]:
    """A new key: (its id, the whole key `tk_<id>_<43 characters>`)."""
    key_id = secrets.token_hex(KEY_ID_CHARACTERS // 2)
    return key_id, f"tk_{key_id}_{secrets.token_urlsafe(32)}"


def new_admin_key() -> str:
    return "tka_" + secrets.token_urlsafe(32)


def new_signing_secret() -> str:
    """What a tenant's applications verify by that something was passed on to them: of the form of an auth token, which
    is where the SDKs look for it."""
    return secrets.token_hex(16)


def new_secret() -> str:
    return secrets.token_urlsafe(48)


def key_id_of(key: str) -> str | None:
    """The id inside something that has the form of a gateway key, also with the prefix some SDKs insist on."""
    prefix, _, rest = key.removeprefix("SG.").partition("_")
    key_id, _, secret = rest.partition("_")
    return key_id if prefix == "tk" and key_id and secret else None


def holds_key(value: str) -> bool:
    """True where something of the form of a gateway key stands anywhere in the value of a header that may hold a credential,
    as behind a second `Bearer`, or anywhere in a pair that it encodes for Basic authentication (RFC 7617)."""
    return _LIKE_KEY.search(value) is not None or any(_LIKE_KEY.search(_pair(part)) for part in value.split(","))


def is_key_in(value: bytes) -> bool:
    """True where a gateway key, exactly as they are made, stands in the value of any header."""
    return b"tk_" in value and _KEY.search(value) is not None


def _pair(authorization: str) -> str:
    """What is encoded there for Basic authentication, however kindly one has to read it; empty where nothing is."""
    scheme, _, encoded = authorization.strip().replace("\t", " ").partition(" ")
    letters = re.sub(r"[^A-Za-z0-9+/]", "", encoded.translate(_STANDARD)) if scheme.lower() == "basic" else ""
    return base64.b64decode(letters[: len(letters) - (len(letters) % 4 == 1)] + "==").decode("latin-1")


_STANDARD: Final = str.maketrans("-_", "+/")
"""From the alphabet for URLs (RFC 4648 section 5)."""

_KEY: Final = re.compile(rb"tk_[0-9a-f]{%d}_" % KEY_ID_CHARACTERS)
_LIKE_KEY: Final = re.compile(_KEY.pattern.decode() + r"|(?<![A-Za-z0-9_-])tk_[^_\s]+_\S")
"""Where a word begins, also whatever :func:`key_id_of` would take for one."""


def new_account_sid() -> str:
    """An account id of the gateway's own, of the form that providers with accounts in their paths use."""
    return "AC" + secrets.token_hex(16)


def reference(secret: bytes, value: str) -> str:
    """What stands in records for a number or an address: a keyed hash, the same for the same value."""
    return hashlib.blake2b(value.encode(), key=secret, digest_size=12).hexdigest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
