"""Secrets: what is shown of them, and what they open."""

import base64
import pickle
import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keys
from gateway.keys import NotSealedHere, Secrets

SECRETS = Secrets.derived("one installation")
CREDENTIAL = {"api_key": "sk-real", "organization": "é"}


def test_a_key_has_its_promised_form():
    key_id, key = keys.new_gateway_key()

    assert re.fullmatch(r"tk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
    assert keys.key_id_of(key) == key_id


def test_no_two_keys_are_alike():
    assert len({keys.new_gateway_key() for _ in range(1000)}) == 1000
    assert len({keys.new_admin_key() for _ in range(1000)}) == 1000
    assert len({keys.new_secret() for _ in range(1000)}) == 1000


def test_the_prefix_that_some_sdks_insist_on_changes_nothing():
    key_id, key = keys.new_gateway_key()

    assert keys.key_id_of("SG." + key) == key_id


@pytest.mark.parametrize(
    "text", ["", "tk", "tk_", "tk_abc", "tk_abc_", "tk__abc", "sk-proj-abc", "TK_abc_def", "tka_abc_def"]
)
def test_what_has_not_the_form_of_a_key_names_none(text):
    assert keys.key_id_of(text) is None


KEY = "tk_0123456789ab_" + "s" * 43


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"Bearer {KEY}",
        f"Bearer Bearer {KEY}",
        f"xyz{KEY}",
        f"SG.{KEY}",
        "Bearer tk_a_b",
        basic(f"{KEY}:"),
        basic(f":{KEY}"),
        basic(f"AC0:{KEY}").rstrip("="),
        basic(f"AC01:{KEY}").replace("Basic ", "BASIC\t"),
        basic(f"{KEY}:é"),
        basic(f"~~~?:{KEY}").replace("+", "-").replace("/", "_"),
        f"Bearer sk-of-its-own, {basic(f'AC0:{KEY}')}",
    ],
)
def test_a_key_is_found_wherever_it_stands_in_a_header(value):
    assert keys.holds_key(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        "Basic a",
        "Basic abcde",
        "Basic é",
        basic("AC0:token"),
        "Bearer sk-proj-atk_b_c",
        "tk_abc_",
    ],
)
def test_a_header_without_a_key_holds_none(value):
    assert not keys.holds_key(value)


@pytest.mark.parametrize(
    ("value", "is_one"), [(KEY, True), (f"a={KEY}; b", True), ("tk_build_7", False), ("tk_", False)]
)
def test_elsewhere_only_what_has_exactly_its_form_is_a_key(value, is_one):
    assert keys.is_key_in(value.encode()) is is_one


def test_a_key_is_recognised_whole_and_by_nothing_less():
    """Guards matches: comparing a prefix, or fewer bytes of the hash, lets one of these through."""
    _, key = keys.new_gateway_key()
    digest = SECRETS.digest(key)

    assert SECRETS.matches(key, digest)
    assert not SECRETS.matches(key, SECRETS.digest(key)[:-1])
    for place in range(len(key)):
        other = "A" if key[place] != "A" else "B"
        assert not SECRETS.matches(key[:place] + other + key[place + 1 :], digest)
        assert not SECRETS.matches(key[:place], digest)
    assert not SECRETS.matches(key + "A", digest)
    assert not SECRETS.matches("SG." + key, digest)


def test_another_installation_recognises_no_key_of_this_one():
    _, key = keys.new_gateway_key()

    assert not Secrets.derived("another installation").matches(key, SECRETS.digest(key))


def test_a_key_may_be_any_bytes_a_header_can_hold():
    assert not SECRETS.matches("tk_\udce9_é", SECRETS.digest("tk_a_b"))


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_what_is_sealed_for_an_owner_opens_for_that_owner(value, owner):
    assert SECRETS.unseal(SECRETS.seal(value, owner=owner), owner=owner) == value


def test_what_is_sealed_opens_for_nobody_else():
    """Guards the owner as associated data: without it, a row moved to another tenant opens there."""
    sealed = SECRETS.seal(CREDENTIAL, owner="acme")

    for secrets, owner in ((SECRETS, "other"), (SECRETS, ""), (Secrets.derived("another installation"), "acme")):
        with pytest.raises(NotSealedHere):
            secrets.unseal(sealed, owner=owner)


def test_sealing_twice_gives_two_texts_and_neither_holds_the_secret():
    sealed = {SECRETS.seal(CREDENTIAL, owner="acme") for _ in range(2)}

    assert len(sealed) == 2
    for text in sealed:
        assert b"sk-real" not in base64.urlsafe_b64decode(text.partition(".")[2] + "==")


def test_one_altered_character_opens_nothing():
    sealed = SECRETS.seal(CREDENTIAL, owner="acme")

    for place in range(len(sealed) - 1):  # Of the last character some bits are padding.
        altered = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        with pytest.raises(NotSealedHere):
            SECRETS.unseal(altered, owner="acme")


@pytest.mark.parametrize("text", ["", "v1.", "v1.AAAA", "v2." + "A" * 80, "v1.é", "v1." + "A" * 80, "v1.*&^"])
def test_what_was_never_sealed_says_so(text):
    with pytest.raises(NotSealedHere):
        SECRETS.unseal(text, owner="acme")


def test_no_repr_shows_a_secret():
    """Guards repr=False of each field."""
    shown = repr(SECRETS) + str(SECRETS)

    for field in fields(SECRETS):
        value = getattr(SECRETS, field.name)
        if isinstance(value, bytes):
            assert repr(value) not in shown
            assert value.hex() not in shown
    assert SECRETS.operator_key not in shown


def test_each_purpose_has_a_key_of_its_own():
    derived = [value for field in fields(SECRETS) if isinstance(value := getattr(SECRETS, field.name), bytes)]

    assert len(derived) == len(set(derived)) == 4
    assert all(len(value) == 32 for value in derived)


def test_the_same_secret_gives_the_same_keys_on_every_start():
    assert pickle.dumps(Secrets.derived("one installation")) == pickle.dumps(SECRETS)
    assert SECRETS.fingerprint != Secrets.derived("another installation").fingerprint
    assert SECRETS.fingerprint not in SECRETS.operator_key


def test_an_account_of_our_own_has_the_form_of_a_provider_s():
    assert re.fullmatch(r"AC[0-9a-f]{32}", keys.new_account_sid())


def test_a_reference_is_the_same_for_the_same_value_and_tells_nothing_without_the_key():
    number = "+15551234567"

    assert keys.reference(SECRETS.reference, number) == keys.reference(SECRETS.reference, number)
    assert keys.reference(SECRETS.reference, number) != keys.reference(SECRETS.pepper, number)
    assert number[1:] not in keys.reference(SECRETS.reference, number)


@given(st.binary(max_size=5000), st.text(max_size=20), st.text(max_size=20))
def test_sealed_bytes_open_for_their_owner_alone(value, owner, other):
    sealed = SECRETS.seal_bytes(value, owner=owner)

    assert SECRETS.unseal_bytes(sealed, owner=owner) == value
    assert SECRETS.unseal_bytes(memoryview(sealed), owner=owner) == value
    if other != owner:
        with pytest.raises(NotSealedHere):
            SECRETS.unseal_bytes(sealed, owner=other)
    for damaged in (sealed[:-1], sealed + b"\0", b"", bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(NotSealedHere):
            SECRETS.unseal_bytes(damaged, owner=owner)
