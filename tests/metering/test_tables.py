"""The tables of facts."""

from __future__ import annotations

import gateway.tables
import metering.tables
import pricing.tables
from metering.tables import metadata, spool_positions, usage_events


def test_the_key_of_an_event_comes_from_the_event_alone():
    assert [column.name for column in usage_events.primary_key] == ["tenant_id", "event_day", "event_id"]


def test_what_happened_can_not_be_changed_and_how_far_we_are_can():
    append_only = {
        table.name for module in (metering.tables, pricing.tables, gateway.tables) for table in module.APPEND_ONLY
    }

    assert append_only == {"usage_events", "quarantine", "charges", "tenant_plans", "audit_log"}
    assert spool_positions.name not in append_only


def test_every_table_keeps_to_its_types():
    assert [table.name for table in metadata.tables.values() if not table.dialect_options["sqlite"]["strict"]] == []
