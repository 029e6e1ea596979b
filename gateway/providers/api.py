"""What every provider can answer about itself: Provider, Endpoint, Meter. Pure.

Nothing outside this package knows a provider by name. Where the path of a call depends on who the provider is, the
question is a field here, and each provider's module answers it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.integrations import Integration
from gateway.messages import Headers, ResponseHead
from gateway.providers.learnt import Late, Prepared, Usage
from metering.reconciliation import Figure


class Made(NamedTuple):
    """Something that was used without a call of ours: a message that came in."""

    key: str
    """What it is known by, and booked once, however often and by whomever it is told."""
    endpoint: str
    """The endpoint that makes such things: how what becomes of it is asked for."""
    usage: Usage


class Told(NamedTuple):
    """What a provider tells by itself, in one request."""

    order_key: str
    """What it is about: what is told of one thing is passed on in order. Empty where that does not matter."""
    account: str | None = None
    """The provider's name of the account, where it says that; it must then be the tenant's."""
    addressed: Sequence[str] = ()
    """What of the account something came in at, each by another name; on a shared one, one of them must be the tenant's."""
    made: tuple[Made, ...] = ()
    late: tuple[Late, ...] = ()
    unanswered: Reply | None = None
    """What is answered where the application does not, if that is not what its webhook says in general."""


class Billed(NamedTuple):
    """What one message of a session says was used: an event of its own."""

    name: str
    """The provider's name for what was used, by which it is known within the session however often it is told."""
    usage: Usage


class SessionMeter(Protocol):
    """Watches a WebSocket go by, in both directions, as bytes that the network cut anywhere, and changes nothing.

    It never raises for what either side sent.
    """

    @property
    def under_way(self) -> Collection[str]:
        """The names of what has begun and will be billed when it is over; not more than a few."""

    def heard(self, chunk: bytes) -> Sequence[bytes] | None:
        """See what the client sends; return its messages that may refer to objects of the account, as far as they are to
        be looked through, or None where they no longer can be read."""

    def told(self, chunk: bytes) -> Sequence[Billed]:
        """See what the provider sends; return what was used and is to be recorded before this chunk leaves."""

    def finish(self) -> Usage:
        """What is left to say of the session itself, once it is over: nothing, or that not all is known."""


class Meter(Protocol):
    """Watches one successful answer go by, says what it used, and passes it on.

    It never raises for what a provider sent, and never minds where the network cut the body.
    """

    @property
    def concluded(self) -> bool:
        """True once bytes were fed from which a client concludes success: those may leave only after the usage is safe."""

    def feed(self, chunk: bytes) -> bytes:
        """See the next bytes of the body; return those that the client gets: these, less only what we caused."""

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        """The body is over, whole or broken off: the bytes still held back, and the usage."""


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent and what came, where the answer has not said what was used."""

    request: bytes
    """The body, whole."""
    answer: bytes
    """The body, or as much of its beginning as was kept."""
    answer_bytes: int
    """How much of it came."""
    coding: str
    """What the answer is coded with; empty where it is plain."""
    streamed: bool
    """True for server-sent events."""
    model: str | None
    """The model that answered, where it was named."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a call is thought to have used."""

    quantities: dict[str, int]
    encoding: str
    """The tokenizer that texts were counted with."""
    fallback: bool
    """True where it is not known to be the model's own."""
    missing: tuple[str, ...]
    """What is not counted, or not exactly."""


class CanNotCount(Exception):
    """Nothing can be estimated in this installation; the message says why."""


class Labels(NamedTuple):
    """How an application labels a request in its body."""

    users: Mapping[str, str]
    """For whom it is, by the field that says so: these may be names of people."""
    notes: Mapping[str, str]
    """What the application notes beside it, by names of its own."""


class Watch(Protocol):
    """Reads a request body as it goes by, whatever its size, in its plain form, cut anywhere. It never raises."""

    def feed(self, chunk: bytes) -> None:
        """See the next bytes."""

    def finish(self, *, whole: bool) -> Prepared:
        """What was learnt, with an empty body; `whole` is False where not all of the body was seen."""


class Carried(NamedTuple):
    """What one of our URLs holds."""

    url: str
    """The application's."""
    method: str = ""
    """By which it is to be asked; empty for that by which we are."""
    begins: bool = False
    """True for what is asked first of all, because whoever made something named it."""
    redirects: int = 0
    """How many redirects in a row have led there: what is asked was asked already."""
    said: str = ""
    """What was said when it was asked before and is not said again, as a form."""
    heard: bool = False
    """True for what somebody hears who waits: asked again and again, and nobody else can answer it."""


class CallbackAddress(NamedTuple):
    """Where a provider is to tell us what becomes of things, on behalf of one tenant."""

    base_url: str
    """The name of a webhook and a slash behind it make its URL."""
    bound: Callable[[Carried], str] | None
    """Seals an application's URL for its tenant, in characters that stand in a query; None where nothing is passed on."""


class Pending(NamedTuple):
    """Something that a call has made and that is not over, as far as the ledger knows."""

    external_id: str
    metadata: Mapping[str, object]
    """That of the call's event."""
    account: str | None = None
    """The account of the credential by which it is asked for, where the provider has accounts in its paths."""


class Lines(Protocol):
    """Reads a file of what many requests used, line by line; it never raises."""

    def feed(self, line: bytes | None) -> None:
        """See the next line, without its end; None for one that was too long to be held."""

    def finish(self) -> tuple[Late, ...]:
        """The file is over: what all of it says."""


class ReadOn(NamedTuple):
    """It is over, and what it used stands in a file."""

    path: str
    lines: Callable[[], Lines]
    without: tuple[Late, ...] = ()
    """What is known of it where the file is there no more; empty if nothing is."""


class Delivery(NamedTuple):
    """A request that a provider made to us by itself."""

    method: str
    url: str
    """The URL that it was sent to, byte for byte with its query: as it is configured, never as a request says."""
    headers: Headers
    body: bytes
    carried: Carried | None = None
    """What the URL carries of an application's, which we had sealed in it; None before it is opened."""

    @property
    def query(self) -> str:
        return self.url.partition("?")[2]


class Proofs(NamedTuple):
    """What the deliveries for one tenant are verified by."""

    credential: Mapping[str, str]
    """The tenant's own, or else the platform's."""
    integration: Integration
    now_s: float


class Content(NamedTuple):
    """What is passed on of a delivery."""

    method: str
    media_type: str
    """As the header that says it has it; empty where there is no body."""
    body: bytes
    """Of a GET its query, without what is meant for us."""
    headers: tuple[tuple[str, str], ...] = ()
    identity: bytes | None = None
    """What tells it from any other where that is not its body byte for byte: as much of it as is signed."""


class Reply(NamedTuple):
    """What the gateway answers on its own behalf."""

    status: int
    media_type: bytes = b""
    body: bytes = b""


class Redirect(NamedTuple):
    """An application's answer that leads on to another URL."""

    status: int
    location: str
    """As the header has it; empty without one."""
    url: str
    """That which answered."""
    asked: Content
    """What it was asked."""
    carried: Carried | None
    """What led to that, if a URL of ours did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One thing that a provider tells an application by itself: it tells us, and we pass it on."""

    name: str
    """The last segment of its path."""
    methods: frozenset[str] = frozenset({"POST"})
    body_bytes_max: int
    """A larger body is refused."""
    is_authentic: Callable[[Delivery, Proofs], bool]
    """Whether the provider sent it. It never raises."""
    read: Callable[[Delivery, Callable[[str], str]], Told | None]
    """What it says was used, with a function that makes the keyed hash that stands for a number or an address; None for what
    makes no sense."""
    content: Callable[[Delivery], Content]
    """What of it is passed on."""
    application: Callable[[Integration], str | None]
    """Where it is passed on to, unless it carries a URL."""
    fallback: Callable[[Integration], str | None] = lambda _: None
    """Where an answer is waited for: who has one if the first has none."""
    fallen_back: Callable[[Content, str, int | None], Content] = lambda content, *_: content
    """(what was asked, URL, status) of the first, which has none that can be taken → what the fallback is asked. Its status is
    None where there was no whole answer."""
    own: tuple[str, ...] | None = ()
    """The fields of an integration that hold what of a shared account is the tenant's own: what came in must have come in at
    one of these. None where it is not the account's credential that verifies a delivery but a key of the tenant's, which
    tells whose it is."""
    sign: Callable[[str, str, str, str, bytes], tuple[str, tuple[tuple[str, str], ...]]]
    """(secret, URL, method, media type, body) → the URL and the headers with which an application knows that it is ours."""
    reply: Reply
    """The answer to the provider; where the application's is waited for, the one in its place."""
    led_back: Callable[[bytes, str, CallbackAddress], bytes] | None = None
    """Set where the application's answer is waited for, and is the answer: (answer, URL it is from, our address) → the same,
    with the URLs in it leading to us."""
    redirected: Callable[[Redirect, CallbackAddress], Reply | None] = lambda *_: None
    """Where the application's answer is the answer: what has the provider come to us for what a redirect leads to; None for
    one that the provider would not follow."""
    fetched: Callable[[bytes, str], Reply | None] = lambda *_: None
    """(media type, URL) of an application's answer that is a sound, and may be too long to be passed on → what has the provider
    fetch it itself; None for a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settles:
    """How a provider is asked what became of what an endpoint has made, if nobody else asks."""

    path: Callable[[Pending], str | None]
    """Where to GET it, on the provider's first host; None where the event does not say it."""
    read: Callable[[bytes], tuple[Late, ...] | ReadOn]
    """Reads the answer, whatever it holds; empty while it is not over. A fact without a name is about what was asked for."""
    first_s: float
    """So long after the call it is asked for first, and then at intervals that grow with its age."""
    days_max: float
    """So old it is given up: what it used is unknown."""
    gone_s: float
    """So old it is given up where the provider does not know it, which it may say to another account than made it."""
    interval_s_max: float = 300
    """No longer is between two questions, however old it is."""
    read_old: Callable[[bytes], tuple[Late, ...] | ReadOn] | None = None
    """Reads the answer about what is as old as `old_days`: then a state may be the last that is no such thing before."""
    old_days: float = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a provider did, as its own list says it, whoever asked for it."""

    external_id: str
    occurred_at_ms: int
    """When it was made, as the provider says it. The call that made it, if one did, has come a moment before."""
    account: str
    """Which of the provider's accounts, subusers or projects it was done for; empty where the list does not say."""
    endpoint: str
    """The endpoint that makes such things, as calls of their own that make them say it: how to ask what becomes of them."""
    made: Usage
    """What a call that makes it says of it at first. What may read differently the next time is not among it."""
    owners: tuple[tuple[str, str], ...] = ()
    """By what a tenant may be known to own it, the surest first: fields of its integration, and what they then hold."""
    parent: str | None = None
    """What it was made for, whose owner is its owner: the call of which it is a leg."""
    late: tuple[Late, ...] = ()
    """What became of it, as the answer that describes it alone would say it."""
    in_parts: bool = False
    """True where `late` is a part of what was used, as of one of many recipients: a call of ours that made it said it all."""
    late_if_old: tuple[Late, ...] = ()
    """The same where it is `old_days` old, and what is said now will not change any more."""
    old_days: float = 0


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says was used in all of one thing on one UTC day."""

    day: dt.date
    account: str
    """As in :class:`Record`."""
    category: str
    """The provider's own name for it: `sms-outbound`, `delivered`, `completions:gpt-4o`."""
    count: int | None = None
    """How many there were; None where it does not say."""
    usage: Decimal | None = None
    """How much they used, in `usage_unit`; None where it does not say."""
    usage_unit: str = ""
    cost: Decimal | None = None
    """What it charges for them, without a sign; None where it does not say."""
    currency: str = ""
    """Three letters, in capitals; empty where nothing is said of a cost."""
    as_of: str = ""
    """Up to when that is known, as it says it; empty where it does not."""


def nanos(cost: Decimal) -> int:
    """An amount of money in 10⁻⁹ of its currency; where it has more decimals, to the nearest, and of two the even one."""
    return int(cost.scaleb(9).to_integral_value(ROUND_HALF_EVEN))


Item = TypeVar("Item")


class Page(NamedTuple, Generic[Item]):
    """One page of a list."""

    items: tuple[Item, ...]
    next_path: str | None = None
    """Path and query of the page after it, on the same host; None after the last."""
    unreadable: int = 0
    """How many items are on it that nobody here understands."""


class NotAPage(ValueError):
    """An answer that is no page of the list that was asked for. The message says what is wrong, and quotes nothing."""


class Closer(NamedTuple):
    """How a provider is asked for one thing of a list by itself, before it is booked: when it was made, and whose it is."""

    path: Callable[[Record], str]
    read: Callable[[Record, bytes], Record]
    """The same thing, with what the answer says of it besides. Raises NotAPage."""
    owner: str
    """The field of an integration that holds what the answer may know a tenant by, and the list does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[Item]):
    """How a provider is asked, page by page, for all that it did on one UTC day."""

    name: str
    """The provider's own: `messages`."""
    first: Callable[[str, dt.date], str]
    """Path and query of the first page, for an account and a day."""
    read: Callable[[str, bytes], Page[Item]]
    """Reads the answer to a path. Raises NotAPage."""
    product: str = ""
    """On which of the provider's hosts, where there are several."""
    account_header: str | None = None
    """The request header that names the account, where neither credential nor path does."""
    closer: Closer | None = None
    """Where a list does not say of a thing what its own description does."""


class Way(msgspec.Struct, frozen=True):
    """Where a provider sends what comes in at a number."""

    url: str
    """Empty where it leads nowhere."""
    method: str = "POST"
    application: str = ""
    """The provider's name of an application whose URL counts in the place of this one; empty if there is none."""


class OwnNumber(NamedTuple):
    """A phone number that an account has."""

    number_id: str
    number: str
    """In E.164 form."""
    ways: Mapping[str, Way]
    """By the name of the webhook that such things come in by. A way that is not to be changed is not among them."""


class AccountSecret(NamedTuple):
    """How the platform's credential finds out what an account below it signs with."""

    field: str
    """The credential's field that would hold it."""
    path: Callable[[str], str]
    """Where it is asked for, for an account."""
    read: Callable[[bytes, str], str]
    """Reads the answer for an account. Raises NotAPage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How an account's phone numbers are listed, and led elsewhere."""

    ways: tuple[str, ...]
    """The names of the webhooks that what comes in at a number comes by."""
    first: Callable[[str], str]
    """Path and query of the first page, for an account."""
    read: Callable[[str, bytes], Page[OwnNumber]]
    """Reads the answer to a path. Raises NotAPage."""
    application: Callable[[str, str], str]
    """(account, application) → the path of an application that has the URLs of numbers."""
    read_application: Callable[[bytes], Mapping[str, Way]]
    """Reads it. Raises NotAPage."""
    change: Callable[[str, str, Mapping[str, Way]], tuple[str, Mapping[str, str]]]
    """(account, number, ways) → the path and the form that lead a number there. Sent twice, they do what they do once."""
    error_code: Callable[[bytes], str | None]
    """The provider's own code, out of its refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One thing that a provider can be asked to do."""

    name: str
    """The provider's own name for it, as its SDKs spell it: `chat.completions`."""
    method: str
    path: str
    """As in :class:`Place`. A name in braces stands for one segment: `{account}` for the account, `{part}` for a part of
    what is named before it, which whoever owns that owns as well, `{value}` for what is nobody's, any other for an object."""
    event_type: str
    describes: str = ""
    """What the event is called to people, after the resource: `chat completion`."""
    meter: Callable[[ResponseHead, Prepared], Meter]
    prepare: Callable[[bytes], Prepared] | None = None
    """Reads, and where it must changes, a body of up to BODY_BYTES_MAX; None where the body is of no interest. A request
    for a WebSocket has no body, and asks in its query: it is that which is read."""
    called_back: Callable[[bytes, CallbackAddress], bytes] | None = None
    """Has the provider tell us what becomes of what is made: changes a body of up to BODY_BYTES_MAX where that can be, and
    nothing of it besides the address."""
    watch: Callable[[], Watch] | None = None
    """Instead of `prepare`: reads a body that may be too large to be held, or compressed."""
    billable: bool = True
    """False where success costs nothing, whatever the answer repeats: reading something back, deleting it."""
    session: Callable[[ResponseHead, Prepared], SessionMeter] | None = None
    """Makes the meter of a session, where the connection may go on as a WebSocket. On a shared account it then must."""
    settles: Settles | None = None
    """Where what was used is known only after the call: how to find it out."""
    estimate: Callable[[Exchanged], Estimate | None] | None = None
    """Counts what a call used whose answer does not say it; None where it can not. Raises CanNotCount. It is called in
    another process, which finds it by its name: a function of a module."""
    lists: bool = False
    """True where the answer shows what everybody on the account made: never on a shared one."""


class Place(NamedTuple):
    """Where at a provider a path leads."""

    product: str
    """Which of the provider's hosts; empty where there is one."""
    target: str
    """Path and query for that host, byte for byte as they came."""
    path: str
    """The path to decide by, of which there is one spelling for each endpoint: it begins with the product, if there are
    several, and has none of the suffixes that only choose the form of an answer."""


def one_host(rest: str) -> Place:
    """What follows the provider's name is what it gets."""
    return Place("", rest, rest.partition("?")[0])


class Links(NamedTuple):
    """Where answers hold whole URLs of the provider's own hosts, which its SDKs follow: to the next page above all."""

    answers: re.Pattern[str]
    """Matches, whole, the paths whose answers hold them, in JSON; none of the others is looked through."""
    names: re.Pattern[bytes]
    """Matches, whole, the names of the fields that are such URLs."""
    targets: re.Pattern[bytes]
    """Matches, whole, what stands behind the provider's name in a path here, where that is worth following. What else
    names a host of the provider's, an application has set, and finds again as it was."""


class ErrorBody(NamedTuple):
    """An error as a provider writes it."""

    media_type: bytes
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps:
    """What somebody pastes into a shell to make a first call; {proxy}, {key} and {account_sid} are filled in."""

    exports: str
    """The environment variables that the provider's SDK reads."""
    path: str
    """What to POST to, with {proxy}."""
    body: str
    """Without apostrophes."""
    media_type: str = "application/json"
    user: str | None = None
    """The user name beside the key, where the provider takes Basic authentication; None where it takes a bearer token."""
    sdk_package: str
    sdk_call: str
    """One line of Python, without double quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider: where it is, how a call proves who it is, what it can be asked, and how it says no."""

    name: str
    """The first segment of the gateway's paths, the `source` of events, the name in the settings."""
    base_url: str
    """The default of the setting; holds no version, for paths carry theirs. `{product}` stands for one of several hosts."""
    products: tuple[str, ...] = ("",)
    """The provider's hosts, by what stands for `{product}`; one without a name where there is one."""
    place: Callable[[str], Place | None] = one_host
    """Reads what follows the provider's name in a target; None where it names a host that is not the provider's."""
    credential_fields: tuple[str, ...]
    """What one credential consists of, by the names of the settings and of the control API."""
    lists_field: str | None = None
    """The one field more that a credential may have: a key that opens the lists of what was used, where the key of calls
    does not. It is sent for them and for nothing else, as the first field is for calls."""
    credential_optional: bool = False
    """True where calls go out without a credential if nobody gave one."""
    endpoints: tuple[Endpoint, ...]
    unlisted: Callable[[str], Endpoint]
    """The endpoint of a path that `endpoints` does not list, for a method."""
    presented_key: Callable[[Headers], str | None]
    """The gateway key, out of where the provider's own key would stand in the request's headers."""
    authorize: Callable[[Mapping[str, str]], tuple[tuple[bytes, bytes], ...]]
    """The headers that carry a credential to the provider."""
    credential_headers: frozenset[bytes]
    """Request headers, in lower case, that belong to the application's idea of its account: replaced by ours."""
    key_subprotocol: str = ""
    """How the WebSocket subprotocol begins in which browsers, which can set no header, send their key; empty if none does."""
    account_headers: frozenset[bytes]
    """Answer headers, in lower case, that name the real account: cut."""
    account_field: str | None = None
    """The credential's field that names the account, where paths hold it: to the application it is the tenant's account
    with the gateway, and each is put in the place of the other on the way up and on the way back. Both are as long."""
    account_path: str | None = None
    """How the paths to decide by begin that lead to what one account has, with {account}. The platform's credential reaches
    those of accounts below its own as well."""
    subaccount: Callable[[Integration], str | None] | None = None
    """The account within the platform's that is a tenant's own: its paths name that one, by the platform's credential."""
    account_secret: AccountSecret | None = None
    """None where accounts below another sign nothing, or do not tell."""
    speaks_for: frozenset[str] = frozenset()
    """Request headers by which a call would speak for another account: never on a shared one."""
    administration: re.Pattern[str]
    """Matches, whole, the paths that administer an account or hand out its credentials: never on a shared one."""
    object_id: re.Pattern[str]
    """Matches, whole, a path segment that names one object of the account."""
    references: tuple[re.Pattern[bytes], ...]
    """Each finds, as group 1, objects of the account that a body refers to. A pattern that begins with a literal is tried
    only where that stands, which is most of the cost."""
    reference_sign: tuple[bytes, bytes]
    """A table for `bytes.translate`, and what every piece that those patterns find something in holds once it is translated
    by it. Most bodies refer to nothing, and this tells so at a quarter of the cost."""
    refusal: Callable[[str, int, str, str], ErrorBody]
    """(path, status, code, message) → an error body from which the provider's SDK raises its natural exception."""
    missing: Callable[[str, str], ErrorBody]
    """(path, object) → the provider's own answer for an object that does not exist. Paths here are as sent: without the
    gateway's part and the query."""
    links: Links | None = None
    """None where answers hold no URLs of the provider's hosts, or none that lead past a base URL."""
    labels: Callable[[bytes], Labels] | None = None
    """Reads how a body of up to BODY_BYTES_MAX is labelled; None where bodies hold no labels."""
    webhooks: tuple[Webhook, ...] = ()
    records: tuple[Listing[Record], ...] = ()
    """The lists of all that it did, one by one."""
    totals: tuple[Listing[Total], ...] = ()
    """The lists of what it says was used in all."""
    figures: Callable[[Sequence[Total]], list[Figure]] | None = None
    """What those totals are in the ledger; None where they can not be compared."""
    numbers: Numbers | None = None
    """Where what comes in at the account's phone numbers can be led here; None where there are none."""
    account_of: str | None = None
    """The field of a tenant's integration that names an account of its own below the platform's, whose lists are all its."""
    first_steps: FirstSteps

    @property
    def every_credential_field(self) -> tuple[str, ...]:
        """What a credential consists of, and the field that it may have besides, last."""
        return self.credential_fields if self.lists_field is None else (*self.credential_fields, self.lists_field)

    def authorize_lists(self, credential: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...] | None:
        """The headers that carry a credential to the lists of what was used; None where it does not open them."""
        if self.lists_field is None:
            return self.authorize(credential)
        key = credential.get(self.lists_field)
        return None if key is None else self.authorize({self.credential_fields[0]: key})

    def subaccount_of(self, integration: Integration | None) -> str | None:
        """The account that is a tenant's own within the platform's, if it has one."""
        return None if integration is None or self.subaccount is None else self.subaccount(integration)
