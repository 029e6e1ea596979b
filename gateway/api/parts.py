"""What the handlers find in the application: everything they need from outside."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from aiohttp import web

from gateway.accounts import Accounts
from gateway.collector import Collector
from gateway.connector import Connector
from gateway.deliverer import Deliverer
from gateway.importer import Importer
from gateway.keys import Secrets
from gateway.monitor import Monitor
from gateway.reconciliations import Reconciliations
from gateway.shipper import Shipper
from metering.database import Database

Health: TypeAlias = Callable[[], Awaitable[Sequence[str]]]
"""Why the gateway is not ready, in sentences; nothing if it is."""

ACCOUNTS = web.AppKey("accounts", Accounts)
DATABASE = web.AppKey("database", Database)
SHIPPER = web.AppKey("shipper", Shipper)
RECONCILIATIONS = web.AppKey("reconciliations", Reconciliations)
COLLECTOR = web.AppKey("collector", Collector)
CONNECTOR = web.AppKey("connector", Connector)
IMPORTER = web.AppKey("importer", Importer)
SECRETS = web.AppKey("secrets", Secrets)
HEALTH: web.AppKey[Health] = web.AppKey("health")
MONITOR = web.AppKey("monitor", Monitor)
DELIVERER = web.AppKey("deliverer", Deliverer)
"""There while a server runs: a single command delivers nothing."""
STOPPING = web.AppKey("stopping", asyncio.Event)
"""Set when whoever asks for something long is to ask again later."""
VERSION = web.AppKey("version", str)
NOW: web.AppKey[Callable[[], dt.datetime]] = web.AppKey("now")
