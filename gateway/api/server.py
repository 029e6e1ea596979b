"""Runs the control API on aiohttp's server, which by itself quotes a request that is not HTTP in its answer and its log.

A malformed request is most often one with a line break inside a key that was pasted wrongly, so nothing of it may show.
`handle_error` is aiohttp's private interface; the tests send it every kind of malformed request.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.api.problems import CONTENT_TYPE, SECURITY_HEADERS, Problem

KEEPALIVE_TIMEOUT_S = 75
"""How long a connection may wait for its next request; aiohttp's own default is an hour."""


class ControlRunner(web.AppRunner):
    """Runs the application of the control API."""

    __slots__ = ()

    def __init__(self, application: web.Application, **options: Any) -> None:
        super().__init__(application, access_log=None, keepalive_timeout=KEEPALIVE_TIMEOUT_S, **options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _RequestHandler(self, loop=self._loop, **self._kwargs)


class _RequestHandler(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        problem = (
            Problem(status, "malformed-http", "The request is not well-formed HTTP/1.1.")
            if status < 500
            else Problem(status, "internal", "Something went wrong here.")
        )
        response = web.Response(status=status, body=problem.body(), content_type=CONTENT_TYPE, headers=SECURITY_HEADERS)
        response.force_close()
        return response
