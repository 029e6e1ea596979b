"""One webhook, start to finish: what a provider tells by itself, on the listener that calls arrive at.

whose    by the path                       provider, tenant, what is told     404
body     bounded                           413
true?    the provider's signature          over the URL that is configured    403
for it?  nothing of other tenants          on a shared account                403
read     the provider's module             what was used                      400
record   recorder.told                     before anything else               503
pass on  inbox, to be delivered later      or the application is waited for   503
answer

Whoever tells has the answer within the time that providers give, a few seconds, whatever the application does: only what
must answer a call is waited for, and something else is said in its place where it does not answer in time. A worker that
is behind refuses calls, and none of this: a call is made again, and what a provider was refused it tells no more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl

from gateway.account_alias import AccountAlias
from gateway.callback_addresses import CARRIED, PREFIX, CallbackAddresses, is_of_subaccount, secret_of_subaccount
from gateway.clock import now_ms
from gateway.counters import Counters
from gateway.doubts import Doubts
from gateway.egress import Egress, EgressError
from gateway.inbox import Inbox, InboxFull, Kept
from gateway.integrations import Integration, values_of
from gateway.keys import NotSealedHere, Secrets, reference
from gateway.listener import ClientGone, Exchange
from gateway.objects import Objects
from gateway.providers.api import (
    CallbackAddress,
    Carried,
    Content,
    Delivery,
    Proofs,
    Provider,
    Redirect,
    Reply,
    Told,
    Webhook,
)
from gateway.recorder import Recorder
from gateway.snapshot import SigningSecrets, SnapshotFile, TenantRecord
from gateway.switch_records import BODY_BYTES_MAX as SWITCH_BYTES_MAX
from gateway.switch_records import SwitchRecords
from gateway.telemetry import log
from metering.database import DatabaseUnavailable
from metering.moments import iso_ms
from metering.spool import SpoolFailed, SpoolFull

ANSWER_S = 10
"""So long an application may take to say what to do with a call, and its fallback as long as is left of what the provider
waits, which is 15 s."""
ANSWERS_S = 13.5
ANSWER_S_MIN = 0.1

OWNER_LOOKS = 2
"""So often it is looked for whose a thing is, which takes up to :data:`gateway.objects.BOOKED_S` each: the ledger may be
behind, and a provider that is refused does not tell it again."""

DOCUMENT_BYTES_MAX = 64 << 10
"""Twilio reads no longer answer to a call (error 11750), and then asks the fallback."""

HELD_BYTES_MAX = 128 << 20
"""Bodies of deliveries that one worker holds at once: beyond, they are told to come again."""

AT_ONCE_BYTES = 64 << 10
"""A body up to this size is looked at in a millisecond."""

SWITCHES = PREFIX + "cdr/"

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}

INTEGRATION = Integration()


class Refused(Exception):
    """A delivery that goes no further: the status, and what the log says of it."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class _Knock(NamedTuple):
    """Whose a delivery is, by its path."""

    provider: Provider
    tenant: TenantRecord
    webhook: Webhook


class Webhooks:
    """Handles what providers tell by themselves."""

    def __init__(
        self,
        providers: Sequence[Provider],
        snapshot: SnapshotFile,
        addresses: CallbackAddresses | None,
        credentials: Mapping[str, Mapping[str, str]],
        secrets: Secrets,
        objects: Objects,
        recorder: Recorder,
        inbox: Inbox,
        egress: Egress,
        counters: Counters,
        doubts: Doubts,
        *,
        shared_reads: bool,
    ) -> None:
        """`addresses` is None where no provider was told where we are. `credentials` are the platform's."""
        self._webhooks = {
            (provider.name, webhook.name): (provider, webhook)
            for provider in providers
            for webhook in provider.webhooks
        }
        self._snapshot = snapshot
        self._addresses = addresses
        self._credentials = credentials
        self._secrets = secrets
        self._objects = objects
        self._recorder = recorder
        self._inbox = inbox
        self._egress = egress
        self._counters = counters
        self._doubts = doubts
        self._shared_reads = shared_reads
        self._held_bytes = 0
        self._switches = SwitchRecords(snapshot, secrets, recorder)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one delivery. Whatever happens, its sender gets an answer, and the log a line."""
        began = time.perf_counter()
        said: dict[str, object] = {}
        error: str | None = None
        try:
            if exchange.head.target.startswith(SWITCHES):
                reply = await self._switched(exchange, said)
            else:
                reply = await self._told(exchange, said)
        except Refused as refused:
            error = refused.error
            reply = _refusal(refused)
        except (SpoolFull, SpoolFailed):
            error = "not_recorded"
            reply = _refusal(Refused(503, error))
        except ClientGone:
            error = "malformed" if exchange.malformed else "sender_gone"
            reply = None
        except Exception as failed:  # noqa: BLE001  The last line of defence: its text could hold anything, its type can not.
            error = f"internal: {type(failed).__name__}"
            reply = _refusal(Refused(500, "internal"))
        if reply is not None:
            lines = b"\r\nContent-Type: " + reply.media_type if reply.media_type else b""
            exchange.answer(reply.status, REASONS.get(reply.status, b""), lines, reply.body)
        elif exchange.malformed:
            exchange.refuse()
        else:
            exchange.abort()
        self._counters.webhook(error)
        took_ms = (time.perf_counter() - began) * 1000
        say = log.info if error is None else log.warning
        if error is not None:
            said["error"] = error
        say("webhook", status=exchange.status, **said, duration_ms=round(took_ms, 3))

    async def _told(self, exchange: Exchange, said: dict[str, object]) -> Reply:
        began = time.monotonic()
        provider, tenant, webhook = self._knock(exchange, said)
        self._check_account(provider, tenant, webhook)
        body = await self._body(exchange, webhook.body_bytes_max)
        assert self._addresses is not None
        target = exchange.head.target
        sealed = dict(parse_qsl(target.partition("?")[2])).get(CARRIED)
        delivery = Delivery(exchange.head.method, self._addresses.public_url + target, exchange.head.headers, body)
        integration = tenant.integration or INTEGRATION
        credential, shared = self._credential(provider, tenant, webhook)
        if shared and exchange.head.method != "POST":
            # A GET is signed over its URL alone, which whoever shares the account can choose.
            raise Refused(403, "method_of_shared_account")
        proofs = Proofs(credential, integration, time.time())
        if not await _beside(len(body), lambda: webhook.is_authentic(delivery, proofs)):
            if is_of_subaccount(provider, tenant):
                # It may have been replaced at the provider, which tells nobody.
                self._doubts.leave(tenant.tenant_id)
            raise Refused(403, "forged")
        carried = None if sealed is None else self._addresses.opened(sealed, tenant.tenant_id)
        if sealed is not None and carried is None:
            raise Refused(403, "forged")
        delivery = delivery._replace(carried=carried)
        hashed = partial(reference, self._secrets.reference)
        told = await _beside(len(body), lambda: webhook.read(delivery, hashed))
        if told is None:
            raise Refused(400, "not_understood")
        accounts = {credential.get(provider.account_field or ""), provider.subaccount_of(integration)}
        # What is heard need not say whose it is: our URL does.
        says = webhook.own is not None and not (carried is not None and carried.heard)
        if told.account not in accounts - {None} and (told.account is not None or says):
            raise Refused(403, "another_account")
        if shared and carried is None and webhook.own is not None:
            await self._check_own(provider, tenant, webhook, integration, told)
        await asyncio.ensure_future(self._recorder.told(tenant.tenant_id, provider.name, told))
        if tenant.status != "active":
            return webhook.reply
        alias = None if told.account is None else AccountAlias(tenant.account_sid.encode(), told.account.encode())
        content = webhook.content(delivery)
        if alias is not None:
            content = content._replace(body=content.body.replace(alias.theirs, alias.ours))
        if carried is not None and carried.method == "GET" and content.method == "POST":
            # What a form says stands in the query then, as it is.
            content = content._replace(method="GET", media_type="")
        url = webhook.application(integration) if carried is None else carried.url
        if webhook.led_back is not None:
            # Where the provider itself has whom to ask next, that is not ours to say.
            fallback = webhook.fallback(integration) if told.unanswered is None else None
            urls = [one for one in (url, fallback) if one is not None]
            relaying = self._relayed(provider, tenant, webhook, content, urls, carried, said, began + ANSWERS_S)
            return await asyncio.ensure_future(relaying) or told.unanswered or webhook.reply
        if url is not None:
            # Where the tenant's integration says where it goes, it says so when it goes there.
            to = None if carried is None else carried.url
            keeping = self._keep(provider, tenant, webhook, content, to, told.order_key)
            await asyncio.ensure_future(keeping)
        return webhook.reply

    async def _switched(self, exchange: Exchange, said: dict[str, object]) -> Reply:
        """Take what a switch of a tenant's posts."""
        tenant_id = exchange.head.target.partition("?")[0].removeprefix(SWITCHES)
        said["webhook"] = "cdr"
        if exchange.head.method != "POST":
            raise Refused(404, "unknown_webhook")
        refusal = self._switches.refusal(tenant_id, exchange.head.headers)
        if refusal is not None:
            raise Refused(*refusal)
        said["tenant_id"] = tenant_id
        body = await self._body(exchange, SWITCH_BYTES_MAX)
        return await asyncio.ensure_future(self._switches.taken(tenant_id, exchange.head.headers, body))

    async def _body(self, exchange: Exchange, bytes_max: int) -> bytes:
        """All of the body. Raises Refused for one that is too large, before it is read where it says so; and ClientGone."""
        if exchange.length is not None and exchange.length > bytes_max:
            raise Refused(413, "too_large")
        chunks, size = [], 0
        try:
            while not exchange.body_read:
                chunks.append(await exchange.read())
                size += len(chunks[-1])
                self._held_bytes += len(chunks[-1])
                if size > bytes_max:
                    raise Refused(413, "too_large")
                if self._held_bytes > HELD_BYTES_MAX:
                    raise Refused(503, "overloaded")
        finally:
            self._held_bytes -= size
        return b"".join(chunks)

    # -- whose it is, and whether it may be

    def _knock(self, exchange: Exchange, said: dict[str, object]) -> _Knock:
        path = exchange.head.target.partition("?")[0]
        source, _, rest = path.removeprefix(PREFIX).partition("/")
        tenant_id, _, name = rest.partition("/")
        found = self._webhooks.get((source, name))
        tenant = self._snapshot.current.tenants.get(tenant_id)
        if found is not None:
            said |= {"provider": source, "webhook": name}
        if found is None or exchange.head.method not in found[1].methods:
            raise Refused(404, "unknown_webhook")
        if tenant is None:
            raise Refused(404, "unknown_tenant")
        said["tenant_id"] = tenant_id
        if self._addresses is None:
            raise Refused(404, "no_public_url")
        return _Knock(found[0], tenant, found[1])

    def _credential(self, provider: Provider, tenant: TenantRecord, webhook: Webhook) -> tuple[Mapping[str, str], bool]:
        """The credential of the account that a delivery is of, and whether it is shared."""
        if webhook.own is None:
            return {}, False
        if is_of_subaccount(provider, tenant):
            return self._of_subaccount(provider, tenant), False
        sealed = tenant.credentials.get(provider.name)
        if sealed is not None:
            try:
                return self._secrets.unseal(sealed, owner=tenant.tenant_id), False
            except NotSealedHere:
                raise Refused(503, "no_credential") from None
        credential = self._credentials.get(provider.name)
        if credential is None:
            raise Refused(503, "no_credential")
        return credential, not self._shared_reads

    def _of_subaccount(self, provider: Provider, tenant: TenantRecord) -> Mapping[str, str]:
        """What would be the credential of the tenant's account within the platform's. Raises Refused."""
        known = secret_of_subaccount(provider, tenant)
        if known is None or provider.account_field is None or provider.account_secret is None:
            raise Refused(503, "no_credential")
        try:
            secret = self._secrets.unseal(known.sealed, owner=tenant.tenant_id)[known.account]
        except (NotSealedHere, KeyError):
            raise Refused(503, "no_credential") from None
        return {provider.account_field: known.account, provider.account_secret.field: secret}

    def _check_account(self, provider: Provider, tenant: TenantRecord, webhook: Webhook) -> None:
        """What a key of the tenant's verifies must be of an account of its own: a shared one tells of everybody's. Before
        the body is read. Raises Refused."""
        if webhook.own is not None or self._shared_reads or provider.name in tenant.credentials:
            return
        if provider.account_of is None or not values_of(tenant.integration or INTEGRATION, provider.account_of):
            raise Refused(403, "shared_account")

    async def _check_own(
        self, provider: Provider, tenant: TenantRecord, webhook: Webhook, integration: Integration, told: Told
    ) -> None:
        """On a shared account a provider calls whatever URL any tenant names, and signs that. So it must be about something
        that is this tenant's: it came in at a number of its, or is about what its calls have made. Raises Refused."""
        own = {value for field in webhook.own or () for value in values_of(integration, field)}
        if any(address in own for address in told.addressed):
            return
        if not told.addressed and told.order_key:
            try:
                for _ in range(OWNER_LOOKS):
                    if await asyncio.ensure_future(self._objects.owns(tenant.tenant_id, provider.name, told.order_key)):
                        return
            except DatabaseUnavailable:
                raise Refused(503, "owner_unknown") from None
        raise Refused(403, "not_the_tenants")

    # -- passing it on

    async def _keep(
        self,
        provider: Provider,
        tenant: TenantRecord,
        webhook: Webhook,
        content: Content,
        url: str | None,
        order_key: str,
    ) -> None:
        """Have it delivered, whatever becomes of this worker. Raises Refused."""
        undelivered = Kept(
            tenant_id=tenant.tenant_id,
            source=provider.name,
            webhook=webhook.name,
            method=content.method,
            media_type=content.media_type,
            headers=content.headers,
            body=content.body,
            identity=content.identity,
            url=url,
            order_key=order_key,
        )
        try:
            await self._inbox.put(undelivered)
        except (InboxFull, OSError) as error:
            raise Refused(503, "not_kept") from error

    async def _relayed(
        self,
        provider: Provider,
        tenant: TenantRecord,
        webhook: Webhook,
        content: Content,
        urls: Sequence[str],
        carried: Carried | None,
        said: dict[str, object],
        deadline: float,
    ) -> Reply | None:
        """The answer of the first of these URLs that has one. A redirect is the provider's to follow, by way of us."""
        assert webhook.led_back is not None
        assert self._addresses is not None
        address = self._addresses.of(provider, tenant)
        if carried is not None and carried.heard and address is not None:
            address = _heard(address)
        secret = self._signing_secret(tenant)
        for url in urls if secret is not None else ():
            to, signed = webhook.sign(secret or "", url, content.method, content.media_type, content.body)
            told = (("Content-Type", content.media_type),) if content.media_type else ()
            body = b"" if content.method == "GET" else content.body
            within_s = min(ANSWER_S, deadline - time.monotonic())
            if within_s < ANSWER_S_MIN:
                break
            try:
                answer = await self._egress.send(to, content.method, (*told, *content.headers, *signed), body, within_s)
            except EgressError as error:
                said["application"] = type(error).__name__
                content = webhook.fallen_back(content, url, None)
                continue
            document, media_type = answer.body, _media_type(answer.headers, webhook)
            is_good = 200 <= answer.status < 300
            is_whole = is_good and answer.whole and "Content-Encoding" not in answer.headers
            if not is_whole:
                said["application"] = f"status {answer.status}"
            played = webhook.fetched(media_type, url) if is_good else None
            if played is not None:
                return Reply(200, media_type, document) if is_whole else played
            if is_whole:
                if address is not None and len(document) <= DOCUMENT_BYTES_MAX:
                    document = await asyncio.to_thread(webhook.led_back, document, url, address)
                if len(document) <= DOCUMENT_BYTES_MAX:
                    return Reply(200, media_type, document)
                said["application"] = "too long"
            elif not is_good and address is not None:
                led = Redirect(answer.status, answer.headers.get("Location", ""), url, content, carried)
                followed = webhook.redirected(led, address)
                if followed is not None:
                    return followed
            content = webhook.fallen_back(content, url, answer.status if is_whole or not is_good else None)
        if not urls:
            said["application"] = "no URL"
        elif secret is None:
            said["application"] = "no signing secret"
        return None

    def _signing_secret(self, tenant: TenantRecord) -> str | None:
        """What the tenant's applications know us by."""
        if tenant.signing is None:
            return None
        try:
            unsealed = self._secrets.unseal(tenant.signing, owner=tenant.tenant_id)
        except NotSealedHere:
            return None
        return SigningSecrets.of(unsealed, iso_ms(now_ms())).current


def _heard(address: CallbackAddress) -> CallbackAddress:
    """The same, for what is heard: so is what it leads to."""
    bound = address.bound
    return address._replace(bound=None if bound is None else lambda one: bound(one._replace(heard=True)))


def _media_type(told: Mapping[str, str], webhook: Webhook) -> bytes:
    """That of an application's answer, if it is one."""
    media_type = told.get("Content-Type", "").encode("latin-1", "replace")
    return (
        media_type
        if media_type and media_type.isascii() and media_type.decode().isprintable()
        else webhook.reply.media_type
    )


T = TypeVar("T")


async def _beside(size_bytes: int, thought: Callable[[], T]) -> T:
    """What is thought about so many bytes; about many of them in a thread, so that calls do not wait."""
    return thought() if size_bytes <= AT_ONCE_BYTES else await asyncio.ensure_future(asyncio.to_thread(thought))


def _refusal(refused: Refused) -> Reply:
    body = b'{"error":{"code":"%b"}}' % refused.error.encode()
    return Reply(refused.status, b"application/json", body)
