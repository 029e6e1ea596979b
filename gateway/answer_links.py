"""The URLs in a provider's answers by which its SDKs go on, led back through the gateway. Pure.

A provider with several hosts writes whole URLs of its own into its answers: of the next page, of the resource itself, of
what belongs to it. An SDK that follows one would leave the gateway, and show its gateway key to the provider. Only where
such a URL stands as the provider itself writes it is it changed: a text that holds nothing else, under a name that says
so, outside of what applications have stored there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from urllib.parse import urlsplit

from gateway.messages import RequestHead
from gateway.providers.api import Provider

TEXT_BYTES_MAX = 4096
"""A longer text is no URL: it passes as it comes."""

BLANKS_MAX = 64
"""So many blanks may part a name from its colon."""

_TOKEN = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"([ \t\r\n]{0,%d}+:)?|([{}\[\]])|(")' % BLANKS_MAX, re.DOTALL)
"""Group 1 is a text and group 2 the colon that makes it a name; 3 a bracket; 4 the beginning of a text without its end."""

_BLANKS = re.compile(rb"[ \t\r\n]{0,%d}+\Z" % BLANKS_MAX)
_REST_OF_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)

_PLAIN_HOST = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""A name or an address, and a port: what can stand in a URL without a second thought."""

_LOCATION = re.compile(rb"(\r\n(?i:location):[ \t]*)([^\r]*)")


def address_of(head: RequestHead, *, tls: bool, public_url: str | None) -> str | None:
    """The gateway's base URL as the client of this request knows it; None where it does not say.

    Whoever takes the TLS off before us says so in X-Forwarded-Proto, or the settings do, in the public URL: where a
    client speaks TLS, no answer may lead it to do without.
    """
    host = head.headers.get("Host", "")
    if not _PLAIN_HOST.fullmatch(host):
        return None
    if public_url is not None:
        public = urlsplit(public_url)
        if public.netloc.lower() == host.lower():
            return public_url.rstrip("/")
    forwarded = head.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower() == "https"
    return f"{'https' if tls or forwarded else 'http'}://{host}"


class Hosts:
    """A provider's hosts, as its answers name them: by its own names, and by the addresses in the settings."""

    __slots__ = ("_begins", "_links", "_products", "names")

    def __init__(self, provider: Provider, base_urls: Mapping[str, str]) -> None:
        """`base_urls` are those of the settings, by product. The provider is one whose answers hold URLs."""
        assert provider.links is not None
        self._links, self.names = provider.links, provider.links.names
        own = {provider.base_url.replace("{product}", product): product for product in provider.products}
        # Several at one address can not be told apart.
        configured = {url.rstrip("/"): product for product, url in base_urls.items()}
        if len(configured) == len(base_urls):
            own |= configured
        self._products = {url.encode(): product.encode() for url, product in own.items()}
        urls = sorted(self._products, key=len, reverse=True)
        self._begins = re.compile(
            rb"(%b)(?=\\?[/])" % b"|".join(re.escape(url).replace(b"/", rb"\\?/") for url in urls)
        )

    def stand_in(self, path: str) -> bool:
        """True for a path to decide by whose answer holds URLs."""
        return self._links.answers.fullmatch(path) is not None

    def path_of(self, url: bytes) -> bytes | None:
        """The path at the gateway, behind the provider's name, of a URL as JSON writes it; None where it leads elsewhere."""
        found = self._begins.match(url)
        if found is None:
            return None
        rest = url[found.end() :]
        path = b"/" + self._products[found[1].replace(rb"\/", b"/")] + rest
        return path if self._links.targets.fullmatch(path.replace(rb"\/", b"/")) else None


class AnswerLinks:
    """Leads URLs of one provider to the gateway as one client knows it."""

    __slots__ = ("_here", "hosts")

    def __init__(self, hosts: Hosts, here: str) -> None:
        """`here` is where the provider is mounted at the gateway."""
        self.hosts = hosts
        self._here = here.encode()

    def led(self, url: bytes) -> bytes:
        """The URL that leads here, or this one where it leads elsewhere than to the provider's API."""
        path = self.hosts.path_of(url)
        return url if path is None else self._here + path

    def header(self, lines: bytes) -> bytes:
        """The header lines of an answer, each behind a line end."""
        return _LOCATION.sub(lambda found: found[1] + self.led(found[2]), lines)


class _In(IntEnum):
    """What the innermost object or array is, as far as the provider writes URLs there."""

    ROOT, META, LIST, ITEM, LINKS, OTHER = range(6)


_WITHIN: Mapping[tuple[_In | None, bytes, bytes], _In] = {
    (None, b"{", b""): _In.ROOT,
    (_In.ROOT, b"{", b"meta"): _In.META,
    (_In.ROOT, b"{", b"links"): _In.LINKS,
    (_In.LIST, b"{", b""): _In.ITEM,
    (_In.ITEM, b"{", b"links"): _In.LINKS,
}
"""What begins in what, by its bracket and its name; all else holds what is not the provider's own. Each array of a page
is its list."""


class Leading:
    """Leads the URLs of a JSON answer to the gateway as it goes by, wherever the network cut it. It never raises."""

    __slots__ = ("_held", "_levels", "_links", "_long", "_name", "_over")

    def __init__(self, links: AnswerLinks) -> None:
        self._links = links
        self._held = b""
        """The end of what came, which only what comes next gives a meaning."""
        self._levels: list[_In] = []
        self._over = 0
        """So many levels deep in what is not the provider's own."""
        self._name = b""
        """Of the field that is being read."""
        self._long = False
        """True within a text that is too long to be held."""

    def feed(self, chunk: bytes) -> bytes:
        data = self._held + chunk if self._held else chunk
        at = passed = 0
        pieces: list[bytes] = []
        if self._long:
            rest = _REST_OF_TEXT.match(data)
            assert rest is not None  # It matches nothing, too.
            if data[rest.end() : rest.end() + 1] != b'"':
                self._held = data[rest.end() :]
                return data[: rest.end()]
            self._long = False
            at = rest.end() + 1
        ends = len(data)
        for token in _TOKEN.finditer(data, at):
            text, colon, bracket, begun = token.groups()
            if bracket is not None:
                self._open_or_close(bracket)
            elif begun is not None:
                ends = token.start()
                break
            elif colon is None and _BLANKS.match(data, token.end()):
                # It may be a name yet.
                ends = token.start()
                break
            elif colon is not None:
                self._name = text if len(text) <= TEXT_BYTES_MAX else b""
            else:
                led = self._led(text)
                if led is not text:
                    pieces += data[passed : token.start(1)], led
                    passed = token.end(1)
        return b"".join((*pieces, data[passed : self._hold(data, ends)]))

    def _hold(self, data: bytes, ends: int) -> int:
        """Keep what is from there on, unless that is a text too long to be; return where what is kept begins."""
        kept = data[ends:]
        if len(kept) <= TEXT_BYTES_MAX + BLANKS_MAX + 2:
            self._held = kept
            return ends
        rest = _REST_OF_TEXT.match(data, ends + 1)
        assert rest is not None
        ended = data[rest.end() : rest.end() + 1] == b'"'
        passed = rest.end() + ended
        self._name, self._long, self._held = b"", not ended, data[passed:]
        return passed

    def _led(self, text: bytes) -> bytes:
        if len(text) > TEXT_BYTES_MAX:
            self._name = b""
        if self._over or not self._levels or len(text) > TEXT_BYTES_MAX:
            return text
        within = self._levels[-1]
        named = within is not _In.LIST and self._links.hosts.names.fullmatch(self._name)
        return self._links.led(text) if named or within is _In.LINKS else text

    def _open_or_close(self, bracket: bytes) -> None:
        name, self._name = self._name, b""
        if bracket in b"{[":
            within = self._levels[-1] if self._levels else None
            opens = (
                _In.LIST if (within, bracket) == (_In.ROOT, b"[") else _WITHIN.get((within, bracket, name), _In.OTHER)
            )
            if self._over or opens is _In.OTHER:
                self._over += 1
            else:
                self._levels.append(opens)
        elif self._over:
            self._over -= 1
        elif self._levels:
            self._levels.pop()

    def finish(self) -> bytes:
        """The end that was held back."""
        held, self._held = self._held, b""
        return held
