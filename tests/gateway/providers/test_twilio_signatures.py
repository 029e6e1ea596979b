"""Whether a delivery is Twilio's: what the official SDKs' validators say of it, this says; and no forgery passes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from gateway.providers.twilio.signatures import FORM, HEADER, signature, signed, verified
from tests.nodes import SCRIPTS, needs_node, run_script

DELIVERIES = 10_000

TOKEN = "12345"
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
CALL = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
    ("Caller", "+14158675309"),
]
REPEATED = [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234"), ("Digits", "1234")]
JSON_TYPE = "application/json"
JSON_BODY = json.dumps({"specversion": "1.0", "text": "Grüße 👋"}, ensure_ascii=False).encode()


class Delivery(NamedTuple):
    """A request, and what somebody says its signature is."""

    token: str
    url: str
    told: str
    body: bytes
    content_type: str
    method: str = "POST"
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def verified(self) -> bool:
        return verified([self.token], self.url, self.told, self.body, self.content_type, self.method)


def form_delivery(token=TOKEN, url=URL, parameters=CALL, told=None):
    told = signature(token, url, parameters) if told is None else told
    return Delivery(token, url, told, urlencode(parameters).encode(), FORM, "POST", tuple(parameters))


def json_delivery(token=TOKEN, url=URL, body=JSON_BODY, told=None):
    named = f"{url}&bodySHA256={hashlib.sha256(body).hexdigest()}"
    return Delivery(token, named, signature(token, named, ()) if told is None else told, body, JSON_TYPE)


# ---------------------------------------------------------------------------------------------------------------------
# What Twilio documents


@pytest.mark.parametrize(
    ("parameters", "documented"), [(CALL, "RSOYDt4T1cUTdK1PDd93/VVr8B8="), (REPEATED, "IK+Dwps556ElfBT0I3Rgjkr1wJU=")]
)
def test_the_signatures_that_twilio_gives_as_examples_are_made_and_verified(parameters, documented):
    assert signature(TOKEN, URL, parameters) == documented
    assert form_delivery(parameters=parameters, told=documented).verified


def test_while_a_token_is_replaced_both_are_valid_and_no_third_one_is():
    made = form_delivery(token="old")

    def passes(*tokens):
        return verified(tokens, made.url, made.told, made.body, made.content_type, made.method)

    assert passes("old", "new")
    assert passes("new", "old")
    assert not passes("new")
    assert not passes()
    assert not passes("")


# ---------------------------------------------------------------------------------------------------------------------
# Forgeries


def altered(**changes: object) -> Delivery:
    return form_delivery()._replace(**changes)


def with_body(*parameters: tuple[str, str]) -> Delivery:
    return altered(body=urlencode(parameters).encode())


FORGERIES = {
    "no signature": altered(told=""),
    "a wrong signature": altered(told="RSOYDt4T1cUTdK1PDd93/VVr8B9="),
    "the beginning of the signature": altered(told=signature(TOKEN, URL, CALL)[:-1]),
    "a signature of other characters": altered(told="Grüße\udcff"),
    "the token of another tenant": altered(token="another"),
    "an empty token": form_delivery(token=""),
    "an altered parameter": with_body(*CALL[:1], ("Digits", "1235"), *CALL[2:]),
    "an altered name": with_body(("CallSidd", "A1234567890ABCDE"), *CALL[1:]),
    "a further parameter": with_body(*CALL, ("ForwardedFrom", "+14158675310")),
    "a further empty parameter": with_body(*CALL, ("ForwardedFrom", "")),
    "a missing parameter": with_body(*CALL[:-1]),
    "a parameter with a further value": with_body(*CALL, ("Digits", "1235")),
    "another query": altered(url=URL + "1"),
    "a further query": altered(url=URL + "&baz=3"),
    "no query": altered(url=URL.partition("?")[0]),
    "another path": altered(url=URL.replace("myapp", "yourapp")),
    "another host": altered(url=URL.replace("mycompany", "yourcompany")),
    "another scheme": altered(url=URL.replace("https", "http")),
    "a scheme that is none of the web's": altered(url=URL.replace("https", "ftp")),
    "another port": altered(
        url=URL.replace(".com", ".com:8443"), told=signature(TOKEN, URL.replace(".com", ".com:8444"), CALL)
    ),
    "no body": altered(body=b""),
    "a form that says it is JSON": altered(content_type=JSON_TYPE),
    "a form that says nothing of itself": altered(content_type=""),
    "a form in a GET": altered(method="GET"),
    "a form in a PUT": altered(method="PUT"),
    "a GET with a body": Delivery(TOKEN, URL, signature(TOKEN, URL, ()), b"a=1", FORM, "GET"),
    "JSON with another body": json_delivery()._replace(body=JSON_BODY + b" "),
    "JSON without its body": json_delivery()._replace(body=b""),
    "JSON with another hash": json_delivery()._replace(url=URL + "&bodySHA256=" + "0" * 64),
    "JSON with a wrong hash that is signed": altered(
        url=URL + "&bodySHA256=" + "0" * 64,
        told=signature(TOKEN, URL + "&bodySHA256=" + "0" * 64, ()),
        body=JSON_BODY,
        content_type=JSON_TYPE,
    ),
    "JSON without a hash": Delivery(TOKEN, URL, signature(TOKEN, URL, ()), JSON_BODY, JSON_TYPE),
    "JSON whose hash comes second": altered(
        url=f"{URL}&bodySHA256={'0' * 64}&bodySHA256={hashlib.sha256(JSON_BODY).hexdigest()}",
        told=signature(TOKEN, f"{URL}&bodySHA256={'0' * 64}&bodySHA256={hashlib.sha256(JSON_BODY).hexdigest()}", ()),
        body=JSON_BODY,
        content_type=JSON_TYPE,
    ),
    "the signature of JSON for a form": json_delivery()._replace(body=b"a=1", content_type=FORM),
    "the signature of JSON for an empty form": json_delivery()._replace(body=b"", content_type=FORM),
    "the signature of JSON for a GET": json_delivery()._replace(body=b"", content_type="", method="GET"),
    "a form of too many parameters": form_delivery(parameters=[(f"P{n}", "") for n in range(1001)]),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_refused(forgery):
    assert not FORGERIES[forgery].verified


AUTHENTIC = {
    "a form": form_delivery(),
    "a form in another order": with_body(*reversed(CALL)),
    "a form with a parameter twice": with_body(*CALL, CALL[0]),
    "a form whose type says its encoding": altered(content_type="application/x-www-form-urlencoded; charset=UTF-8"),
    "a form with its port": altered(url=URL.replace(".com", ".com:443")),
    "a form signed with the usual port": altered(told=signature(TOKEN, URL.replace(".com", ".com:443"), CALL)),
    "a form over http signed with the usual port": altered(
        url="http://a.example/", told=signature(TOKEN, "http://a.example:80/", CALL)
    ),
    "a form for another port signed without": altered(url=URL.replace(".com", ".com:8443")),
    "a form with no parameters": form_delivery(parameters=[]),
    "nothing at all": form_delivery(parameters=[])._replace(content_type=""),
    "a form that is not UTF-8": altered(
        body=b"Body=%FF%FE", told=signature(TOKEN, URL, [("Body", b"\xff\xfe".decode("utf-8", "surrogateescape"))])
    ),
    "JSON": json_delivery(),
    "a GET": Delivery(TOKEN, URL, signature(TOKEN, URL, ()), b"", "", "GET"),
}


@pytest.mark.parametrize("authentic", AUTHENTIC)
def test_what_is_authentic_passes(authentic):
    assert AUTHENTIC[authentic].verified


@given(
    st.lists(st.text(), max_size=2),
    st.text(),
    st.text(),
    st.binary(),
    st.text(),
    st.sampled_from(["GET", "POST", "", "é"]),
)
def test_whatever_is_sent_is_judged(tokens, url, told, body, content_type, method):
    assert verified(tokens, url, told, body, content_type, method) is False


@given(st.lists(st.text(), max_size=2), st.text(max_size=40), st.binary(), st.sampled_from(["GET", "POST"]))
def test_whatever_is_sent_to_a_url_is_judged(tokens, told, body, method):
    assert verified(tokens, URL, told, body, FORM, method) is False


# ---------------------------------------------------------------------------------------------------------------------
# What the official validators say

# Not the characters from U+E000 to U+FFFF, which JavaScript and Python sort apart from those beyond: no name has them.
CHARACTERS = "abcXYZ019 _-.~+%&=?#'\"<>/\\\n\0äßçéñøλж漢字한💬👋"


def generated(seed: int, deliveries: int) -> Iterator[Delivery]:
    """Deliveries as Twilio makes them, and about as many in which something is not as it was signed."""
    chance = random.Random(seed)

    def text(characters_max: int) -> str:
        return "".join(chance.choices(CHARACTERS, k=chance.randrange(characters_max + 1)))

    def url() -> str:
        port = chance.choice(["", "", "", ":443", ":80", ":8443"])
        path = chance.choice(["/", "/voice", "/hooks/twilio/acme/status", "/a%20b/%C3%A4;v=1"])
        query = urlencode([(text(4) or "q", text(6)) for _ in range(chance.randrange(3))]).replace("%27", "1")
        return f"{chance.choice(['https', 'http'])}://a{chance.randrange(3)}.example{port}{path}{query and '?' + query}"

    def with_a_port_or_without(url: str) -> str:
        parts = urlsplit(url)
        host, usual = parts.netloc.partition(":")[0], "443" if parts.scheme == "https" else "80"
        return url.replace(parts.netloc, chance.choice([host, f"{host}:{parts.port or usual}"]), 1)

    def something_else(delivery: Delivery) -> Delivery:
        parameters = list(delivery.parameters)
        match chance.randrange(7):
            case 0:
                return delivery._replace(token=delivery.token + "0")
            case 1:
                return delivery._replace(
                    told=chance.choice(["", delivery.told[1:], delivery.told.swapcase(), text(28)])
                )
            case 2:
                return delivery._replace(url=delivery.url.replace("example", "example.org", 1))
            case 3:
                return delivery._replace(url=delivery.url + ("&" if "?" in delivery.url else "?") + "more=1")
            case 4 if delivery.content_type == JSON_TYPE:
                return delivery._replace(body=delivery.body + b" ")
            case 4 if parameters:
                parameters.pop(chance.randrange(len(parameters)))  # Which changes nothing if it is there twice.
            case 5 if parameters:
                at = chance.randrange(len(parameters))
                parameters[at] = (parameters[at][0], parameters[at][1] + text(1))
            case _ if delivery.method == "POST" and delivery.content_type == FORM:
                parameters.append((text(3) or "p", text(3)))
        body = urlencode(parameters).encode() if delivery.content_type == FORM else delivery.body
        return delivery._replace(parameters=tuple(parameters), body=body)

    for _ in range(deliveries):
        token, to = text(32) or "token", url()
        match chance.randrange(10):
            case 0 | 1:
                body = json.dumps({text(5): text(20)}, ensure_ascii=chance.random() < 0.5).encode()
                to += ("&" if "?" in to else "?") + f"bodySHA256={hashlib.sha256(body).hexdigest()}"
                told = signature(token, with_a_port_or_without(to), ())
                made = Delivery(token, to, told, body, JSON_TYPE)
            case 2:
                made = Delivery(token, to, signature(token, with_a_port_or_without(to), ()), b"", "", "GET")
            case _:
                names = [text(6) or "name" for _ in range(chance.randrange(1, 6))]
                parameters = [
                    (chance.choice(names), text(chance.choice([0, 3, 40]))) for _ in range(chance.randrange(12))
                ]
                told = signature(token, with_a_port_or_without(to), parameters)
                chance.shuffle(parameters)
                made = Delivery(token, to, told, urlencode(parameters).encode(), FORM, "POST", tuple(parameters))
        yield made if chance.random() < 0.5 else something_else(made)


@pytest.fixture(scope="module")
def deliveries() -> list[Delivery]:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return list(generated(seed, DELIVERIES))


def judged(deliveries: list[Delivery]) -> list[bool]:
    found = [delivery.verified for delivery in deliveries]
    assert DELIVERIES // 3 < sum(found) < DELIVERIES * 2 // 3, "nearly all, or nearly none, is authentic"
    return found


def differing(deliveries: list[Delivery], expected: list[bool]) -> list[Delivery]:
    return [
        one for one, ours, theirs in zip(deliveries, judged(deliveries), expected, strict=True) if ours is not theirs
    ]


def test_the_official_sdk_for_python_judges_ten_thousand_deliveries_the_same(deliveries):
    expected = [
        RequestValidator(one.token).validate(
            one.url, one.body.decode() if one.content_type == JSON_TYPE else MultiDict(one.parameters), one.told
        )
        for one in deliveries
    ]

    assert differing(deliveries, expected) == []


@needs_node
def test_the_official_sdk_for_node_judges_ten_thousand_deliveries_the_same(deliveries, tmp_path):
    told = [
        {
            "token": one.token,
            "url": one.url,
            "told": one.told,
            "parameters": {name: MultiDict(one.parameters).getall(name) for name, _ in one.parameters},
            "body": one.body.decode() if one.content_type == JSON_TYPE else None,
        }
        for one in deliveries
    ]
    (tmp_path / "deliveries.json").write_text(json.dumps(told))

    expected = json.loads(run_script(SCRIPTS / "signatures.cjs", str(tmp_path / "deliveries.json")))

    assert differing(deliveries, expected) == []


# ---------------------------------------------------------------------------------------------------------------------
# Made anew


@pytest.mark.parametrize("url", [URL, "https://app.example/hooks", "http://app.example:8080/hooks?tenant=a%20b"])
@pytest.mark.parametrize("kind", ["form", "json", "get", "nothing"])
def test_what_is_passed_on_verifies_with_the_official_validator_and_the_secret_of_the_tenant(kind, url):
    method = "GET" if kind == "get" else "POST"
    content_type = {"form": FORM + "; charset=utf-8", "json": JSON_TYPE}.get(kind, "")
    body = {"form": urlencode(REPEATED).encode(), "json": JSON_BODY, "get": urlencode(CALL).encode()}.get(kind, b"")
    to, headers = signed("secret", url, method, content_type, body)

    shown = {"form": MultiDict(REPEATED), "json": body.decode()}.get(kind, {})
    told = dict(headers)[HEADER]
    assert RequestValidator("secret").validate(to, shown, told)
    assert not RequestValidator("another").validate(to, shown, told)
    assert to.startswith(url)
    assert verified(["secret"], to, told, b"" if kind == "get" else body, content_type, method)
    assert (to == url) is (kind in ("form", "nothing"))


@given(st.binary(), st.sampled_from(["GET", "POST"]), st.sampled_from([FORM, JSON_TYPE, ""]))
def test_whatever_came_is_signed(body, method, content_type):
    to, headers = signed("secret", URL, method, content_type, body)

    assert verified(["secret"], to, dict(headers)[HEADER], b"" if method == "GET" else body, content_type, method)


def test_a_form_of_more_parameters_than_are_verified_is_signed():
    assert signed("secret", URL, "POST", FORM, b"&".join(b"a=%d" % n for n in range(2000)))
