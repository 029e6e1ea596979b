"""Which URLs of an application's documents lead back to us, and that nothing else in them changes."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.twiml.voice_response import Dial, Gather, VoiceResponse

from gateway.providers.api import CallbackAddress, Carried
from gateway.providers.twilio.twiml import DOCUMENT_BYTES_MAX, led_back

AT = "https://app.example/voice/start?lang=en"
BASE = "https://tolls.example/webhooks/twilio/acme"
ADDRESS = CallbackAddress(
    BASE, lambda one: f"sealed.{one.url.encode().hex()}" + (f".{one.method}" if one.method else "")
)


def led(document, at=AT):
    return led_back(document.encode() if isinstance(document, str) else document, at, ADDRESS).decode()


def carried(url):
    """The webhook that a URL of ours is of, and the application's URL that it carries."""
    parts = urlsplit(url)
    (sealed,) = parse_qs(parts.query)["to"]
    return parts.path.rpartition("/")[2], bytes.fromhex(sealed.split(".")[1]).decode()


def the_attribute(document, name):
    return carried(next(one.attrib[name] for one in ET.fromstring(led(document)).iter() if name in one.attrib))


@pytest.mark.parametrize(
    ("document", "name", "expected"),
    [
        ('<Response><Gather action="/menu"/></Response>', "action", ("voice", "https://app.example/menu")),
        ('<Response><Gather action="menu?a=1&amp;b=2"/></Response>', "action", ("voice", "https://app.example/voice/menu?a=1&b=2")),
        ('<Response><Gather action=""/></Response>', "action", ("voice", AT)),
        ("<Response><Record action='?step=2'/></Response>", "action", ("voice", "https://app.example/voice/start?step=2")),
        ('<Response><Dial action="https://app.example:443/x"/></Response>', "action", ("voice", "https://app.example:443/x")),
        ('<Response><Dial><Number url="/whisper">1</Number></Dial></Response>', "url", ("voice", "https://app.example/whisper")),
        ('<Response><Enqueue waitUrl="wait">q</Enqueue></Response>', "waitUrl", ("voice", "https://app.example/voice/wait")),
        ('<Response><Record recordingStatusCallback="/r"/></Response>', "recordingStatusCallback", ("status", "https://app.example/r")),
        ('<Response><Start><Transcription statusCallbackUrl="/t"/></Start></Response>', "statusCallbackUrl", ("status", "https://app.example/t")),
        ('<Response><Dial><Conference eventCallbackUrl="/e">c</Conference></Dial></Response>', "eventCallbackUrl", ("status", "https://app.example/e")),
        ('<Response><Dial><Queue url="/before">q</Queue></Dial></Response>', "url", ("voice", "https://app.example/before")),
        ('<Response><Dial referUrl="/refer"/></Response>', "referUrl", ("voice", "https://app.example/refer")),
        ('<Response><Record transcribeCallback="/t"/></Response>', "transcribeCallback", ("status", "https://app.example/t")),
        ('<Response><Gather partialResultCallback="/p"/></Response>', "partialResultCallback", ("status", "https://app.example/p")),
        ('<Response><Dial><Sip statusCallback="/s">sip:a@b</Sip></Dial></Response>', "statusCallback", ("status", "https://app.example/s")),
    ],
    ids=str,
)  # fmt: skip
def test_where_twilio_asks_or_tells_it_comes_to_us(document, name, expected):
    assert the_attribute(document, name) == expected


@pytest.mark.parametrize(
    "text",
    ["/next", " /next ", "<![CDATA[/next]]>", "/ne<!-- a comment -->xt", "/n&#101;xt"],
)
def test_a_redirect_comes_to_us(text):
    root = ET.fromstring(led(f"<Response><Redirect method='GET'>{text}</Redirect></Response>"))

    assert carried(root.findtext("Redirect")) == ("voice", "https://app.example/next")


@pytest.mark.parametrize(
    ("document", "left"),
    [
        ('<Gather action="/x" method="GET"/>', {"method": "POST"}),
        ("<Gather method='get' action='/x' timeout='5'/>", {"method": "POST", "timeout": "5"}),
        ('<Redirect method="GET">/x</Redirect>', {"method": "POST"}),
        ('<Redirect method="GET">https://other.example/</Redirect>', {"method": "GET"}),
        ('<Record action="/x" method="GET" recordingStatusCallback="/y"/>', {"method": "POST"}),
        ('<Record action="https://other.example/" method="GET"/>', {"method": "GET"}),
        ('<Sip statusCallback="/x" statusCallbackMethod="GET" method="GET"/>', {"statusCallbackMethod": "POST", "method": "GET"}),
        ('<Gather action="/x" method="PUT"/>', {"method": "PUT"}),
        ('<Enqueue waitUrl="/x" waitUrlMethod="GET">q</Enqueue>', {"waitUrlMethod": "POST"}),
        ('<Conference waitUrl="/x" waitMethod="GET">c</Conference>', {"waitMethod": "POST"}),
        ('<Dial referUrl="/x" referMethod="GET"/>', {"referMethod": "POST"}),
        ('<Transcription statusCallbackUrl="/x" statusCallbackMethod="GET"/>', {"statusCallbackMethod": "POST"}),
    ],
)  # fmt: skip
def test_we_are_asked_by_post_and_carry_how_the_application_is(document, left):
    (verb,) = ET.fromstring(led(f"<Response>{document}</Response>"))

    assert {name: value for name, value in verb.attrib.items() if name in left} == left
    urls = [value for value in (*verb.attrib.values(), verb.text or "") if value.startswith(BASE)]
    # Only that whose method it was.
    assert [url.endswith(".GET") for url in urls] == [True, False][: len(urls)] if "POST" in left.values() else True


def test_an_empty_redirect_leads_to_the_same_document():
    root = ET.fromstring(led("<Response><Redirect></Redirect></Response>"))

    assert carried(root.findtext("Redirect")) == ("voice", AT)


def test_what_is_played_is_fetched_from_the_application():
    assert led("<Response><Play>hello.mp3</Play></Response>") == (
        "<Response><Play>https://app.example/voice/hello.mp3</Play></Response>"
    )


def test_what_who_waits_hears_is_carried_as_that_unless_it_is_a_sound():
    seen = []
    address = CallbackAddress(BASE, lambda one: seen.append(one) or "sealed")
    document = (
        '<Response><Enqueue action="/out" waitUrl="/wait">q</Enqueue><Dial><Conference waitUrl="hold.mp3" '
        'waitMethod="GET">c</Conference></Dial></Response>'
    )

    after = ET.fromstring(led_back(document.encode(), AT, address))

    assert seen == [Carried("https://app.example/out"), Carried("https://app.example/wait", heard=True)]
    conference = after.find("Dial/Conference")
    assert conference.attrib == {"waitUrl": "https://app.example/voice/hold.mp3", "waitMethod": "GET"}


@pytest.mark.parametrize(
    "document",
    [
        "<Response/>",
        # In silence, and without being told.
        '<Response><Dial><Conference waitUrl="" statusCallback=" ">c</Conference></Dial></Response>',
        "<Response><Say>Go to /menu &amp; choose</Say></Response>",
        '<?xml version="1.0" encoding="UTF-8"?>\n<!-- hello -->\n<Response >  <Hangup/>\t</Response>\n',
        '<Response><Gather action="https://other.example/menu"/></Response>',
        '<Response><Gather action="http://app.example/menu"/></Response>',
        '<Response><Play>https://cdn.example/hello.mp3</Play><Play digits="1"/></Response>',
        '<Response><Connect><Stream url="wss://app.example/sound"/></Connect></Response>',
        '<Response><Say action-like="/x">action="/menu"</Say></Response>',
        # Not well-formed, or more than that.
        '<Response><Gather action="/menu"></Response>',
        '<Response><Gather action="/menu"/>',
        "<Response><Redirect>/x</Response></Redirect>",
        '<Response/><Response><Gather action="/menu"/></Response>',
        'Welcome! <Response><Gather action="/menu"/></Response>',
        "<Response><Gather action=/menu /></Response>",
        '<!DOCTYPE r [<!ENTITY a "/menu">]><Response><Redirect>/x</Redirect></Response>',
        '<Response><Gather action="&menu;"/></Response>',
        '<Response><Gather action="/&#xD800;"/><Redirect>/&#9999999;</Redirect></Response>',
        "",
        '{"action": "/menu"}',
    ],
)
def test_everything_else_stays_as_it_came(document):
    assert led(document) == document


def test_a_document_that_is_too_long_stays_as_it_came():
    document = f"<Response><Redirect>/x</Redirect><Say>{'x' * DOCUMENT_BYTES_MAX}</Say></Response>"

    assert led(document) == document


def test_a_document_of_the_official_library_is_what_it_was_but_for_its_urls():
    response = VoiceResponse()
    gather = Gather(input="dtmf speech", action="/menu?a=1&b=2", num_digits=1, partial_result_callback="/partial")
    gather.say('Press "1" & wait', language="tr-TR")
    response.append(gather)
    dial = Dial(action="/dialled", recording_status_callback="/recorded", record="record-from-answer")
    dial.number("+12025550143", status_callback="/leg", status_callback_event="completed", url="/whisper")
    response.append(dial)
    response.redirect("/again", method="GET")
    document = str(response)

    after = ET.fromstring(led(document))

    assert [one.tag for one in after.iter()] == [one.tag for one in ET.fromstring(document).iter()]
    said = [(element.attrib, element.text) for element in after.iter()]
    for element, (attributes, text) in zip(ET.fromstring(document).iter(), said, strict=True):
        for name, value in element.attrib.items():
            mended = attributes[name] if (element.tag, name) != ("Redirect", "method") else value
            if value.startswith("/"):
                mended = carried(mended)[1].removeprefix("https://app.example")
            assert mended == value
        plain = carried(text)[1].removeprefix("https://app.example") if element.tag == "Redirect" else text
        assert plain == element.text


_TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<&\0"), max_size=12)


@given(st.recursive(_TEXTS, lambda inner: st.tuples(st.sampled_from(["Say", "Gather", "Redirect", "Play"]), _TEXTS, st.lists(inner, max_size=3)), max_leaves=8), st.binary(max_size=10))  # fmt: skip
def test_it_never_raises_and_a_document_without_urls_never_changes(tree, noise):
    def write(node):
        if isinstance(node, str):
            return node
        name, value, inner = node
        return f'<{name} language="{value.replace(chr(34), "")}">{"".join(map(write, inner))}</{name}>'

    document = f"<Response>{write(tree)}</Response>"
    led_back(document.encode()[:20] + noise + document.encode()[20:], AT, ADDRESS)
    if "<Redirect" not in document and "<Play" not in document:
        assert led(document) == document
