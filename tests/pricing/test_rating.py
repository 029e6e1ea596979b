import re
from fractions import Fraction
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.event_types import DIMENSIONS, EVENT_TYPES
from metering.usage import TOLD_COST, Completeness, Kind
from pricing.book import Book, Price
from pricing.judgement import Rated
from pricing.money import format_amount, parse_amount
from pricing.rates import Flat, Markup, PerUnit
from pricing.rating import rate
from tests.builders import fact

STANDARD, FLAT, CREDITS = "standard-v1", "flat-v1", "credits-v1"


@pytest.fixture(scope="session")
def rated(books, usage_event):
    """An event, described by what differs from a chat completion, rated under a book."""

    def rated(book=STANDARD, rated_from=None, **event) -> Rated:
        return rate(fact(usage_event(**event)), books.price_books[book], books.cost_book, rated_from or {})

    return rated


def test_the_chat_completion_of_the_design_costs_what_the_design_says(rated):
    chat = rated(quantities={"input_tokens": 73, "input_tokens_cached": 44, "output_tokens": 46})
    assert (format_amount(chat.charge_nano), format_amount(chat.cost_nano)) == ("0.000837", "0.0006975")
    assert (chat.priced, chat.currency, chat.cost_currency, chat.credits) == (True, "USD", "USD", None)
    assert chat.price_book == "standard-v1"
    assert re.fullmatch(r"costs-v1\+genai-prices-\d+\.\d+\.\d+", chat.cost_book)


def test_every_line_of_it_says_how_it_came_about(rated):
    lines = [
        (line.dimension, line.quantity, line.price, line.charge_nano, line.cost, line.cost_nano)
        for line in rated().lines
    ]
    assert lines == [
        ("input_tokens", 73, "3000/1", 219_000, "2500/1", 182_500),
        ("input_tokens_cached", 44, "1500/1", 66_000, "1250/1", 55_000),
        ("output_tokens", 46, "12000/1", 552_000, "10000/1", 460_000),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Cases, in the language of billing


class Case(NamedTuple):
    what: str
    event: dict
    standard: str | None
    """The charge under each shipped book; None is unpriced."""
    flat: str | None
    credits: int | None
    cost: str | None = None
    """None is unknown."""


def twilio(event_type, resource="US", direction=None, **quantities):
    return {
        "source": "twilio",
        "event_type": event_type,
        "resource": resource,
        "direction": direction,
        "quantities": quantities,
    }


def sendgrid(event_type, **quantities):
    return {"source": "sendgrid", "event_type": event_type, "resource": "marketing", "quantities": quantities}


def openai(event_type, resource, **quantities):
    return {"event_type": event_type, "resource": resource, "quantities": quantities}


PENDING = {"completeness": Completeness.PENDING}

CASES = [
    Case("an SMS of one segment", twilio("sms_outbound", messages=1, segments=1), "0.0075", "0.014", 1, "0.0083"),
    Case("an SMS of three segments", twilio("sms_outbound", messages=1, segments=3), "0.0225", "0.042", 1, "0.0249"),
    Case("an SMS that may change yet",
         twilio("sms_outbound", messages=1, segments=2) | PENDING, "0.015", "0.028", 1, "0.0166"),
    Case("an SMS whose segments are not counted yet",
         twilio("sms_outbound", messages=1) | PENDING, None, None, 1),
    Case("an SMS to a country nobody confirmed the cost of",
         twilio("sms_outbound", "DE", segments=1), "0.0075", "0.014", 1),
    Case("an SMS that came in", twilio("sms_inbound", messages=1, segments=2), "0", "0", 0, "0.0166"),
    Case("an MMS of two pictures", twilio("mms_outbound", messages=1, segments=1, media=2), "0.02", "0.02", 2, "0.022"),
    Case("an MMS that came in", twilio("mms_inbound", messages=1, media=1), "0", "0", 0, "0.0165"),
    Case("a WhatsApp message", twilio("whatsapp_outbound", messages=1), "0.005", None, 1),
    Case("a WhatsApp message that came in", twilio("whatsapp_inbound", messages=1), "0", "0", 0),
    Case("a message of another channel", twilio("message_outbound", "messenger", messages=1), None, None, None),
    Case("one that came in", twilio("message_inbound", "messenger", messages=1), "0", "0", 0),
    Case("setting up a call", twilio("call_outbound", requests=1), "0", "0", 0, "0"),
    Case("a call that came in", twilio("call_inbound", requests=1), "0", "0", 0, "0"),
    Case("59 seconds out", twilio("call_minutes", direction="outbound", seconds=59), "0.015", "0.015", 2, "0.014"),
    Case("61 seconds out", twilio("call_minutes", direction="outbound", seconds=61), "0.03", "0.03", 4, "0.028"),
    Case("60 seconds in", twilio("call_minutes", direction="inbound", seconds=60), "0.015", "0.015", 2, "0.0085"),
    Case("a call nobody took", twilio("call_minutes", direction="outbound", seconds=0), "0", "0", 0, "0"),
    Case("a forwarded call", twilio("call_forwarded", requests=1), None, None, 5, "0"),
    Case("a step of a menu", twilio("ivr_step", requests=1), "0", "0", 0, "0"),
    Case("a recording of 90 seconds", twilio("recording", seconds=90), None, None, None, "0.005"),
    Case("a verification", twilio("verification", requests=1), None, None, 2),
    Case("a look-up of a number", twilio("lookup", requests=1), None, None, None),
    Case("a mail to three", sendgrid("email_outbound", messages=1, recipients=3), "0.003", "0.0015", 3),
    Case("a mail that came in", sendgrid("email_inbound", recipients=1), "0", "0", 0, "0"),
    Case("a validation of an address", sendgrid("email_validation", requests=1), None, None, None),
    Case("a call that bills nothing", sendgrid("api_call", requests=1), "0", "0", 0, "0"),
    Case("a chat", openai("llm_call", "gpt-4o", input_tokens=100, output_tokens=50), "0.0009", "0.0003", 2, "0.00075"),
    Case("a chat that searched the web",
         openai("llm_call", "gpt-4o", input_tokens=100, web_searches=2), "0.0243", None, 2, "0.02025"),
    Case("a chat of an unknown model", openai("llm_call", "gpt-99", input_tokens=100), None, "0.0002", 2),
    Case("an embedding",
         openai("embedding", "text-embedding-3-small", input_tokens=1_000), "0.000024", "0.002", 2, "0.00002"),
    Case("a picture by its tokens",
         openai("image", "gpt-image-1.5", images=1, output_tokens_image=1_000), "0.0384", "0.002", 2, "0.032"),
    Case("a picture by the piece", openai("image", "dall-e-3", images=1), None, None, 2),
    Case("90 seconds heard", openai("audio_transcription", "whisper-1", seconds=90), "0.0108", None, 2, "0.009"),
    Case("1,000 characters spoken", openai("audio_speech", "tts-1", characters=1_000), "0.018", None, 2, "0.015"),
    Case("a video of 8 seconds", openai("video", "sora-2", seconds=8), None, None, None),
    Case("a model trained", openai("fine_tuning", "gpt-4o", trained_tokens=1_000), None, None, None),
    Case("a moderation", openai("moderation", "omni-moderation-latest", requests=1), "0", None, 0, "0"),
    Case("a turn of speech",
         openai("realtime", "gpt-realtime", input_tokens_audio=100, output_tokens_audio=50),
         "0.00768", "0.0003", 2, "0.0064"),
    Case("a batched answer",
         openai("batch", "gpt-4o", input_tokens=1_000, output_tokens=100), "0.0021", "0.0022", 2, "0.00175"),
    Case("a thing of the platform's own",
         {"source": "system", "event_type": "system", "quantities": {"requests": 1}}, None, None, None),
    Case("a job", {"source": "system", "event_type": "job", "quantities": {"requests": 1}}, None, None, None),
    Case("storage", {"source": "system", "event_type": "storage", "quantities": {"requests": 1}}, None, None, None),
    Case("a thing of an application's own",
         {"source": "shop", "event_type": "fax", "quantities": {"requests": 1}}, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_case_comes_to_its_charge_and_its_cost(rated, case):
    def amount(nano):
        return None if nano is None else format_amount(nano)

    standard, flat, in_credits = (rated(book, **case.event) for book in (STANDARD, FLAT, CREDITS))
    assert amount(standard.charge_nano) == case.standard
    assert amount(flat.charge_nano) == case.flat
    assert in_credits.credits == case.credits
    assert {amount(one.cost_nano) for one in (standard, flat, in_credits)} == {case.cost}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_unpriced_is_a_state_and_never_a_zero(rated, case):
    for book in (STANDARD, FLAT, CREDITS):
        one = rated(book, **case.event)
        assert one.priced == ((one.charge_nano, one.credits) != (None, None))


def test_there_is_a_case_for_every_type_of_event_there_is():
    assert {case.event["event_type"] for case in CASES} >= EVENT_TYPES.keys()


PRICED = {
    # event type: priced in (standard, flat, credits)?
    "llm_call": (True, True, True),
    "embedding": (True, True, True),
    "image": (True, True, True),
    "audio_transcription": (True, False, True),
    "audio_speech": (True, False, True),
    "video": (False, False, False),
    "fine_tuning": (False, False, False),
    "moderation": (True, False, True),
    "realtime": (True, True, True),
    "batch": (True, True, True),
    "sms_outbound": (True, True, True),
    "sms_inbound": (True, True, True),
    "mms_outbound": (True, True, True),
    "mms_inbound": (True, True, True),
    "whatsapp_outbound": (True, False, True),
    "whatsapp_inbound": (True, True, True),
    "message_outbound": (False, False, False),
    "message_inbound": (True, True, True),
    "call_outbound": (True, True, True),
    "call_inbound": (True, True, True),
    "call_minutes": (True, True, True),
    "call_forwarded": (False, False, True),
    "ivr_step": (True, True, True),
    "recording": (False, False, False),
    "verification": (False, False, True),
    "lookup": (False, False, False),
    "email_outbound": (True, True, True),
    "email_inbound": (True, True, True),
    "email_validation": (False, False, False),
    "api_call": (True, True, True),
    "system": (False, False, False),
    "job": (False, False, False),
    "storage": (False, False, False),
}


def test_each_type_of_event_is_priced_or_explicitly_not():
    assert PRICED.keys() == EVENT_TYPES.keys()
    for event_type, books in PRICED.items():
        cases = [case for case in CASES if case.event["event_type"] == event_type]
        found = [
            any(charge is not None for charge in charges)
            for charges in zip(*(case[2:5] for case in cases), strict=True)
        ]
        assert tuple(found) == books, event_type


# ---------------------------------------------------------------------------------------------------------------------
# What is known, and what is not


def test_one_quantity_without_a_price_leaves_the_whole_event_unpriced(rated):
    chat = rated(FLAT, quantities={"input_tokens": 100, "containers": 1})
    assert (chat.priced, chat.charge_nano, chat.cost_nano) == (False, None, None)
    assert [(line.dimension, line.price, line.cost) for line in chat.lines] == [
        ("input_tokens", "2000/1", "2500/1"),
        ("containers", None, None),
    ]


def test_a_zero_of_something_without_a_price_is_no_obstacle(rated):
    assert rated(FLAT, quantities={"input_tokens": 100, "containers": 0}).charge_nano == 200_000


def test_an_event_whose_usage_never_became_known_is_not_priced(rated):
    lost = rated(completeness=Completeness.UNKNOWN, quantities={})
    assert (lost.priced, lost.charge_nano, lost.cost_nano, lost.lines) == (False, None, None, ())


def test_a_pending_event_is_priced_as_far_as_reported(rated):
    sms = twilio("sms_outbound", messages=1, segments=2) | {"completeness": Completeness.PENDING}
    assert rated(**sms).charge_nano == parse_amount("0.015")


def test_an_event_that_reports_nothing_is_not_priced_unless_its_type_is_free(rated):
    nothing = rated(**twilio("sms_outbound"))
    assert (nothing.priced, nothing.charge_nano, nothing.cost_nano) == (False, None, None)
    assert rated(**twilio("call_outbound")).charge_nano == 0
    assert rated(CREDITS, **twilio("sms_outbound")).credits == 1


def test_the_charge_is_known_where_only_the_cost_is_not(rated):
    chat = rated(FLAT, resource="gpt-99")
    assert (chat.priced, chat.cost_nano) == (True, None)


def test_an_unmetered_call_is_kept_without_charge(rated):
    free = rated(metered=False)
    assert (free.priced, free.charge_nano, free.credits, free.cost_nano, free.lines) == (True, 0, None, None, ())
    assert rated(CREDITS, metered=False).credits == 0


def test_events_that_carry_money_are_not_rated_again(rated):
    for kind in (Kind.RERATE, Kind.COST):
        assert (rated(kind=kind, quantities={}).charge_nano, rated(kind=kind).lines) == (0, ())


@pytest.mark.parametrize(("told", "cost_nano"), [("1.15", 1_150_000_000), ("-0.4", -400_000_000), ("0", 0)])
def test_a_cost_without_use_is_a_cost_and_no_charge(rated, told, cost_nano):
    rent = rated(kind=Kind.COST, quantities={}, metadata={"provider_cost": told})
    assert (rent.priced, rent.charge_nano, rent.cost_nano, rent.cost_currency) == (True, 0, cost_nano, "USD")
    assert rated(CREDITS, kind=Kind.COST, quantities={}, metadata={"provider_cost": told}).credits == 0


def test_a_cost_without_use_is_in_the_currency_that_the_provider_says(rated):
    rent = rated(kind=Kind.COST, quantities={}, metadata={"provider_cost": "1.15", "currency": "EUR"})
    assert (rent.cost_nano, rent.cost_currency, rent.currency) == (1_150_000_000, "EUR", "USD")


@pytest.mark.parametrize("told", [None, 1.15, "", "-", "--1", "1e5", "1,15", {"amount": "1"}])
def test_a_cost_that_is_no_amount_is_not_known(rated, told):
    assert rated(kind=Kind.COST, quantities={}, metadata={"provider_cost": told}).cost_nano is None


def test_a_plan_of_credits_takes_credits_and_the_cost_stays_money(rated):
    chat = rated(CREDITS)
    assert (chat.currency, chat.charge_nano, chat.credits) == ("credits", None, 2)
    assert (chat.cost_currency, chat.cost_nano) == ("USD", 697_500)
    assert chat.lines[0].credits == 2


def test_a_markup_is_no_price_where_the_cost_is_in_another_currency(books, usage_event):
    euros = Book(
        name="euros",
        version=1,
        unit="EUR",
        prices=(Price(rate=Markup(0), event_types=("*",), dimensions=("*",)),),
    )
    chat = rate(fact(usage_event()), euros, books.cost_book)
    assert (chat.priced, chat.currency, chat.cost_nano) == (False, "EUR", 697_500)


# ---------------------------------------------------------------------------------------------------------------------
# What decides a price


MOMENT_MS = 1_780_000_000_000
CHANGES_MS = (MOMENT_MS, MOMENT_MS + 1_000)
PRICE = st.builds(
    Price,
    rate=st.builds(PerUnit, st.integers(0, 9)),
    event_types=st.just(("llm_call",)),
    dimensions=st.sampled_from([("output_tokens",), ("tokens",), ("*",)]),
    context_over=st.sampled_from([None, 100, 200]),
    since_ms=st.sampled_from([0, *CHANGES_MS]),
)
QUESTION = st.tuples(
    st.sampled_from([moment + step for moment in CHANGES_MS for step in (-1, 0, 1)]),
    st.sampled_from([99, 100, 101, 201]),
)


@given(st.lists(PRICE, max_size=6), st.lists(QUESTION, min_size=2, max_size=6))
def test_what_was_asked_before_decides_nothing(usage_event, prices, questions):
    """Watches the terms that are remembered: for each event the book by itself says the same, in whatever order."""
    distinct = {(price.dimensions, price.context_over): price for price in prices}
    book = Book(name="one", version=1, unit="USD", prices=tuple(distinct.values()))
    costs = Book(name="costs", version=1, unit="USD", prices=())

    for at_ms, context_tokens in questions:
        quantities = {"input_tokens": context_tokens, "output_tokens": 1}
        event = usage_event(occurred_at_ms=at_ms, quantities=quantities)
        for line in rate(fact(event), book, costs).lines:
            price = book.find(
                "llm_call", event.source, line.dimension, event.resource, at_ms, context_tokens=context_tokens
            )
            assert line.price == (None if price is None else price.rate.text)


@pytest.mark.parametrize(("tier", "cost"), [("default", "2"), ("flex", "1"), ("priority", "4"), (None, "2"), (7, "2")])
def test_the_tier_that_the_provider_answered_in_decides(rated, tier, cost):
    chat = rated(resource="gpt-6.1-sol", quantities={"input_tokens": 100_000}, metadata={"service_tier": tier})
    assert chat.cost_nano * 10 == parse_amount(cost)


def test_what_was_batched_has_the_batch_price_whatever_tier_the_answer_names(rated):
    batched = rated(event_type="batch", quantities={"output_tokens": 100}, metadata={"service_tier": "default"})
    assert format_amount(batched.cost_nano) == "0.0005"


def test_all_input_tokens_make_the_context_long(rated):
    below = {"input_tokens": 72_000, "input_tokens_cached": 200_000, "output_tokens": 1}
    above = below | {"input_tokens_cached": 200_001}
    assert rated(resource="gpt-6.1-sol", quantities=below).lines[2].cost == "10000/1"
    assert rated(resource="gpt-6.1-sol", quantities=above).lines[2].cost == "15000/1"


def test_the_price_is_that_of_the_day_of_the_event(rated):
    september = {"resource": "gpt-5.6-sol", "quantities": {"input_tokens": 1}}
    assert rated(**september).lines[0].cost == "4000/1"
    assert rated(**september, occurred_at_ms=1_780_000_000_000).lines[0].cost == "5000/1"


# ---------------------------------------------------------------------------------------------------------------------
# Corrections and reversals


def test_a_correction_of_nothing_is_a_charge_of_zero(rated):
    same = rated(kind=Kind.CORRECTION, quantities={}, resource="gpt-99")
    assert (same.priced, same.charge_nano, same.cost_nano) == (True, 0, 0)


def test_a_call_that_turns_out_shorter_gives_back_the_minute_it_did_not_begin(rated):
    call = {"rated_from": {"seconds": 61}, "kind": Kind.CORRECTION}
    shorter = rated(**call, **twilio("call_minutes", direction="outbound", seconds=-2))
    assert (format_amount(shorter.charge_nano), format_amount(shorter.cost_nano)) == ("-0.015", "-0.014")
    assert rated(**call, **twilio("call_minutes", direction="outbound", seconds=-1)).charge_nano == -parse_amount(
        "0.015"
    )
    assert rated(**call, **twilio("call_minutes", direction="outbound", seconds=59)).charge_nano == 0


def test_a_correction_does_not_take_the_credits_of_the_event_again(rated):
    more = rated(CREDITS, kind=Kind.CORRECTION, quantities={"output_tokens": 5})
    assert (more.priced, more.credits) == (True, 0)


def test_a_correction_takes_the_credits_of_an_event_that_was_unknown_until_now(rated):
    found = rated(CREDITS, rated_from={"event": 0}, kind=Kind.CORRECTION, quantities={"output_tokens": 5})
    assert found.credits == 2


def test_a_reversal_gives_the_credits_back(rated):
    assert rated(CREDITS, kind=Kind.REVERSAL, quantities={"output_tokens": -5}).credits == -2
    assert rated(CREDITS, rated_from={"event": 0}, kind=Kind.REVERSAL, quantities={"output_tokens": -5}).credits == 0


def test_taking_back_a_long_context_gives_back_the_long_contexts_price(rated):
    long = {"resource": "gpt-6.1-sol", "quantities": {"input_tokens": 300_000, "output_tokens": 10}}
    back = long | {"kind": Kind.REVERSAL, "quantities": {"input_tokens": -300_000, "output_tokens": -10}}
    for rated_from in ({}, long["quantities"]):
        assert rated(rated_from=rated_from, **back).charge_nano == -rated(**long).charge_nano


def test_what_is_added_to_a_long_context_has_the_long_contexts_price(rated):
    more = {"kind": Kind.CORRECTION, "resource": "gpt-6.1-sol", "quantities": {"output_tokens": 10}}
    assert rated(rated_from={"input_tokens": 300_000}, **more).lines[0].cost == "15000/1"


EVENTS = st.sampled_from([case.event for case in CASES])
BOOKS = st.sampled_from([STANDARD, FLAT, CREDITS])
QUANTITIES = st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(0, 10**6), max_size=6)


def totals(one):
    return one.charge_nano, one.credits, one.cost_nano


@given(book=BOOKS, event=EVENTS, quantities=QUANTITIES)
def test_a_reversal_is_the_exact_negation(rated, book, event, quantities):
    used = rated(book, **event | {"quantities": quantities})
    negated = {dimension: -quantity for dimension, quantity in quantities.items()}
    for rated_from in ({}, quantities):
        back = rated(book, rated_from, **event | {"quantities": negated, "kind": Kind.REVERSAL})
        if used.priced:
            assert (back.charge_nano or 0) == -(used.charge_nano or 0)
            assert (back.credits or 0) == -(used.credits or 0)
        if used.cost_nano is not None:
            assert back.cost_nano == -used.cost_nano


@given(book=BOOKS, event=EVENTS, first=QUANTITIES, then=QUANTITIES)
@example(CREDITS, {"event_type": "sms_outbound", "source": "twilio"}, {"input_tokens": 0}, {"input_tokens_cached": 1})
def test_an_event_and_its_correction_come_to_what_the_right_event_would_have(rated, book, event, first, then):
    right = {name: first.get(name, 0) + then.get(name, 0) for name in first | then}
    wrong = rated(book, **event | {"quantities": first})
    correction = rated(book, first, **event | {"quantities": then, "kind": Kind.CORRECTION})
    whole = rated(book, **event | {"quantities": right})
    for before, added, total in zip(totals(wrong), totals(correction), totals(whole), strict=True):
        if None not in (before, added, total):
            assert before + added == total


@given(book=BOOKS, event=EVENTS, quantities=QUANTITIES)
def test_more_usage_never_costs_less(rated, book, event, quantities):
    less = rated(book, **event | {"quantities": quantities})
    more = rated(book, **event | {"quantities": {name: 2 * quantity for name, quantity in quantities.items()}})
    for small, large in zip(totals(less), totals(more), strict=True):
        assert (small is None) == (large is None)
        assert small is None or small <= large


# ---------------------------------------------------------------------------------------------------------------------
# Every charge can be checked by itself


def by_hand(text, rated_from, quantity):
    """Work a line out again from nothing but its own text, in exact fractions."""
    if text.endswith(" flat"):
        return int(text.removesuffix(" flat")) * quantity
    nanos, per, increment = re.fullmatch(r"(\d+)/(\d+)(?: by (\d+))?", text).groups()

    def up_to(units):
        whole = -(-abs(units) // int(increment or 1)) * int(increment or 1)
        return round(Fraction(int(nanos) * whole, int(per))) * (1 if units > 0 else -1)

    return up_to(rated_from + quantity) - up_to(rated_from)


@given(
    book=BOOKS,
    event=EVENTS,
    quantities=QUANTITIES,
    rated_from=st.dictionaries(st.sampled_from(DIMENSIONS), st.integers(1, 10**6), max_size=3),
)
def test_every_line_can_be_checked_from_itself_alone(rated, book, event, quantities, rated_from):
    one = rated(book, rated_from, **event | {"quantities": quantities})
    for line in one.lines:
        charge = line.credits if book == CREDITS else line.charge_nano
        assert charge == (None if line.price is None else by_hand(line.price, line.rated_from, line.quantity))
        assert line.cost_nano == (None if line.cost is None else by_hand(line.cost, line.rated_from, line.quantity))
    if one.priced:
        charges = [line.credits if book == CREDITS else line.charge_nano for line in one.lines]
        assert sum(charge or 0 for charge in charges) == (one.credits if book == CREDITS else one.charge_nano)


@given(book=BOOKS, event=EVENTS, quantities=QUANTITIES)
def test_the_judgement_survives_json_and_holds_no_float(rated, book, event, quantities):
    one = rated(book, **event | {"quantities": quantities})
    text = msgspec.json.encode(one)
    assert msgspec.json.decode(text, type=Rated) == one
    assert not list(floats(msgspec.json.decode(text)))


def floats(value):
    if isinstance(value, float):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from floats(part)


def test_a_line_in_json_holds_only_what_there_is_to_say(rated):
    line = rated(quantities={"output_tokens": 46}).lines[0]
    assert msgspec.json.decode(msgspec.json.encode(line)) == {
        "dimension": "output_tokens",
        "quantity": 46,
        "price": "12000/1",
        "charge_nano": 552_000,
        "cost": "10000/1",
        "cost_nano": 460_000,
    }


def test_a_flat_price_beside_a_price_per_unit_is_added_to_it(books, usage_event):
    prices = (
        Price(rate=Flat(1_000), event_types=("llm_call",)),
        Price(rate=PerUnit(10), event_types=("llm_call",), dimensions=("output_tokens",)),
    )
    book = Book(name="both", version=1, unit="USD", prices=prices)
    chat = rate(fact(usage_event()), book, books.cost_book)
    assert chat.charge_nano == 1_000 + 46 * 10
    assert [(line.dimension, line.price) for line in chat.lines] == [
        ("event", "1000 flat"),
        ("input_tokens", None),
        ("input_tokens_cached", None),
        ("output_tokens", "10/1"),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What the provider says a call cost


def told(rated, cost, book=STANDARD, **event):
    """An event of a provider that has no prices anywhere, and says what each call costs."""
    found = rated(book, source="openrouter", resource="some/model", metadata={TOLD_COST: cost}, **event)
    return found.charge_nano, found.cost_nano, found.credits


def test_what_the_provider_says_a_call_cost_is_its_cost_and_what_a_markup_is_on(rated):
    assert told(rated, "0.00014") == (168_000, 140_000, None)
    assert told(rated, "0") == (0, 0, None)
    assert told(rated, "0.00014", FLAT) == (163 * 2_000, 140_000, None)
    assert told(rated, "0.00014", CREDITS) == (None, 140_000, 2)


def test_a_told_cost_is_rounded_once_half_to_even_to_the_nano(rated):
    assert [told(rated, cost)[1] for cost in ("0.0000000005", "0.0000000015", "0.00000000051")] == [0, 2, 1]


def test_a_told_cost_goes_before_the_list(rated):
    listed, asked = rated(), rated(metadata={TOLD_COST: "0.001"})

    assert (listed.cost_nano, asked.cost_nano, asked.charge_nano) == (697_500, 1_000_000, 1_200_000)
    assert next((line.dimension, line.cost, line.price) for line in asked.lines) == (
        "event",
        "1000000 flat",
        "1200000/1",
    )


@pytest.mark.parametrize("cost", ["-1", "1e5", "", "0.", None, 5, "NaN", {"a": 1}])
def test_what_is_no_cost_is_as_if_it_had_not_been_said(rated, cost):
    assert told(rated, cost) == (None, None, None)
