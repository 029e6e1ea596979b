"""The control API: which path does what, and who may ask it. Each module beside this one has the handlers of one path.

A request passes `problems` (whatever goes wrong becomes a problem document), `guarded` (who is asking, and may they),
and, where it changes something, `changing` (one transaction, one row in the audit log, once for an Idempotency-Key).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

from gateway.accounts import Accounts
from gateway.api import (
    audit,
    collections,
    connections,
    credentials,
    deliveries,
    health,
    imports,
    integrations,
    keys,
    parts,
    plans,
    reconciliations,
    spools,
    tenants,
    usage,
)
from gateway.api.changes import changing
from gateway.api.identity import Access, Handler, admins_change, admins_read, guarded, key_itself, tenants_read
from gateway.api.problems import problems
from gateway.api.requests import BODY_BYTES_MAX
from gateway.collector import Collector
from gateway.connector import Connector
from gateway.deliverer import Deliverer
from gateway.importer import Importer
from gateway.keys import Secrets
from gateway.monitor import Monitor
from gateway.reconciliations import Reconciliations
from gateway.shipper import Shipper
from metering.database import Database


class Route(NamedTuple):
    method: str
    path: str
    access: Access
    handler: Handler


TENANT = "/v1/tenants/{tenant_id}"
KEY = TENANT + "/keys/{key_id}"

ROUTES = (
    Route("POST", "/v1/tenants", admins_change, changing(tenants.create)),
    Route("GET", "/v1/tenants", admins_read, tenants.index),
    Route("GET", TENANT, tenants_read, tenants.show),
    Route("PATCH", TENANT, admins_change, changing(tenants.update)),
    Route("POST", TENANT + "/keys", admins_change, changing(keys.create)),
    Route("GET", TENANT + "/keys", tenants_read, keys.index),
    Route("GET", KEY, tenants_read, keys.show),
    Route("DELETE", KEY, admins_change, changing(keys.revoke)),
    Route("POST", KEY + "/rotate", key_itself, changing(keys.rotate)),
    Route("POST", "/v1/service-keys", admins_change, changing(keys.create)),
    Route("GET", "/v1/service-keys", admins_read, keys.index),
    Route("DELETE", "/v1/service-keys/{key_id}", admins_change, changing(keys.revoke)),
    Route("POST", TENANT + "/credentials", admins_change, changing(credentials.create)),
    Route("GET", TENANT + "/credentials", tenants_read, credentials.index),
    Route("DELETE", TENANT + "/credentials/{provider}", admins_change, changing(credentials.remove)),
    Route("GET", TENANT + "/integrations", tenants_read, integrations.show),
    Route("PATCH", TENANT + "/integrations", admins_change, changing(integrations.update)),
    Route("DELETE", TENANT + "/integrations", admins_change, changing(integrations.remove)),
    Route("POST", TENANT + "/integrations/signing-secret", admins_change, changing(integrations.rotate)),
    Route("POST", TENANT + "/{provider}/connect", admins_change, connections.create),
    Route("GET", TENANT + "/deliveries", tenants_read, deliveries.index),
    Route("POST", TENANT + "/deliveries/{delivery_id}/retry", admins_change, changing(deliveries.retry)),
    Route("GET", "/v1/usage/events", tenants_read, usage.events),
    Route("GET", "/v1/usage/summary", tenants_read, usage.summary),
    Route("GET", "/v1/plans", tenants_read, plans.index),
    Route("GET", "/v1/audit", admins_read, audit.index),
    Route("GET", "/v1/spools", admins_read, spools.index),
    Route("POST", "/v1/spools/{spool_id}/replay", admins_change, spools.replay),
    Route("POST", "/v1/collections", admins_change, collections.create),
    Route("POST", "/v1/imports", admins_change, imports.create),
    Route("GET", "/v1/collections", admins_read, collections.index),
    Route("GET", "/v1/collections/{collection_id}", admins_read, collections.show),
    Route("DELETE", "/v1/collections/{collection_id}", admins_change, collections.cancel),
    Route("POST", "/v1/reconciliations", admins_change, reconciliations.create),
    Route("GET", "/v1/reconciliations", tenants_read, reconciliations.index),
    Route("GET", "/v1/reconciliations/{reconciliation_id}.csv", tenants_read, reconciliations.table),
    Route("GET", "/v1/reconciliations/{reconciliation_id}", tenants_read, reconciliations.show),
    Route("GET", "/v1/quarantine", admins_read, spools.quarantined),
)

PUBLIC = (
    ("/healthz", health.alive),
    ("/version", health.version),
)
"""What anybody may ask."""

MONITORED = (
    ("/readyz", health.ready),
    ("/metrics", health.metrics),
)
"""What anybody may ask of a server, and there is no answer to while a single command has the ledger."""


def application(
    *,
    accounts: Accounts,
    database: Database,
    shipper: Shipper,
    collector: Collector,
    reconciler: Reconciliations,
    connector: Connector,
    importer: Importer,
    secrets: Secrets,
    health: parts.Health,
    monitor: Monitor | None,
    deliverer: Deliverer | None = None,
    version: str,
    now: Callable[[], dt.datetime],
) -> web.Application:
    """The control API, to be run by :class:`gateway.api.server.ControlRunner`."""
    app = web.Application(middlewares=[problems], client_max_size=BODY_BYTES_MAX)
    app[parts.ACCOUNTS] = accounts
    app[parts.DATABASE] = database
    app[parts.SHIPPER] = shipper
    app[parts.COLLECTOR] = collector
    app[parts.RECONCILIATIONS] = reconciler
    app[parts.CONNECTOR] = connector
    app[parts.IMPORTER] = importer
    app[parts.STOPPING] = stopping = asyncio.Event()
    app[parts.SECRETS] = secrets
    app[parts.HEALTH] = health
    app[parts.VERSION] = version
    app[parts.NOW] = now

    async def stop(_: web.Application) -> None:
        stopping.set()

    app.on_shutdown.append(stop)
    for path, answer in PUBLIC:
        app.router.add_get(path, answer)
    if deliverer is not None:
        app[parts.DELIVERER] = deliverer
    if monitor is not None:
        app[parts.MONITOR] = monitor
        for path, answer in MONITORED:
            app.router.add_get(path, answer)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, guarded(route.access, route.handler))
    return app
