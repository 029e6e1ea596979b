"""A gateway that providers can reach, and tenants with applications, for the walks of what providers tell by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twilio.rest import Client

from tests.walks.applications import free_port
from tests.walks.harness import Installation, installation, on_postgres

IN_FORCE_S = 3.0
"""A change is known by then to every worker of several, which look four times a second. One alone knows it at once."""


@contextmanager
def told_gateway(request: pytest.FixtureRequest, directories: pytest.TempPathFactory) -> Iterator[Installation]:
    """On SQLite in one process, or on Postgres with two workers, as the parameter says."""
    port = free_port()
    settings = {"proxy__port": str(port), "public_url": f"http://127.0.0.1:{port}", "callback_hosts": "127.0.0.1"}
    if request.param == "postgres":
        settings |= on_postgres(request.getfixturevalue("postgres_server"))
    with installation(directories.mktemp("walk"), "--record-bodies", **settings) as running:
        yield running


class Tenant:
    """A tenant with an application, and a client of Twilio's own."""

    def __init__(self, gateway: Installation, tenant_id: str, **integration: object) -> None:
        self.gateway, self.tenant_id = gateway, tenant_id
        self.key = gateway.tenant(tenant_id)
        self.account_sid = gateway.account_sid(tenant_id)
        answer = gateway.ask("PATCH", f"/v1/tenants/{tenant_id}/integrations", integration)
        self.secret = answer["signing_secret"]
        self.client = Client(self.account_sid, self.key)
        self.client.api.base_url = gateway.proxy_url + "/twilio/api"
        if "TOLLKEEPER_WORKERS" in gateway.gateway.environment:
            time.sleep(IN_FORCE_S)

    def events(self) -> list[dict[str, Any]]:
        return self.gateway.events(self.tenant_id)
