"""OpenAI's SDK for Python on one of the ways, with ears on its wire: the clients of both kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai._streaming import extract_stream_chunk_type

from tests.surface.upstream import Upstream
from tests.surface.ways import Arranged, Heard, Told, Way


class Ears(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Notes a body as it passes."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._stream: Any = response.stream
        self._data: list[bytes] = []

    @property
    def heard(self) -> Heard:
        response = self._response
        headers = tuple(response.headers.raw)
        return Heard(response.status_code, response.extensions["reason_phrase"], headers, b"".join(self._data))

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._data.append(piece)
            yield piece

    def close(self) -> None:
        self._stream.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._data.append(piece)
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class Wire(httpx2.HTTPTransport):
    """Sends as the SDK would, with the call's name, and notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.call = ""
        self.ears: list[Ears] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["x-call"] = self.call
        return listened_to(super().handle_request(request), self.ears)


class AsyncWire(httpx2.AsyncHTTPTransport):
    """The same for the other kind."""

    def __init__(self) -> None:
        super().__init__()
        self.call = ""
        self.ears: list[Ears] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["x-call"] = self.call
        return listened_to(await super().handle_async_request(request), self.ears)


def listened_to(response: httpx2.Response, ears: list[Ears]) -> httpx2.Response:
    ears.append(Ears(response))
    response.stream = ears[-1]
    return response


class Client(openai.OpenAI):
    """The SDK's client: the provider will give whatever type of answer it awaits."""

    arranged: Arranged

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        self.arranged.awaited(cast_to, extract_stream_chunk_type(stream_cls) if stream else None)
        return super().request(cast_to, options, stream=stream, stream_cls=stream_cls)


class AsyncClient(openai.AsyncOpenAI):
    """The same of the other kind."""

    arranged: Arranged

    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        self.arranged.awaited(cast_to, extract_stream_chunk_type(stream_cls) if stream else None)
        return await super().request(cast_to, options, stream=stream, stream_cls=stream_cls)


class Side:
    """A client on one of the ways."""

    def __init__(self, way: Way, upstream: Upstream, directory: Path) -> None:
        self._upstream = upstream
        self._wire = Wire()
        self.client = Client(**_settings(way), http_client=httpx2.Client(transport=self._wire))
        self.client.arranged = Arranged(upstream, directory)

    def told(self, name: str, call: Callable[[Any], Any], fields: Mapping[str, Any] | None = None) -> Told:
        """Make a call of that name; what it is answered with has these fields."""
        self._wire.call = name
        self.client.arranged.call(name, fields or {})
        try:
            result = plain(call(self.client))
        except Exception as error:  # noqa: BLE001  Whatever is raised is to be the same.
            result = refused(error)
        heard = [ears.heard for ears in self._wire.ears]
        self._wire.ears.clear()
        return Told(self._upstream.taken(name.encode()), heard, result)


class AsyncSide:
    """A client of the other kind."""

    def __init__(self, way: Way, upstream: Upstream, directory: Path) -> None:
        self._upstream = upstream
        self._wire = AsyncWire()
        self.client = AsyncClient(**_settings(way), http_client=httpx2.AsyncClient(transport=self._wire))
        self.client.arranged = Arranged(upstream, directory)

    async def told(self, name: str, call: Callable[[Any], Any], fields: Mapping[str, Any] | None = None) -> Told:
        """As `Side.told`."""
        self._wire.call = name
        self.client.arranged.call(name, fields or {})
        try:
            result = plain(await whole(call(self.client)))
        except Exception as error:  # noqa: BLE001  As above.
            result = refused(error)
        heard = [ears.heard for ears in self._wire.ears]
        self._wire.ears.clear()
        return Told(self._upstream.taken(name.encode()), heard, result)


def _settings(way: Way) -> dict[str, Any]:
    return {
        "base_url": way.base_url,
        "api_key": way.key,
        "admin_api_key": way.key,
        "organization": "org-mine",
        "project": "proj-mine",
        "default_headers": way.headers,
    }


def refused(error: Exception) -> tuple[Any, ...]:
    """Everything that an application can see of an error."""
    seen = ("status_code", "code", "param", "type", "body", "request_id")
    return "raised", type(error).__name__, str(error), {name: getattr(error, name, None) for name in seen}


async def whole(result: Any) -> Any:
    """The result of a call, its stream read to the end."""
    if hasattr(result, "__await__"):
        result = await result
    if isinstance(result, openai.AsyncStream):
        return "stream", [event async for event in result]
    if hasattr(result, "__aenter__") and not isinstance(result, openai.BaseModel):
        async with result as events:
            return "events", [event async for event in events]
    if hasattr(result, "aread"):
        return "binary", await result.aread()
    return result


def plain(value: Any) -> Any:
    """What the SDK returns, down to texts and numbers, streams to their end."""
    if isinstance(value, openai.BaseModel):
        return type(value).__name__, value.model_dump(warnings=False), getattr(value, "_request_id", None)
    if isinstance(value, openai.Stream):
        return "stream", [plain(event) for event in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "http_response") and hasattr(value, "parse"):
        return "raw", value.status_code, value.retries_taken, value.request_id, plain(value.parse())
    if hasattr(value, "iter_bytes"):
        return "binary", value.read()
    if hasattr(value, "__enter__"):
        with value as events:
            return "events", [plain(event) for event in events]
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    return type(value).__name__, plain({name: item for name, item in vars(value).items() if not name.startswith("_")})
