"""The calls that are under way while the gateway is killed: made by many clients at once that do not mind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlencode

import aiohttp

from tests.walks.harness import basic

CLIENTS = 200
PATIENCE_S = 60
"""No call may take longer, whatever is killed."""

PADDING = ",".join(f"padding{number}={'x' * 60}" for number in range(6))
"""Tags that make records large, so that segments fill up."""


class Request(NamedTuple):
    """What is asked."""

    what: str
    path: str
    headers: dict[str, str]
    body: bytes


class Call(NamedTuple):
    """What a client knows of one call."""

    number: int
    what: str
    kills: tuple[int, int]
    """How often something had been killed when it began and when it ended."""
    status: int | None
    """Of an answer that came whole; None where the call was cut off, or never began."""
    seen: str | None
    """The name of what was made, where the client saw the whole of a success."""
    call_id: str | None = None
    """What the gateway calls it, where it told the client."""
    slow: bool = False
    """True where nothing came for so long that the client gave up."""


class Load:
    """Makes calls until it is told to stop, and remembers all of them."""

    def __init__(self, seed: int, proxy_url: Callable[[], str], key: str, account: str) -> None:
        self._dice = random.Random(seed)
        self._proxy_url = proxy_url
        self._key = key
        self._account = account
        self._stopped = False
        self._served = asyncio.Event()
        """Set when a call is answered, until the next one is not."""
        self._numbers = 0
        self.calls: list[Call] = []
        self.kills = 0
        """How often something was killed so far; whoever kills counts."""

    def stop(self) -> None:
        self._stopped = True

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))

    async def serving(self) -> float:
        """Call until a call succeeds; the time at which it did."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
            while True:
                if (await self._call(session, self._chat(latency_ms=0))).seen is not None:
                    return time.monotonic()
                await asyncio.sleep(0.05)

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopped:
            call = await self._call(session, self._any())
            if call.status is None:
                # Hundreds that try again and again would be what keeps a gateway from coming back.
                self._served.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._served.wait(), 3)
            elif call.status >= 500:
                await asyncio.sleep(self._dice.uniform(0.1, 0.4))

    async def _call(self, session: aiohttp.ClientSession, request: Request) -> Call:
        self._numbers += 1
        number, began, body = self._numbers, self.kills, b""
        headers = {"x-walk-call": str(number), "X-Gateway-Tags": f"call={number},{PADDING}", **request.headers}
        if self._dice.random() < 0.3:
            # So that clients do not all stay with the worker that has lived longest.
            headers["Connection"] = "close"
        code, whole, slow, message_id, call_id = 0, False, False, None, None
        try:
            async with session.post(self._proxy_url() + request.path, data=request.body, headers=headers) as answer:
                code, message_id = answer.status, answer.headers.get("X-Message-Id")
                call_id = answer.headers.get("x-tollkeeper-call-id")
                async for chunk in answer.content.iter_any():
                    body += chunk
            whole = True
            self._served.set()
        except TimeoutError:
            slow = True
        except (aiohttp.ClientError, OSError):
            pass
        succeeded = 200 <= code < 300 and (whole or request.what == "stream")
        seen = made(request.what, body, message_id) if succeeded else None
        call = Call(number, request.what, (began, self.kills), code if whole else None, seen, call_id, slow)
        self.calls.append(call)
        return call

    # -- the mix

    def _any(self) -> Request:
        latency_ms = self._dice.randint(50, 900)
        chance = self._dice.random()
        if chance < 0.5:
            return self._stream(self._dice.randint(50, 400))
        if chance < 0.88:
            return self._chat(latency_ms)
        if chance < 0.92:
            return self._message(latency_ms)
        if chance < 0.96:
            return self._mail(latency_ms)
        chat = self._chat(latency_ms)
        return chat._replace(what="refused", headers=chat.headers | {"x-simulator-status": "429"})

    def _chat(self, latency_ms: int, *, stream: bool = False) -> Request:
        words = self._dice.randint(1, 40)
        messages = [{"role": "user", "content": "toll " * words}]
        body = {"model": "gpt-4o", "stream": stream, "messages": messages}
        headers = self._asking(latency_ms, f"Bearer {self._key}")
        return Request("chat", "/openai/v1/chat/completions", headers, json.dumps(body).encode())

    def _stream(self, latency_ms: int) -> Request:
        chat = self._chat(latency_ms, stream=True)
        slowly = {"x-simulator-words": str(self._dice.randint(1, 6)), "x-simulator-chunk-ms": "60"}
        return chat._replace(what="stream", headers=chat.headers | slowly)

    def _message(self, latency_ms: int) -> Request:
        form = {"To": "+12025550143", "From": "+15017122661", "Body": "toll " * self._dice.randint(1, 60)}
        headers = self._asking(latency_ms, basic(self._account, self._key))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        path = f"/twilio/2010-04-01/Accounts/{self._account}/Messages.json"
        return Request("message", path, headers, urlencode(form).encode())

    def _mail(self, latency_ms: int) -> Request:
        people = [{"email": f"reader+{number}@example.com"} for number in range(self._dice.randint(1, 5))]
        content = [{"type": "text/plain", "value": "toll"}]
        document = {"personalizations": [{"to": people}], "from": {"email": "toll@example.com"}, "subject": "Toll"}
        headers = self._asking(latency_ms, f"Bearer SG.{self._key}")
        return Request("mail", "/sendgrid/v3/mail/send", headers, json.dumps(document | {"content": content}).encode())

    def _asking(self, latency_ms: int, authorization: str) -> dict[str, str]:
        controls = {"x-simulator-latency-ms": str(latency_ms)}
        return {"Authorization": authorization, "Content-Type": "application/json", **controls}


def made(what: str, body: bytes, message_id: str | None) -> str | None:
    """The name of what a successful answer made; None for a stream that has not said that it is done.

    What comes after that, or does not, tells the application nothing.
    """
    if what == "mail":
        return message_id
    if what != "stream":
        document = json.loads(body)
        return document["sid" if what == "message" else "id"]
    if b"data: [DONE]\n\n" not in body:
        return None
    return json.loads(body.partition(b"data: ")[2].partition(b"\n")[0])["id"]
