"""An account that several tenants share does not leak."""

import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.errors import NoSuchProduct, NotOnSharedAccount
from gateway.messages import RequestHead
from gateway.providers import PROVIDERS, openai, sendgrid, twilio
from gateway.routing import Routes
from gateway.sharing import References, named_objects

ROUTES = Routes(PROVIDERS)
RESPONSE = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
FILE = "file-BK7bzQj3FfZFXr7DbL6xJwfo"


ADMINISTRATION = (
    "/v1/organization",
    "/v1/organizations",
    "/v1/projects",
    "/v1/dashboard",
    "/v1/me",
    "/v1/realtime/sessions",
    "/v1/realtime/client_secrets",
    "/v1/chatkit",
    "/v1/agents",
    "/v1/vaults/vault_12345678/credentials",
    "/v1/safety/cases",
    "/v1/webhook_endpoints",
)


SID = "0a" * 16
ACCOUNT = "AC" + "1b" * 16
TEMPLATE = "d-" + SID
JOB = "01H793APATD899ESMY25ZNPNCF"
BATCH = "NGY5NmM0/TMt+NzQ4Yi00="
"""Base64, as SendGrid makes it."""


def named(method, target, *, of="openai", speaks_for=(), **headers):
    head = RequestHead(method, target, CIMultiDictProxy(CIMultiDict(headers)), ())
    return named_objects(ROUTES.match(method, f"/{of}{target}"), head, ACCOUNT, speaks_for)


def referred(*chunks, of=openai):
    references = References(of.PROVIDER)
    return {name for chunk in chunks for name in references.feed(chunk)}


def encodings(path):
    """The same path, spelt in ways that some server somewhere reads as it."""
    first, _, last = path.rpartition("/")
    yield path
    yield path + "/"
    yield path + "?a=b"
    yield path + "/x/y"
    yield path + "/."
    yield path + "/../" + path.rpartition("/")[2]
    yield path + "//"
    yield path + ";a=b"
    yield path + "%00"
    yield path + "%20"
    yield path + "%3Fa"
    yield path + "\\"
    yield "/" + path
    yield "/." + path
    yield "/x/.." + path
    yield f"{first}//{last}"
    yield f"{first}/./{last}"
    yield f"{first}%2F{last}"
    yield f"{first}%252f{last}"
    yield f"{first}/%{ord(last[0]):02x}{last[1:]}"
    yield f"{first}/%{ord(last[0]):02X}{last[1:]}"
    yield quote(path, safe="/").replace("o", "%6f")
    yield f"{first}/{last}%2e"


@pytest.mark.parametrize("prefix", ADMINISTRATION)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "HEAD"])
def test_administration_is_refused_in_every_spelling_of_its_path(method, prefix):
    """Guards the plain form of paths: an escape or a dot segment that is let through finds a server that undoes it."""
    spellings = list(encodings(prefix))

    assert len(spellings) >= 20
    for spelling in spellings:
        with pytest.raises(NotOnSharedAccount):
            named(method, spelling)


def test_a_path_that_only_begins_like_administration_is_not_administration():
    assert named("POST", "/v1/projections") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/files", "/v1/chat/completions", "/", "/v1/conversations", "/v1/new/thing"]
)
def test_lists_and_what_nobody_knows_are_refused_for_every_method_but_post(method, path):
    with pytest.raises(NotOnSharedAccount, match="everybody"):
        named(method, path)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/new/thing", "/v1/images/generations"])
def test_what_makes_something_new_names_no_object(path):
    assert named("POST", path) == []


@pytest.mark.parametrize(
    ("method", "target", "objects"),
    [
        ("GET", f"/v1/responses/{RESPONSE}", [RESPONSE]),
        ("GET", f"/v1/responses/{RESPONSE}/input_items?limit=2", [RESPONSE]),
        ("POST", f"/v1/responses/{RESPONSE}/cancel", [RESPONSE]),
        ("GET", f"/v1/files/{FILE}/content", [FILE]),
        ("POST", f"/v1/vector_stores/vs_abcdefgh/files/{FILE}", ["vs_abcdefgh", FILE]),
        ("DELETE", f"/v1/files/{FILE}/", [FILE]),
    ],
)
def test_every_object_that_a_path_names_is_found(method, target, objects):
    assert named(method, target) == objects


@pytest.mark.parametrize("odd", ["gen-1", "x", "resp_1", "RESP_ABC", "123"])
def test_what_stands_for_the_id_of_a_listed_path_is_an_object_whatever_it_looks_like(odd):
    """Guards the places of the endpoint's path: found by their form alone, ids of another provider's making pass."""
    assert named("GET", f"/v1/responses/{odd}") == [odd]


@pytest.mark.parametrize(
    "value", [RESPONSE, FILE, "thread_abc123def456ghi789", "chatcmpl-CQGY2Nr5kPDxqJ3h4S7ZtUvW", "vs_0123456789abcdef"]
)
def test_an_object_in_a_body_is_found(value):
    assert referred(json.dumps({"a": [{"b": value}]}).encode()) == {value}


@given(st.sets(st.integers(0, len(RESPONSE) - 1)), st.sampled_from(("\\u%04x", "\\u%04X")))
def test_an_object_hidden_by_escapes_is_found(places, escape):
    """Guards _HIDDEN_CHARACTER: the letter r of `resp_` as `\\u0072` is the same JSON, and other bytes."""
    written = "".join(escape % ord(letter) if place in places else letter for place, letter in enumerate(RESPONSE))
    body = f'{{"previous_response_id":"{written}"}}'.encode()

    assert json.loads(body)["previous_response_id"] == RESPONSE
    assert referred(body) == {RESPONSE}


@given(st.lists(st.integers(0, 330), max_size=8), st.booleans())
def test_where_a_body_is_cut_does_not_matter(cuts, escaped):
    """Guards the tail that is looked at again: without it, an id across two pieces goes through."""
    written = "".join(f"\\u{ord(letter):04x}" for letter in RESPONSE) if escaped else RESPONSE
    body = b'{"a":"' + bytes(20).replace(b"\0", b"x") + b'","id":"' + written.encode() + b'"}'
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    assert referred(*(body[start:end] for start, end in itertools.pairwise(marks))) == {RESPONSE}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_an_object_is_found_in_every_encoding_that_json_may_come_in(encoding):
    """Guards the zeros that are taken out: Python's own json.loads reads UTF-16."""
    body = json.dumps({"id": RESPONSE}).encode(encoding)

    assert json.loads(body) == {"id": RESPONSE}
    assert referred(body) == {RESPONSE}


def joined(*parts):
    """The parts, one after the other."""
    return st.tuples(*(part if isinstance(part, st.SearchStrategy) else st.sampled_from(part) for part in parts)).map(
        lambda found: "".join(found).encode()
    )


REFERRING = st.one_of(
    joined(
        ['"', "\n", "x"],
        ["resp", "file", "vs", "tool"],
        "_- ",
        st.from_regex("[A-Za-z0-9]{14,18}", fullmatch=True),
        '"\r,',
    ),
    joined(['"', "ApplicationSid=", "x"], ["MM", "AC", "re"], st.from_regex("[a-fA-F0-9]{32}", fullmatch=True), '"&'),
    joined(
        ['"', ""],
        ["template_id", "Template_ID", "BATCH_ID", "batch_id", "batch"],
        ['":"', '": "', '"'],
        st.from_regex("[a-z0-9+=/-]{18,22}", fullmatch=True),
        '",',
    ),
)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
@given(st.lists(REFERRING | st.binary(max_size=8), max_size=6).map(b"".join))
def test_what_bears_no_sign_of_a_reference_holds_none(provider, body):
    """Guards the sign that is looked for before the patterns are: sabotaged (a digit more), objects of others go through."""
    found = {name.decode("latin-1") for pattern in provider.references for name in pattern.findall(body)}

    assert set(References(provider).feed(body)) == found


def test_an_object_that_is_a_part_of_a_form_is_found():
    form = b'--x\r\nContent-Disposition: form-data; name="file_id"\r\n\r\n' + FILE.encode() + b"\r\n--x--\r\n"

    assert referred(form) == {FILE}


@pytest.mark.parametrize(
    "value",
    [
        "run_python_code",
        "file_search_call",
        "call_center_agent",
        "step_by_step_solver",
        "thread_safe_counter",
        "video_generation_completed",
    ],
)
def test_the_names_that_applications_give_to_things_are_no_objects(value):
    """Guards the form of a reference: told by its prefix alone, a tool called `run_python_code` was a missing object."""
    assert referred(json.dumps({"name": value}).encode()) == set()


def test_a_conversation_whose_history_the_client_keeps_refers_to_no_object():
    """Guards the parts of a conversation: as objects, the second turn of every conversation with tools was refused."""
    turns = [
        {"type": "reasoning", "id": "rs_68af4030592c81938ec0a5fbab4a3e9f", "summary": []},
        {
            "type": "function_call",
            "id": "fc_68af4030592c81938ec0a5fbab4a3e9f",
            "call_id": "call_9sdfUYkj23hjkKJHkjh23kjh",
        },
        {"type": "message", "id": "msg_68af4030592c81938ec0a5fbab4a3e9f", "role": "assistant", "content": []},
        {"role": "tool", "tool_call_id": "call_9sdfUYkj23hjkKJHkjh23kjh", "content": "ok"},
    ]

    assert referred(json.dumps({"input": turns}).encode()) == set()


def test_an_object_that_is_only_spoken_of_is_not_referred_to():
    assert referred(json.dumps({"content": f'look at "{FILE}" and {RESPONSE}'}).encode()) == set()


def test_the_same_object_named_often_is_asked_for_once():
    body = json.dumps({"file_ids": [FILE] * 1000}).encode()

    assert list(References(openai.PROVIDER).feed(body)) == [FILE]


# ---------------------------------------------------------------------------------------------------------------------
# Twilio

CLOSED_AT_TWILIO = (
    f"/2010-04-01/Accounts/{ACCOUNT}",
    "/2010-04-01/Accounts",
    f"/2010-04-01/Accounts/{ACCOUNT}/Keys",
    f"/2010-04-01/Accounts/{ACCOUNT}/SigningKeys",
    f"/2010-04-01/Accounts/{ACCOUNT}/Tokens",
    f"/2010-04-01/Accounts/{ACCOUNT}/IncomingPhoneNumbers",
    f"/2010-04-01/Accounts/{ACCOUNT}/IncomingPhoneNumbers/PN{SID}",
    f"/2010-04-01/Accounts/{ACCOUNT}/AvailablePhoneNumbers/US/Local",
    f"/2010-04-01/Accounts/{ACCOUNT}/Usage/Records",
    f"/2010-04-01/Accounts/{ACCOUNT}/OutgoingCallerIds",
    f"/2010-04-01/Accounts/{ACCOUNT}/SMS/Messages",
    f"/2010-04-01/Accounts/{ACCOUNT}/Notifications",
    f"/2010-04-01/Accounts/{ACCOUNT}/Balance",
    "/iam/v1/Keys",
    "/accounts/v1/AuthTokens/Promote",
    "/accounts/v1/Credentials/PublicKeys",
    "/oauth/v2/token",
    "/preview-iam/Organizations",
    "/events/v1/Sinks",
    "/monitor/v1/Events",
    "/bulkexports/v1/Exports/Messages",
    "/numbers/v2/RegulatoryCompliance",
    "/trunking/v1/Trunks",
    "/trusthub/v1/CustomerProfiles",
    "/voice/v1/DialingPermissions/Countries",
    "/messaging/v1/a2p/BrandRegistrations",
    "/verify/v2/Templates",
    "/conversations/v1/Conversations",
    "/conversations/v1/Configuration",
    "/proxy/v1/Services",
    "/wireless/v1/Sims",
)


@pytest.mark.parametrize("path", CLOSED_AT_TWILIO)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_administers_a_twilio_account_is_refused_in_every_spelling(method, path):
    """Guards _OPEN: everything that is not open is closed, and what is open is known by one spelling."""
    for spelling in (path + ".json", path + ".xml", path.replace("/2010-04-01", "/api/2010-04-01"), *encodings(path)):
        try:
            with pytest.raises(NotOnSharedAccount):
                named(method, spelling, of="twilio")
        except NoSuchProduct:
            continue  # It leads nowhere.


@pytest.mark.parametrize(
    "path",
    [
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages.csv?To=x",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages/",
        f"/api/2010-04-01/Accounts/{ACCOUNT}/Calls.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Recordings.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Recordings.json?CallSid=CA{SID}",
        f"/2010-04-01/Accounts/{ACCOUNT}/Conferences.json",
        "/messaging/v1/Services",
        "/verify/v2/Services?PageSize=1",
        "/sync/v1/Services",
        "/video/v1/Rooms",
        "/lookups/v2/PhoneNumbers",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_lists_of_a_twilio_account_show_everybody_s_and_are_refused(method, path):
    with pytest.raises(NotOnSharedAccount):
        named(method, path, of="twilio")


def test_what_is_nobody_s_can_be_asked_by_everybody():
    assert named("GET", "/lookups/v2/PhoneNumbers/+12025550143?Fields=line_type_intelligence", of="twilio") == []


@pytest.mark.parametrize(
    "path",
    [
        f"/2010-04-01/Accounts/{ACCOUNT}/Conferences/standup/Participants.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Queues/support.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM1.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{SID}.JSON",
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages/sm{SID}.json",
        "/video/v1/Rooms/daily",
        "/sync/v1/Services/default/Documents/settings",
        "/sync/v1/Services/default",
        f"/video/v1/Rooms/RM{SID}0",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_goes_by_another_name_than_its_sid_is_refused(method, path):
    """Guards the SIDs of _OPEN: a POST to a conference by its name, which anybody may have chosen, let one listen in."""
    with pytest.raises(NotOnSharedAccount):
        named(method, path, of="twilio")


@pytest.mark.parametrize(
    ("method", "path", "objects"),
    [
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json", []),
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls", []),
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Applications.json", []),
        ("POST", "/verify/v2/Services", []),
        ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{SID}.json", [f"SM{SID}"]),
        ("DELETE", f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{SID}", [f"SM{SID}"]),
        ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{SID}/Media.json", [f"SM{SID}"]),
        ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{SID}/Media/ME{SID}.json", [f"SM{SID}"]),
        ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/CA{SID}/Recordings/RE{SID}.mp3", [f"CA{SID}", f"RE{SID}"]),
        ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Recordings/RE{SID}.wav", [f"RE{SID}"]),
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Conferences/CF{SID}/Participants.json", [f"CF{SID}"]),
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/CA{SID}/Recordings/RE{SID}.JSON", [f"CA{SID}", f"RE{SID}.JSON"]),
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/CA{SID}/Recordings/re{SID}", [f"CA{SID}", f"re{SID}"]),
        ("GET", f"/messaging/v1/Services/MG{SID}", [f"MG{SID}"]),
        ("POST", f"/verify/v2/Services/VA{SID}/Verifications", [f"VA{SID}"]),
        ("GET", f"/verify/v2/Services/VA{SID}/Entities/ada/Factors", [f"VA{SID}"]),
    ],
)  # fmt: skip
def test_every_object_of_a_twilio_path_is_found_besides_the_account_and_parts_of_what_is_owned(method, path, objects):
    """Guards `{part}` and the account: asked for as objects, nothing that a tenant has could be read."""
    assert named(method, path, of="twilio") == objects


@pytest.mark.parametrize("path", ["/Messages.json", f"/Messages/SM{SID}.json", f"/Recordings/RE{SID}.json"])
def test_an_account_of_somebody_else_s_is_an_object_that_is_not_one_s_own(path):
    """Guards the account: a path of one that is not the caller's leads to whoever's it is."""
    for other in ("AC" + "2c" * 16, ACCOUNT[:2] + ACCOUNT[2:].upper()):
        assert other in named("POST", f"/2010-04-01/Accounts/{other}{path}", of="twilio")
    for other in (ACCOUNT.lower(), ACCOUNT[:-1], "-", "x", "me", "AC*"):
        with pytest.raises(NotOnSharedAccount):
            named("POST", f"/2010-04-01/Accounts/{other}{path}", of="twilio")


@pytest.mark.parametrize(
    "written",
    [
        f"To=%2B1&ApplicationSid=AP{SID}",
        f"ApplicationSid=AP{SID}&To=%2B1",
        f"a=1&Sids=CA{SID.upper()}",
        f"ApplicationSid=%41%50{SID}",
        "ApplicationSid=AP" + "".join(f"%{ord(letter):02x}" for letter in SID),
        f"ApplicationSid=+AP{SID}",
        f"ApplicationSid=%20%0aAP{SID}",
        f"ApplicationSid={'%20' * 5000}AP{SID}",
        f"ApplicationSid={'+' * 5000}AP{SID}",
        f'{{"ApplicationSid": "AP{SID}"}}',
        f'{{"ApplicationSid": "\\u0041P{SID}"}}',
        f"/2010-04-01/x?CallSid=CA{SID}",
        f"/2010-04-01/x?CallSid=%43A{SID}",
        f"PhoneNumberSid=PN{SID}",
    ],
)
@given(cuts=st.lists(st.integers(0, 6000), max_size=6))
def test_a_sid_in_a_form_or_a_query_is_found_however_it_is_written(written, cuts):
    """Guards _HIDDEN_IN_FORM, and _PADDING: with enough space between the two, a name was out of sight of its field."""
    body = written.encode()
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    (found,) = referred(*(body[start:end] for start, end in itertools.pairwise(marks)), of=twilio)

    assert found[2:].lower() == SID


@pytest.mark.parametrize(
    "form",
    [
        f"MessagingServiceSid=MG{SID}",
        f"AccountSid=AC{SID}",
        f"Body=Your+ticket+SM{SID}",
        f"StatusCallback=https%3A%2F%2Fapp.example%2FCA{SID}",
        f"Tag=0x{SID}",
        f"Tag={SID}AB",
    ],
)
def test_what_all_share_and_what_is_only_spoken_of_is_not_referred_to(form):
    assert referred(form.encode(), of=twilio) == set()


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_a_request_that_says_it_is_of_another_method_is_refused(header):
    """Guards the overrides: a POST that is meant as a GET is a list of what everybody made."""
    with pytest.raises(NotOnSharedAccount, match="method"):
        named("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json", of="twilio", **{header: "GET"})


@pytest.mark.parametrize("query", ["_method=GET", "a&_METHOD=get", "%5fmethod=GET", "_%6Dethod=DELETE"])
def test_neither_may_its_query_say_so(query):
    with pytest.raises(NotOnSharedAccount, match="method"):
        named("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?{query}", of="twilio")


# ---------------------------------------------------------------------------------------------------------------------
# SendGrid

CLOSED_AT_SENDGRID = (
    "/v3/api_keys",
    "/v3/subusers",
    "/v3/user/profile",
    "/v3/user/webhooks/event/settings",
    "/v3/user/webhooks/parse/settings",
    "/v3/scopes",
    "/v3/teammates",
    "/v3/suppression/bounces",
    "/v3/asm/groups",
    "/v3/stats",
    "/v3/marketing/contacts",
    "/v3/marketing/singlesends",
    "/v3/campaigns",
    "/v3/senders",
    "/v3/whitelabel/domains",
    "/v3/messages",
    "/v3/mail_settings",
    "/v3/designs",
)


@pytest.mark.parametrize("path", CLOSED_AT_SENDGRID)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_administers_a_sendgrid_account_is_refused_in_every_spelling(method, path):
    for spelling in encodings(path):
        with pytest.raises(NotOnSharedAccount):
            named(method, spelling, of="sendgrid")


@pytest.mark.parametrize(
    "path",
    [
        *("/v3/templates", "/v3/templates?generations=dynamic", "/v3/user/scheduled_sends", "/v3/mail/batch"),
        *("/v3/validations/email", "/v3/validations/email/jobs", f"/v3/validations/email/jobs/{JOB}/x"),
    ],
)
def test_lists_of_a_sendgrid_account_are_refused(path):
    with pytest.raises(NotOnSharedAccount):
        named("GET", path, of="sendgrid")


@pytest.mark.parametrize("provider", [twilio, sendgrid])
@pytest.mark.parametrize("name", ["On-Behalf-Of", "on-behalf-of"])
def test_on_a_shared_account_nobody_speaks_for_another(provider, name):
    """Guards speaks_for: with this header SendGrid does what it is asked to on the account of any subuser."""
    if provider is sendgrid:
        with pytest.raises(NotOnSharedAccount, match="on-behalf-of"):
            named("POST", "/v3/mail/send", of="sendgrid", **{name: "subuser"})
    else:
        assert named("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls", of="twilio", **{name: "subuser"}) == []


@pytest.mark.parametrize(
    ("allowed", "asked", "passes"),
    [
        (("anna",), "anna", True),
        (("anna", "ella"), "ella", True),
        (("*",), "anybody", True),
        (("anna",), "ella", False),
        (("anna",), "Anna", False),
        (("anna",), "anna,ella", False),
        (("anna",), "", False),
        (("anna",), "*", False),
        (("anna",), "account-id anna", False),
        ((), "anna", False),
    ],
)
def test_a_tenant_speaks_for_the_subusers_that_its_integration_names(allowed, asked, passes):
    if passes:
        assert named("GET", f"/v3/templates/{TEMPLATE}", of="sendgrid", speaks_for=allowed, **{"On-Behalf-Of": asked})
    else:
        with pytest.raises(NotOnSharedAccount, match="`on_behalf_of` of your integration"):
            named("GET", f"/v3/templates/{TEMPLATE}", of="sendgrid", speaks_for=allowed, **{"On-Behalf-Of": asked})


def test_each_of_two_headers_is_judged():
    """Guards a header that stands twice: nobody knows which of the two the provider reads."""
    headers = CIMultiDict([("On-Behalf-Of", "anna"), ("on-behalf-of", "ella")])
    head = RequestHead("GET", f"/v3/templates/{TEMPLATE}", CIMultiDictProxy(headers), ())
    route = ROUTES.match("GET", f"/sendgrid{head.target}")

    assert named_objects(route, head, ACCOUNT, ("anna", "ella")) == [TEMPLATE]
    for allowed in (("anna",), ("ella",)):
        with pytest.raises(NotOnSharedAccount):
            named_objects(route, head, ACCOUNT, allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v3/marketing/singlesends/27c21bbf-a12c-440b-b8bf-c526975328ca/schedule"),
        ("POST", "/v3/marketing/test/send_email"),
        ("POST", "/v3/campaigns/12345/schedules/now"),
        ("POST", "/v3/campaigns/12345/schedules/test"),
        ("POST", "/v3/marketing/contacts/search"),
    ],
)
def test_campaigns_and_contacts_are_everybodys(method, path):
    """Guards mail to everybody's contacts at everybody's expense: endpoints that are listed are no more open for it."""
    with pytest.raises(NotOnSharedAccount):
        named(method, path, of="sendgrid")


@pytest.mark.parametrize("path", ["/v3/api_keys", "/v3/subusers", "/v3/templates", "/v3/stats"])
def test_whom_a_tenant_speaks_for_opens_nothing_else(path):
    with pytest.raises(NotOnSharedAccount):
        named("GET", path, of="sendgrid", speaks_for=("*",), **{"On-Behalf-Of": "anna"})


@pytest.mark.parametrize(
    ("method", "path", "objects"),
    [
        ("POST", "/v3/mail/send", []),
        ("POST", "/v3/mail/batch", []),
        ("POST", "/v3/validations/email", []),
        ("PUT", "/v3/validations/email/jobs", []),
        ("GET", f"/v3/validations/email/jobs/{JOB}", [JOB]),
        ("POST", "/v3/templates", []),
        ("GET", f"/v3/templates/{TEMPLATE}", [TEMPLATE]),
        ("POST", f"/v3/templates/{TEMPLATE}", [TEMPLATE]),
        ("GET", "/v3/templates/x", ["x"]),
        ("PATCH", f"/v3/templates/{TEMPLATE}/versions/8aefe0ee-f12b-4575-b5b7-c97e21cb36f3", [TEMPLATE]),
        ("DELETE", "/v3/user/scheduled_sends/abc", ["abc"]),
    ],
)
def test_every_object_of_a_sendgrid_path_is_found_besides_parts_of_what_is_owned(method, path, objects):
    assert named(method, path, of="sendgrid") == objects


@pytest.mark.parametrize("space", ["", " ", "\n\t", " " * 5000])
@pytest.mark.parametrize("field", ["template_id", "batch_id", "Template_Id", "batch\\u005fid"])
@pytest.mark.parametrize(
    ("name", "written"),
    [(TEMPLATE, TEMPLATE), (BATCH, BATCH), (BATCH, BATCH.replace("/", "\\/")), (BATCH, "".join(f"\\u{ord(letter):04x}" for letter in BATCH))],
)  # fmt: skip
@given(cuts=st.lists(st.integers(0, 10_300), max_size=6))
def test_a_template_or_a_batch_of_a_mail_is_found_however_it_is_written(space, field, name, written, cuts):
    """Guards _PADDING: with 2 KiB of space before its name, a template of another tenant's went out to be read."""
    body = f'{{"{field}"{space}:{space}"{written}"}}'.encode()
    marks = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]

    assert json.loads(body).popitem()[1] == name
    assert referred(*(body[start:end] for start, end in itertools.pairwise(marks)), of=sendgrid) == {name}


def test_what_a_mail_says_is_not_referred_to():
    """Mails with such data of the application's own were refused as if they named somebody else's batch."""
    own = {"order": "8aefe0ee-f12b-4575-b5b7-c97e21cb36f3", "batch_id": "nightly-2026", "template_id": "welcome"}
    body = json.dumps({"custom_args": own, "subject": TEMPLATE}).encode()
    uuid = json.dumps({"custom_args": {"batch_id": own["order"]}}).encode()

    assert referred(body, uuid, of=sendgrid) == set()


def test_a_text_that_begins_with_a_sid_refers_to_nothing():
    body = f"To=%2B12025550143&From=%2B15005550006&Body=SM{SID}+has+failed".encode()

    assert referred(body, of=twilio) == set()
