"""Which provider and endpoint a request is for. Pure; a table built once from PROVIDERS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.errors import NoSuchProduct, NoSuchProvider
from gateway.providers.api import Endpoint, Provider


class Route(NamedTuple):
    """Where a call goes."""

    provider: Provider
    endpoint: Endpoint
    listed: bool
    product: str
    """Which of the provider's hosts."""
    target: str
    """Path and query as they go to the provider, without what its base URL puts before them; byte for byte as they came."""
    path: str
    """The path to decide by (see :class:`gateway.providers.api.Place`)."""
    names_nothing: bool = False
    """True for a path that is an endpoint's to the letter, and so in plain form and without any object's name, and that
    does not administer the account."""


_ID = r"[A-Za-z0-9_~@+-][A-Za-z0-9._~:@+-]*"
"""What may stand for `{id}`. Dots alone and escapes may not: a provider could take them for another endpoint's path."""


class Routes:
    """Finds routes by the raw bytes of a target: what is decided on is what is forwarded."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self.providers = tuple(providers)
        self._providers = {provider.name: provider for provider in providers}
        self._exact: dict[tuple[str, str, str], Endpoint] = {}
        self._ready: dict[tuple[str, str], Route] = {}
        """The routes of targets that are all told by themselves."""
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint]]] = {}
        for provider in providers:
            for endpoint in provider.endpoints:
                if "{" in endpoint.path:
                    pattern = re.compile(re.sub(r"\\\{\w+\\\}", _ID, re.escape(endpoint.path)))
                    self._patterns.setdefault((provider.name, endpoint.method), []).append((pattern, endpoint))
                else:
                    self._exact[provider.name, endpoint.method, endpoint.path] = endpoint
        for provider in providers:
            for endpoint in provider.endpoints:
                if "{" not in endpoint.path:
                    target = f"/{provider.name}{endpoint.path}"
                    route = self.match(endpoint.method, target)
                    administers = provider.administration.fullmatch(route.path) is not None
                    self._ready[endpoint.method, target] = route._replace(names_nothing=not administers)

    def match(self, method: str, target: str) -> Route:
        """Find the route of a request. Raises NoSuchProvider and NoSuchProduct."""
        ready = self._ready.get((method, target))
        if ready is not None:
            return ready
        _, _, rest = target.partition("/")
        name, slash, rest = rest.partition("/")
        provider = self._providers.get(name) if slash else None
        if provider is None or not target.startswith("/"):
            mounts = ", ".join(f"/{known}" for known in self._providers)
            raise NoSuchProvider(
                f"No provider answers at this path. Begin it with one of {mounts}, then the provider's own path."
            )
        place = provider.place("/" + rest)
        if place is None:
            raise NoSuchProduct(
                f"The gateway forwards to no such host of {name}. Check the base URL: what follows /{name} names the host."
            )
        product, target, path = place
        endpoint = self._exact.get((name, method, path))
        if endpoint is None:
            for pattern, candidate in self._patterns.get((name, method), ()):
                if pattern.fullmatch(path):
                    endpoint = candidate
                    break
        if endpoint is None:
            return Route(provider, provider.unlisted(method), False, product, target, path)
        return Route(provider, endpoint, True, product, target, path)

    def nearest(self, target: str) -> Provider:
        """The provider whose error shape fits a target; the first one's where it names none: SDKs understand it."""
        return self._providers.get(target[1:].partition("/")[0], self.providers[0])
