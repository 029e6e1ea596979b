"""Providers whose key is a bearer token (RFC 6750 section 2.1), as their SDKs send it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.messages import Headers


def presented_key(headers: Headers) -> str | None:
    """The token."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def presented_key_or(subprotocol: str) -> Callable[[Headers], str | None]:
    """The token, or where there is none what follows this in a WebSocket subprotocol: browsers can set no header."""

    def presented(headers: Headers) -> str | None:
        offered = headers.getall("Sec-WebSocket-Protocol", ())
        if not offered or "Authorization" in headers:
            return presented_key(headers)
        tokens = [name.strip() for line in offered for name in line.split(",")]
        keys = {name.removeprefix(subprotocol) for name in tokens if name.startswith(subprotocol)}
        # Of two different ones nobody could say whose call it is.
        return keys.pop() or None if len(keys) == 1 else None

    return presented


def authorize(credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Authorization", b"Bearer " + credential["api_key"].encode()),)
