"""The answers that the gateway gives on its own behalf."""

import inspect
from http import HTTPStatus

import pytest

from gateway import errors

REFUSALS = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, errors.Refusal) and found is not errors.Refusal
]


def test_every_refusal_has_a_code_of_its_own():
    """Guards the code of each class: a copied one tells two causes apart no longer."""
    codes = [refusal.code for refusal in REFUSALS]

    assert len(codes) > 15
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("refusal", REFUSALS)
def test_every_refusal_has_a_status_that_exists_and_a_code_fit_for_a_header(refusal):
    assert 400 <= HTTPStatus(refusal.status) < 600
    assert refusal.code.replace("_", "").isalpha()
    assert refusal.code == refusal.code.lower()


def test_what_may_have_been_done_already_is_not_to_be_tried_again():
    assert errors.UpstreamBroke.retry_pointless
    assert errors.UpstreamTooSlow.retry_pointless


@pytest.mark.parametrize("refusal", [errors.UpstreamUnreachable, errors.NotRecordable, errors.OwnerUnknown])
def test_where_nothing_was_sent_trying_again_is_welcome(refusal):
    assert not refusal.retry_pointless


def test_a_missing_object_carries_its_name_for_the_provider_s_own_words():
    assert errors.ObjectMissing("file-abc").object_id == "file-abc"
