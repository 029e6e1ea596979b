"""The control API as the command line asks it: of the running server, or of this very process where none runs.

SQLite wants one process at a ledger, so a command never opens it beside a server. One code path serves both cases: with
no server, the same API is served from here on a port that the system chooses, for as long as the command takes.

The operator key goes to nothing that has not said it is Tollkeeper, follows no redirect and obeys no proxy environment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from gateway.installation import SecretMissing, operator_key
from gateway.settings import ControlSettings, Settings, environment_name

PRODUCT: Final = "tollkeeper"

VERSION_BYTES_MAX: Final = 64 << 10
"""Of an answer to `GET /version` so much is read: whoever says more than this is not Tollkeeper."""

VERSION_TIMEOUT_S: Final = 5
CONNECT_TIMEOUT_S: Final = 5
ANSWER_TIMEOUT_S: Final = 60
"""A summary over years of a large ledger takes seconds; what is silent for a minute has gone."""

BUSY_TIMEOUT_S: Final = 5
"""A ledger that another process has is waited for so long: a command has it for a second, a server until it listens."""
BUSY_LOOK_S: Final = 0.2

Query: TypeAlias = Mapping[str, str | int | None]
"""Parameters by name; those that are None are left out."""

Listener: TypeAlias = Callable[[Settings], AbstractAsyncContextManager[str]]
"""Serves the control API from this process; the base URL it is reached at."""


class ControlError(Exception):
    """The control API refused: its problem document (RFC 9457), as an exception."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail or title)
        self.status = status
        self.title = title
        self.detail = detail


class ControlUnreachable(Exception):
    """There is no control API to ask; the message says why, and what to do."""


class LedgerBusy(ControlUnreachable):
    """Another process has the ledger, and what it is could not be asked."""


class ControlApi:
    """The control API at one address, asked as the operator.

    Answers are JSON documents, None where there is none. Raises ControlError where the API refuses, ControlUnreachable
    where it breaks off.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str, operator_key: str) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {operator_key}", "Accept": "application/json"}

    async def get(self, path: str, query: Query | None = None) -> Any:
        return await self._ask("GET", path, query=query)

    async def post(self, path: str, document: Mapping[str, object]) -> Any:
        return await self._ask("POST", path, document=document)

    async def patch(self, path: str, document: Mapping[str, object]) -> Any:
        return await self._ask("PATCH", path, document=document)

    async def delete(self, path: str) -> None:
        await self._ask("DELETE", path)

    async def post_lines(self, path: str) -> AsyncIterator[Any]:
        """The documents of an answer that leaves one by one, as they come. It may end before the last."""
        url = URL(self._base_url + path, encoded=True)
        try:
            async with self._session.post(url, headers=self._headers, allow_redirects=False) as response:
                if response.status != 200:
                    _read_answer(response.status, response.reason or "", await response.read())
                async for line in response.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ControlUnreachable(f"The control API at {self._base_url} broke off; see the server's log.") from error

    async def get_all(self, path: str) -> Any:
        """A list, whole: every page of it, as one."""
        page = await self.get(path)
        rows = list(page["data"])
        while page["next_cursor"] is not None:
            page = await self.get(path, {"cursor": page["next_cursor"]})
            rows += page["data"]
        return {**page, "data": rows}

    async def _ask(
        self, method: str, path: str, *, query: Query | None = None, document: Mapping[str, object] | None = None
    ) -> Any:
        parameters = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        # Paths come encoded: an id with a slash or two dots in it must reach the API as the id it is.
        url = URL(self._base_url + path + (f"?{parameters}" if parameters else ""), encoded=True)
        try:
            async with self._session.request(
                method, url, json=document, headers=self._headers, allow_redirects=False
            ) as response:
                return _read_answer(response.status, response.reason or "", await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ControlUnreachable(
                f"The control API at {self._base_url} broke off before it answered; "
                "see the server's log, and whether the change was made before making it again."
            ) from error


@asynccontextmanager
async def control_api(settings: Settings, listener: Listener | None = None) -> AsyncIterator[ControlApi]:
    """The control API of the installation that the settings describe. Raises ControlUnreachable.

    `listener` serves it from this process; the installation's own unless a test brings another.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S),
            )
        )
        base_url = await _reached(stack, session, settings, listener or _own_listener)
        try:
            key = operator_key(settings)
        except SecretMissing as error:
            raise ControlUnreachable(str(error)) from error
        yield ControlApi(session, base_url, key)


async def _reached(
    stack: AsyncExitStack, session: aiohttp.ClientSession, settings: Settings, listener: Listener
) -> str:
    """The base URL of the server that runs, or else of a listener of our own, which the stack then closes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BUSY_TIMEOUT_S
    base_url = control_url(settings.control)
    while True:
        # A port that the system chose is known to the server alone.
        if settings.control.port != 0 and await _serves_here(session, base_url):
            return base_url
        try:
            return await stack.enter_async_context(listener(settings))
        except LedgerBusy:
            if loop.time() >= deadline:
                raise
        # Another command has it for a moment, or a server that is about to listen.
        await asyncio.sleep(BUSY_LOOK_S)


def control_url(control: ControlSettings) -> str:
    """Where the control API that listens there is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(control.host, control.host)  # noqa: S104
    return f"http://[{host}]:{control.port}" if ":" in host else f"http://{host}:{control.port}"


async def _serves_here(session: aiohttp.ClientSession, base_url: str) -> bool:
    """True if Tollkeeper answers there, False if nobody listens; raises ControlUnreachable for anything else."""
    names = f"{environment_name('control.host')} and {environment_name('control.port')}"
    try:
        async with (
            asyncio.timeout(VERSION_TIMEOUT_S),
            session.get(f"{base_url}/version", allow_redirects=False) as response,
        ):
            said = bytearray()
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > VERSION_BYTES_MAX:
                    break
    except TimeoutError as error:
        raise ControlUnreachable(
            f"What listens on {base_url} does not answer; restart the server if it is Tollkeeper's, "
            f"else set {names} to where its control API listens."
        ) from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ConnectionRefusedError):
            return False
        raise ControlUnreachable(
            f"{base_url} cannot be reached ({error.os_error.strerror}); "
            f"set {names} to where the server's control API listens."
        ) from error
    except aiohttp.ClientError:
        said = bytearray()
    document = _document(bytes(said))
    if not isinstance(document, dict) or document.get("product") != PRODUCT:
        raise ControlUnreachable(
            f"What listens on {base_url} is not Tollkeeper; set {names} to where the server's control API listens, "
            "or to a free port if no server runs."
        )
    return True


def _read_answer(status: int, reason: str, body: bytes) -> Any:
    document = _document(body)
    if 200 <= status < 300:
        return document
    problem = document if isinstance(document, dict) else {}
    title = str(problem.get("title") or reason or "Refused")
    detail = str(
        problem.get("detail") or f"The control API answered {status} without saying why; see the server's log."
    )
    if status == 401:
        detail = (
            "The server does not know this installation's key: it runs with another data directory or another secret; "
            f"set {environment_name('data_dir')} (and {environment_name('secret_key')}, if it has one) to what it runs with."
        )
    raise ControlError(status, title, detail)


def _document(body: bytes) -> Any:
    """The JSON document in an answer; None if there is none."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


@asynccontextmanager
async def _own_listener(settings: Settings) -> AsyncIterator[str]:
    # Imported here: it brings the whole gateway along, which a command that finds a server running does not need.
    from gateway.app import control_listener  # noqa: PLC0415
    from gateway.office import LedgerInUse  # noqa: PLC0415
    from gateway.supervisor import StartRefused  # noqa: PLC0415
    from gateway.telemetry import speaking_to_stderr  # noqa: PLC0415

    try:
        with speaking_to_stderr():
            async with control_listener(settings) as base_url:
                yield base_url
    except LedgerInUse as error:
        names = f"{environment_name('control.host')} and {environment_name('control.port')}"
        raise LedgerBusy(
            f"Another process has the ledger in {settings.data_dir} and does not answer on "
            f"{control_url(settings.control)}; if it is a server, set {names} to where its control API listens, "
            "else wait until it is done."
        ) from error
    except StartRefused as error:
        raise ControlUnreachable(str(error)) from error
