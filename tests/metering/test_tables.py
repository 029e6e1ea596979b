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

    assert append_only == {"usage_events", "dedupe", "quarantine", "charges", "tenant_plans", "audit_log"}
    assert spool_positions.name not in append_only


def test_every_table_keeps_to_its_types():
    assert [table.name for table in metadata.tables.values() if not table.dialect_options["sqlite"]["strict"]] == []


def test_no_table_is_both_append_only_and_changed():
    """Watches the lists that triggers and grants are made from."""
    for module in (metering.tables, pricing.tables, gateway.tables):
        assert not set(module.APPEND_ONLY) & set(module.CHANGES)


def test_the_key_of_whatever_belongs_to_a_tenant_begins_with_the_tenant():
    """Watches what may be spread over several servers: rows of a tenant lie together. (A key without a tenant is the
    platform's; a record that is set aside, and a change that was made, may be nobody's; and what a reconciliation found
    lies with what else it found.)"""
    led = {
        table.name: next(iter(table.primary_key)).name
        for table in metadata.tables.values()
        if "tenant_id" in table.c and not table.c.tenant_id.nullable and table.name != "reconciliation_differences"
    }

    assert set(led.values()) == {"tenant_id"}
