"""Mail that comes in: what SendGrid's inbound parse posts for each, a form with the mail in it. Pure.

SendGrid takes it for one host name of the account, and charges nothing. A post that was not answered comes again for days,
with the same fields in the same order, but a boundary of its own.

What is known of who sent it: inbound parse is signed, as the event webhook is, only where its settings name a security
policy with a signature, and each policy has a key of its own. Without one, whoever knows the URL can post to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Usage
from gateway.providers.multipart import Fields, boundary_of
from metering.usage import Completeness

BODY_BYTES_MAX = 30 << 20
"""SendGrid takes mail of up to 30 MB with its attachments; a larger post comes from somebody else."""

ORDER_KEY = "inbound"
"""Mail is passed on in the order in which it came."""

_PIECE_BYTES = 64 << 10
"""So much is copied at a time."""

_WANTED = ("envelope", "attachments")
_COUNT = re.compile(r"[0-9]{1,4}", re.ASCII)


class _Envelope(msgspec.Struct):
    """Between whom the mail was carried, whatever its own headers say."""

    sender: object = msgspec.field(name="from", default=None)
    to: object = None


_read_envelope = msgspec.json.Decoder(_Envelope).decode


def arrived(body: bytes) -> Usage:
    """The fact that a mail came in, of whatever was posted: its `external_id` is the same when it is posted again."""
    fields = Fields(_WANTED)
    for begun in range(0, len(body), _PIECE_BYTES):
        fields.feed(body[begun : begun + _PIECE_BYTES])
    attachments = _COUNT.fullmatch(fields.found.get("attachments", ""))
    return Usage(
        quantities={"recipients": 1},
        completeness=Completeness.REPORTED,
        event_type="email_inbound",
        external_id=_named(body),
        parties=_parties(fields.found.get("envelope", "")),
        metadata={} if attachments is None else {"attachments": int(attachments[0])},
    )


def _named(body: bytes) -> str:
    """What a mail is known by: all that was posted, but for the boundary between its fields. The ids of mail are their
    senders' to choose, and two of them may choose the same."""
    digest = hashlib.sha256()
    boundary = boundary_of(body)
    if not boundary:
        digest.update(body)
        return digest.hexdigest()
    view = memoryview(body)
    begun = 0
    while (at := body.find(boundary, begun)) >= 0:
        digest.update(view[begun:at])
        digest.update(b"--")
        begun = at + len(boundary)
    digest.update(view[begun:])
    return digest.hexdigest()


def _parties(envelope: str) -> Mapping[str, str]:
    """The two addresses; the first where there are several."""
    try:
        found = _read_envelope(envelope)
    except UNREADABLE:
        return {}
    to = found.to[0] if isinstance(found.to, list) and found.to else found.to
    parties = {"from": found.sender, "to": to}
    return {role: party.lower() for role, party in parties.items() if isinstance(party, str) and party}
