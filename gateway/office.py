"""What every process of the gateway and every command that opens its ledger begins with: an open, checked installation.

Its database, at this release's schema; its secrets, the ones that the database knows; who may call, as last published; and
the time of day. Besides, what each process does alike with its settings: the log, the price books, which URLs it may call.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway import http1, installation, schema
from gateway.accounts import Accounts, NotPublished, SecretChanged
from gateway.books import books_of
from gateway.clock import now_ms
from gateway.egress import Policy
from gateway.inbox import Inbox
from gateway.kept_memory import keep_memory
from gateway.keys import Secrets
from gateway.settings import LogFormat, Settings
from gateway.snapshot import SnapshotFile
from gateway.supervisor import StartRefused
from gateway.telemetry import configure
from metering.database import Database, DatabaseInUse, DatabaseUnavailable
from metering.database_sqlite import SqliteDatabase
from pricing.book_files import BookError
from pricing.catalogue import Books

GC_THRESHOLD = 20_000
"""So many more objects than before are there when Python looks for garbage; with the 700 that it begins with, it looks
every few calls. Calls under way hold some 50 each."""

GC_THRESHOLD_APART = 200_000
"""The same in a process that only books: three batches hold some 100,000, and leave none of them."""


class LedgerInUse(StartRefused):
    """Another process has the ledger."""


@dataclass(frozen=True, slots=True)
class Office:
    """What both the server and a single command need: an open, checked installation."""

    settings: Settings
    secrets: Secrets
    database: Database
    accounts: Accounts
    snapshot: SnapshotFile
    now: Callable[[], dt.datetime]


def now() -> dt.datetime:
    """The time of day."""
    return dt.datetime.now(dt.UTC)


def check_process(settings: Settings) -> None:
    """Whether a process can run here at all, said in the log as it is wanted. Raises StartRefused."""
    configure(as_json=as_json(settings), level=settings.log_level)
    try:
        http1.check_parser()
    except RuntimeError as error:
        raise StartRefused(str(error)) from error


def as_json(settings: Settings) -> bool:
    """Whether the log is for machines: what `auto` means depends on who reads."""
    if settings.log_format is LogFormat.AUTO:
        return not sys.stdout.isatty()
    return settings.log_format is LogFormat.JSON


def settle(gc_threshold: int = GC_THRESHOLD) -> None:
    """What is here now stays: it need not be looked through for garbage again and again, and a call leaves none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(gc_threshold)


def settle_apart() -> None:
    """The same in a process that only books, batch after batch."""
    keep_memory()
    settle(GC_THRESHOLD_APART)


@asynccontextmanager
async def open_office(settings: Settings, *, prepares: bool = True) -> AsyncIterator[Office]:
    """An open installation: prepared, checked and published here, or by another process before. Raises StartRefused."""
    try:
        secrets = installation.installation_secrets(settings)
    except installation.SecretMissing as error:
        raise StartRefused(str(error)) from error
    database = await _opened(settings)
    _, snapshot_path = installation.paths(settings)
    try:
        accounts = Accounts(database, secrets, snapshot_path, now, settings.known_providers)
        accounts.platform_accounts = settings.platform_accounts
        snapshot = SnapshotFile(snapshot_path)
        accounts.when_published = snapshot.refresh
        if prepares:
            try:
                async with _owned(settings, database) as owner:
                    await schema.prepare(database, owner)
                await accounts.check_secret()
                await accounts.publish()
            except (schema.SchemaMismatch, SecretChanged, DatabaseUnavailable) as error:
                raise StartRefused(str(error)) from error
            except NotPublished as error:
                raise StartRefused(f"{snapshot_path} can not be written: {error}.") from error
        snapshot.refresh()
        yield Office(settings, secrets, database, accounts, snapshot, now)
    finally:
        await database.close()


async def _opened(settings: Settings) -> Database:
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database: Database
    if settings.database_file is None:
        database = _postgres(settings.postgres_url)
    else:
        database = SqliteDatabase(settings.database_file)
    try:
        await database.open()
    except DatabaseInUse as error:
        raise LedgerInUse(f"{error}: one process at a time; stop it, or give this one another data_dir.") from error
    except OSError as error:
        raise StartRefused(f"{settings.database_file} can not be opened: {error.strerror}.") from error
    return database


def _postgres(url: str | None, *, migrates: bool = False) -> Database:
    from metering.database_postgres import STATEMENT_S_MAX, PostgresDatabase  # noqa: PLC0415 - SQLite does without

    assert url is not None
    return PostgresDatabase(url, statement_s_max=None if migrates else STATEMENT_S_MAX)


@asynccontextmanager
async def _owned(settings: Settings, database: Database) -> AsyncIterator[Database]:
    """The database as the role opens it that may change its schema."""
    if settings.database_file is not None:
        yield database
        return
    owner = _postgres(settings.postgres_owner_url, migrates=True)
    await owner.open()
    try:
        yield owner
    finally:
        await owner.close()


async def upgrade(settings: Settings) -> str:
    """Bring the database to this release's schema; return the revision. Raises StartRefused."""
    database = await _opened(settings)
    try:
        async with _owned(settings, database) as owner:
            return await schema.upgrade(database, owner)
    except (schema.SchemaMismatch, DatabaseUnavailable) as error:
        raise StartRefused(str(error)) from error
    finally:
        await database.close()


async def books(settings: Settings) -> Books:
    """What is rated by. Raises StartRefused."""
    try:
        return await asyncio.to_thread(books_of, settings)
    except BookError as error:
        raise StartRefused("\n".join(error.problems)) from error


async def first_admin(office: Office) -> None:
    """Make the first key for the control API, or take the one that is given, where there is none yet."""
    given = office.settings.admin_key
    new_admin_key = await office.accounts.ensure_admin_key(None if given is None else given.get_secret_value())
    if new_admin_key is not None:
        # Shown once, and kept nowhere: not a log line, which would be kept.
        sys.stderr.write(f"Admin key, shown this once: {new_admin_key}\n")


def policy(settings: Settings) -> Policy:
    """Which URLs of applications are called."""
    own_ports = frozenset((settings.proxy.port, settings.control.port))
    return Policy(settings.callback_hosts, settings.public_url, own_ports)


def inbox(office: Office) -> Inbox:
    """What providers delivered and applications do not have yet."""
    settings = office.settings
    return Inbox(installation.inbox_directory(settings), office.secrets, now_ms, fsync=settings.durability == "fsync")
