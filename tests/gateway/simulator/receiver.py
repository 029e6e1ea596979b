"""An application that providers call: a small server, and what reached it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from multidict import CIMultiDictProxy

LIVENESS_S_MAX = 30


class Arrived(NamedTuple):
    method: str
    url: str
    """All of it, as the provider was told it."""
    headers: CIMultiDictProxy[str]
    body: bytes


class Receiver:
    """Answers everything with 204, or with what it is told."""

    def __init__(self) -> None:
        self.status = 204
        self.answers: dict[str, list[str | int]] = {}
        """By path, what to answer: TwiML or a status, one after the other, the last one again and again."""
        self.arrived: list[Arrived] = []
        self.base_url = ""
        self._more = asyncio.Condition()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        url = f"http://{request.headers['Host']}{request.raw_path}"
        self.arrived.append(Arrived(request.method, url, request.headers, await request.read()))
        async with self._more:
            self._more.notify_all()
        answers = self.answers.get(request.path)
        if answers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, int):
                return web.Response(status=answer)
            return web.Response(text=answer, content_type="text/xml")
        return web.Response(status=self.status, headers={"Location": f"{self.base_url}/elsewhere"})

    async def until(self, count: int) -> list[Arrived]:
        """What arrived, once that is so many."""
        async with asyncio.timeout(LIVENESS_S_MAX), self._more:
            await self._more.wait_for(lambda: len(self.arrived) >= count)
        return self.arrived


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    received = Receiver()
    runner = web.ServerRunner(web.Server(received.handle, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    received.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield received
    finally:
        await runner.cleanup()
