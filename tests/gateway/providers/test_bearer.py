"""The key of a provider that takes bearer tokens."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.providers import bearer


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("Bearer tk_1", "tk_1"),
        ("bearer  tk_1 ", "tk_1"),
        ("Bearer SG.tk_1", "SG.tk_1"),
        ("Bearer", None),
        ("Basic tk_1", None),
        ("tk_1", None),
        ("", None),
    ],
)
def test_the_token_is_the_key(sent, key):
    assert bearer.presented_key(CIMultiDictProxy(CIMultiDict({"Authorization": sent}))) == key


def test_without_the_header_there_is_no_key():
    assert bearer.presented_key(CIMultiDictProxy(CIMultiDict())) is None


def test_the_credential_is_a_token_as_well():
    assert bearer.authorize({"api_key": "sk-1"}) == ((b"Authorization", b"Bearer sk-1"),)
