"""In Postgres: a table for each month of a table that is kept by month, and the function that makes them.

The function runs with the rights of its owner, who migrates: the service role may have a month made, and nothing else. It
resolves no name through a search path, and takes nothing but a month. There is no table for what fits no month: facts in
it would be in the way when their month's own table is made.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

from metering.months import ahead

MAKE_MONTH = """
CREATE FUNCTION make_month(month text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  parent record;
  child text;
BEGIN
  IF month !~ '^[0-9]{{4}}-(0[1-9]|1[0-2])$' THEN
    RAISE 'no month: it is written as 2026-11' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Two that make the same month: the second waits, and finds it made.
  PERFORM pg_advisory_xact_lock({lock});
  FOR parent IN
    SELECT c.oid, c.relname FROM pg_class AS c
    WHERE c.relkind = 'p' AND c.relnamespace = {schema_literal}::regnamespace ORDER BY c.relname
  LOOP
    child := parent.relname || '_' || replace(month, '-', '_');
    CONTINUE WHEN EXISTS (
      SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
      WHERE i.inhparent = parent.oid AND c.relname = child
    );
    -- Made by itself and then attached, which stops nobody who books or reads.
    EXECUTE format('CREATE TABLE %1$I.%3$I (LIKE %1$I.%2$I INCLUDING ALL)', {schema_literal}, parent.relname, child);
    -- No day of a month sorts after its 31st.
    EXECUTE format(
      'ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I FOR VALUES FROM (%4$L) TO (%5$L)',
      {schema_literal}, parent.relname, child, month || '-01', month || '-32'
    );
    EXECUTE format(
      'CREATE TRIGGER %3$I BEFORE TRUNCATE ON %1$I.%2$I FOR EACH STATEMENT EXECUTE FUNCTION %1$I.refuse(%4$L)',
      {schema_literal}, child, parent.relname || '_no_truncate', parent.relname
    );
  END LOOP;
END
$function$
"""

LOCK = 0x7A11_0001
"""Any number, as long as nothing else in the database locks it."""


def make_function() -> None:
    """Make the function that makes months."""
    if op.get_context().dialect.name == "postgresql":
        schema = op.get_bind().execute(sa.text("SELECT quote_literal(current_schema())")).scalar()
        op.execute(MAKE_MONTH.format(schema_literal=schema, lock=LOCK))
        op.execute("REVOKE ALL ON FUNCTION make_month(text) FROM PUBLIC")


def drop_function() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION make_month(text)")


def make_months() -> None:
    """Make this month, those that come next and those that there are, for every table that is kept by month."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "SELECT make_month(replace(right(relname, 7), '_', '-')) FROM (SELECT relname FROM pg_class WHERE relispartition "
            "AND relkind = 'r' AND relnamespace = current_schema()::regnamespace) AS there"
        )
        for month in ahead(dt.datetime.now(dt.UTC)):
            op.execute(sa.text("SELECT make_month(:month)").bindparams(month=month))
