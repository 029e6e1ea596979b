"""Asking a provider, on our own account, for more than one answer: evenly, patiently, and no more than it allows.

However many ask, a provider gets so many requests a second and no more, each after the other. One that says that it is asked
too often says for how long, and is left alone for so long; one that fails is asked again at growing intervals. An answer
is held whole, up to a bound; nobody is followed to another host, and what a provider says is not quoted.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import random
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

REQUESTS_PER_S: Final = 5.0
"""What one provider is asked, all in all. Each of them allows some hundreds a minute to everything that an account does, and
applications come first."""

BODY_BYTES_MAX = 24 << 20
"""Of one answer. A page of a thousand messages of the greatest length has 12 MiB."""

CONNECT_S, SILENCE_S, ANSWER_S_MAX = 10, 30, 300
"""How long a connection may take, how long a provider may say nothing, and how long all of an answer may take."""

TRIES_MAX = 8
"""So often one question is sent. With the pauses between, that is two minutes at least."""

PAUSE_S, PAUSE_S_MAX = 1.0, 60.0
"""The first pause after a failure, twice as long each time, and the longest."""

RETRY_AFTER_S_MAX = 900.0
"""Who asks for more patience than this is asked again after it all the same."""

SUCCESS = 200

REFUSAL_BYTES_MAX = 16 << 10
"""Of a refusal so much is read: it names what is wrong in a few hundred bytes."""
TOO_MANY = 429


class NotAnswered(Exception):
    """A question that has no answer. Says why, in a sentence without a secret."""

    def __init__(self, reason: str, *, again: bool, body: bytes = b"") -> None:
        super().__init__(reason)
        self.again = again
        """True where asking once more, much later, may help."""
        self.body = body
        """How a refusal begins, as the provider wrote it: for its code, and not to be quoted."""


class Asker:
    """Asks one provider. Whoever asks waits for whoever asked before."""

    def __init__(self, requests_per_s: float = REQUESTS_PER_S, *, tries_max: int = TRIES_MAX) -> None:
        self._gap_s = 1 / requests_per_s
        self._tries_max = tries_max
        self._turn = asyncio.Lock()
        self._next_s = 0.0
        """When it may be asked next, by the loop's clock."""
        self._session: ClientSession | None = None
        self.requests = 0

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        url: str,
        headers: Mapping[str, str],
        asked: Callable[[], object] = lambda: None,
        form: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of the answer to a GET, or to a POST of a form, which may arrive more than once. `asked` is called for each
        request that is sent. Raises NotAnswered."""
        pause_s = PAUSE_S
        for number in range(self._tries_max):
            await self._in_turn()
            asked()
            try:
                return await self._answer(url, headers, form)
            except _Later as later:
                if number == self._tries_max - 1:
                    raise NotAnswered(later.reason, again=True) from None
                # With jitter, so that two gateways do not keep meeting.
                wait_s = later.after_s if later.after_s is not None else pause_s * (0.5 + random.random())  # noqa: S311
                self._next_s = max(self._next_s, asyncio.get_running_loop().time() + wait_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
        raise AssertionError

    async def _in_turn(self) -> None:
        async with self._turn:
            loop = asyncio.get_running_loop()
            # Whoever was answered meanwhile may have been told to wait longer.
            while (wait_s := self._next_s - loop.time()) > 0:  # noqa: ASYNC110 - the time is not known before
                await asyncio.sleep(wait_s)
            self._next_s = loop.time() + self._gap_s
            self.requests += 1

    async def _answer(self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None) -> bytes:
        if self._session is None:
            self._session = _session()
        try:
            async with (
                asyncio.timeout(ANSWER_S_MAX),
                self._session.request(
                    "GET" if form is None else "POST",
                    URL(url, encoded=True),
                    data=form,
                    headers={**headers, "Accept-Encoding": "identity"},
                    allow_redirects=False,
                ) as answer,
            ):
                if answer.status == TOO_MANY or answer.status >= 500:
                    raise _Later(f"the provider answered {answer.status}", retry_after_s(answer.headers))
                if answer.status != SUCCESS:
                    refusal = await answer.content.read(REFUSAL_BYTES_MAX)
                    raise NotAnswered(f"the provider answered {answer.status}", again=False, body=refusal)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise NotAnswered("the provider answered in a coding that nobody asked for", again=False)
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        raise NotAnswered(f"an answer is longer than {BODY_BYTES_MAX >> 20} MiB", again=False)
                return bytes(body)
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            raise _Later("the provider can not be reached", None) from error


class _Later(Exception):
    """Not now: why, and how long the provider wants to be left alone, where it says so."""

    def __init__(self, reason: str, after_s: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, in seconds or as a date; None where it says nothing that makes sense."""
    said = headers.get("Retry-After", "").strip()
    try:
        if said.isascii() and said.isdigit():
            return min(float(said), RETRY_AFTER_S_MAX)
        until = email.utils.parsedate_to_datetime(said)
        wait_s = (until.replace(tzinfo=until.tzinfo or dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
        return min(max(0.0, wait_s), RETRY_AFTER_S_MAX)
    except (ValueError, OverflowError, TypeError):
        return None


def _session() -> ClientSession:
    return ClientSession(
        timeout=ClientTimeout(total=None, connect=CONNECT_S, sock_read=SILENCE_S),
        connector=TCPConnector(limit=2),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
    )
