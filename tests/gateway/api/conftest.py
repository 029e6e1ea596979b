"""The control API over a real socket and a real database file, and everybody who may ask it something."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from sqlalchemy import insert
from yarl import URL

from gateway.accounts import Accounts, NewKey
from gateway.api import application
from gateway.api.server import ControlRunner
from gateway.collector import Collector, Credential, Source
from gateway.connector import Connector
from gateway.connector import Source as Numbered
from gateway.deliverer import Deliverer
from gateway.egress import Egress, Policy
from gateway.importer import Importer
from gateway.inbox import Inbox
from gateway.keys import Secrets
from gateway.monitor import Monitor
from gateway.providers import twilio
from gateway.reconciler import Account, NotReconciled, Reconciler
from gateway.reconciliations import Reconciliations
from gateway.shipper import Shipper
from gateway.tables import admin_keys
from metering.reconciliation import Figure

VERSION = "1.2.3"

BEHIND_S_MAX = 60


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> Any:
        """The problem document, after a look at what all of them promise."""
        assert self.headers["Content-Type"].split(";")[0] == "application/problem+json"
        assert self.document["status"] == self.status
        assert (
            {"type", "title", "status", "detail"}
            <= self.document.keys()
            <= {
                "type",
                "title",
                "status",
                "detail",
                "errors",
            }
        )
        return self.document


class Api:
    """Asks the control API, as the operator if nobody else is named."""

    def __init__(
        self,
        *,
        session,
        runner,
        accounts,
        database,
        shipper,
        secrets,
        clock,
        directory,
        monitor,
        inbox,
        deliverer,
        reconciliations,
        lists,
    ) -> None:
        self._session = session
        self.runner = runner
        self.port = runner.addresses[0][1]
        self.accounts = accounts
        self.database = database
        self.shipper = shipper
        self.secrets = secrets
        self.clock = clock
        self.unready: list[str] = []
        """Why the gateway is not ready."""
        self.monitor = monitor
        self.inbox = inbox
        self.deliverer = deliverer
        """Delivers when a test tells it to."""
        self.reconciliations = reconciliations
        self.lists = lists
        """What the provider says that the ledger is held against."""
        self.directory = directory
        """Where spool and counters are."""

    async def ask(self, method, path, document=None, *, key="", headers=None, data=None) -> Answer:
        """Send a request; `key` None sends no Authorization."""
        sent = CIMultiDict(headers or {})
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key or self.secrets.operator_key}")
        if document is not None:
            data = json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self._session.request(
            method, url, data=data, headers=sent, skip_auto_headers=["Content-Type"]
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path, **more) -> Answer:
        return await self.ask("GET", path, **more)

    async def post(self, path, document=None, **more) -> Answer:
        return await self.ask("POST", path, document, **more)

    async def tenant(self, tenant_id) -> None:
        async with self.accounts.changing("test") as change:
            await change.create_tenant(tenant_id)

    async def key(self, tenant_id, **given) -> NewKey:
        async with self.accounts.changing("test") as change:
            return await change.create_key(tenant_id, **{"name": "app"} | given)

    async def integration(self, tenant_id, **changes):
        async with self.accounts.changing("test") as change:
            return await change.change_integration(tenant_id, changes)

    async def credential(self, tenant_id) -> None:
        async with self.accounts.changing("test") as change:
            await change.set_credential(tenant_id, "openai", {"api_key": "sk-own-1"})

    async def collection(self, day=20) -> str:
        """One that waits; its id."""
        asked = {"source": "twilio", "from": f"2026-11-{day - 1}", "to": f"2026-11-{day}"}
        return (await self.post("/v1/collections", asked)).document["collection_id"]

    async def reconciled(self, tenant_id=None, **asked) -> str:
        """The id of a run that is over."""
        whose = {} if tenant_id is None else {"tenant_id": tenant_id}
        document = {"source": "twilio", "from": "2026-11-01", "to": "2026-11-02"} | whose | asked
        answer = await self.post("/v1/reconciliations", document)
        assert answer.status == 202, answer.body
        while await self.reconciliations.look():
            pass
        return answer.document["reconciliation_id"]

    async def admin(self, name, role) -> str:
        key = f"admin-key-of-{name}"
        row = {"name": name, "digest": self.secrets.digest(key).hex(), "role": role, "created_at": self.clock.now}
        async with self.database.transaction() as connection:
            await connection.execute(insert(admin_keys).values(row))
        return key


async def no_integrations():
    return {}


class FakeLists:
    """A provider of which every account has the same figures, and no lists."""

    def __init__(self) -> None:
        self.said: list[Figure] = []
        self.refuses: str | None = None

    def figures(self, _) -> list[Figure]:
        return self.said

    async def accounts(self, source, tenant_id):
        if self.refuses is not None:
            raise NotReconciled(self.refuses)
        return [Account(source, tenant_id)]

    async def collect(self, *_):
        return False

    async def records(self, *_):
        for nothing in ():
            yield nothing

    async def totals(self, *_):
        return []

    async def nobodys(self, *_):
        return []


@pytest.fixture
async def api(database, tmp_path, books):
    secrets, clock = Secrets.derived("a secret of these tests"), Clock()
    accounts = Accounts(database, secrets, tmp_path / "snapshot.json", clock)

    async def health():
        return asked.unready

    spool, counters = tmp_path / "spool", tmp_path / "counters"
    spool.mkdir()
    shipper = Shipper(spool, database, books, clock)
    inbox = Inbox(tmp_path / "inbox", secrets, lambda: round(clock().timestamp() * 1000), fsync=False)
    deliverer = Deliverer(inbox, Egress(Policy()), lambda _: None, lambda: round(clock().timestamp() * 1000))
    monitor = Monitor(
        shipper, {}, database, spool, counters, clock, BEHIND_S_MAX, expects_workers=False, deliverer=deliverer
    )
    source = Source("http://127.0.0.1:1", twilio.PROVIDER.records, (), None, lambda _: Credential({}, "AC" + "5" * 32))
    # Nobody runs it here: what is asked for stays as it is.
    collector = Collector(database, None, {"twilio": source}, no_integrations, str, clock, clock)
    lists = FakeLists()

    async def book(facts):
        return await shipper.book(facts, [])

    numbered = {"twilio": Numbered(twilio.PROVIDER, "http://127.0.0.1:1", lambda _: None)}
    reconciler = Reconciler(database, book, lists, {"twilio": lists.figures}, str, clock)
    reconciliations = Reconciliations(database, reconciler, clock, "0.5%", nightly=True)
    runner = ControlRunner(
        application(
            accounts=accounts,
            database=database,
            shipper=shipper,
            collector=collector,
            reconciler=reconciliations,
            connector=Connector(accounts, numbered, None),
            importer=Importer(database, lambda facts: shipper.book(facts, []), "hash of {}".format, clock),
            secrets=secrets,
            health=health,
            monitor=monitor,
            deliverer=deliverer,
            version=VERSION,
            now=clock,
        )
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        asked = Api(
            session=session,
            runner=runner,
            accounts=accounts,
            database=database,
            shipper=shipper,
            secrets=secrets,
            clock=clock,
            directory=tmp_path,
            monitor=monitor,
            inbox=inbox,
            deliverer=deliverer,
            reconciliations=reconciliations,
            lists=lists,
        )
        yield asked
    await runner.cleanup()


@pytest.fixture
async def acme(api):
    """A tenant's id."""
    await api.tenant("acme")
    return "acme"
