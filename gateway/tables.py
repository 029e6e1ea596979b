"""The tables of who may do what: tenants, keys, sealed credentials, and the log of every change."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from metering.columns import BigInt, Json, Moment, Text
from metering.tables import STRICT, metadata

tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("plan", Text),
    Column("currency", Text, nullable=False),
    Column("account_sid", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("request_tags", Text, nullable=False, server_default="off"),
    **STRICT,
)
"""`status` is active, suspended or closed; a tenant is never deleted. `account_sid` is the account that a tenant has with
the gateway itself, for providers that have accounts in their paths. `request_tags` is off, hashed or plain."""

gateway_keys = Table(
    "gateway_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("tenant_id", Text),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("category", Text),
    Column("tags", Json, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("created_at", Moment, nullable=False),
    Index(None, "tenant_id"),
    **STRICT,
)
"""Keys of tenants, and, where `tenant_id` is null, service keys of the platform. `digest` is a keyed hash: the key itself
is shown once, when it is made."""

credentials = Table(
    "credentials",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("fields", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    **STRICT,
)
"""Provider credentials of a tenant's own, sealed with the installation's secret and the tenant's id."""

integrations = Table(
    "integrations",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("document", Json, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("updated_at", Moment, nullable=False),
    **STRICT,
)
"""How a tenant's applications are reached, and what of a provider's is the tenant's own (:mod:`gateway.integrations`).
`sealed` holds the secrets that what is passed on to them is signed with."""

admin_keys = Table(
    "admin_keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    **STRICT,
)

installation = Table(
    "installation",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    **STRICT,
)
"""What must stay the same as long as this database is used: the fingerprint of the secret."""

audit_log = Table(
    "audit_log",
    metadata,
    Column("audit_id", Text, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("tenant_id", Text),
    Column("subject", Text),
    Column("detail", Json, nullable=False),
    **STRICT,
)
"""Every change made through the control API: who, what, to whom. Append-only, and without secrets."""

idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("idempotency_key", Text, primary_key=True),
    Column("request_digest", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    **STRICT,
)
"""First answers to control API requests that carried an `Idempotency-Key`, sealed, since one may show a new key."""

idempotent_calls = Table(
    "idempotent_calls",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("idempotency_key", Text, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index(None, "created_at"),
    **STRICT,
)
"""The calls that came with `X-Gateway-Idempotency-Key`: a repetition is told the first one's id."""

collections = Table(
    "collections",
    metadata,
    Column("collection_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("tenant_id", Text),
    Column("first_day", Text, nullable=False),
    Column("last_day", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("asked_by", Text, nullable=False),
    Column("position", Json),
    Column("pages", BigInt, nullable=False),
    Column("counts", Json, nullable=False),
    Column("held_by", Text),
    Column("held_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index(None, "source", "status", "created_at"),
    Index(None, "created_at", "collection_id"),
    **STRICT,
)
"""What is read of providers' own lists, and how far: `position` is the list, the day and the path of the page that comes
next, moved when the page before is booked. `tenant_id` is null where it is all that is on the platform's account. `kind` is
asked, sweep or today; `status` waiting, running, done, failed or cancelled. Who runs one holds it until a moment, and holds
it on; whoever finds it let go of goes on from there."""

unattributed = Table(
    "unattributed",
    metadata,
    Column("source", Text, primary_key=True),
    Column("external_id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("event_day", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("quantities", Json, nullable=False),
    Column("cost", Text),
    Column("currency", Text),
    Column("found_at", Moment, nullable=False),
    Index(None, "source", "event_day"),
    Index(None, "found_at"),
    **STRICT,
)
"""What providers say they did and nobody can be found for: counted, and guessed of nobody. A row goes when its thing has an
owner, or is too old to be asked about. No number and no address is in it."""

reconciliations = Table(
    "reconciliations",
    metadata,
    Column("reconciliation_id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("tenant_id", Text),
    Column("first_day", Text, nullable=False),
    Column("last_day", Text, nullable=False),
    Column("tolerance", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("asked_by", Text, nullable=False),
    Column("progress", Json, nullable=False),
    Column("totals", Json, nullable=False),
    Column("beyond", Json, nullable=False),
    Column("currency", Text, nullable=False),
    Column("held_until", Moment),
    Column("started_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Index(None, "started_at", "reconciliation_id"),
    **STRICT,
)
"""The runs that held the ledger against a provider's own figures. `tenant_id` is null where it is everybody. `status` is
waiting, running, matched, beyond_tolerance or failed; who runs one holds it until a moment."""

reconciliation_differences = Table(
    "reconciliation_differences",
    metadata,
    Column("reconciliation_id", Text, primary_key=True),
    Column("number", BigInt, primary_key=True),
    Column("day", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("resolution", Text, nullable=False),
    Column("quantities", Json, nullable=False),
    Column("count", BigInt),
    Column("cost_nano", BigInt),
    Column("event_id", Text),
    Index(None, "reconciliation_id", "tenant_id", "number"),
    **STRICT,
)
"""What a run has found: each part of each difference with its cause. Positive where the provider has more."""

APPEND_ONLY = (audit_log,)
CHANGES = {
    tenants: ("UPDATE",),
    gateway_keys: ("UPDATE",),
    credentials: ("DELETE",),
    integrations: ("UPDATE", "DELETE"),
    admin_keys: ("DELETE",),
    idempotent_answers: ("DELETE",),
    idempotent_calls: ("DELETE",),
    collections: ("UPDATE", "DELETE"),
    unattributed: ("UPDATE", "DELETE"),
    reconciliations: ("UPDATE", "DELETE"),
    reconciliation_differences: ("DELETE",),
}
