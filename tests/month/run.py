"""A month of ten tenants, lived in a minute or two: through the gateway, around it, and through two crashes.

At the end the ledger is reconciled, and held against the simulator's own bill, which nothing in the gateway shares: to the
last segment, second and message of each tenant. Then it is reconciled once more, which must change nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from twilio.request_validator import RequestValidator

from tests.month.clock import Clock
from tests.month.plan import TENANTS, Called, Came, Sent, plan
from tests.walks.harness import (
    Answered,
    Installation,
    Process,
    Simulated,
    basic,
    eventually,
    gateway_process,
    simulated,
)

BEGINS = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)
DAYS_AFTER = 6
"""So old a message is over that was sent, and of which nobody says any more."""

CRASHES = (0.3, 0.7)
"""At these parts of the month the gateway is killed, with everything it does."""

PREPARED = 0.8
"""So long before it begins, as a part of it, tenants and numbers are made; and longer than that is not needed:"""
PREPARED_S_MAX = 60

AT_ONCE = 16
QUIET_S = 300
RECONCILED_S = 1200
"""So long a reconciliation may take, on whatever machine."""


class Login(NamedTuple):
    """How a caller of Twilio's API says who it is."""

    account: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": basic(self.account, self.token)}


class Shape(NamedTuple):
    """How large a month is."""

    messages: int
    calls: int
    lasts_s: float
    seed: int
    days: int = 30


class Sums(NamedTuple):
    """What one tenant used."""

    messages: int
    segments: int
    seconds: int


class Verdict(NamedTuple):
    """What became of a month."""

    billed: Mapping[str, Sums]
    booked: Mapping[str, Sums]
    repeated: Mapping[str, Sums]
    """The same after the second reconciliation."""
    rows: tuple[int, int]
    """Events in the ledger after the first and after the second."""
    found: Counter[str]
    """What the traffic was, and what the applications were told."""


def number_of(tenant: int) -> str:
    return f"+1415555{1000 + tenant}"


def name_of(tenant: int) -> str:
    return f"tenant-{tenant}"


class Month:
    """One installation that lives through a month."""

    def __init__(self, directory: Path, shape: Shape, say: Callable[[str], object], **settings: str) -> None:
        self.shape = shape
        self._directory = directory
        self._say = say
        self._settings = settings
        self._prepared_s = min(PREPARED * shape.lasts_s, PREPARED_S_MAX)
        self._found: Counter[str] = Counter()
        self._keys: dict[int, tuple[str, str]] = {}
        self._secrets: dict[str, str] = {}
        self._down = asyncio.Event()
        self._up = asyncio.Event()

    async def live(self) -> Verdict:
        """Start everything, live, reconcile twice, stop."""
        speed = self.shape.days * 86_400 / self.shape.lasts_s
        # The accounts and numbers are there the day before.
        until = BEGINS + dt.timedelta(days=self.shape.days + DAYS_AFTER)
        self._clock = Clock.beginning(BEGINS - dt.timedelta(seconds=self._prepared_s * speed), speed, until)
        clock = {"MONTH_CLOCK": str(self._clock)}
        truth = self._directory / "truth.jsonl"
        simulator = Process([sys.executable, "-m", "tests.month.simulator", "--truth-log", str(truth)], clock)
        simulator.start()
        try:
            providers = simulated(simulator)
            runner, port = await self._application()
            try:
                return await self._with(simulator, providers, port, clock)
            finally:
                await runner.cleanup()
        finally:
            simulator.stop()

    async def _with(self, simulator: Process, providers: Simulated, port: int, clock: Mapping[str, str]) -> Verdict:
        proxy_port = _free_port()
        settings = {
            "proxy__port": str(proxy_port),
            "public_url": f"http://127.0.0.1:{proxy_port}",
            "callback_hosts": f"127.0.0.1:{port}",
            **self._settings,
        }
        gateway = gateway_process(self._directory / "data", providers, **settings)
        gateway.command = [sys.executable, "-m", "tests.month.gateway", "serve"]
        gateway.environment |= clock
        running = Installation(self._directory, simulator, gateway, providers)
        running.start_gateway()
        self._up.set()
        try:
            await asyncio.to_thread(self._prepare, running, port)
            await self._traffic(running, port)
            await asyncio.to_thread(eventually, lambda: self._clock.time() > self._clock.until_s, "the days after")
            await asyncio.to_thread(_quiet, running)
            return await asyncio.to_thread(self._judge, running)
        finally:
            gateway.stop()

    # -- the application

    async def _application(self) -> tuple[web.AppRunner, int]:
        """What the tenants have: it takes what is passed on to it, and verifies who signed it."""

        async def take(request: web.Request) -> web.Response:
            tenant, kind = request.match_info["tenant"], request.match_info["kind"]
            form = await request.post()
            url = f"http://{request.host}{request.path_qs}"
            told = request.headers.get("X-Twilio-Signature", "")
            signed = RequestValidator(self._secrets[tenant]).validate(url, form, told)
            self._found[f"told {kind}" if signed else "forged"] += 1
            if not signed:
                self._say(f"forged: {url} {dict(request.headers)} {dict(form)}")
            return web.Response(text="<Response/>", content_type="text/xml")

        app = web.Application()
        app.router.add_post("/{tenant}/{kind}", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    def _prepare(self, running: Installation, port: int) -> None:
        for tenant in range(TENANTS):
            name = name_of(tenant)
            running.tenant(name, plan="starter")
            made = running.ask(
                "PATCH",
                f"/v1/tenants/{name}/integrations",
                {"phone_numbers": [number_of(tenant)], "sms_url": f"http://127.0.0.1:{port}/{name}/sms"},
            )
            self._secrets[name] = made["signing_secret"]
            # Last of all, so that a worker that knows it knows all of its tenant.
            self._keys[tenant] = running.account_sid(name), running.key(name)
        sid, key = self._keys[TENANTS - 1]
        url = f"{running.proxy_url}/twilio/api/2010-04-01/Accounts/{sid}/Usage/Records.json"

        def is_known(_: int) -> bool:
            request = urllib.request.Request(url, headers=Login(sid, key).headers)
            try:
                with urllib.request.urlopen(request, timeout=60):
                    return True
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.code != 401

        with ThreadPoolExecutor(AT_ONCE) as threads:
            eventually(lambda: all(threads.map(is_known, range(AT_ONCE))), "every worker to know the tenants", QUIET_S)

    # -- what happens

    async def _traffic(self, running: Installation, port: int) -> None:
        base = running.providers.base_urls["twilio"].replace("{product}", "api")
        credential = running.providers.credentials["twilio"]
        real = Login(credential["account_sid"], credential["auth_token"])
        things = plan(self.shape.seed, self.shape.messages, self.shape.calls)
        began = self._clock.began_s + self._prepared_s
        crashes = [int(len(things) * part) for part in CRASHES]
        # Where a machine takes long to start it anew, the next one is due before.
        crashing = asyncio.Lock()
        async with ClientSession(timeout=ClientTimeout(total=60), connector=TCPConnector(limit=AT_ONCE * 2)) as session:
            for tenant in range(TENANTS):
                await self._buy(session, base, real, tenant, running.proxy_url)
            await asyncio.sleep(max(0.0, began - time.time()))
            turn = iter(enumerate(things))

            async def work() -> None:
                for index, thing in turn:
                    due = began + self.shape.lasts_s * index / len(things)
                    await asyncio.sleep(max(0.0, due - time.time()))
                    if index in crashes:
                        async with crashing:
                            await asyncio.to_thread(self._crash, running)
                    await self._happen(session, running, base, real, thing, port)

            await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        self._say(f"the month is over: {dict(self._found)}")

    def _crash(self, running: Installation) -> None:
        """Kill every process of the gateway, and start it anew."""
        running.gateway.kill()
        self._found["crashes"] += 1
        running.start_gateway()

    async def _buy(self, session: ClientSession, base: str, real: Login, tenant: int, proxy_url: str) -> None:
        url = f"{base}/2010-04-01/Accounts/{real.account}/IncomingPhoneNumbers.json"
        hook = f"{proxy_url}/webhooks/twilio/{name_of(tenant)}"
        form = {"PhoneNumber": number_of(tenant), "SmsUrl": f"{hook}/sms", "VoiceUrl": f"{hook}/voice"}
        async with session.post(url, data=form, headers=real.headers) as answer:
            assert answer.status == 201, await answer.text()

    async def _happen(
        self,
        session: ClientSession,
        running: Installation,
        base: str,
        real: Login,
        thing: Sent | Called | Came,
        port: int,
    ) -> None:
        if isinstance(thing, Came):
            url = base.partition("/twilio")[0] + "/_simulator/twilio/inbound-message"
            document = {"to": number_of(thing.tenant), "from": "+12025550100", "body": "x" * thing.characters}
            async with session.post(url, json=document) as answer:
                assert answer.status < 300, await answer.text()
            self._found["came in"] += 1
            return
        form, headers, kind = _asked(thing, port)
        at, auth = (base, real)
        if not thing.around:
            sid, key = self._keys[thing.tenant]
            at, auth = f"{running.proxy_url}/twilio/api", Login(sid, key)
        url = f"{at}/2010-04-01/Accounts/{auth.account}/{kind}.json"
        try:
            async with session.post(url, data=form, headers=auth.headers | headers) as answer:
                status = answer.status
                await answer.read()
        except (ClientError, TimeoutError, OSError):
            # A crash: whether it was sent, the simulator knows.
            self._found["broken off"] += 1
            return
        self._found[f"{'around' if thing.around else 'through'}: {status}"] += 1

    # -- what became of it

    def _judge(self, running: Installation) -> Verdict:
        day = BEGINS - dt.timedelta(days=1)
        last = self._clock.now() - dt.timedelta(days=1)
        billed = self._billed(running, day, self._clock.now())
        self._reconcile(running, day, last)
        # What was never sent is in no list by the day: it is asked for, one by one.
        eventually(lambda: not _pending(running), "the last word on each message and call", RECONCILED_S)
        self._reconcile(running, day, last)
        booked, rows = _booked(running), len(running.events())
        self._reconcile(running, day, last)
        repeated, rows_then = _booked(running), len(running.events())
        return Verdict(billed, booked, repeated, (rows, rows_then), self._found)

    def _reconcile(self, running: Installation, first: dt.datetime, last: dt.datetime) -> None:
        wanted = {"source": "twilio", "from": first.date().isoformat(), "to": last.date().isoformat()}
        run = running.ask("POST", "/v1/reconciliations", wanted)

        def ended() -> Any:
            found = running.ask("GET", f"/v1/reconciliations/{run['reconciliation_id']}")
            return found["status"] not in ("waiting", "running") and found

        done = eventually(ended, "the end of the reconciliation", RECONCILED_S)
        open_ = [line for line in done["differences"]["data"] if line["resolution"] == "open"]
        self._say(f"reconciled: {done['status']}, {done['reason'] or 'whole'}, open: {open_[:5]}")

    def _billed(self, running: Installation, first: dt.datetime, last: dt.datetime) -> dict[str, Sums]:
        """What the simulator bills, by the tenant whose number it went from or came to."""
        import json  # noqa: PLC0415

        base = running.providers.base_urls["twilio"].partition("/twilio")[0]
        url = f"{base}/_simulator/bill?from={first.date()}&to={last.date()}"
        with urllib.request.urlopen(url, timeout=120) as answer:
            lines = json.load(answer)["twilio"]
        whose = {number_of(tenant): name_of(tenant) for tenant in range(TENANTS)}
        found = {name: [0, 0, 0] for name in whose.values()}
        for line in lines:
            tenant = whose.get(line["number"].rpartition(":")[2])
            if tenant is None:
                continue
            sums = found[tenant]
            if line["category"] in MESSAGES:
                sums[0] += line["count"]
                sums[1] += line["usage"] if line["category"].startswith("sms") else 0
            elif line["category"] in CALLS:
                sums[2] += line["seconds"]
        return {tenant: Sums(*sums) for tenant, sums in found.items()}


MESSAGES = frozenset(f"{kind}-{way}" for kind in ("sms", "mms", "channels-whatsapp") for way in ("outbound", "inbound"))
CALLS = frozenset({"calls-outbound", "calls-inbound"})
TYPES = {
    "sms_outbound": "sms", "sms_inbound": "sms", "mms_outbound": "", "mms_inbound": "", "whatsapp_outbound": "",
    "whatsapp_inbound": "",
}  # fmt: skip


def _booked(running: Installation) -> dict[str, Sums]:
    """What the ledger has of each tenant."""
    summary = running.ask("GET", "/v1/usage/summary?group_by=tenant_id,event_type&from=2026-01-01&to=2100-01-01")
    found: dict[str, list[int]] = {name_of(tenant): [0, 0, 0] for tenant in range(TENANTS)}
    for group in summary["groups"]:
        if group["tenant_id"] not in found:
            continue  # What the account costs that all share.
        sums, quantities = found[group["tenant_id"]], group["quantities"]
        if group["event_type"] in TYPES:
            sums[0] += quantities.get("messages") or 0
            sums[1] += (quantities.get("segments") or 0) if TYPES[group["event_type"]] else 0
        elif group["event_type"] == "call_minutes":
            sums[2] += quantities.get("seconds") or 0
    return {tenant: Sums(*sums) for tenant, sums in found.items()}


def _asked(thing: Sent | Called, port: int) -> tuple[dict[str, str], dict[str, str], str]:
    """The form, the simulator's controls and what is made."""
    headers = {"x-simulator-outcome": thing.end}
    if thing.callbacks:
        headers["x-simulator-callbacks"] = thing.callbacks
    sender, status = number_of(thing.tenant), f"http://127.0.0.1:{port}/{name_of(thing.tenant)}/status"
    if isinstance(thing, Called):
        form = {"To": "+12025550143", "From": sender, "Url": "http://127.0.0.1:1/voice"}
        if not thing.around:
            # Who sends around the gateway is told with the real signature, which no tenant can verify.
            form["StatusCallback"] = status
        return form, headers | {"x-simulator-seconds": str(thing.seconds)}, "Calls"
    form = {"To": "+12025550143", "From": sender, "Body": "x" * thing.characters}
    if thing.characters % 2 and not thing.around:
        form["StatusCallback"] = status
    if thing.whatsapp:
        form |= {"To": "whatsapp:+12025550143", "From": f"whatsapp:{sender}"}
    if thing.media:
        form["MediaUrl"] = "https://example.com/a.jpg"
    return form, headers, "Messages"


def _quiet(running: Installation) -> None:
    """Wait until what is recorded is booked, and what the killed have left behind."""

    def booked() -> bool:
        try:
            spools = running.ask("GET", "/v1/spools")["data"]
        except Answered:
            return False
        return all(not one["unbooked_bytes"] and (one["worker"] == "alive" or one["finished"]) for one in spools)

    time.sleep(2)
    eventually(booked, "all spools in the ledger", QUIET_S)


def _pending(running: Installation) -> int:
    """Of how many things the provider is to say more."""

    with urllib.request.urlopen(f"{running.control_url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("tollkeeper_pending_events{"))


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def problems(verdict: Verdict) -> Sequence[str]:
    """What is wrong, in sentences."""
    wrong = [
        f"{tenant}: billed {verdict.billed[tenant]}, booked {booked}"
        for tenant, booked in verdict.booked.items()
        if booked != verdict.billed[tenant]
    ]
    if verdict.repeated != verdict.booked or verdict.rows[0] != verdict.rows[1]:
        wrong.append(f"the second reconciliation changed something: {verdict.rows} events")
    if verdict.found["forged"]:
        wrong.append(f"{verdict.found['forged']} deliveries that the SDK's validator takes for forged")
    return wrong
