"""Clients that keep their connections, call again and again, and never repeat a call: what fails, fails them."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from typing import Self
from urllib.parse import urlsplit

from tests.walks.harness import PATIENCE_S, Installation, eventually


class Load:
    """Calls from many clients at once, for as long as it is entered; every other one's answers are streams."""

    def __init__(self, gateway: Installation, key: str, clients: int, pause_s: float) -> None:
        self._gateway = gateway
        self._key = key
        self._pause_s = pause_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        self.answered: list[str] = []
        """The objects whose answers came whole."""
        self.failures: list[str] = []
        self.connections: Counter[int] = Counter()
        """How many connections each client had."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def goes_on(self) -> None:
        """Wait until as many calls were answered as there are clients, and one more each."""
        wanted = len(self.answered) + 2 * len(self._threads)
        eventually(lambda: len(self.answered) >= wanted or self.failures, "answers")

    def _client(self, number: int) -> None:
        url = urlsplit(self._gateway.openai)
        streamed = bool(number % 2)
        body = json.dumps({"model": "gpt-4o", "stream": streamed, "messages": [{"role": "user", "content": "Hi"}]})
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        headers |= {"x-simulator-words": "6", "x-simulator-chunk-ms": "10"} if streamed else {}
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE_S)
        while not self._over.wait(self._pause_s):
            try:
                if connection.sock is None:
                    connection.connect()
                    self.connections[number] += 1
                connection.request("POST", f"{url.path}/chat/completions", body, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status != 200 or (streamed and "[DONE]" not in text):
                    raise ValueError(f"{answer.status} {text[:200]}")
                first = text.partition("data: ")[2].partition("\n")[0] if streamed else text
                self.answered.append(json.loads(first)["id"])
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                break
        connection.close()
