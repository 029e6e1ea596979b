"""`python -m gateway.simulator`: listen, say where, and serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from gateway.simulator.director import Director
from gateway.simulator.server import PROVIDERS, Options, Simulator, listen
from gateway.simulator.truth import TruthLog

try:
    import uvloop
except ImportError:
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.simulator", description="The providers, simulated.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--truth-log", type=Path, required=True, help="where to append what happened, as JSON lines")
    parser.add_argument("--seed", type=int, help="make the same ids in each run")
    parser.add_argument("--latency-ms", type=int, default=0, help="how long every answer takes to begin")
    parser.add_argument("--record-bodies", action="store_true", help="put the bodies of requests into the truth log")
    parser.add_argument("--key", action="append", default=[], help="accept this key, and not the default one")
    parser.add_argument("--real-links", action="store_true", help="let links in answers lead to the real hosts")
    parser.add_argument("--rate-limit", type=int, help="refuse what a credential asks above so many calls per second")
    parser.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    return parser.parse_args()


async def serve(options: argparse.Namespace, truth: TruthLog) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = Options(
        options.seed,
        options.latency_ms,
        options.record_bodies,
        tuple(options.key),
        options.real_links,
        options.rate_limit,
    )
    simulator = Simulator(truth, settings)
    runner, port = await listen(simulator, options.host, options.port)
    host = f"[{options.host}]" if ":" in options.host else options.host
    base_urls = {provider.name: f"http://{host}:{port}/{provider.mount}" for provider in PROVIDERS}
    credentials = {provider.name: dict(provider.default_credential) for provider in PROVIDERS}
    ready = {
        "event": "simulator_listening",
        "host": options.host,
        "port": port,
        "base_urls": base_urls,
        "control_url": f"http://{host}:{port}/{Director.mount}",
        "credentials": credentials,
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if options.until_stdin_closes:
        # Nothing is ever sent this way: that it can be read means that it has ended.
        loop.add_reader(sys.stdin.fileno(), stop.set)
    await stop.wait()
    if options.until_stdin_closes:
        loop.remove_reader(sys.stdin.fileno())
    await runner.cleanup()
    await simulator.close()


def main() -> None:
    options = arguments()
    with TruthLog(options.truth_log) as truth, asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(options, truth))


if __name__ == "__main__":
    main()
