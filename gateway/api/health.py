"""Whether the process is alive, whether it can do its work, how it is doing, and what it is. Anybody may ask."""

from __future__ import annotations

import asyncio
import platform
from typing import Any

from aiohttp import web

from gateway.api.answers import json_answer
from gateway.api.parts import HEALTH, MONITOR, VERSION
from gateway.counters import SPOOL_FAILED
from gateway.release import DISTRIBUTION, is_compiled
from gateway.schema import HEAD


async def alive(_: web.Request) -> web.Response:
    return json_answer({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    reasons = list(await request.app[HEALTH]())
    told: dict[str, Any] = {}
    monitor = request.app[MONITOR]
    try:
        on_disk = await monitor.on_disk()
    except OSError:
        reasons.append("the data directory can not be read")
    else:
        size_bytes, age_s = on_disk.backlog
        if monitor.expects_workers and not on_disk.workers:
            reasons.append("no worker is running")
        refused = [slot for slot, counted in on_disk.workers.items() if any(counted.values.get(SPOOL_FAILED.name, ()))]
        reasons += [f"worker {slot} takes no calls: the disk of its spool is full, or refuses" for slot in refused]
        told = {"backlog": {"bytes": size_bytes, "age_s": round(age_s, 3)}, "workers": {"alive": len(on_disk.workers)}}
    if reasons:
        return json_answer({"status": "unready", "reasons": reasons} | told, 503)
    return json_answer({"status": "ready"} | told)


async def metrics(request: web.Request) -> web.Response:
    seen = await request.app[MONITOR].seen()

    def shown() -> web.Response:
        # What it is made with takes as long to import as a hundred calls: not before somebody asks, nor in their way.
        from gateway.api.exposition import CONTENT_TYPE, exposition  # noqa: PLC0415

        return web.Response(body=exposition(seen, request.app[VERSION]), headers={"Content-Type": CONTENT_TYPE})

    return await asyncio.to_thread(shown)


async def version(request: web.Request) -> web.Response:
    return json_answer(
        {
            "product": DISTRIBUTION,
            "version": request.app[VERSION],
            "python": platform.python_version(),
            "compiled": is_compiled(),
            "schema": HEAD,
        }
    )
