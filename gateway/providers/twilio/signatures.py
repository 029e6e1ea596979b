"""Twilio's signatures: whether a delivery is Twilio's, and the same made anew for the application it is passed on to. Pure.

`X-Twilio-Signature` is the HMAC-SHA1, under an account's auth token, of the URL as it was configured and of the form's
parameters: by name, each value once and in order. A body that is no form is named by its hash, `bodySHA256`, in the query
of the URL, which is then all that is signed. The URL is the one that was configured, never one that a request tells of
itself. There is no time in it: whoever has seen a delivery can send it again, and only knowing it again helps.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import parse_qsl, unquote_plus

HEADER = "X-Twilio-Signature"

FORM = "application/x-www-form-urlencoded"

PARAMETERS_MAX = 1000
"""A form of more parameters is not Twilio's, whose longest have some sixty."""

_AUTHORITY = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]/?#]*\]|[^:/?#]*)(?P<port>:[0-9]*)?(?P<rest>.*)", re.DOTALL
)


def signature(token: str, url: str, parameters: Iterable[tuple[str, str]]) -> str:
    """The value of the header for a form with these parameters, in any order and repeated or not."""
    signed = url + "".join(name + value for name, value in sorted(set(parameters)))
    return base64.b64encode(hmac.digest(token.encode(), _bytes(signed), "sha1")).decode()


def verified(tokens: Sequence[str], url: str, told: str, body: bytes, content_type: str, method: str) -> bool:
    """Whether a delivery to this URL is signed with one of these tokens; False, too, for what nobody can have signed.

    `url` is the one that was configured, with the query that the delivery came with. Twilio is not of one mind about a
    port in it, and SDKs take both: with it, which is 443 or 80 where there is none, and without.
    """
    try:
        parameters = _signed_parameters(url, body, content_type, method)
        if parameters is None:
            return False
        candidates = [signature(token, one, parameters) for token in tokens if token for one in _spellings(url)]
        # All are compared, and none is None: how long it takes tells nothing of which token it was.
        return any([hmac.compare_digest(_bytes(told), _bytes(candidate)) for candidate in candidates])  # noqa: C419
    except ValueError:
        return False


def signed(
    secret: str, url: str, method: str, content_type: str, body: bytes
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Where a delivery goes, and with which headers, so that the SDK's validator says yes to this secret and that URL.

    What a GET says stands in its URL: `body` is the query that came. What is no form is named there by its hash.
    """
    if method == "GET":
        url, parameters = _with_query(url, body.decode("ascii", "ignore")), []
    elif _is_form(content_type) or not body:
        parameters = _parameters(body)
    else:
        url, parameters = _with_query(url, f"bodySHA256={hashlib.sha256(body).hexdigest()}"), []
    return url, ((HEADER, signature(secret, url, parameters)),)


def _signed_parameters(url: str, body: bytes, content_type: str, method: str) -> list[tuple[str, str]] | None:
    """What is signed besides the URL; None where it says of itself that it is not authentic. Raises ValueError."""
    # Where the hash is there it counts, whatever a request says of its method and its body: else the signature of a body
    # would be one of none.
    hashed = _body_hash(url)
    if hashed is not None:
        return [] if hmac.compare_digest(_bytes(hashed), hashlib.sha256(body).hexdigest().encode()) else None
    if method == "GET":
        return None if body else []
    if method != "POST" or (body and not _is_form(content_type)):
        return None
    return _parameters(body, PARAMETERS_MAX)


def _body_hash(url: str) -> str | None:
    query = url.partition("#")[0].partition("?")[2]
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if unquote_plus(name) == "bodySHA256":
            return unquote_plus(value)
    return None


def _parameters(body: bytes, parameters_max: int | None = None) -> list[tuple[str, str]]:
    """Those of a form, byte for byte whatever they are encoded in. Raises ValueError for more than so many."""
    text = body.decode("utf-8", "surrogateescape")
    return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=parameters_max)


def _is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == FORM


def _spellings(url: str) -> Iterator[str]:
    """The URL without a port, and with one."""
    found = _AUTHORITY.fullmatch(url)
    if found is None:
        return
    scheme, host, port, rest = found.group("scheme", "host", "port", "rest")
    yield f"{scheme}://{host}{rest}"
    yield f"{scheme}://{host}{port or (':443' if scheme == 'https' else ':80')}{rest}"


def _with_query(url: str, query: str) -> str:
    before, mark, fragment = url.partition("#")
    if query:
        before += ("" if before.endswith(("?", "&")) else "&" if "?" in before else "?") + query
    return before + mark + fragment


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
