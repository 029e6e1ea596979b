"""What the event webhook's deliveries say, and that it is counted once."""

import itertools
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import reference
from gateway.providers.sendgrid import events
from gateway.providers.sendgrid.events import EVENTS_MAX, KINDS, heard
from gateway.providers.sendgrid.signatures import verified
from gateway.recorder import late_event
from gateway.simulator.sendgrid_account import EVENTS
from gateway.simulator.sendgrid_events import Course, Signer, Webhook, deliveries
from gateway.simulator.sendgrid_mail import Mail, Part
from metering.facts import validated
from metering.usage import Completeness

MAIL_ID = "5g2xQQY8Sl-bRdW1y9p0FQ"


def keyed(value):
    return reference(b"key", value)


def event(kind="dropped", number=0, *, mail=MAIL_ID, **more):
    told = {
        "email": f"ada-{number}@example.com",
        "event": kind,
        "sg_event_id": f"{kind}-{mail}-{number}",
        "sg_message_id": f"{mail}.recvd-6bb4c4ddc4-t0115-1-66AB-0.{number}",
        "timestamp": 1_790_000_000,
        "reason": "Bounced Address",
    }
    return {name: value for name, value in (told | more).items() if value is not None}


def of(*told):
    return heard(json.dumps(told).encode() + b"\r\n", keyed)


def test_a_recipient_who_was_dropped_is_taken_off_the_mail():
    (late,) = of(event()).late

    assert (late.external_id, late.phase.split(":")[:2]) == (MAIL_ID, ["less", "dropped"])
    assert (late.usage.quantities, late.usage.completeness) == ({"recipients": -1}, Completeness.REPORTED)
    assert (late.usage.event_type, late.usage.resource) == ("email_outbound", None)
    assert validated(late_event("acme", "sendgrid", late))


@pytest.mark.parametrize("kind", sorted(KINDS - {"dropped"}))
def test_what_was_taken_on_stays_billed_whatever_became_of_it(kind):
    found = of(event(kind))

    assert found.late == ()
    assert (found.kinds, found.unreadable) == ({kind: 1}, 0)


def test_a_block_is_a_bounce_of_another_type():
    assert of(event("bounce", type="blocked"), event("bounce", type="bounce")).kinds == {"blocked": 1, "bounce": 1}


def test_what_is_told_46_times_is_one_fact():
    """Guards the sum: one user was sent an event 46 times."""
    one = of(*[event()] * 46).late

    assert len(one) == 1
    for number in range(46):
        assert of(event(sg_event_id=f"another-{number}", timestamp=number)).late == one


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.lists(st.integers(1, 8), min_size=1, max_size=10),
)
def test_each_recipient_is_taken_off_once_however_the_events_are_told(drops, order, sizes):
    told = [event(number=number, mail=f"mail-{mail}") for mail, number in drops * 3]
    told += [event("delivered", number=9, mail=f"mail-{mail}") for mail, _ in drops]
    order.shuffle(told)
    facts = {}
    while told:
        size = sizes[len(told) % len(sizes)]
        for late in of(*told[:size]).late:
            assert facts.setdefault((late.external_id, late.phase), late) == late
        told = told[size:]

    assert len(facts) == len(set(drops))


def test_two_recipients_are_two_whatever_of_them_is_alike():
    same_message = of(event(email="a@example.com"), event(email="b@example.com"))
    same_address = of(event(number=1, email="a@example.com"), event(number=2, email="a@example.com"))
    no_message = of(
        event(sg_message_id=MAIL_ID, email="a@example.com"), event(sg_message_id=MAIL_ID, email="b@example.com")
    )

    assert [len(found.late) for found in (same_message, same_address, no_message)] == [2, 2, 2]


def test_an_address_is_the_same_in_any_case():
    assert of(event(email="Ada@Example.com")).late == of(event(email="ada@example.com ")).late


def test_no_address_is_in_what_is_kept():
    found = of(event(email="lovelace@example.com"))

    said = repr(found) + repr([late_event("acme", "sendgrid", late) for late in found.late])
    assert "lovelace" not in said
    assert "example" not in said
    assert heard(json.dumps([event()]).encode(), lambda value: reference(b"other", value)).late != of(event()).late


BAD = st.sampled_from(
    [
        None, 7, "x", [], {}, {"event": None}, {"event": 7, "email": "a"}, {"sg_message_id": MAIL_ID},
        event(sg_message_id=None), event(sg_message_id=7), event(sg_message_id=""), event(sg_message_id=".x"),
        event(sg_message_id="a b.c"), event(sg_message_id="x" * 201 + ".a"), event(sg_message_id=MAIL_ID, email=None),
        event(email="a" * 2000), event(sg_message_id="\ud800.a"), event(sg_message_id="\0.a"), {"event": 10**4000},
    ]
)  # fmt: skip


@given(BAD, st.integers(0, 1000))
def test_a_bad_item_does_not_lose_the_others(bad, at):
    told = [event(number=number) for number in range(20)]
    told.insert(at % 21, bad)

    found = of(*told)

    assert (len(found.late), found.unreadable) == (20, 1)


@pytest.mark.parametrize(
    "odd",
    [
        b'"\\ud800"', b'"\xff\xfe"', b"9" * 5000, b"-0.1e99999", b"NaN", b'"\x01"', b'"\\u0000"', b"[" * 400 + b"]" * 400,
        b'"' + b"x" * 100_000 + b'"',
    ],
    ids=range(9),
)  # fmt: skip
def test_what_an_application_adds_to_its_events_costs_none_of_them(odd):
    """Guards the count: one text that a strict reader refuses, and a whole delivery of drops would stay billed."""
    told = json.dumps([event(number=1), event(number=2, odd="?"), event(number=3)]).encode()

    found = heard(told.replace(b'"?"', odd), keyed)

    assert (len(found.late), found.unreadable) == (3, 0)


def test_a_thousand_with_one_bad_item():
    told = [event(number=number) for number in range(1000)]
    random.Random(7).shuffle(told)
    told[500] = "not an event"

    found = of(*told)

    assert (len(found.late), len(found.told), found.unreadable) == (999, 999, 1)


def test_a_bounce_that_came_long_after_its_mail_is_an_event_without_a_mail():
    (one,) = of(event("bounce", sg_message_id=None)).told

    assert (one.kind, one.external_id, one.event_id) == ("bounce", None, f"bounce-{MAIL_ID}-0")


def test_what_a_surrogate_breaks_is_still_somebody():
    assert len(of(event(email="\ud800@example.com")).late) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"7", b"[", b'[{"event":"dropped"', b"\xff", b"[" * 100_000, b"\x1f\x8b\x08"]
)
def test_what_is_no_delivery_says_nothing_and_raises_nothing(body):
    found = heard(body, keyed)

    assert (found.late, found.told, found.unreadable) == ((), (), 1)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(body):
    heard(body, keyed)
    heard(b"[" + body + b"]", keyed)


def test_no_events_are_none():
    found = of()

    assert (found.late, found.told, found.unreadable) == ((), (), 0)


def test_more_than_a_delivery_holds_is_set_aside():
    told = b",".join([b'{"event":"open"}'] * (EVENTS_MAX + 3))

    found = heard(b"[" + told + b"]", keyed)

    assert (len(found.told), found.unreadable) == (EVENTS_MAX, 1)


def test_what_can_be_read_before_a_break_is_read():
    whole = json.dumps([event(number=number) for number in range(5)]).encode()

    for end in range(len(whole)):
        found = heard(whole[:end], keyed)
        assert len(found.late) == whole[:end].count(b"}")
        assert found.unreadable == 1


def test_ten_mebibytes_are_read():
    one = json.dumps(event(padding="x" * 600)).encode()
    count = (10 << 20) // (len(one) + 3)

    found = heard(b"[" + b",\r\n".join([one] * count) + b"]\r\n", keyed)

    assert (len(found.told), len(found.late), found.unreadable) == (count, 1, 0)


def test_a_delivery_is_the_same_however_its_events_are_ordered_and_written():
    first, second = event(number=1), event("open", number=2)

    assert of(first, second).delivery_id == of(second, first).delivery_id
    assert of(first, second).delivery_id == heard(json.dumps([first, second], indent=2).encode(), keyed).delivery_id
    assert of(first).delivery_id != of(second).delivery_id
    assert of(event(sg_event_id=None)).delivery_id != of(event(sg_event_id=None, number=2)).delivery_id
    assert of().delivery_id != of(7).delivery_id


def test_what_is_read_of_an_event_is_what_can_be_passed_on():
    (one,) = of(event("delivered")).told

    assert one == events.Told("delivered", f"delivered-{MAIL_ID}-0", MAIL_ID)


@given(
    st.lists(
        st.lists(st.sampled_from(["ada", "dropped", "bounce", "blocked", "deferred", "click"]), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_what_the_simulated_provider_tells_is_signed_and_takes_off_whom_it_dropped(parts, seed):
    """The simulator shares nothing with what reads it here."""
    count = itertools.count()
    mail = Mail(
        tuple(
            Part(tuple(f"{name}+{next(count)}@example.com" for name in names), "toll@example.com", "Toll", None, {})
            for names in parts
        ),
        *(False, None, None, (), None),
    )
    webhook = Webhook("http://127.0.0.1/events", dict.fromkeys((*EVENTS, "blocked"), True), Signer(seed + 1))
    facts = {}
    kinds = Counter()
    for delivery in deliveries(mail, MAIL_ID, 1_790_000_000, Course(None), webhook, lambda: str(next(count)), bool):
        leaving = delivery.signed(1_790_000_000)
        signature, timestamp = (value for name, value in leaving if name.startswith("X-Twilio"))
        assert verified(webhook.signer.public_key, timestamp, signature, delivery.body, int(timestamp))
        for _ in range(2):
            found = heard(delivery.body, keyed)
            assert found.unreadable == 0
            assert {one.external_id for one in found.told} == {MAIL_ID}
            facts |= {(late.external_id, late.phase): late for late in found.late}
        kinds.update(found.kinds)

    names = Counter(name for part in parts for name in part)
    assert len(facts) == names["dropped"] == kinds["dropped"]
    assert (kinds["bounce"], kinds["blocked"]) == (names["bounce"], names["blocked"])
    assert kinds["processed"] == names.total() - names["dropped"]
