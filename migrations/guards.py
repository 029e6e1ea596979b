"""What keeps the past from being edited: triggers that refuse UPDATE and DELETE, whoever asks, and in Postgres TRUNCATE.

In Postgres the triggers for rows come with each month's table by themselves; that against TRUNCATE does not, and is made
with it (:mod:`migrations.months`).
"""

from __future__ import annotations

from alembic import op


def append_only(table: str) -> None:
    """Refuse to change or remove rows of the table from now on."""
    if op.get_context().dialect.name == "postgresql":
        for verb, each in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"FOR EACH {each} EXECUTE FUNCTION refuse('{table}')"
            )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def make_refusal() -> None:
    """Make what the triggers call in Postgres; in SQLite each says it by itself."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE '% is append-only', TG_ARGV[0] USING ERRCODE = 'restrict_violation'; END $$"
        )


def drop_refusal() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse()")
