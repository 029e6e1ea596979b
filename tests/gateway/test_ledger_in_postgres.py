"""A whole gateway, told where its Postgres is: it sets it up, or says in a sentence why it can not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.schema import HEAD
from tests.postgres import OWNER, PASSWORD, SERVICE, URL_PASSWORD

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60


@pytest.fixture
def name(postgres_server):
    name = postgres_server.create()
    yield name
    postgres_server.drop(name)


@pytest.fixture
def tollkeeper(tmp_path):
    """Run the command as a process; what it said."""

    def run(*arguments, url, migrate_url=None, **settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLKEEPER_")}
        environment |= {
            "TOLLKEEPER_DATA_DIR": str(tmp_path / "data"),
            "TOLLKEEPER_DATABASE_URL": url,
            "TOLLKEEPER_CONTROL__PORT": "0",
            "TOLLKEEPER_PROXY__PORT": "0",
            "PYTHONPATH": str(REPOSITORY),
            **settings,
        }
        if migrate_url is not None:
            environment["TOLLKEEPER_DATABASE_MIGRATE_URL"] = migrate_url
        command = [sys.executable, "-m", "gateway", *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert PASSWORD not in ended.stdout + ended.stderr
        assert URL_PASSWORD not in ended.stdout + ended.stderr
        return ended

    return run


def test_an_empty_database_is_set_up_by_the_first_command_and_served_by_the_next(postgres_server, name, tollkeeper):
    urls = {"url": postgres_server.url(name), "migrate_url": postgres_server.url(name, OWNER)}

    created = tollkeeper("tenant", "create", "acme", "--json", **urls)
    listed = tollkeeper("tenant", "list", "--json", url=urls["url"])
    upgraded = tollkeeper("db", "upgrade", **urls)

    assert created.returncode == 0, created.stderr
    assert [tenant["tenant_id"] for tenant in json.loads(listed.stdout)["data"]] == ["acme"]
    assert upgraded.stdout == f"The ledger is at revision {HEAD}.\n"


@pytest.mark.parametrize("command", [("db", "upgrade"), ("serve",)])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"port": 1}, "database {name} at 127.0.0.1:1 can not be reached: Connection refused"),
        ({"role": "nobody"}, 'database {name} at 127.0.0.1:{port}: password authentication failed for user "nobody"'),
        ({"database": "none"}, 'database none at 127.0.0.1:{port}: database "none" does not exist'),
        ({"role": SERVICE}, "database {name} at 127.0.0.1:{port}: permission denied for schema public: the role of"),
    ],
    ids=["unreachable", "password", "database", "rights"],
)
def test_a_database_that_can_not_be_used_is_named_with_the_reason(
    postgres_server, name, tollkeeper, command, wrong, said
):
    """Watches the sentence, and that the password is in none of it."""
    ended = tollkeeper(*command, url=postgres_server.url(**{"database": name} | wrong))

    assert ended.returncode == 1
    assert ended.stderr.startswith("tollkeeper: " + said.format(name=name, port=postgres_server.port))
    assert "Traceback" not in ended.stderr


def test_a_ledger_that_was_made_with_another_secret_is_refused_by_its_fingerprint(postgres_server, name, tollkeeper):
    """Guards the ledger in Postgres, which has no file that would tell it from a new one."""
    url = postgres_server.url(name, OWNER)
    tollkeeper("tenant", "create", "acme", url=url)

    other = tollkeeper("tenant", "list", url=url, TOLLKEEPER_SECRET_KEY="another secret, which is long enough")

    assert other.returncode == 1
    assert "is not the one this database was made with" in other.stderr


def test_the_settings_are_shown_without_their_passwords(postgres_server, name, tollkeeper):
    shown = tollkeeper("config", "show", url=postgres_server.url(name), migrate_url=postgres_server.url(name, OWNER))

    lines = [line for line in shown.stdout.splitlines() if "DATABASE" in line]
    assert len(lines) == 2
    assert all("***" in line for line in lines)
