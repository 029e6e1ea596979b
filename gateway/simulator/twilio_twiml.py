"""TwiML: what an application answers to a webhook, read as far as it makes something that costs or is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree as ET

TWIML_BYTES_MAX = 64 << 10
"""Twilio reads no more of an answer either."""


class Verb(NamedTuple):
    """One instruction, or something in it."""

    name: str
    attributes: Mapping[str, str]
    text: str
    inner: tuple[Verb, ...]

    def of(self, name: str) -> tuple[Verb, ...]:
        return tuple(verb for verb in self.inner if verb.name == name)


def read_twiml(body: bytes) -> tuple[Verb, ...] | None:
    """The verbs of a document, in order; None where it is no TwiML."""
    if len(body) > TWIML_BYTES_MAX:
        return None
    try:
        # What is read here comes from a test's own application, and is short.
        document = ET.fromstring(body)  # noqa: S314
    except (ET.ParseError, ValueError, LookupError):
        return None
    return tuple(map(verb_of, document)) if document.tag == "Response" else None


def verb_of(element: ET.Element) -> Verb:
    return Verb(
        element.tag,
        dict(element.attrib),
        "".join(element.itertext()).strip(),
        tuple(map(verb_of, element)),
    )
