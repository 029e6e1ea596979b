"""What the handlers find in the application: everything they need from outside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from aiohttp import web

from gateway.accounts import Accounts
from gateway.keys import Secrets
from metering.database import Database

Health: TypeAlias = Callable[[], Awaitable[Sequence[str]]]
"""Why the gateway is not ready, in sentences; nothing if it is."""

Workers: TypeAlias = Callable[[], int | None]
"""How many workers live; None where they have no processes of their own."""

ACCOUNTS = web.AppKey("accounts", Accounts)
DATABASE = web.AppKey("database", Database)
SECRETS = web.AppKey("secrets", Secrets)
HEALTH: web.AppKey[Health] = web.AppKey("health")
WORKERS: web.AppKey[Workers] = web.AppKey("workers")
VERSION = web.AppKey("version", str)
NOW: web.AppKey[Callable[[], dt.datetime]] = web.AppKey("now")
