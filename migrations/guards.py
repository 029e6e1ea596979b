"""What keeps the past from being edited: triggers that refuse UPDATE and DELETE, whoever asks."""

from __future__ import annotations

from alembic import op


def append_only(table: str) -> None:
    """Refuse to change or remove rows of the table from now on."""
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
