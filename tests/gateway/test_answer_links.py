"""The URLs in answers by which SDKs go on, led back through the gateway."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.answer_links import BLANKS_MAX, TEXT_BYTES_MAX, AnswerLinks, Hosts, Leading, address_of
from gateway.messages import RequestHead
from gateway.providers import twilio

ELSEWHERE = {product: f"http://127.0.0.1:5000/{product}/x" for product in twilio.PROVIDER.products}
HERE = "https://gw.example:8443/twilio"
LINKS = AnswerLinks(Hosts(twilio.PROVIDER, ELSEWHERE), HERE)

PAGE = {
    "meta": {
        "first_page_url": "https://messaging.twilio.com/v1/Services?PageSize=50&Page=0",
        "previous_page_url": None,
        "url": "https://messaging.twilio.com/v1/Services?PageSize=50&Page=0",
        "next_page_url": "https://messaging.twilio.com/v1/Services?PageSize=50&Page=1&PageToken=PAMG1",
        "key": "services",
    },
    "services": [
        {
            "sid": "MG1",
            "friendly_name": "https://messaging.twilio.com/v1/Services",
            "inbound_request_url": "https://webhooks.twilio.com/v1/Accounts/AC1/Flows/FW1",
            "fallback_url": "https://example.com/v1/x",
            "url": "https://messaging.twilio.com/v1/Services/MG1",
            "links": {"phone_numbers": "https://messaging.twilio.com/v1/Services/MG1/PhoneNumbers", "none": None},
        }
    ],
}


def cut(body, marks):
    edges = [0, *sorted(min(mark, len(body)) for mark in marks), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def led(pieces, links=LINKS):
    leading = Leading(links)
    return b"".join([leading.feed(piece) for piece in pieces]) + leading.finish()


def by_hand(value, within="root", name=""):
    """The same, by whoever reads all of it."""
    if isinstance(value, dict):
        inside = within
        return {key: by_hand(item, child(inside, key, item), key) for key, item in value.items()}
    if isinstance(value, list):
        return [by_hand(item, "item" if within == "list" and isinstance(item, dict) else "other") for item in value]
    if not isinstance(value, str) or within not in ("root", "meta", "item", "links"):
        return value
    if within == "links" or name in ("url", "uri") or name.endswith(("_url", "_uri")):
        for product in ("messaging", "verify", "api"):
            for begins in (f"https://{product}.twilio.com", ELSEWHERE[product]):
                if value.startswith((f"{begins}/v1/", f"{begins}/2010-04-01/")):
                    return f"{HERE}/{product}{value.removeprefix(begins)}"
    return value


def child(within, key, item):
    if not isinstance(item, dict | list):
        return within
    if isinstance(item, list):
        return "list" if within == "root" else "other"
    if key == "meta" and within == "root":
        return "meta"
    return "links" if key == "links" and within in ("root", "item") else "other"


def test_a_page_leads_to_the_next_one_at_the_gateway_and_all_else_stays():
    found = json.loads(led([json.dumps(PAGE).encode()]))

    service, meta = PAGE["services"][0], PAGE["meta"]
    assert found["meta"] == meta | {
        "first_page_url": f"{HERE}/messaging/v1/Services?PageSize=50&Page=0",
        "url": f"{HERE}/messaging/v1/Services?PageSize=50&Page=0",
        "next_page_url": f"{HERE}/messaging/v1/Services?PageSize=50&Page=1&PageToken=PAMG1",
    }
    assert found["services"] == [
        service
        | {
            "url": f"{HERE}/messaging/v1/Services/MG1",
            "links": {"phone_numbers": f"{HERE}/messaging/v1/Services/MG1/PhoneNumbers", "none": None},
        }
    ]


@pytest.mark.parametrize(
    "stored",
    [
        {"data": {"url": "https://verify.twilio.com/v1/x"}},
        {"data": {"deep": [{"links": {"url": "https://verify.twilio.com/v1/x"}}]}},
        {"data": {"links": {"next": "https://verify.twilio.com/v1/x"}}},
        {"items": [{"data": {"url": "https://verify.twilio.com/v1/x"}}, ["https://verify.twilio.com/v1/x"]]},
        {"items": [{"body": "https://verify.twilio.com/v1/x", "url": ["https://verify.twilio.com/v1/x"]}]},
        {"attributes": '{"url": "https://verify.twilio.com/v1/x"}'},
        {"body": 'Look: "url": "https://verify.twilio.com/v1/x"'},
    ],
)
def test_what_an_application_has_stored_it_finds_as_it_was(stored):
    """Guards the levels: an application that reads and writes back would move its own configuration to the gateway."""
    body = json.dumps(stored).encode()

    assert led([body]) == body


URLS = st.sampled_from(
    [
        *("https://messaging.twilio.com/v1/Services?a=1", "https://verify.twilio.com/v1/", f"{ELSEWHERE['api']}/v1/x"),
        *("https://api.twilio.com/2010-04-01/Accounts/AC1/Recordings/RE1", "https://api.twilio.com/cowbell.mp3"),
        *("https://webhooks.twilio.com/v1/x", "https://messaging.twilio.com.evil.example/v1/x", "https://twilio.com/v1/x"),
        *("https://messaging.twilio.com", "see https://messaging.twilio.com/v1/x", "http://messaging.twilio.com/v1/x"),
        *("", "\\", '"', '\\"links":{', "\u2028 é", "x" * TEXT_BYTES_MAX, '{"url":"https://messaging.twilio.com/v1/x"}'),
    ]
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "url",
        "uri",
        "next_page_url",
        "media_uri",
        "URL",
        "curl",
        "body",
        "meta",
        "links",
        "services",
        'a"url',
        "u\\rl",
        "",
    ]
)
DOCUMENTS = st.recursive(
    st.none() | st.integers() | URLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
SPACES = st.sampled_from([None, 0, 2, BLANKS_MAX])


def written(document, indent, *, slashes):
    text = json.dumps(document, indent=indent, separators=(",", " : " if indent else ":"))
    return (text.replace("/", r"\/") if slashes else text).encode()


@given(DOCUMENTS, SPACES, st.booleans(), st.lists(st.integers(0, 900), max_size=8))
def test_what_leads_here_is_what_the_provider_wrote_and_wherever_it_is_cut(document, indent, slashes, marks):
    """Guards what applications have stored, in a text or below a name of theirs, and the end that is held back."""
    if not isinstance(document, dict):
        document = {"services": document}
    body = written(document, indent, slashes=slashes)

    at_once = led([body])

    assert json.loads(at_once) == by_hand(document)
    assert led(cut(body, marks)) == at_once
    if by_hand(document) == document:
        assert at_once == body


@given(st.lists(st.sampled_from([b'{"url":"https://verify.twilio.com/v1/a"', b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b" ", b'"links":',
                                 b"https://verify.twilio.com/v1/", b"x" * TEXT_BYTES_MAX, b" " * (BLANKS_MAX + 1), b"\xff"]), max_size=14).map(b"".join),
       st.lists(st.integers(0, 9000), max_size=8))  # fmt: skip
def test_whatever_is_sent_nothing_is_raised_and_a_cut_changes_nothing(body, marks):
    at_once = led([body])

    assert led(cut(body, marks)) == at_once
    assert at_once.replace(f"{HERE}/verify".encode(), b"https://verify.twilio.com") == body


@given(st.sampled_from([json.dumps(PAGE).encode(), written(PAGE, 2, slashes=True)]))
def test_an_answer_that_comes_byte_by_byte_leads_here(body):
    assert led([body[at : at + 1] for at in range(len(body))]) == led([body])


def test_no_more_is_held_than_a_url_and_what_parts_it_from_its_colon():
    """Guards the bound: a text of any size comes as it is, without a byte of it in memory."""
    leading = Leading(LINKS)
    came = left = 0

    for piece in (b'{"body":"', *[b"x" * 1000] * 50, b'\\"', *[b"x" * 1000] * 50, b'","url":', b" " * 200, b'"y"}'):
        came += len(piece)
        left += len(leading.feed(piece))

        assert came - left <= TEXT_BYTES_MAX + BLANKS_MAX + 2
    assert left + len(leading.finish()) == came


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://messaging.twilio.com/v1/Services", "/messaging/v1/Services"),
        ("https://ip-messaging.twilio.com/v2/Services?a=/b", "/ip-messaging/v2/Services?a=/b"),
        ("http://127.0.0.1:5000/verify/x/v2/Services", "/verify/v2/Services"),
        ("https://messaging.twilio.com/v1?Page=1", "/messaging/v1?Page=1"),
        (r"https:\/\/messaging.twilio.com\/v1\/Services\u0026", r"/messaging\/v1\/Services\u0026"),
        ("https://messaging.twilio.com/", None),
        ("https://messaging.twilio.com:443/v1/x", None),
        ("https://messaging.twilio.com@evil.example/v1/x", None),
        ("https://evil.twilio.com/v1/x", None),
        ("https://api.twilio.com/cowbell.mp3", None),
        ("https://webhooks.twilio.com/v1/Accounts/AC1/Flows/FW1", None),
        ("https://www.twilio.com/docs/errors/20404", None),
        ("HTTPS://messaging.twilio.com/v1/x", None),
        ("", None),
    ],
)
def test_a_url_leads_here_where_it_leads_to_the_providers_api(url, path):
    assert LINKS.hosts.path_of(url.encode()) == (None if path is None else path.encode())


def test_hosts_that_share_an_address_are_known_by_the_providers_own_names_alone():
    hosts = Hosts(twilio.PROVIDER, dict.fromkeys(twilio.PROVIDER.products, "http://127.0.0.1:5000"))

    assert hosts.path_of(b"http://127.0.0.1:5000/v1/Services") is None
    assert hosts.path_of(b"https://messaging.twilio.com/v1/Services") == b"/messaging/v1/Services"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/messaging/v1/Services", True),
        ("/verify/v2/Services/VA1/Verifications", True),
        ("/api/2010-04-01/Accounts/AC1/Recordings/RE1", True),
        ("/api/2010-04-01/Accounts/AC1/Calls/CA1/Recordings", True),
        ("/api/2010-04-01/Accounts/AC1/Messages", False),
        ("/api/2010-04-01/Accounts/AC1/Calls/CA1", False),
    ],
)
def test_answers_that_hold_paths_alone_are_not_looked_through(path, expected):
    assert LINKS.hosts.stand_in(path) is expected


@pytest.mark.parametrize("name", [b"Location", b"location"])
def test_a_redirect_leads_here(name):
    lines = (
        b"\r\nVary: Origin\r\n"
        + name
        + b": https://verify.twilio.com/v2/Forms/x\r\nX-Location: https://verify.twilio.com/v2/"
    )

    assert LINKS.header(lines) == lines.replace(
        b"https://verify.twilio.com/v2/Forms", f"{HERE}/verify/v2/Forms".encode()
    )
    assert LINKS.header(b"\r\nLocation: https://example.com/v1/x") == b"\r\nLocation: https://example.com/v1/x"


def head(**headers):
    given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return RequestHead("GET", "/", CIMultiDictProxy(given), ())


@pytest.mark.parametrize(
    ("headers", "tls", "public_url", "address"),
    [
        ({"Host": "gw.example"}, False, None, "http://gw.example"),
        ({"Host": "gw.example"}, True, None, "https://gw.example"),
        ({"Host": "127.0.0.1:8080"}, False, None, "http://127.0.0.1:8080"),
        ({"Host": "[::1]:8080"}, False, None, "http://[::1]:8080"),
        ({"Host": "gw.example"}, False, "https://gw.example", "https://gw.example"),
        ({"Host": "GW.example"}, False, "https://gw.example/toll/", "https://gw.example/toll"),
        ({"Host": "inside:8080"}, False, "https://gw.example", "http://inside:8080"),
        ({"Host": "gw.example", "X_Forwarded_Proto": "https"}, False, None, "https://gw.example"),
        ({"Host": "gw.example", "X_Forwarded_Proto": "HTTPS, http"}, False, None, "https://gw.example"),
        ({"Host": "gw.example", "X_Forwarded_Proto": "http"}, True, None, "https://gw.example"),
        ({"Host": 'gw.example"'}, False, None, None),
        ({"Host": "a/b"}, False, None, None),
        ({"Host": "a@b"}, False, None, None),
        ({"Host": ""}, False, None, None),
        ({}, False, None, None),
    ],
)
def test_here_is_what_the_client_knows_it_by(headers, tls, public_url, address):
    """Guards the scheme: a client that speaks TLS would show its key to everybody on the way without."""
    assert address_of(head(**headers), tls=tls, public_url=public_url) == address
