"""An application of a tenant's, as a test has it: a server that keeps what it gets, and answers what the test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from twilio.request_validator import RequestValidator


@dataclass(frozen=True)
class Got:
    """One request that the application got."""

    method: str
    url: str
    """As the application has configured it, with what came in the query."""
    headers: dict[str, str]
    fields: dict[str, str]
    body: bytes

    def is_signed_with(self, secret: str) -> bool:
        """What Twilio's own validator says."""
        told = {} if self.method == "GET" else self.fields
        return RequestValidator(secret).validate(self.url, told, self.headers.get("X-Twilio-Signature", ""))


Answers = Callable[[Got], tuple[int, bytes] | tuple[int, bytes, dict[str, str]]]
"""The status, the body, and headers where there are more."""


@dataclass
class Application:
    """Where it listens, and what it got."""

    port: int
    answers: Answers = lambda _: (204, b"")
    got: list[Got] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def got_at(self, path: str) -> list[Got]:
        return [one for one in self.got if urlsplit(one.url).path == path]

    @contextmanager
    def up(self) -> Iterator[Application]:
        """It listens, for as long as this lasts; else nobody does at its port."""
        application = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                query = urlsplit(self.path).query
                told = query.encode() if self.command == "GET" else body
                fields = dict(parse_qsl(told.decode("latin-1"), keep_blank_values=True))
                headers = {name.title(): value for name, value in self.headers.items()}
                one = Got(self.command, application.base_url + self.path, headers, fields, body)
                application.got.append(one)
                status, answer, *more = application.answers(one)
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def free_port() -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
