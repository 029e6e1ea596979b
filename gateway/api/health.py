"""Whether the process is alive, whether it can do its work, and what it is. Anybody may ask."""

from __future__ import annotations

import platform

from aiohttp import web

from gateway.api.answers import json_answer
from gateway.api.parts import HEALTH, VERSION, WORKERS
from gateway.schema import HEAD


async def alive(_: web.Request) -> web.Response:
    return json_answer({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    reasons = list(await request.app[HEALTH]())
    workers = request.app[WORKERS]()
    told = {} if workers is None else {"workers": workers}
    if workers == 0:
        reasons.append("no worker is running")
    if reasons:
        return json_answer({"status": "unready", "reasons": reasons, **told}, 503)
    return json_answer({"status": "ready", **told})


async def version(request: web.Request) -> web.Response:
    python = platform.python_version()
    return json_answer({"product": "tollkeeper", "version": request.app[VERSION], "python": python, "schema": HEAD})
