"""After a mixed run of thousands of calls, the ledger holds what the providers' own log says, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import pytest

from gateway.simulator.truth import Exchange
from tests.walks.harness import ON_BOTH, PATIENCE_S, Installation, basic, eventually

pytestmark = [ON_BOTH, pytest.mark.timeout(300)]

ERRANDS = 2_200
CALLS_MIN = 2_400
"""An errand is one call, or several about one thing: made, read back, changed, deleted."""
TENANTS = 5
AT_ONCE = 64
SEED = 20261120

BROKEN = ("cut-body", "cut-chunked", "cut-stream")
LOST = ("reset-before-head",)

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


class Call(NamedTuple):
    """One request. `{account}` in it stands for the tenant's account, `{made}` for what its errand made at first."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


Errand = Sequence[Call]


class Seen(NamedTuple):
    """What a client knows of one call."""

    tenant: str
    call_id: str | None
    whole: bool
    """It saw a whole success."""


# ---------------------------------------------------------------------------------------------------------------------
# The mix


def openai_errand(dice: random.Random) -> Errand:
    """One call to a model, whole or in a stream."""
    headers = {"x-simulator-words": str(dice.randint(1, 60))}
    text = " ".join(dice.choices(["river", "stone", "köprü", "👋", "ledger"], k=dice.randint(1, 40)))
    kind = dice.choice(["chat", "chat", "response", "completion", "embedding"])
    model = dice.choice(["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-4.1"])
    body: dict[str, Any] = {"model": model}
    if kind == "chat":
        path, body["messages"] = "chat/completions", [{"role": "user", "content": text}]
    elif kind == "response":
        path, body["input"] = "responses", text
    elif kind == "completion":
        path, body["prompt"], body["model"] = "completions", text, "gpt-3.5-turbo-instruct"
    else:
        path, body["input"], body["model"] = "embeddings", text, "text-embedding-3-small"
    streamed = kind != "embedding" and dice.random() < 0.5
    if streamed:
        body["stream"] = True
        if kind in ("chat", "completion") and dice.random() < 0.3:
            body["stream_options"] = {"include_usage": True}
        headers["x-simulator-sse"] = dice.choice(["crlf", "one-write", "byte-by-byte"])
    headers |= trouble(dice, ("cut-stream",) if streamed else ("cut-body", "cut-chunked"))
    if dice.random() < 0.04 and "x-simulator-fault" not in headers:
        body["model"] = "no-such-model"
    return (Call("POST", f"/openai/v1/{path}", headers, json.dumps(body).encode()),)


def trouble(dice: random.Random, breaks: Sequence[str]) -> dict[str, str]:
    """What goes wrong at the provider, most of the time nothing."""
    chance = dice.random()
    if chance < 0.08:
        return {"x-simulator-status": dice.choice(["400", "429", "500", "503"])}
    if chance < 0.14 and breaks:
        return {"x-simulator-fault": dice.choice(breaks)}
    if chance < 0.16:
        return {"x-simulator-fault": "reset-before-head"}
    return {}


COUNTRIES = {
    "+12025550143": "US",
    "+14165550123": "CA",
    "+442071838750": "GB",
    "+905321234567": "TR",
    "+4915112345678": "DE",
    "+5511961234567": "BR",
}
KINDS = {"+15017122661": "long_code", "+18005550100": "toll_free", "24736": "short_code", "Tollkeeper": "alphanumeric"}
SERVICE = "MG" + "0123456789abcdef" * 2
RESOURCES = ("/twilio/2010-04-01/Accounts/{account}", "/twilio/api/2010-04-01/Accounts/{account}")
GAP = "\N{ZERO WIDTH SPACE}"
"""Beyond the alphabet of GSM 03.38."""


def twilio_errand(dice: random.Random) -> Errand:
    """A message of some kind or a call, and sometimes what is done with it later; in JSON or in XML."""
    make = dice.choice([twilio_message, twilio_message, twilio_message, twilio_call])
    where, form, headers = make(dice)
    place, suffix = dice.choice(RESOURCES) + where, dice.choice([".json", ".json", ""])
    asked = FORM | headers | dice.choice([{}, {}, {"x-simulator-encoding": dice.choice(["gzip", "br", "zstd"])}])
    if dice.random() < 0.7:
        failing = trouble(dice, ("cut-body", "cut-chunked"))
        return (Call("POST", place + suffix, asked | failing, urlencode(form).encode()),)
    made = Call("POST", place + suffix, asked | {"x-simulator-step-ms": "0"}, urlencode(form).encode())
    own = f"{place}/{{made}}{suffix}"
    # Of a break before the answer nothing would be seen here: what only reads is asked for again.
    read = Call("GET", own, dice.choice([{}, {"x-simulator-status": "503"}]))
    return made, Call("GET", own, {}), read, Call("DELETE", own, {}), Call("GET", own, {})


def twilio_message(dice: random.Random) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
    to, words = dice.choice(list(COUNTRIES)), dice.choice(["toll ", "köprü €", f"river{GAP}"]) * dice.randint(1, 40)
    form = [("To", to), ("Body", words)]
    kind = dice.choice(["sms", "sms", "service", "mms", "whatsapp", "messenger", "invalid"])
    if kind == "whatsapp":
        form = [("To", f"whatsapp:{to}"), ("From", "whatsapp:+15017122661"), ("Body", words)]
    elif kind == "messenger":
        form = [("To", "messenger:4711"), ("From", "messenger:4712"), ("Body", words)]
    elif kind == "invalid":
        form = [("To", "+1"), ("From", "+15017122661"), ("Body", words)]
    elif kind == "service":
        form.append(("MessagingServiceSid", SERVICE))
    else:
        form.append(("From", dice.choice(list(KINDS))))
    if kind == "mms":
        form += [("MediaUrl", f"https://example.com/{n}.jpg") for n in range(dice.randint(1, 10))]
    ends = ["delivered", "undelivered", "failed", "read"]
    return "/Messages", form, {"x-simulator-outcome": dice.choice(ends)} if kind != "invalid" else {}


def twilio_call(dice: random.Random) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
    to = dice.choice([*COUNTRIES, "client:ada", "sip:ada@example.com"])
    form = [("To", to), ("From", dice.choice(["+15017122661", "+18005550100"]))]
    form.append(dice.choice([("Url", "https://example.com/voice"), ("Twiml", "<Response/>")]))
    return "/Calls", form, {"x-simulator-outcome": dice.choice(["completed", "busy", "no-answer"])}


def twilio_change(dice: random.Random) -> Errand:
    """What is under way is called off; a service is made, which no endpoint lists."""
    if dice.random() < 0.3:
        form = urlencode({"FriendlyName": f"service {dice.random()}"}).encode()
        return (Call("POST", "/twilio/messaging/v1/Services", FORM, form),)
    if dice.random() < 0.5:
        due = datetime.fromtimestamp(time.time() + 7200, UTC).isoformat()
        form = {"To": "+12025550143", "MessagingServiceSid": SERVICE, "ScheduleType": "fixed", "SendAt": due}
        made = Call("POST", RESOURCES[0] + "/Messages.json", FORM, urlencode(form | {"Body": "later"}).encode())
        where = "/Messages"
    else:
        form = {"To": "+12025550143", "From": "+15017122661", "Twiml": "<Response/>"}
        slow = FORM | {"x-simulator-step-ms": "600000"}
        made = Call("POST", RESOURCES[0] + "/Calls.json", slow, urlencode(form).encode())
        where = "/Calls"
    cancelled = urlencode({"Status": "canceled"}).encode()
    return made, Call("POST", f"{RESOURCES[0]}{where}/{{made}}.json", FORM, cancelled)


def mail(dice: random.Random, **more: object) -> dict[str, Any]:
    """A mail to one, or to hundreds."""
    addresses = (f"reader+{number}@example.com" for number in itertools.count())
    count = dice.choice([1, 1, 2, 5, 40, 300])
    people = [{"to": emails(addresses, dice.randint(1, 3)), **copies(dice, addresses)} for _ in range(count)]
    content = [{"type": "text/plain", "value": "toll " * dice.randint(1, 200)}]
    noise = {"headers": {"X-To": '[{"email":"nobody@example.com"}]'}}
    sender = {"email": "toll@example.com"}
    return {"personalizations": people, "from": sender, "subject": "Toll", "content": content, **noise, **more}


def emails(addresses: Iterator[str], count: int) -> list[dict[str, str]]:
    return [{"email": next(addresses), "name": 'Ada "to":[{}] Lovelace'} for _ in range(count)]


def copies(dice: random.Random, addresses: Iterator[str]) -> dict[str, Any]:
    return {"cc": emails(addresses, 1), "bcc": emails(addresses, 2)} if dice.random() < 0.2 else {}


def posted(dice: random.Random, path: str, document: dict[str, Any], **headers: str) -> Call:
    """A document as somebody's serializer writes it, compressed or not."""
    text = json.dumps(document, indent=dice.choice([None, 2]), ensure_ascii=dice.random() < 0.5).encode()
    if dice.random() < 0.4:
        return Call("POST", path, JSON | {"Content-Encoding": "gzip"} | headers, gzip.compress(text, mtime=0))
    return Call("POST", path, JSON | headers, text)


def sendgrid_errand(dice: random.Random) -> Errand:
    """A mail; or one that is only tried out, or refused; or a template or a batch, and the mail that goes by it."""
    send, kind = "/sendgrid/v3/mail/send", dice.random()
    if kind < 0.6:
        return (posted(dice, send, mail(dice), **trouble(dice, ())),)
    if kind < 0.7:
        return (posted(dice, send, mail(dice, mail_settings={"sandbox_mode": {"enable": True}})),)
    if kind < 0.8:
        return (posted(dice, send, mail(dice, content=[])),)
    if kind < 0.9:
        made = posted(dice, "/sendgrid/v3/mail/batch", {})
        return made, Call("POST", send, JSON, json.dumps(mail(dice, batch_id="{made}")).encode())
    path = "/sendgrid/v3/templates"
    made = posted(dice, path, {"name": "Receipt", "generation": dice.choice(["legacy", "dynamic"])})
    sent = Call("POST", send, JSON, json.dumps(mail(dice, template_id="{made}")).encode())
    version = posted(dice, f"{path}/{{made}}/versions", {"name": "First", "subject": "Toll"})
    return made, version, Call("GET", f"{path}/{{made}}", {}), sent, Call("DELETE", f"{path}/{{made}}", {})


ERRANDS_OF: tuple[Callable[[random.Random], Errand], ...] = (
    *(openai_errand,) * 6,
    *(twilio_errand,) * 3,
    twilio_change,
    *(sendgrid_errand,) * 3,
)


# ---------------------------------------------------------------------------------------------------------------------
# The run


async def run_errands(gateway: Installation, keys: dict[str, str], accounts: dict[str, str]) -> dict[int, Seen]:
    """Make the calls, and say what became of each."""
    dice = random.Random(SEED)
    numbers = itertools.count()
    seen: dict[int, Seen] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def call(session: aiohttp.ClientSession, tenant: str, asked: Call, made: str) -> str | None:
        """One call; what it made, if it said so."""
        names = {"{account}": accounts[tenant], "{made}": made}
        path, body, number = asked.path, asked.body, next(numbers)
        for name, value in names.items():
            path, body = path.replace(name, value), body.replace(name.encode(), value.encode())
        headers = {"x-walk-call": str(number), **asked.headers, **identified(path, keys[tenant], accounts[tenant])}
        deadline = time.monotonic() + PATIENCE_S
        call_id, whole, name = None, False, None
        try:
            while True:
                async with session.request(
                    asked.method, gateway.proxy_url + path, data=body, headers=headers
                ) as answer:
                    call_id = answer.headers["x-tollkeeper-call-id"]
                    text = await answer.read()
                    whole = answer.status < 300
                # Another worker may have made it, and the machine may be too busy to have told this one within a second.
                asked_for = {"Twilio-Request-Id", "X-RateLimit-Limit"} & answer.headers.keys()
                if not made or answer.status != 404 or asked_for or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.05)
            name = named(text) if whole and text else None
        except (aiohttp.ClientError, OSError):
            whole = False
        seen[number] = Seen(tenant, call_id, whole)
        return name

    async def errand(session: aiohttp.ClientSession, tenant: str, calls: Errand) -> None:
        first, *others = calls
        async with places:
            made = await call(session, tenant, first, "")
            for asked in others if made is not None else ():
                await call(session, tenant, asked, made)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(ERRANDS):
            calls = dice.choice(ERRANDS_OF)(dice)
            group.create_task(errand(session, dice.choice(sorted(keys)), calls))
    return seen


def identified(path: str, key: str, account: str) -> dict[str, str]:
    if path.startswith("/twilio/"):
        return {"Authorization": basic(account, key)}
    return {"Authorization": f"Bearer {'SG.' if path.startswith('/sendgrid/') else ''}{key}"}


def named(text: bytes) -> str | None:
    """The name of what was made, as the answer says it, in JSON or XML."""
    if text.startswith(b"<"):
        return text.partition(b"<Sid>")[2].partition(b"</Sid>")[0].decode() or None
    if not text.startswith(b"{"):
        return None
    document = json.loads(text)
    return document.get("sid") or document.get("id") or document.get("batch_id")


@pytest.fixture(scope="module")
def run(gateway):
    keys = {f"tenant-{n}": gateway.tenant(f"tenant-{n}", plan="starter") for n in range(TENANTS)}
    accounts = {tenant: gateway.account_sid(tenant) for tenant in keys}
    seen = asyncio.run(run_errands(gateway, keys, accounts))
    # From here on nobody is told any more what became of messages and calls, which would go on correcting their events.
    assert gateway.simulator is not None
    gateway.simulator.stop()
    # What the gateway asked by itself has no number.
    exchanges = [exchange for exchange in gateway.truth() if exchange.header("x-walk-call")]
    truth = {int(exchange.header("x-walk-call")): exchange for exchange in exchanges}
    assert len(truth) == len(exchanges)
    billed = [number for number, exchange in truth.items() if happened(exchange)]
    eventually(lambda: len(first_words(gateway.events())) >= len(billed), f"{len(billed)} events in the ledger")
    return seen, truth, first_words(gateway.events())


def first_words(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was said of calls in their answers. What became of messages and calls is asked for, and corrects them."""
    return [event for event in events if event["kind"] == "usage"]


def at_one_moment(gateway: Installation, query: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A summary and the events that it is of, between two corrections."""

    def asked() -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        before = gateway.events()
        summary = gateway.ask("GET", f"/v1/usage/summary?from=2020-01-01&to=2100-01-01{query}")
        return (summary, before) if gateway.events() == before else None

    return eventually(asked, "a moment at which nothing is corrected")


def happened(exchange: Exchange) -> bool:
    """The provider did something that it may bill: it began to answer with success, or nobody knows."""
    return exchange.status is None or 200 <= exchange.status < 300


# ---------------------------------------------------------------------------------------------------------------------
# What the truth means, worked out by other means than the gateway's

NOTHING = {"event_type": "api_call", "quantities": {}, "completeness": "reported", "resource": None}
"""What success means where nothing is billed."""


def expected(exchange: Exchange) -> dict[str, Any]:
    """What the event of a whole success holds."""
    path = urlsplit(exchange.target).path
    if exchange.provider == "openai":
        return {
            "event_type": "embedding" if path.endswith("/embeddings") else "llm_call",
            "quantities": tokens(exchange.usage),
            "completeness": "reported",
            "resource": exchange.model,
            "external_id": exchange.object_id,
        }
    if exchange.status != 201 and path != "/sendgrid/v3/mail/send":
        return NOTHING | {"external_id": None}
    return {"external_id": exchange.object_id} | (message(exchange) if exchange.usage else not_billed(path))


def not_billed(path: str) -> dict[str, Any]:
    if path.endswith("/versions"):
        return NOTHING | {"external_id": None}  # A part of its template, and nobody asks for it by itself.
    # What no endpoint lists may have cost something.
    return NOTHING if path.startswith("/sendgrid/") else NOTHING | {"completeness": "unknown"}


def message(exchange: Exchange) -> dict[str, Any]:
    """A message, a call or a mail."""
    usage = exchange.usage
    if exchange.provider == "sendgrid":
        if usage["sandbox"]:
            return NOTHING
        sent = {"recipients": usage["recipients"]}
        return {**NOTHING, "event_type": "email_outbound", "quantities": sent, "resource": "transactional"}
    if usage["kind"] == "call":
        asked = {"event_type": "call_outbound", "quantities": {"requests": 1}, "completeness": "pending"}
        return {**NOTHING, **asked, "resource": where(usage["to"], usage["from"])}
    channel, quantities = usage["channel"], {"messages": 1}
    quantities |= {"segments": int(usage["num_segments"]), "media": int(usage["num_media"])}
    return {
        "event_type": f"{'message' if channel == 'messenger' else channel}_outbound",
        "quantities": {name: count for name, count in quantities.items() if count},
        "completeness": "pending",
        "resource": where(usage["to"], usage["from"]),
    }


def where(to: str, sender: str | None) -> str | None:
    """The country it goes to, and what sends it."""
    channel, _, number = to.rpartition(":")
    if number not in COUNTRIES:
        return channel if channel == "messenger" else None
    return f"{COUNTRIES[number]}:{channel or ('messaging_service' if sender is None else KINDS[sender])}"


def tokens(usage: dict[str, Any] | None) -> dict[str, int]:
    """What a usage object of OpenAI's means."""
    if usage is None:
        return {}
    if "prompt_tokens" in usage:
        whole_in, whole_out = usage["prompt_tokens"], usage.get("completion_tokens")
        inner, outer = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    else:
        whole_in, whole_out = usage["input_tokens"], usage["output_tokens"]
        inner, outer = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    parts = {
        "input_tokens_cached": inner.get("cached_tokens", 0),
        "input_tokens_cache_write": inner.get("cache_write_tokens", 0),
        "input_tokens_audio": inner.get("audio_tokens", 0),
        "input_tokens_image": inner.get("image_tokens", 0),
        "output_tokens_reasoning": outer.get("reasoning_tokens", 0),
        "output_tokens_audio": outer.get("audio_tokens", 0),
    }
    found = {name: amount for name, amount in parts.items() if amount}
    found["input_tokens"] = whole_in - sum(amount for name, amount in found.items() if name.startswith("input"))
    if whole_out is not None:
        found["output_tokens"] = whole_out - sum(amount for name, amount in found.items() if name.startswith("output"))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The claims


def test_every_success_is_one_event_of_its_tenant_and_every_failure_none(run):
    seen, truth, events = run

    by_call = {event["call_id"]: event for event in events}
    counted = Counter(seen[number].tenant for number, exchange in truth.items() if happened(exchange))

    assert len(truth) == len(seen) >= CALLS_MIN
    assert len(by_call) == len(events)
    assert Counter(event["tenant_id"] for event in events) == counted
    for number, (tenant, call_id, whole) in seen.items():
        if whole:
            assert by_call[call_id]["tenant_id"] == tenant
            assert by_call[call_id]["source"] == truth[number].provider
        if not happened(truth[number]):
            assert call_id not in by_call


def test_every_event_holds_what_the_provider_says_that_it_did(run):
    """Quantities, type, country, and the name of what was made. Seen to fail: with `num_media` read as the number of
    segments; with a mail's `cc` not counted; with a read-back that repeats the usage of what it reads."""
    seen, truth, events = run

    by_call = {event["call_id"]: event for event in events}
    compared: Counter[str] = Counter()
    for number, exchange in truth.items():
        _, call_id, whole = seen[number]
        if not happened(exchange) or call_id is None:
            continue
        event, means = by_call[call_id], expected(exchange)
        if whole:
            assert {name: event[name] for name in means} == means, exchange
            compared[f"{exchange.provider} {event['event_type']}"] += 1
        else:
            assert exchange.fault in (*BROKEN, *LOST)
            # What broke off before its usage is estimated or unknown, never zero.
            assert event["completeness"] in ("estimated", "unknown") or event["quantities"] == means["quantities"]
            compared["estimated"] += event["completeness"] == "estimated"
            compared["broken"] += 1

    assert compared.total() > CALLS_MIN / 2
    assert compared["broken"] > 50
    assert compared["estimated"] > 0
    billed = ("llm_call", "embedding"), ("sms_outbound", "mms_outbound", "whatsapp_outbound", "call_outbound")
    for provider, types in zip(
        ("openai", "twilio", "sendgrid"), (*billed, ("email_outbound", "api_call")), strict=True
    ):
        assert min(compared[f"{provider} {event_type}"] for event_type in types) > 20, compared


def test_the_sums_of_the_ledger_are_the_sums_of_the_providers(gateway, run):
    """The same by other means: nothing here knows which event belongs to which call."""
    seen, truth, _ = run
    summary, events = at_one_moment(gateway, "")

    sums: Counter[str] = Counter()
    for number, exchange in truth.items():
        if happened(exchange) and seen[number].whole:
            sums.update(expected(exchange)["quantities"])
    broken = [number for number, exchange in truth.items() if happened(exchange) and not seen[number].whole]
    known = {event["call_id"]: event["quantities"] for event in run[2]}
    for number in broken:
        # Its usage may have come before the break; then it is in the truth log, too.
        sums.update(known.get(seen[number].call_id, {}))

    for event in events:
        if event["kind"] == "correction":
            for name, amount in event["quantities"].items():
                sums[name] += amount

    assert summary["total"]["quantities"] == {name: amount for name, amount in sums.items() if amount}
    assert min(sums[name] for name in ("segments", "media", "recipients", "messages", "input_tokens")) > 100


def test_a_break_at_the_provider_never_looks_like_a_whole_answer(run):
    seen, truth, _ = run

    broken = [number for number, exchange in truth.items() if exchange.fault in (*BROKEN, *LOST)]

    assert len(broken) > 50
    assert not [number for number in broken if seen[number].whole]


@pytest.mark.usefixtures("run")
def test_the_summary_is_the_sum_of_the_events(gateway):
    columns = ("tenant_id", "source", "event_type", "resource")

    summary, events = at_one_moment(gateway, f"&group_by={','.join(columns)}")

    sums: dict[tuple[str | None, ...], list[int]] = {}
    for event in events:
        amounts = sums.setdefault(tuple(event[name] for name in columns), [0, 0, 0, 0])
        amounts[0] += event["kind"] == "usage"
        amounts[1] += event["units"] or 0
        amounts[2] += nano(event["charge"]["amount"])
        amounts[3] += nano(event["cost"]["amount"])
    found = {
        tuple(group[name] for name in columns): [
            group["events"],
            group["units"] or 0,
            nano(group["charge"]["amount"]),
            nano(group["cost"]["amount"]),
        ]
        for group in summary["groups"]
    }
    assert found == sums
    assert summary["total"]["events"] == sum(amounts[0] for amounts in sums.values())


def nano(amount: str | None) -> int:
    return int(Decimal(amount or "0") * 10**9)
