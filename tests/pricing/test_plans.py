import pytest

from pricing.money import parse_amount
from pricing.plans import NO_PLAN, plans, resolve_plan


@pytest.mark.parametrize(
    ("plan_id", "fee", "each_month", "once", "book"),
    [
        ("free-trial", "0", "0", "50", "standard-v1"),
        ("starter", "29", "10", "0", "standard-v1"),
        ("professional", "99", "50", "0", "standard-v1"),
        ("enterprise", "499", "200", "0", "standard-v1"),
        ("credits", "0", "0", "0", "credits-v1"),
    ],
)
def test_the_shipped_plans(plan_id, fee, each_month, once, book):
    plan = resolve_plan(plan_id)
    assert plan.monthly_fee_nano == parse_amount(fee)
    assert plan.monthly_credit_nano == parse_amount(each_month)
    assert plan.credit_once_nano == parse_amount(once)
    assert plan.book == book
    assert not plan.flagged


def test_the_plans_are_offered_in_this_order():
    assert [plan.id for plan in plans()] == ["free-trial", "starter", "professional", "enterprise", "credits"]


def test_a_free_trial_ends_when_its_credit_does():
    assert {plan.id: plan.enforcement for plan in plans() if plan.enforcement != "soft"} == {"free-trial": "hard"}


@pytest.mark.parametrize(
    ("name", "plan_id"),
    [
        ("pro", "professional"),
        ("PRO", "professional"),
        ("Elite", "enterprise"),
        ("Free Trial", "free-trial"),
        (" starter ", "starter"),
    ],
)
def test_a_plan_is_known_by_id_name_and_alias_however_it_is_written(name, plan_id):
    assert resolve_plan(name).id == plan_id


def test_no_plan_is_the_standard_book_without_a_limit_and_flagged():
    plan = resolve_plan(None)
    assert plan is NO_PLAN
    assert (plan.book, plan.flagged, plan.enforcement) == ("standard-v1", True, "soft")


def test_an_unknown_plan_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'gold'; there are free-trial, starter, professional, enterprise, credits"):
        resolve_plan("gold")
