"""What an integration may say."""

from __future__ import annotations

import msgspec
import pytest

from gateway.integrations import ITEMS_MAX, Integration, NotAllowed, checked, values_of

GOOD = Integration(
    sms_url="https://app.example.com/sms?x=1",
    voice_url="http://app.internal:8000/voice",
    phone_numbers=("+12025550143", "12345"),
    twilio_messaging_services=("MG" + "0" * 32,),
    twilio_subaccount="AC" + "a" * 32,
    sendgrid_subuser="acme",
    sendgrid_verification_key="M" * 124,
    on_behalf_of=("*",),
)


def test_what_an_application_has_is_taken():
    assert checked(GOOD) is GOOD
    assert checked(Integration()) == Integration()
    assert msgspec.convert(msgspec.to_builtins(GOOD), Integration) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("sms_url", url)
            for url in (
                "ftp://app.example.com",
                "https://user:password@app.example.com",
                "https://",
                "https://app.example.com/a b",
                "https://app.example.com/\\x",
                "https://app.example.com/#part",
                "https://app.example.com:99999/",
                "https://app.example.com/" + "x" * 2000,
                "https://[::1",
                "",
            )
        ),
        ("phone_numbers", ("12025550143x",)),
        ("phone_numbers", ("+12025550143", "+12025550143")),
        ("phone_numbers", tuple(f"+1202555{number:04}" for number in range(ITEMS_MAX + 1))),
        ("twilio_subaccount", "AC1"),
        ("twilio_messaging_services", ("SM" + "0" * 32,)),
        ("sendgrid_verification_key", "short"),
        ("on_behalf_of", ("a b",)),
    ],
)
def test_what_nobody_can_have_is_named_with_its_field(field, value):
    with pytest.raises(NotAllowed) as refused:
        checked(msgspec.structs.replace(GOOD, **{field: value}))

    assert refused.value.field == field


def test_the_values_of_a_field_are_a_tuple_whether_it_holds_one_or_many():
    assert values_of(GOOD, "sendgrid_subuser") == ("acme",)
    assert values_of(GOOD, "phone_numbers") == GOOD.phone_numbers
    assert values_of(Integration(), "openai_project") == ()
