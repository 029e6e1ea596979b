"""Which deliveries are SendGrid's. The oracle is the official SDK's own validator."""

import base64
import json
from functools import cache

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.eventwebhook.eventwebhook_header import EventWebhookHeader

from gateway.providers.sendgrid import signatures
from gateway.providers.sendgrid.signatures import WINDOW_S, is_key, verified

NOW_S = 1_790_000_000
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The n of P-256."""
EVENTS = [{"email": "ada@example.com", "event": "delivered", "sg_event_id": "a"}, {"event": "open", "emoji": "👋"}]
BODY = json.dumps(EVENTS).encode() + b"\r\n"


@cache
def private(secret, curve=ec.SECP256R1):
    return ec.derive_private_key(secret, curve())


def public(key):
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


OURS, OTHERS = private(7), private(8)
KEY = public(OURS)


def der(body, timestamp, key=OURS):
    return key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))


def signed(body, timestamp=str(NOW_S), key=OURS):
    return base64.b64encode(der(body, timestamp, key)).decode()


def judged(body=BODY, timestamp=str(NOW_S), signature=None, key=KEY, now_s=NOW_S):
    return verified(key, timestamp, signed(BODY) if signature is None else signature, body, now_s)


def by_the_sdk(public_key, timestamp, signature, body):
    try:
        return EventWebhook(public_key).verify_signature(body.decode(), signature, timestamp)
    except ValueError:
        return False


BODIES = st.lists(
    st.dictionaries(st.sampled_from(["email", "event", "sg_event_id", "reason"]), st.text(max_size=20), max_size=4),
    max_size=3,
).flatmap(lambda events: st.sampled_from([json.dumps(events), json.dumps(events, ensure_ascii=False, indent=1)]))
CHANGES = st.sampled_from(
    ["none", "none", "body", "end", "timestamp", "signature", "key", "twin", "signer", "again", "padding", "swapped"]
)


@settings(max_examples=2000)
@given(
    text=BODIES,
    end=st.sampled_from(["\r\n", "\n", ""]),
    secret=st.integers(1, 40),
    change=CHANGES,
    at=st.integers(0, 1 << 16),
    bit=st.integers(0, 7),
    age_s=st.integers(-WINDOW_S, WINDOW_S),
)
def test_what_the_official_validator_takes_is_taken_and_nothing_else(text, end, secret, change, at, bit, age_s):
    body, timestamp, key = (text + end).encode(), str(NOW_S - age_s), private(secret)
    known, raw = public(key), der(body, timestamp, key)
    given_body, given_time = body, timestamp
    match change:
        case "body":
            # A byte that stays ASCII, or the SDK could not be asked.
            at %= len(body) + 1
            given_body = body[:at] + b"x" + body[at:]
        case "end":
            given_body = body.rstrip() if body != body.rstrip() else body + b"\r\n"
        case "again":
            given_body = json.dumps(json.loads(body), separators=(",", ":")).encode()
        case "timestamp":
            given_time = str(int(timestamp) + (1 if at % 2 else -1))
        case "padding":
            given_time = "0" + timestamp
        case "swapped":
            # The same bytes, parted elsewhere: the last digit of the time as the body's first.
            given_time, given_body = timestamp[:-1], timestamp[-1:].encode() + body
        case "signature":
            at %= len(raw)
            raw = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
        case "twin":
            r, s = decode_dss_signature(raw)
            raw = encode_dss_signature(r, ORDER - s)
        case "signer":
            raw = der(body, timestamp, private(secret + 40))
        case "key":
            known = public(private(secret + 40))
    signature = base64.b64encode(raw).decode()

    found = verified(known, given_time, signature, given_body, NOW_S)

    told = by_the_sdk(known, given_time, signature, given_body)
    in_time = abs(NOW_S - int(given_time)) <= WINDOW_S
    assert found is (told and in_time)
    if change in ("none", "twin"):
        assert found
    elif change in ("timestamp", "padding", "swapped", "signer", "key"):
        assert not found


@settings(max_examples=1000)
@given(
    key=st.text(max_size=150) | st.just(KEY),
    timestamp=st.text(max_size=30) | st.just(str(NOW_S)),
    signature=st.text(max_size=150) | st.binary(max_size=90).map(lambda raw: base64.b64encode(raw).decode()),
    body=st.binary(max_size=50),
)
@example(KEY, str(NOW_S), "", b"[]")
@example(KEY, "", signed(b"[]"), b"[]")
@example("", str(NOW_S), signed(b"[]"), b"[]")
@example(KEY, "²", signed(b"[]"), b"[]")
@example(KEY, "٣", signed(b"[]"), b"[]")
@example(KEY, "9" * 5000, signed(b"[]"), b"[]")
@example(KEY, str(NOW_S), "A" * (1 << 20), b"[]")
@example("A" * (1 << 20), str(NOW_S), signed(b"[]"), b"[]")
def test_whatever_is_malformed_is_refused_and_raises_nothing(key, timestamp, signature, body):
    assert verified(key, timestamp, signature, body, NOW_S) is False


@pytest.mark.parametrize("age_s", [-WINDOW_S, -1, 0, 1, WINDOW_S])
def test_a_delivery_of_now_is_taken(age_s):
    timestamp = str(NOW_S - age_s)

    assert judged(timestamp=timestamp, signature=signed(BODY, timestamp))


@pytest.mark.parametrize("age_s", [-WINDOW_S - 1, WINDOW_S + 1, 25 * 3600, -(10**9), NOW_S])
def test_a_delivery_of_another_time_is_refused_though_it_is_signed(age_s):
    """Guards replays: whoever has seen a delivery has a valid signature of it for ever."""
    timestamp = str(NOW_S - age_s)

    assert not judged(timestamp=timestamp, signature=signed(BODY, timestamp))


def test_json_that_was_read_and_written_again_is_another_body():
    assert judged()
    assert not judged(body=json.dumps(json.loads(BODY)).encode())


def test_each_altered_byte_is_noticed():
    for at in range(len(BODY)):
        assert not judged(body=BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :])


@pytest.mark.parametrize("body", [b"", b"[]", b"[]\r\n", b"\xff\xfe", bytes(10 << 20)], ids=len)
def test_a_body_of_any_size_and_kind_is_verified(body):
    assert judged(body=body, signature=signed(body))
    assert not judged(body=body + b" ", signature=signed(body))


def test_a_key_of_another_curve_or_kind_is_none():
    """Guards the curve: SendGrid signs with P-256 alone, and whoever sets a key sets that kind."""
    p384 = private(7, ec.SECP384R1)
    others = [
        public(p384),
        public(private(7, ec.SECP256K1)),
        public(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
        public(rsa.generate_private_key(65537, 2048)),
    ]

    assert by_the_sdk(public(p384), str(NOW_S), signed(BODY, key=p384), BODY)
    assert not judged(key=public(p384), signature=signed(BODY, key=p384))
    assert [is_key(key) for key in others] == [False] * 4


def test_a_key_is_what_the_settings_of_sendgrid_show():
    assert is_key(KEY)
    assert is_key(f" {KEY}\n")
    assert not is_key("")
    assert not is_key(KEY[:-4])
    assert not is_key(f"-----BEGIN PUBLIC KEY-----\n{KEY}\n-----END PUBLIC KEY-----")


def test_another_tenants_key_signs_nothing_of_this_ones():
    assert not judged(signature=signed(BODY, key=OTHERS))


def test_the_headers_are_those_of_the_official_sdk():
    assert (signatures.SIGNATURE_HEADER, signatures.TIMESTAMP_HEADER) == (
        EventWebhookHeader.SIGNATURE,
        EventWebhookHeader.TIMESTAMP,
    )
