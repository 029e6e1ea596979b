"""Twenty thousand answers that are wrong, or nearly, for every meter: none raises, none changes what the client gets.

Sabotaged (no look-back in `sse.Frames`; `_positive` taking any value; a meter that drops a byte), it finds each. A failure
names what feeds it again; `make fuzz` goes on for an hour.
"""

from functools import partial

from tests.edge.guided import Coverage
from tests.edge.meter_fuzz import TARGETS, Fuzz, words
from tests.gateway.providers.test_every_provider import EVERY, METHODS

INPUTS = 20_000


def test_no_meter_raises_or_minds_a_cut_or_changes_a_byte_or_says_what_is_no_fact():
    fuzz = Fuzz(seed=1)

    assert list(fuzz.run(INPUTS)) == []
    # It is guided: more was kept than it began with.
    begun = Fuzz(seed=1)
    assert sum(map(len, fuzz.kept.values())) > sum(map(len, begun.kept.values()))


def test_every_meter_is_a_target():
    targets = {(target.meter, target.prepare, target.watch) for target in TARGETS.values()}

    assert targets == {(one.meter, one.prepare, one.watch) for provider in EVERY for one in provider.endpoints} | {
        (one.meter, one.prepare, one.watch) for provider in EVERY for one in map(provider.unlisted, METHODS)
    }


def test_the_words_are_those_that_the_providers_code_looks_for():
    assert {b"usage", b"prompt_tokens", b"cached_tokens", b"service_tier"} <= set(words())


def sign(number):
    if number < 0:
        return "negative"
    return "positive"


def test_what_goes_a_way_that_none_went_before_goes_further():
    coverage = Coverage("test_meter_fuzz")

    found = [coverage.goes_further(partial(sign, number)) for number in (1, 2, -1, -2)]

    assert found == [("positive", True), ("positive", False), ("negative", True), ("negative", False)]
