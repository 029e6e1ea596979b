"""Whether a delivery comes from SendGrid: the signature of its event webhook, and of inbound parse where that is signed. Pure.

ECDSA on P-256 over SHA-256 of the timestamp's header and the body, byte for byte as they came: the line end that closes
the body belongs to it, and JSON that was read and written again is another body. The signature is DER in Base64, the key a
SubjectPublicKeyInfo in Base64, as SendGrid's settings show it.

A signature has a twin: with (r, s) also (r, n - s) verifies, and whoever sees a delivery can make it. SendGrid sends both
kinds, so both are taken. Twins sign the same bytes at the same time, so nothing is altered by it; but a signature is no name
for a delivery, and what was heard before is told by the events themselves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"

WINDOW_S = 300
"""So far a delivery's timestamp may lie from now, in either direction: beyond it, it is refused, and so is every copy of it
that somebody sends later. SendGrid signs each attempt anew."""

KEY_CHARACTERS_MAX = 512
"""Four times as long as a key is."""
_SIGNATURE_CHARACTERS_MAX = 128
"""DER of two numbers below 2²⁵⁶ has 72 bytes at most, which are 96 characters."""
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)

_DIGEST = ec.ECDSA(Prehashed(hashes.SHA256()))


def verified(public_key: str, timestamp: str, signature: str, body: bytes, now_s: float) -> bool:
    """True where the holder of the key signed this body at this time, and that is now. False for everything else, whatever
    is missing, malformed or of another curve."""
    key = _key(public_key)
    if key is None or not _TIMESTAMP.fullmatch(timestamp) or abs(now_s - int(timestamp)) > WINDOW_S:
        return False
    if len(signature) > _SIGNATURE_CHARACTERS_MAX:
        return False
    digest = hashlib.sha256(timestamp.encode())
    digest.update(body)
    try:
        key.verify(base64.b64decode(signature, validate=True), digest.digest(), _DIGEST)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_key(public_key: str) -> bool:
    """True where deliveries can be verified with it."""
    return _key(public_key) is not None


@lru_cache(maxsize=256)
def _key(public_key: str) -> ec.EllipticCurvePublicKey | None:
    """The key, on the one curve that SendGrid signs with."""
    text = public_key.strip()
    if len(text) > KEY_CHARACTERS_MAX:
        return None
    try:
        found = load_der_public_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return found if isinstance(found, ec.EllipticCurvePublicKey) and isinstance(found.curve, ec.SECP256R1) else None
