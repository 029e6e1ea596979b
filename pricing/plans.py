"""Plans: which book a tenant is charged by, and the credit that comes with it. Read once, from `plans.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from pricing.money import parse_amount

PLANS_FILE = Path(__file__).with_name("plans.toml")


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant has agreed to. Amounts are decimal strings, in the currency of the book."""

    id: str
    name: str
    book: str
    """The edition of the price book: `standard-v1`."""
    aliases: tuple[str, ...] = ()
    monthly_fee: str = "0"
    monthly_credit: str = "0"
    """Granted anew for each UTC calendar month."""
    credit_once: str = "0"
    """Granted when the plan begins."""
    enforcement: Literal["shadow", "soft", "hard"] = "soft"
    """Where the credit is used up: it is logged, it is warned of, or further calls are refused."""
    flagged: bool = False
    """True where nobody has chosen the plan, and somebody should."""

    @property
    def monthly_fee_nano(self) -> int:
        return parse_amount(self.monthly_fee)

    @property
    def monthly_credit_nano(self) -> int:
        return parse_amount(self.monthly_credit)

    @property
    def credit_once_nano(self) -> int:
        return parse_amount(self.credit_once)


NO_PLAN = Plan(id="none", name="No plan", book="standard-v1", flagged=True)
"""What holds for a tenant without a plan: the standard book, and no limit."""


@cache
def plans() -> tuple[Plan, ...]:
    """The shipped plans, in the order they are offered in."""
    return tuple(msgspec.convert(tomllib.loads(PLANS_FILE.read_text(encoding="utf-8"))["plan"], list[Plan]))


def resolve_plan(name: str | None) -> Plan:
    """The plan of that id, name or alias, however it is capitalised; None is no plan. Raises ValueError for others."""
    if name is None:
        return NO_PLAN
    plan = _by_name().get(name.strip().casefold())
    if plan is None:
        raise ValueError(f"no such plan: {name!r}; there are {', '.join(plan.id for plan in plans())}")
    return plan


@cache
def _by_name() -> dict[str, Plan]:
    return {name.casefold(): plan for plan in plans() for name in (plan.id, plan.name, *plan.aliases)}
