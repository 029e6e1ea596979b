import pytest

from pricing.rates import Credits


@pytest.mark.parametrize(("seconds", "taken"), [(0, 0), (1, 2), (60, 2), (61, 4), (-61, -4)])
def test_two_credits_for_each_started_minute(seconds, taken):
    assert Credits(2, per=60).amount(seconds) == taken


def test_an_event_takes_its_credits():
    assert Credits(5).amount(1) == 5
    assert Credits(5).amount(-1) == -5


@pytest.mark.parametrize("fields", [(-1,), (1, 0)])
def test_a_rate_that_makes_no_sense_cannot_be_built(fields):
    with pytest.raises(ValueError, match="must"):
        Credits(*fields)


@pytest.mark.parametrize(("rate", "text"), [(Credits(2), "2/1"), (Credits(2, 60), "2/60 by 60")])
def test_a_rate_is_written_exactly(rate, text):
    assert rate.text == text
