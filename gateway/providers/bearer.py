"""Providers whose key is a bearer token (RFC 6750 section 2.1), as their SDKs send it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.messages import Headers


def presented_key(headers: Headers) -> str | None:
    """The token."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def authorize(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Authorization", b"Bearer " + credential["api_key"].encode()),)
