"""SendGrid, simulated: mail and what becomes of it, and what an account has besides. No I/O.

The shapes are the API's own, so that the official SDKs work against it. Four modules do the thinking: `sendgrid_asked`
reads requests and has the errors, `sendgrid_mail` holds mail to the API's rules, `sendgrid_events` says what becomes of
it, and `sendgrid_account` remembers.
"""

from __future__ import annotations

import base64
import itertools
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import msgspec

from gateway.simulator.api import Answer, Asked, Setup
from gateway.simulator.controls import Controls
from gateway.simulator.sendgrid_account import EVENTS, METRIC_NAMES, TEMPLATES_MAX, Account, Batch, read
from gateway.simulator.sendgrid_activity import read_query
from gateway.simulator.sendgrid_asked import (
    ApiError,
    Problem,
    asked_for,
    asked_for_all,
    encode,
    failure,
    is_address,
    json_object,
    natural,
    one_of,
    required_text,
    text,
    typed,
    wrong_type,
)
from gateway.simulator.sendgrid_events import COURSES, STEP_MS, Course, Signer, deliveries
from gateway.simulator.sendgrid_inbound import InboundMail, posts
from gateway.simulator.sendgrid_mail import CATEGORIES_MAX, read_mail

REAL_URL = "https://api.sendgrid.com"
"""What links in answers begin with, wherever the API is asked: so the real one has it."""

RATE_LIMIT, RATE_LIMIT_S = 600, 60
KEYS_MAX = 100
SCOPES_MAX = 1000
SUBUSERS_MAX = 25
CREDITS = 100_000
PAGE_ITEMS, PAGE_ITEMS_MAX = 50, 500
TEMPLATE_PAGE_MAX = 200
VERSIONS_MAX = 300
VERSION_CHARACTERS_MAX = 1 << 20
STATS_DAYS_MAX = 1100

DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

PROFILE = {
    "address": "1 Toll Road",
    "address2": "",
    "city": "Denver",
    "company": "Simulated",
    "country": "US",
    "first_name": "Toll",
    "last_name": "Keeper",
    "phone": "555-555-5555",
    "state": "CO",
    "website": "https://example.com",
    "zip": "80202",
}
SENDER = {
    "id": 1,
    "nickname": "Gate",
    "from_email": "gate@example.com",
    "from_name": "Gate",
    "reply_to": "gate@example.com",
    "reply_to_name": "Gate",
    "address": "1 Toll Road",
    "address2": "",
    "state": "CO",
    "city": "Denver",
    "country": "USA",
    "zip": "80202",
    "verified": True,
    "locked": False,
}

ONLY_LISTED = ("last_event_time", "opens_count", "clicks_count")
"""What the list says of a message, and its own description does not."""

Metrics = Callable[[date], Mapping[str, int]]
"""What was sent on a day."""

NO_CONTENT = Answer(status=204, content_type="")


class Key(NamedTuple):
    """What an API key opens."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    account: Account


class Call(NamedTuple):
    """A request of somebody who may make it."""

    asked: Asked
    account: Account
    """The one that it is about: the key's own, or a subuser's."""
    key: Key


class SendGrid:
    """The API: `answer` is all of it, and `ROUTES` at the end of this file is its map."""

    name: ClassVar[str] = "sendgrid"
    mount: ClassVar[str] = "sendgrid"
    default_key: ClassVar[str] = "SG.simulator.sendgrid-key"
    default_credential: ClassVar[Mapping[str, str]] = {"api_key": default_key}
    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})

    def __init__(self, setup: Setup) -> None:
        self._random = setup.random
        self._now = setup.now
        self._numbers = itertools.count(1000)
        self._account = self._new_account("simulated")
        self._subusers: dict[str, Account] = {}
        self._keys: dict[str, Key] = {}
        for key in sorted(setup.keys):
            key_id = key.split(".")[1] if key.count(".") == 2 else self._token(16)
            self._keys[key] = Key(key_id, "Simulated", SCOPES, self._account)

    def credential(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" and key.strip() else None

    def answer(self, asked: Asked) -> Answer:
        try:
            answer = self._answer(asked)
        except ApiError as error:
            answer = error.answer
        except RecursionError:
            answer = failure(400)
        return self._limited(answer)

    def refusal(self, status: int, message: str) -> Answer:
        return self._limited(failure(status, [Problem(message)]))

    def _limited(self, answer: Answer) -> Answer:
        """The answer, with the headers that all of them have."""
        left = 0 if answer.status == 429 else RATE_LIMIT - 1
        reset = int(self._now()) // RATE_LIMIT_S * RATE_LIMIT_S + RATE_LIMIT_S
        headers = (
            ("Server", "nginx"),
            ("X-RateLimit-Limit", str(RATE_LIMIT)),
            ("X-RateLimit-Remaining", str(left)),
            ("X-RateLimit-Reset", str(reset)),
            ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
            ("X-Content-Type-Options", "no-sniff"),
        )
        return msgspec.structs.replace(answer, headers=answer.headers + headers)

    def _answer(self, asked: Asked) -> Answer:
        key = self._keys.get(self.credential(asked.headers) or "")
        if key is None:
            raise ApiError(401)
        if asked.controls.status is not None:
            raise ApiError(asked.controls.status)
        if asked.controls.usage is not None or asked.controls.usage_left_out:
            raise ApiError(400, Problem("x-simulator-usage: SendGrid's answers say nothing of what was used."))
        matching = [(route, found) for route in ROUTES if (found := route.pattern.fullmatch(asked.path))]
        if not matching:
            raise ApiError(404)
        for route, found in matching:
            if route.method == asked.method:
                if route.scope is not None and route.scope not in key.scopes:
                    raise ApiError(403)
                call = Call(asked, self._account_of(asked, key, route), key)
                return route.endpoint(self, call, *map(unquote, found.groups()))
        allowed = ", ".join(sorted({route.method for route, _ in matching}))
        refused = failure(405, [Problem(f"{allowed} method allowed only")])
        return msgspec.structs.replace(refused, headers=(("Allow", allowed),))

    def _account_of(self, asked: Asked, key: Key, route: Route) -> Account:
        username = asked.headers.get("On-Behalf-Of")
        if username is None:
            return key.account
        if key.account is not self._account:
            raise ApiError(403)
        if username not in self._subusers:
            raise ApiError(401, Problem("authorization required"))
        # "The on-behalf-of header does not work with the Mail Send API": the mail is sent, and the parent has sent it.
        return key.account if route.endpoint is SendGrid.mail_send else self._subusers[username]

    def _new_account(self, username: str) -> Account:
        return Account(username, next(self._numbers), self._uuid())

    def _token(self, size: int) -> str:
        """So many bytes, in the URL-safe Base64 that ids have here."""
        return base64.urlsafe_b64encode(self._random.randbytes(size)).rstrip(b"=").decode()

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _today(self) -> date:
        return datetime.fromtimestamp(self._now(), UTC).date()

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d %H:%M:%S")

    def bill(self, first: date, last: date) -> list[dict[str, Any]]:
        """What everybody sent on these days, both included: a line for each account and day on which there was any."""
        lines = []
        for account in (self._account, *self._subusers.values()):
            account.settle(self._now())
            for number in range((last - first).days + 1):
                day = first + timedelta(days=number)
                used = {**account.metrics(day), "validations": account.validated[day.isoformat()]}
                if any(used.values()):
                    lines.append({"username": account.username, "day": day.isoformat(), **used})
        return lines

    # Mail.

    def mail_send(self, call: Call) -> Answer:
        now, account = self._at(call), call.account
        mail = read_mail(json_object(call.asked), now)
        if mail.batch_id is not None and account.batches.get(mail.batch_id) is None:
            raise ApiError(400, Problem("invalid batch id", "batch_id"))
        usage = {"recipients": mail.recipients, "personalizations": len(mail.parts), "sandbox": mail.sandbox}
        if mail.sandbox:
            return Answer(content_type="", usage=usage)
        course = course_of(call.asked.controls)
        if mail.template_id is not None and account.templates.get(mail.template_id) is None:
            # Any id of the right form is taken on; that there is no such template is found out when the mail is made.
            course = course._replace(outcome="dropped")
        message_id = self._token(16)
        account.send(mail, message_id, now, course, self._now())
        webhook = account.open_webhook()

        def event_id() -> str:
            return self._token(16)

        def still_so() -> bool:
            return account.status(mail.batch_id) is None

        return Answer(
            status=202,
            headers=(("X-Message-Id", message_id),),
            content_type="",
            object_id=message_id,
            usage=usage,
            lives=True,
            later=tuple(deliveries(mail, message_id, now, course, webhook, event_id, still_so) if webhook else ()),
        )

    def _at(self, call: Call) -> float:
        """When what is sent here was sent, by what it says."""
        now, at = self._now(), call.asked.controls.at
        if at is not None and at > now:
            raise ApiError(400, Problem("x-simulator-at: a time that has passed."))
        return now if at is None else at

    def batch_create(self, call: Call) -> Answer:
        batch_id = self._token(24)
        call.account.batches.put(batch_id, Batch(batch_id, None))
        return created({"batch_id": batch_id}, batch_id)

    def batch_get(self, call: Call, batch_id: str) -> Answer:
        if call.account.batches.get(batch_id) is None:
            raise ApiError(400, Problem("invalid batch id"))
        return answered({"batch_id": batch_id}, batch_id)

    def scheduled_create(self, call: Call) -> Answer:
        body = json_object(call.asked)
        batch_id = required_text(body, "batch_id")
        status = one_of(text(body, "status"), "status", ("pause", "cancel"))
        batch = call.account.batches.get(batch_id)
        if batch is None:
            raise ApiError(400, Problem("invalid batch id", "batch_id"))
        if batch.status is not None:
            raise ApiError(400, Problem("a status update already exists for this batch id", "batch_id"))
        self._change_batch(call.account, Batch(batch_id, status))
        return created({"batch_id": batch_id, "status": status}, batch_id)

    def _change_batch(self, account: Account, batch: Batch) -> None:
        """What came due before goes by the status that the batch had then."""
        account.settle(self._now())
        account.batches.put(batch.batch_id, batch)

    def scheduled_list(self, call: Call) -> Answer:
        return answered([batch._asdict() for batch in call.account.batches if batch.status is not None])

    def scheduled_get(self, call: Call, batch_id: str) -> Answer:
        batch = call.account.batches.get(batch_id)
        return answered([batch._asdict()] if batch is not None and batch.status is not None else [], batch_id)

    def scheduled_update(self, call: Call, batch_id: str) -> Answer:
        status = one_of(text(json_object(call.asked), "status"), "status", ("pause", "cancel"))
        if call.account.status(batch_id) is None:
            raise ApiError(404)
        self._change_batch(call.account, Batch(batch_id, status))
        return NO_CONTENT

    def scheduled_delete(self, call: Call, batch_id: str) -> Answer:
        if call.account.status(batch_id) is None:
            raise ApiError(404)
        self._change_batch(call.account, Batch(batch_id, None))
        return NO_CONTENT

    # Templates.

    def template_create(self, call: Call) -> Answer:
        body = json_object(call.asked)
        name = required_text(body, "name", 100)
        generation = one_of(text(body, "generation") or "legacy", "generation", ("legacy", "dynamic"))
        if len(call.account.templates) >= TEMPLATES_MAX:
            raise ApiError(400, Problem(f"You may have at most {TEMPLATES_MAX} templates."))
        template_id = f"d-{self._random.getrandbits(128):032x}" if generation == "dynamic" else self._uuid()
        template = {"id": template_id, "name": name, "generation": generation}
        return created(self._keep_template(call.account, {**template, "versions": []}), template_id)

    def _keep_template(self, account: Account, template: dict[str, Any]) -> dict[str, Any]:
        changed = {**template, "updated_at": self._timestamp()}
        account.templates.put(changed["id"], encode(changed))
        return changed

    def template_list(self, call: Call) -> Answer:
        query = asked_for(call.asked)
        generations = query.get("generations", "legacy").split(",")
        for generation in generations:
            one_of(generation, "generations", ("legacy", "dynamic"))
        templates = [
            template for template in map(read, call.account.templates) if template["generation"] in generations
        ]
        if "page_size" not in query:
            return answered({"templates": templates})
        size = natural(query, "page_size", 0, TEMPLATE_PAGE_MAX) or TEMPLATE_PAGE_MAX
        start = page_start(query.get("page_token"))

        def link(at: int) -> str:
            asked = {"generations": ",".join(generations), "page_size": size, "page_token": page_token(at)}
            return f"{REAL_URL}/v3/templates?{urlencode(asked)}"

        about: dict[str, Any] = {"self": link(start), "count": len(templates)}
        if start:
            about["prev"] = link(max(0, start - size))
        if start + size < len(templates):
            about["next"] = link(start + size)
        return answered({"result": templates[start : start + size], "_metadata": about})

    def template_get(self, call: Call, template_id: str) -> Answer:
        return answered(known(read(call.account.templates.get(template_id))), template_id)

    def template_update(self, call: Call, template_id: str) -> Answer:
        template = known(read(call.account.templates.get(template_id)))
        name = required_text(json_object(call.asked), "name", 100)
        return answered(self._keep_template(call.account, {**template, "name": name}), template_id)

    def template_delete(self, call: Call, template_id: str) -> Answer:
        known(call.account.templates.pop(template_id))
        return NO_CONTENT

    def version_create(self, call: Call, template_id: str) -> Answer:
        template = known(read(call.account.templates.get(template_id)))
        body = json_object(call.asked)
        if len(template["versions"]) >= VERSIONS_MAX:
            raise ApiError(400, Problem(f"A template may have at most {VERSIONS_MAX} versions."))
        version = {
            "id": self._uuid(),
            "template_id": template_id,
            "active": int(not template["versions"]),
            "name": required_text(body, "name", 100),
            "subject": required_text(body, "subject"),
            "html_content": "",
            "plain_content": "",
            "generate_plain_content": True,
            "editor": "code",
            **version_fields(body),
        }
        return created(self._keep_version(call.account, template, version), template_id)

    def _keep_version(self, account: Account, template: dict[str, Any], version: dict[str, Any]) -> dict[str, Any]:
        """Where a version becomes the active one, the others no longer are."""
        changed = {**version, "updated_at": self._timestamp()}
        others = {other["id"]: other for other in template["versions"]}
        if changed["active"]:
            others = {version_id: {**other, "active": 0} for version_id, other in others.items()}
        others[changed["id"]] = changed
        self._keep_template(account, {**template, "versions": list(others.values())})
        return changed

    def version_get(self, call: Call, template_id: str, version_id: str) -> Answer:
        return answered(version_of(known(read(call.account.templates.get(template_id))), version_id), template_id)

    def version_update(self, call: Call, template_id: str, version_id: str) -> Answer:
        template = known(read(call.account.templates.get(template_id)))
        version = {**version_of(template, version_id), **version_fields(json_object(call.asked))}
        return answered(self._keep_version(call.account, template, version), template_id)

    def version_activate(self, call: Call, template_id: str, version_id: str) -> Answer:
        template = known(read(call.account.templates.get(template_id)))
        version = {**version_of(template, version_id), "active": 1}
        return answered(self._keep_version(call.account, template, version), template_id)

    def version_delete(self, call: Call, template_id: str, version_id: str) -> Answer:
        template = known(read(call.account.templates.get(template_id)))
        gone = version_of(template, version_id)
        others = [version for version in template["versions"] if version != gone]
        self._keep_template(call.account, {**template, "versions": others})
        return NO_CONTENT

    # The account.

    def key_create(self, call: Call) -> Answer:
        body = json_object(call.asked)
        name = required_text(body, "name")
        listed = typed(body, "scopes", "array")
        if listed is not None and not all(isinstance(scope, str) for scope in listed):
            raise ApiError(400, Problem("The scopes must be strings.", "scopes"))
        scopes = SCOPES if listed is None else tuple(dict.fromkeys(listed))[:SCOPES_MAX]
        if sum(key.account is call.account for key in self._keys.values()) >= KEYS_MAX:
            raise ApiError(403, Problem(f"Cannot create more than {KEYS_MAX} API Keys"))
        key = Key(self._token(16), name, scopes, call.account)
        secret = f"SG.{key.key_id}.{self._token(32)}"
        self._keys[secret] = key
        return created({"api_key": secret, **shown(key), "scopes": key.scopes}, key.key_id)

    def key_list(self, call: Call) -> Answer:
        limit = natural(asked_for(call.asked), "limit", KEYS_MAX, PAGE_ITEMS_MAX)
        keys = [shown(key) for key in self._keys.values() if key.account is call.account]
        return answered({"result": keys[:limit]})

    def key_get(self, call: Call, key_id: str) -> Answer:
        key = self._keys[self._secret_of(call.account, key_id)]
        return answered({"result": [{**shown(key), "scopes": key.scopes}]}, key_id)

    def key_rename(self, call: Call, key_id: str) -> Answer:
        secret = self._secret_of(call.account, key_id)
        key = self._keys[secret]._replace(name=required_text(json_object(call.asked), "name"))
        self._keys[secret] = key
        return answered(shown(key), key_id)

    def key_delete(self, call: Call, key_id: str) -> Answer:
        del self._keys[self._secret_of(call.account, key_id)]
        return NO_CONTENT

    def _secret_of(self, account: Account, key_id: str) -> str:
        for secret, key in self._keys.items():
            if key.key_id == key_id and key.account is account:
                return secret
        raise ApiError(404, Problem("unable to find API Key"))

    def scopes(self, call: Call) -> Answer:
        return answered({"scopes": call.key.scopes})

    def profile(self, call: Call) -> Answer:
        return answered(PROFILE)

    def user_account(self, call: Call) -> Answer:
        return answered({"type": "paid", "reputation": 100})

    def credits(self, call: Call) -> Answer:
        """The balance of this month: a credit is one recipient."""
        call.account.settle(self._now())
        today = self._today()
        first = today.replace(day=1)
        days = [first + timedelta(days=number) for number in range(today.day)]
        used = sum(call.account.metrics(day).get("requests", 0) for day in days)
        balance = {
            "remain": max(0, CREDITS - used),
            "total": CREDITS,
            "overage": max(0, used - CREDITS),
            "used": used,
            "last_reset": first.isoformat(),
            "next_reset": (first + timedelta(days=32)).replace(day=1).isoformat(),
            "reset_frequency": "monthly",
        }
        return answered(balance)

    def subuser_create(self, call: Call) -> Answer:
        body = json_object(call.asked)
        username = required_text(body, "username", 64)
        email = required_text(body, "email")
        required_text(body, "password")
        typed(body, "ips", "array")
        if call.account is not self._account or len(self._subusers) >= SUBUSERS_MAX:
            raise ApiError(403, Problem("User does not have permission to create subuser"))
        if username in self._subusers or not username.isascii() or not username.isprintable():
            raise ApiError(400, Problem("username exists" if username in self._subusers else "invalid username"))
        account = self._new_account(username)
        self._subusers[username] = account
        about = {"username": username, "user_id": account.user_id, "email": email}
        return created({**about, "credit_allocation": {"type": "unlimited"}}, username)

    def subuser_list(self, call: Call) -> Answer:
        query = asked_for(call.asked)
        accounts = self._subusers.values() if call.account is self._account else ()
        subusers = [
            {"id": account.user_id, "username": account.username, "email": f"{account.username}@example.com"}
            for account in accounts
            if query.get("username", account.username) == account.username
        ]
        return answered(page([{**subuser, "disabled": False} for subuser in subusers], query))

    def subuser_delete(self, call: Call, username: str) -> Answer:
        if call.account is not self._account:
            raise ApiError(403)
        account = known(self._subusers.pop(username, None))
        self._keys = {secret: key for secret, key in self._keys.items() if key.account is not account}
        return NO_CONTENT

    def verified_senders(self, call: Call) -> Answer:
        return answered({"results": [SENDER]})

    # What becomes of mail.

    def bounces(self, call: Call) -> Answer:
        call.account.settle(self._now())
        return answered(page([read(bounce) for bounce in call.account.bounces], asked_for(call.asked)))

    def group_create(self, call: Call) -> Answer:
        body = json_object(call.asked)
        group_id = next(self._numbers)
        group = {
            "id": group_id,
            "name": required_text(body, "name", 30),
            "description": required_text(body, "description", 100),
            "is_default": typed(body, "is_default", "boolean") or False,
        }
        call.account.groups.put(str(group_id), encode({**group, "unsubscribes": 0}))
        return created(group, str(group_id))

    def group_list(self, call: Call) -> Answer:
        return answered([read(group) for group in call.account.groups])

    def group_get(self, call: Call, group_id: str) -> Answer:
        return answered(known(read(call.account.groups.get(group_id))), group_id)

    def group_delete(self, call: Call, group_id: str) -> Answer:
        known(call.account.groups.pop(group_id))
        return NO_CONTENT

    def stats(self, call: Call) -> Answer:
        """What was sent, by day, week or month; a period in which nothing was is told as zeros."""
        call.account.settle(self._now())
        return self._stats(call, {"": call.account.metrics})

    def subuser_stats(self, call: Call) -> Answer:
        """The same of each of the subusers that are named."""
        wanted = asked_for_all(call.asked, "subusers")
        if call.account is not self._account or not wanted or not set(wanted) <= set(self._subusers):
            raise ApiError(400, Problem("subusers names subusers of this account", "subusers"))
        for name in wanted:
            self._subusers[name].settle(self._now())
        return self._stats(call, {name: self._subusers[name].metrics for name in wanted}, "subuser")

    def category_stats(self, call: Call) -> Answer:
        """The same of each of the categories that are named."""
        wanted = asked_for_all(call.asked, "categories")
        if not 1 <= len(wanted) <= CATEGORIES_MAX:
            raise ApiError(400, Problem(f"categories names from 1 to {CATEGORIES_MAX} categories", "categories"))
        call.account.settle(self._now())

        def of(category: str) -> Metrics:
            return lambda day: call.account.metrics(day, category)

        return self._stats(call, {name: of(name) for name in wanted}, "category")

    def _stats(self, call: Call, sources: Mapping[str, Metrics], kind: str | None = None) -> Answer:
        query = asked_for(call.asked)
        start, end = day_of(query, "start_date", None), day_of(query, "end_date", self._today())
        by = one_of(query.get("aggregated_by", "day"), "aggregated_by", ("day", "week", "month"))
        if end < start or (end - start).days >= STATS_DAYS_MAX:
            message = f"end_date must be after start_date, and within {STATS_DAYS_MAX} days of it"
            raise ApiError(400, Problem(message, "end_date"))
        periods: dict[date, dict[str, dict[str, int]]] = {}
        for number in range((end - start).days + 1):
            day = start + timedelta(days=number)
            named = periods.setdefault(
                period_of(day, by), {source: dict.fromkeys(METRIC_NAMES, 0) for source in sources}
            )
            for source, metrics_of in sources.items():
                for name, count in metrics_of(day).items():
                    named[source][name] += count
        told = [
            {
                "date": day.isoformat(),
                "stats": [
                    {"metrics": metrics, **({"type": kind, "name": source} if kind else {})}
                    for source, metrics in named.items()
                ],
            }
            for day, named in periods.items()
        ]
        return answered(page(told, query, default=STATS_DAYS_MAX))

    def messages(self, call: Call) -> Answer:
        """The activity of the newest messages, one for each recipient."""
        call.account.settle(self._now())
        query = asked_for(call.asked)
        wanted = read_query(query.get("query", "").strip())
        if wanted is None:
            raise ApiError(400, Problem("invalid syntax", "query"))
        limit = natural(query, "limit", 10, 1000)
        found = itertools.islice(call.account.messages.find(wanted), limit)
        return answered({"messages": [sent.fields for sent in found]})

    def message(self, call: Call, msg_id: str) -> Answer:
        call.account.settle(self._now())
        sent = known(call.account.messages.get(msg_id))
        fields = {name: value for name, value in sent.fields.items() if name not in ONLY_LISTED}
        return answered({**fields, "categories": list(sent.categories), "events": list(sent.events)}, msg_id)

    def validate(self, call: Call) -> Answer:
        body = json_object(call.asked)
        email = required_text(body, "email", 320)
        source = text(body, "source")
        local, _, host = email.rpartition("@")
        bounces, good = "bounce" in Course(None).of(email), is_address(email)
        result = {
            "email": email,
            "verdict": "Invalid" if not good else "Risky" if bounces else "Valid",
            "score": 0.0 if not good else 0.25 if bounces else 0.97,
            "local": local,
            "host": host,
            "checks": {
                "domain": {
                    "has_valid_address_syntax": good,
                    "has_mx_or_a_record": good,
                    "is_suspected_disposable_address": False,
                },
                "local_part": {"is_suspected_role_address": False},
                "additional": {"has_known_bounces": bounces, "has_suspected_bounces": bounces},
            },
            "ip_address": "192.0.2.1",
        }
        call.account.validated[datetime.fromtimestamp(self._at(call), UTC).date().isoformat()] += 1
        answer = encode({"result": result if source is None else {**result, "source": source}})
        return Answer(body=answer, usage={"validations": 1})

    def webhook_get(self, call: Call) -> Answer:
        return self._webhook(call.account)

    def webhook_update(self, call: Call) -> Answer:
        body, account = json_object(call.asked), call.account
        changed = {name: typed(body, name, "boolean") for name in ("enabled", *EVENTS) if name in body}
        changed |= {name: text(body, name, 2000) for name in ("url", "friendly_name") if name in body}
        if changed.get("url") and not is_url(changed["url"]):
            raise ApiError(400, Problem(f"'{changed['url']}' is not a valid url", "url"))
        account.webhook = {**account.webhook, **changed}
        return self._webhook(account)

    def inbound_mail(self, given: InboundMail) -> Answer:
        """A mail comes in for the account. Raises ValueError."""
        mail_id = self._token(22)
        boundaries = [self._token(16) for _ in range(given.repeat)]
        later = posts(given, mail_id, boundaries, self._account.signer)
        truth = {"kind": "inbound mail", "to": given.to, "from": given.source}
        return Answer(status=201, body=encode({"id": mail_id}), object_id=mail_id, usage=truth, lives=True, later=later)

    def _webhook(self, account: Account) -> Answer:
        signed = {"public_key": account.signer.public_key} if account.signer else {}
        return answered({**account.webhook, **signed}, account.webhook["id"])

    def signed_get(self, call: Call) -> Answer:
        account = call.account
        public_key = account.signer.public_key if account.signer else ""
        return answered({"id": account.webhook["id"], "public_key": public_key}, account.webhook["id"])

    def signed_update(self, call: Call) -> Answer:
        """A webhook that is signed anew gets a new key."""
        enabled = typed(json_object(call.asked), "enabled", "boolean")
        if enabled is None:
            raise ApiError(400, wrong_type(None, "boolean", "enabled"))
        if not enabled:
            call.account.signer = None
        elif call.account.signer is None:
            call.account.signer = Signer(self._random.getrandbits(255) + 1)
        return self.signed_get(call)


def course_of(controls: Controls) -> Course:
    if controls.outcome is not None and controls.outcome not in COURSES:
        raise ApiError(400, Problem(f"x-simulator-outcome: mail ends as one of {', '.join(COURSES)}."))
    if controls.seconds is not None:
        raise ApiError(400, Problem("x-simulator-seconds: mail lasts no time."))
    if controls.price_ms is not None:
        raise ApiError(400, Problem("x-simulator-price-ms: mail says no price."))
    return Course(controls.outcome, STEP_MS if controls.step_ms is None else controls.step_ms)


def answered(value: object, object_id: str | None = None) -> Answer:
    return Answer(body=encode(value), object_id=object_id)


def created(value: object, object_id: str) -> Answer:
    return Answer(status=201, body=encode(value), object_id=object_id)


def known(item: Any) -> Any:
    """The stored object, or the API's way of saying that there is none."""
    if item is None:
        raise ApiError(404)
    return item


def shown(key: Key) -> dict[str, str]:
    return {"api_key_id": key.key_id, "name": key.name}


def page(items: Sequence[Any], query: Mapping[str, str], default: int = PAGE_ITEMS) -> Sequence[Any]:
    """What the `limit` and `offset` of a query leave of a list."""
    limit = natural(query, "limit", default, max(default, PAGE_ITEMS_MAX))
    offset = natural(query, "offset", 0, 1 << 30)
    return items[offset : offset + limit]


def page_token(start: int) -> str:
    return base64.urlsafe_b64encode(f"templates:{start}".encode()).decode()


def page_start(token: str | None) -> int:
    """Where a page begins that an earlier one has named."""
    if token is None:
        return 0
    try:
        _, _, start = base64.urlsafe_b64decode(token.encode()).partition(b"templates:")
        return natural({"page_token": start.decode()}, "page_token", 0, TEMPLATES_MAX)
    except (ValueError, ApiError):
        raise ApiError(400, Problem("invalid page_token", "page_token")) from None


def version_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a version's fields that the request gives."""
    given: dict[str, Any] = {}
    for name in ("name", "subject", "html_content", "plain_content", "editor", "test_data"):
        limit = {"name": 100, "subject": 255}.get(name, VERSION_CHARACTERS_MAX)
        if (value := text(body, name, limit)) is not None:
            given[name] = value
    if (generates := typed(body, "generate_plain_content", "boolean")) is not None:
        given["generate_plain_content"] = generates
    if (active := typed(body, "active", "integer")) is not None:
        given["active"] = int(one_of(str(active), "active", ("0", "1")))
    return given


def version_of(template: Mapping[str, Any], version_id: str) -> dict[str, Any]:
    version: dict[str, Any] = known(next((v for v in template["versions"] if v["id"] == version_id), None))
    return version


def day_of(query: Mapping[str, str], name: str, default: date | None) -> date:
    given = query.get(name)
    if given is None and default is not None:
        return default
    if given is None:
        raise ApiError(400, Problem(f"missing {name}", name))
    try:
        if not DAY.fullmatch(given):
            raise ValueError(given)
        return date.fromisoformat(given)
    except ValueError:
        raise ApiError(400, Problem(f"{name} should be YYYY-MM-DD", name)) from None


def period_of(day: date, by: str) -> date:
    """The first day of the period that a day is in."""
    match by:
        case "week":
            return date.fromordinal(max(1, day.toordinal() - day.weekday()))
        case "month":
            return day.replace(day=1)
        case _:
            return day


def is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and url.isprintable()
    except ValueError:
        return False


class Route(NamedTuple):
    """An endpoint, and the scope that a key needs for it, if any."""

    method: str
    pattern: re.Pattern[str]
    scope: str | None
    endpoint: Callable[..., Answer]


def route(method: str, path: str, scope: str | None, endpoint: Callable[..., Answer]) -> Route:
    return Route(method, re.compile(re.escape(path).replace(r"\{id\}", "([^/]+)")), scope, endpoint)


TEMPLATE, VERSION = "/v3/templates/{id}", "/v3/templates/{id}/versions/{id}"
WEBHOOK = "/v3/user/webhooks/event/settings"

ROUTES: tuple[Route, ...] = (
    route("POST", "/v3/mail/send", "mail.send", SendGrid.mail_send),
    route("POST", "/v3/mail/batch", "mail.batch.create", SendGrid.batch_create),
    route("GET", "/v3/mail/batch/{id}", "mail.batch.read", SendGrid.batch_get),
    route("POST", "/v3/user/scheduled_sends", "user.scheduled_sends.create", SendGrid.scheduled_create),
    route("GET", "/v3/user/scheduled_sends", "user.scheduled_sends.read", SendGrid.scheduled_list),
    route("GET", "/v3/user/scheduled_sends/{id}", "user.scheduled_sends.read", SendGrid.scheduled_get),
    route("PATCH", "/v3/user/scheduled_sends/{id}", "user.scheduled_sends.update", SendGrid.scheduled_update),
    route("DELETE", "/v3/user/scheduled_sends/{id}", "user.scheduled_sends.delete", SendGrid.scheduled_delete),
    route("POST", "/v3/templates", "templates.create", SendGrid.template_create),
    route("GET", "/v3/templates", "templates.read", SendGrid.template_list),
    route("GET", TEMPLATE, "templates.read", SendGrid.template_get),
    route("PATCH", TEMPLATE, "templates.update", SendGrid.template_update),
    route("DELETE", TEMPLATE, "templates.delete", SendGrid.template_delete),
    route("POST", f"{TEMPLATE}/versions", "templates.versions.create", SendGrid.version_create),
    route("GET", VERSION, "templates.versions.read", SendGrid.version_get),
    route("PATCH", VERSION, "templates.versions.update", SendGrid.version_update),
    route("DELETE", VERSION, "templates.versions.delete", SendGrid.version_delete),
    route("POST", f"{VERSION}/activate", "templates.versions.activate.create", SendGrid.version_activate),
    route("POST", "/v3/api_keys", "api_keys.create", SendGrid.key_create),
    route("GET", "/v3/api_keys", "api_keys.read", SendGrid.key_list),
    route("GET", "/v3/api_keys/{id}", "api_keys.read", SendGrid.key_get),
    route("PATCH", "/v3/api_keys/{id}", "api_keys.update", SendGrid.key_rename),
    route("DELETE", "/v3/api_keys/{id}", "api_keys.delete", SendGrid.key_delete),
    route("GET", "/v3/scopes", None, SendGrid.scopes),
    route("GET", "/v3/user/profile", "user.profile.read", SendGrid.profile),
    route("GET", "/v3/user/account", "user.account.read", SendGrid.user_account),
    route("GET", "/v3/user/credits", "user.credits.read", SendGrid.credits),
    route("POST", "/v3/subusers", "subusers.create", SendGrid.subuser_create),
    route("GET", "/v3/subusers", "subusers.read", SendGrid.subuser_list),
    route("DELETE", "/v3/subusers/{id}", "subusers.delete", SendGrid.subuser_delete),
    route("GET", "/v3/verified_senders", None, SendGrid.verified_senders),
    route("GET", "/v3/suppression/bounces", "suppression.read", SendGrid.bounces),
    route("POST", "/v3/asm/groups", "asm.groups.create", SendGrid.group_create),
    route("GET", "/v3/asm/groups", "asm.groups.read", SendGrid.group_list),
    route("GET", "/v3/asm/groups/{id}", "asm.groups.read", SendGrid.group_get),
    route("DELETE", "/v3/asm/groups/{id}", "asm.groups.delete", SendGrid.group_delete),
    route("GET", "/v3/stats", "stats.read", SendGrid.stats),
    route("GET", "/v3/subusers/stats", "stats.read", SendGrid.subuser_stats),
    route("GET", "/v3/categories/stats", "stats.read", SendGrid.category_stats),
    route("GET", "/v3/messages", "messages.read", SendGrid.messages),
    route("GET", "/v3/messages/{id}", "messages.read", SendGrid.message),
    route("POST", "/v3/validations/email", "validations.email.create", SendGrid.validate),
    route("GET", WEBHOOK, "user.webhooks.event.settings.read", SendGrid.webhook_get),
    route("PATCH", WEBHOOK, "user.webhooks.event.settings.update", SendGrid.webhook_update),
    route("GET", f"{WEBHOOK}/signed", "user.webhooks.event.settings.read", SendGrid.signed_get),
    route("PATCH", f"{WEBHOOK}/signed", "user.webhooks.event.settings.update", SendGrid.signed_update),
)
"""Every endpoint there is; all other paths are not found."""

SCOPES: tuple[str, ...] = tuple(sorted({route.scope for route in ROUTES if route.scope is not None}))
"""What a key may do that was made without saying so."""
