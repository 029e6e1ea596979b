"""The headers of Standard Webhooks: as the specification's example has them, and as a library that reads them does."""

from __future__ import annotations

import time

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from gateway.keys import new_signing_secret
from gateway.standard_webhooks import headers

BODY = b'{"test": 2432232314}'


def accepts(secret: str, told: tuple[tuple[str, str], ...], body: bytes = BODY) -> bool:
    """Whether the official SDK of a provider that signs like this takes it."""
    try:
        OpenAI(api_key="none", webhook_secret=f"whsec_{secret}").webhooks.verify_signature(body, dict(told))
    except InvalidWebhookSignatureError:
        return False
    return True


@pytest.mark.parametrize("prefix", ["", "whsec_"])
def test_the_example_of_the_specification_is_made(prefix):
    secret = prefix + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    told = dict(headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY))

    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_replaced_who_has_either_accepts_and_nobody_else():
    old, new, third = (new_signing_secret() for _ in range(3))
    now = int(time.time())
    both = headers([new, old], "d1", now, BODY)

    assert [accepts(secret, both) for secret in (old, new, third)] == [True, True, False]
    assert [accepts(secret, headers([new], "d1", now, BODY)) for secret in (old, new)] == [False, True]


def test_what_was_altered_or_is_old_is_not_accepted():
    secret = new_signing_secret()
    now = int(time.time())
    told = headers([secret], "d1", now, BODY)

    assert accepts(secret, told)
    assert not accepts(secret, told, BODY + b" ")
    assert not accepts(secret, (("webhook-id", "d2"), *told[1:]))
    assert not accepts(secret, (told[0], ("webhook-timestamp", str(now + 1)), told[2]))
    assert not accepts(secret, headers([secret], "d1", now - 3600, BODY))
