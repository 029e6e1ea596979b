"""Leading what comes in at a tenant's phone numbers here, and back to where it was.

What a number was is kept before it is changed, sealed, with the tenant's integration: whatever breaks off in between, it can
be undone, exactly. A number that can not be changed stops no other. A number that is led here already is left alone, and
what it was is not forgotten; one that somebody has led elsewhere since is not touched by undoing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from gateway.accounts import Accounts
from gateway.asking import Asker, NotAnswered
from gateway.callback_addresses import PREFIX
from gateway.collector import Credential
from gateway.integrations import Integration
from gateway.providers.api import NotAPage, Numbers, OwnNumber, Provider, Way

REQUESTS_PER_S: Final = 20.0
TRIES_MAX: Final = 3
"""Somebody waits for the answer."""

ANSWER_S_MAX: Final = 40
"""So long one request works at the numbers; what is not done by then is left for the next one, which goes on from there."""

NUMBERS_MAX: Final = 5000
"""Of one tenant. What is known of them is one document; a tenant with more leads them here by itself."""

PAGES_MAX: Final = 100
"""Of an account's numbers, a thousand on each, in which those of a tenant are looked for."""

OURS_MAX: Final = 3
"""So many addresses that the gateway had before are known for a number's."""

REFUSED, NO_ANSWER = "the provider refused the change", "the provider did not answer in time"


class NotConnected(Exception):
    """Nothing was changed. Says why, and the cure."""


class Outcome(StrEnum):
    """What became of one number."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    MISSING = "missing"
    """The account has no such number."""
    LEFT = "left"
    """For the next request: there was no time."""


class Before(msgspec.Struct, frozen=True):
    """What one number was, before it was led here."""

    account: str
    number: str
    ways: Mapping[str, Way]
    ours: Mapping[str, tuple[str, ...]]
    """The URLs that it was given in their place, the newest last: the one before may be in force, if a change failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One number: what it was, and what it is to be."""

    number_id: str
    number: str
    now: Mapping[str, Way]
    was: Mapping[str, Way]
    """As far as it is known: of one that is led here already, what it was before that."""
    to: Mapping[str, Way] = field(default_factory=dict)
    """What is to be changed."""
    ours: frozenset[str] = frozenset()
    """What of it leads here already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one number."""

    step: Step
    outcome: Outcome
    code: str | None = None
    """The provider's own, where it refused."""
    problem: str | None = None

    @property
    def now(self) -> Mapping[str, Way]:
        """What it is."""
        return {**self.step.now, **self.step.to} if self.outcome is Outcome.CHANGED else self.step.now


class Connected(NamedTuple):
    """What became of all of them."""

    numbers: Sequence[Done]
    urls: Mapping[str, str]
    """What the tenant's integration has got: fields and URLs."""
    signing_secret: str | None
    """Where the tenant had no integration before."""


class Whose(NamedTuple):
    """Whose numbers are asked for, and how."""

    provider: Provider
    numbers: Numbers
    base_url: str
    headers: Mapping[str, str]
    account: str
    only: frozenset[str] | None
    """The tenant's, on an account that is not its own; None where all are."""


Asks = Callable[[str | None], Credential | None]
"""A tenant's own credential, or for None the platform's; None where there is none."""


class Source(NamedTuple):
    """A provider whose numbers can be led here."""

    provider: Provider
    base_url: str
    credential: Asks


# ---------------------------------------------------------------------------------------------------------------------
# What is to be done


def to_connect(numbers: Sequence[OwnNumber], before: Mapping[str, Before], addresses: Mapping[str, Way]) -> list[Step]:
    """Lead each of them to our addresses."""
    steps = []
    for one in numbers:
        known = before.get(one.number_id)
        ours = frozenset(
            name
            for name, way in one.ways.items()
            if not way.application
            and way.url in (addresses[name].url, *(() if known is None else known.ours.get(name, ())))
        )
        kept = {} if known is None else {name: way for name, way in known.ways.items() if name in ours}
        steps.append(
            Step(
                number_id=one.number_id,
                number=one.number,
                now=one.ways,
                was={**one.ways, **kept},
                to={name: addresses[name] for name, way in one.ways.items() if way != addresses[name]},
                ours=ours - kept.keys(),
            )
        )
    return steps


def to_undo(numbers: Sequence[OwnNumber], before: Mapping[str, Before]) -> list[Step]:
    """Lead each back to what it was, as far as it leads to where we have led it."""
    here = {one.number_id: one for one in numbers}
    steps = []
    for number_id, known in before.items():
        now = here[number_id].ways if number_id in here else {}
        to = {
            name: way
            for name, way in known.ways.items()
            if name in now and not now[name].application and now[name].url in known.ours.get(name, ())
        }
        steps.append(Step(number_id=number_id, number=known.number, now=now, was=known.ways, to=to))
    return steps


def remembered(
    steps: Sequence[Step], before: Mapping[str, Before], account: str, addresses: Mapping[str, Way]
) -> dict[str, Before]:
    """What is to be known of those that will be changed. What led here, and nobody knows from where, was nothing."""
    return {
        step.number_id: Before(
            account,
            step.number,
            {name: way for name, way in step.was.items() if name not in step.ours},
            {name: _with(before.get(step.number_id), name, addresses[name].url) for name in step.now},
        )
        for step in steps
        if step.to
    }


def _with(known: Before | None, name: str, url: str) -> tuple[str, ...]:
    others = () if known is None else tuple(one for one in known.ours.get(name, ()) if one != url)
    return (*others[-OURS_MAX:], url)


# ---------------------------------------------------------------------------------------------------------------------


class Connector:
    """Leads tenants' numbers here, one tenant at a time."""

    def __init__(self, accounts: Accounts, sources: Mapping[str, Source], public_url: str | None) -> None:
        self._accounts = accounts
        self.sources = sources
        self.public_url = public_url
        self._alone = asyncio.Lock()

    async def connect(
        self, actor: str, source: str, tenant_id: str, *, undo: bool = False, dry_run: bool = False
    ) -> Connected:
        """Raises NoSuchTenant, TenantClosed, NotAcceptable and NotConnected."""
        async with self._alone:
            found = await self._accounts.integration(tenant_id)
            integration = Integration() if found is None else found.integration
            if self.public_url is None and not undo:
                raise NotConnected(
                    "The gateway does not know where providers reach it: give its URL, https://HOST, in "
                    "TOLLKEEPER_PUBLIC_URL and start it again."
                )
            whose = self._whose(source, tenant_id, integration, undo=undo)
            asker = Asker(REQUESTS_PER_S, tries_max=TRIES_MAX)
            try:
                ends = asyncio.get_running_loop().time() + ANSWER_S_MAX
                work = _Work(asker, whose, ends)
                before = _opened(await self._accounts.connected(tenant_id))
                if undo:
                    return await self._undo(actor, tenant_id, work, before, dry_run=dry_run)
                return await self._connect(actor, tenant_id, work, before, integration, dry_run=dry_run)
            finally:
                await asker.close()

    async def _connect(
        self,
        actor: str,
        tenant_id: str,
        work: _Work,
        before: Mapping[str, Before],
        integration: Integration,
        *,
        dry_run: bool,
    ) -> Connected:
        provider, account, only = work.whose.provider, work.whose.account, work.whose.only
        ours = f"{(self.public_url or '').rstrip('/')}{PREFIX}{provider.name}/{tenant_id}"
        addresses = {name: Way(f"{ours}/{name}") for name in work.whose.numbers.ways}
        numbers = await work.numbers()
        steps = to_connect(numbers, before, addresses)
        missing = sorted((only or frozenset()) - {one.number for one in numbers})
        absent = [Done(step=_nothing(number), outcome=Outcome.MISSING) for number in missing]
        urls = await self._adopted(work, steps, integration)
        changing = [step for step in steps if step.to]
        if dry_run:
            shown = [_planned(step) for step in steps]
            return Connected([*shown, *absent], urls, None)
        secret = None
        if changing or urls:
            async with self._accounts.changing(actor) as change:
                kept = {**before, **remembered(changing, before, account, addresses)}
                secret = await change.connect_numbers(tenant_id, provider.name, _closed(kept), urls, len(changing))
        return Connected([*await work.change(steps), *absent], urls, secret)

    async def _undo(
        self, actor: str, tenant_id: str, work: _Work, before: Mapping[str, Before], *, dry_run: bool
    ) -> Connected:
        here = {number_id: one for number_id, one in before.items() if one.account == work.whose.account}
        elsewhere = [
            Done(
                step=Step(number_id=number_id, number=one.number, now={}, was=one.ways),
                outcome=Outcome.FAILED,
                problem="it was led here with the credential of another account; give the tenant that one again",
            )
            for number_id, one in before.items()
            if number_id not in here
        ]
        numbers = await work.numbers() if here else []
        steps = to_undo(numbers, here)
        if dry_run:
            return Connected([*(_planned(step) for step in steps), *elsewhere], {}, None)
        done = await work.change(steps)
        over = {one.step.number_id for one in done if one.outcome not in (Outcome.FAILED, Outcome.LEFT)}
        if over:
            kept = {number_id: one for number_id, one in before.items() if number_id not in over}
            async with self._accounts.changing(actor) as change:
                await change.disconnect_numbers(tenant_id, work.whose.provider.name, _closed(kept), len(over))
        known = {one.number_id for one in numbers}
        gone = [
            Done(step=one.step, outcome=Outcome.MISSING) if one.step.number_id not in known else one for one in done
        ]
        return Connected([*gone, *elsewhere], {}, None)

    async def _adopted(self, work: _Work, steps: Sequence[Step], integration: Integration) -> dict[str, str]:
        """Where the application is to be found that the numbers led to, where the integration does not say it."""
        urls = {}
        for webhook in work.whose.provider.webhooks:
            if webhook.name not in work.whose.numbers.ways or webhook.application(integration) is not None:
                continue
            ways = [step.was[webhook.name] for step in steps if webhook.name in step.was.keys() - step.ours]
            found = {(await work.led(webhook.name, way)).url for way in ways} - {""}
            field_name = f"{webhook.name}_url"
            if len(found) > 1:
                raise NotConnected(
                    f"The tenant's numbers lead to {len(found)} different URLs for {webhook.name}, and its integration has "
                    f"no {field_name}: say there which one is to get what comes in, and connect again."
                )
            if found:
                urls[field_name] = found.pop()
        return urls

    def _whose(self, source: str, tenant_id: str, integration: Integration, *, undo: bool) -> Whose:
        known = self.sources.get(source)
        numbers = None if known is None else known.provider.numbers
        if known is None or numbers is None:
            raise NotConnected(f"There are no numbers to connect there; there are at: {', '.join(self.sources)}.")
        provider = known.provider
        platform, own = known.credential(None), known.credential(tenant_id)
        credential = own or platform
        if credential is None:
            raise NotConnected(
                f"There is no credential to ask {source} with: give the tenant its own, with `tollkeeper credential set "
                f"{tenant_id} {source}`, or the platform's in the settings."
            )
        account, only = credential.account, None
        subaccount = provider.subaccount_of(integration)
        if own is None and subaccount is not None:
            secret = integration.subaccount_secret
            if not undo and (secret is None or secret.account != subaccount):
                raise NotConnected(
                    "What comes in at the tenant's subaccount is signed with that account's own token, which the provider "
                    "has not told yet, so that it could not be verified: try again in a moment, or store it, with "
                    f"`tollkeeper credential set {tenant_id} {source}`."
                )
            account = subaccount
        elif platform is not None and account == platform.account:
            # The account is everybody's: all but these are somebody else's.
            only = frozenset(integration.phone_numbers)
            if not only and not undo:
                raise NotConnected(
                    "The tenant has no numbers on the platform's account: name them in its integration, with "
                    f"`tollkeeper integration set {tenant_id} --phone-number …`."
                )
        base_url = known.base_url.replace("{product}", provider.products[0]).rstrip("/")
        return Whose(provider, numbers, base_url, credential.headers, account, None if undo else only)


class _Work:
    """What is asked of the provider for one tenant, in a bounded time."""

    def __init__(self, asker: Asker, whose: Whose, ends: float) -> None:
        self.whose = whose
        self._asker = asker
        self._ends = ends
        self._applications: dict[str, Mapping[str, Way]] = {}

    async def _ask(self, path: str, form: Mapping[str, str] | None = None) -> bytes:
        async with asyncio.timeout_at(self._ends):
            return await self._asker.ask(self.whose.base_url + path, self.whose.headers, form=form)

    async def numbers(self) -> list[OwnNumber]:
        """Those of the tenant. Raises NotConnected."""
        whose, found = self.whose, []
        path: str | None = whose.numbers.first(whose.account)
        try:
            for _ in range(PAGES_MAX):
                if path is None:
                    break
                page = whose.numbers.read(path, await self._ask(path))
                found += [one for one in page.items if whose.only is None or one.number in whose.only]
                path = page.next_path
        except (NotAnswered, NotAPage, TimeoutError) as error:
            raise _not_read(error, "The numbers of the account") from error
        if path is not None or len(found) > NUMBERS_MAX:
            raise NotConnected(f"The account has more than {NUMBERS_MAX} numbers of the tenant's, or too many in all.")
        return found

    async def led(self, name: str, way: Way) -> Way:
        """Where a way leads: an application at the provider may say that. Raises NotConnected."""
        if not way.application:
            return way
        if way.application not in self._applications:
            whose = self.whose
            try:
                body = await self._ask(whose.numbers.application(whose.account, way.application))
                self._applications[way.application] = whose.numbers.read_application(body)
            except (NotAnswered, NotAPage, TimeoutError) as error:
                raise _not_read(error, "The application that numbers lead to") from error
        return self._applications[way.application][name]

    async def change(self, steps: Sequence[Step]) -> list[Done]:
        """Change those that are to be changed, each by itself."""
        return [await self._change(step) for step in steps]

    async def _change(self, step: Step) -> Done:
        if not step.to:
            return Done(step=step, outcome=Outcome.UNCHANGED)
        if asyncio.get_running_loop().time() >= self._ends:
            return Done(step=step, outcome=Outcome.LEFT)
        path, form = self.whose.numbers.change(self.whose.account, step.number_id, step.to)
        try:
            await self._ask(path, form)
        except NotAnswered as error:
            code = self.whose.numbers.error_code(error.body)
            problem = f"{REFUSED} ({code})" if code is not None else str(error)
            return Done(step=step, outcome=Outcome.FAILED, code=code, problem=problem)
        except TimeoutError:
            return Done(step=step, outcome=Outcome.FAILED, problem=NO_ANSWER)
        return Done(step=step, outcome=Outcome.CHANGED)


def _planned(step: Step) -> Done:
    return Done(step=step, outcome=Outcome.CHANGED if step.to else Outcome.UNCHANGED)


def _closed(before: Mapping[str, Before]) -> dict[str, str]:
    return {number_id: msgspec.json.encode(one).decode() for number_id, one in before.items()}


def _opened(kept: Mapping[str, str]) -> dict[str, Before]:
    return {number_id: msgspec.json.decode(one, type=Before) for number_id, one in kept.items()}


def _nothing(number: str) -> Step:
    return Step(number_id="", number=number, now={}, was={})


def _not_read(error: Exception, what: str) -> NotConnected:
    why = NO_ANSWER if isinstance(error, TimeoutError) else str(error)
    return NotConnected(f"{what} can not be read: {why}. Nothing was changed.")
