"""One call through the gateway, start to finish: all of a call's control flow.

plan     by the head alone, once for all heads that are alike
  who      callers.identify      key → tenant, scopes            401, 403
  where    routes.match          path → provider, endpoint, URL  404
  may it   sharing               nothing of other tenants        403, 404
  what     headers               credential, hop-by-hop
body     prepare                 what it asks for                404, 415
intent   recorder.begin          before the first byte leaves    503
forward  upstream                one attempt                     502, 504
relay    relay                   every chunk on, and past a meter
outcome  recorder.outcome        before the client can conclude success

A session over a WebSocket goes past a meter of its own instead, in both directions, and has an outcome for each response.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Final

from gateway import errors, headers, http1, upstream
from gateway.access_log import AccessLog
from gateway.account_alias import AccountAlias, Restoring, hidden
from gateway.answer_links import AnswerLinks, Hosts, Leading, address_of
from gateway.call_ids import new_call_id
from gateway.callback_addresses import CallbackAddresses
from gateway.callers import Caller, Callers
from gateway.clock import now_ms
from gateway.cost_estimates import (
    HELD_BYTES_MAX,
    Begun,
    CostEstimate,
    CostEstimates,
    EndingInComment,
    is_told_at_end,
    is_told_in_head,
)
from gateway.counters import Counters
from gateway.estimator import Estimator, Kept
from gateway.idempotency import Claims
from gateway.keys import NotSealedHere, Secrets, holds_key, is_key_in, reference
from gateway.listener import ClientGone, Exchange
from gateway.messages import RequestHead, ResponseHead
from gateway.objects import Objects
from gateway.providers.api import CallbackAddress, Meter, Provider, SessionMeter
from gateway.providers.decoding import UndecodableAnswer
from gateway.providers.learnt import Prepared, Usage, as_it_came
from gateway.recorder import CallKind, Outcome, Recorder, Recording, Sitting, not_recordable
from gateway.request_body import BODY_BYTES_MAX, LOOK_BYTES, HeldBodies, RequestBody, codings_of
from gateway.request_tags import tagged
from gateway.routing import Route, Routes
from gateway.sharing import References, is_within, named_objects
from gateway.snapshot import RequestTags, Snapshot
from gateway.strand import PARK
from gateway.telemetry import log
from gateway.upstream import Connection, Origin, Pool, Upstream
from metering.database import DatabaseUnavailable
from metering.spool import SpoolFailed, SpoolFull
from metering.usage import Completeness

BRIEF_BYTES_MAX: Final = 64 << 10
"""A request body up to this size is always whole before the provider hears of it: as long as a client takes over a few
packets, no connection to a provider is taken, and what comes byte by byte costs one of us, not two."""

DRAIN_BYTES_MAX: Final = 64 << 20
DRAIN_S: Final = 600
"""A call whose client has left is followed so far for its usage, then given up."""

ESTIMATE_S: Final = 5
"""A client waits no longer for the estimate of an answer that does not say what was used: it is then unknown."""
ESTIMATE_ALONE_S: Final = 30
"""For that of an answer that broke off nobody waits, and it may stand in line for a while."""

PLANS_MAX: Final = 1024
"""So many plans are kept, for heads that are remembered; others are made for each call."""

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_clock_s: Final = time.perf_counter  # Looking it up in its module costs as much as asking it.

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings decide about calls."""

    unlisted_forwarded: bool
    drain_on_disconnect: bool
    shared_reads: bool
    tls: bool = False
    """True where clients speak TLS to us."""
    public_url: str | None = None
    """Where the gateway is reached from outside."""


class Plan:
    """What a request's head decides about its call: who it is for, and what goes where."""

    __slots__ = (
        "aliases",
        "answer_cut",
        "caller",
        "claim_key",
        "codings",
        "credential",
        "endpoint",
        "estimated",
        "expires_ms",
        "kind",
        "labelled",
        "lines",
        "links",
        "names",
        "own",
        "pool",
        "read_first",
        "route",
        "shared",
        "snapshot",
        "told",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        expires_ms: float,
        route: Route,
        caller: Caller,
        pool: Pool,
        lines: bytes,
        names: tuple[str, ...],
        own: Callable[[Iterable[str]], Awaitable[None]],
        aliases: tuple[AccountAlias, ...],
        links: AnswerLinks | None,
        credential: Mapping[str, str] | None,
        answer_cut: frozenset[bytes],
        codings: tuple[str, ...],
        claim_key: str | None,
        *,
        shared: bool,
        estimated: bool,
        told: bool,
    ) -> None:
        endpoint = route.endpoint
        self.snapshot = snapshot
        """What was known of keys and tenants when it was made: with the next snapshot it is made anew."""
        self.expires_ms = expires_ms
        """When the caller's key expires, in milliseconds since 1970."""
        self.route = route
        self.endpoint = endpoint
        self.caller = caller
        self.kind = CallKind(caller, route)
        self.pool = pool
        self.lines = lines
        """The head as it goes to the provider, but for what frames the body."""
        self.shared = shared
        """True on an account that others share: nothing of theirs may be touched."""
        self.names = names
        """The objects that path and query name, each of which must then be the caller's own."""
        self.own = own
        """Raises for names that are not."""
        self.aliases = aliases
        """What names the account on the way, its own and that of the credential; none where the application knows the real
        one."""
        self.links = links
        """What leads the URLs of the answer to the gateway, None where it holds none that lead elsewhere."""
        self.credential = credential
        """What is sent as ours; a provider could repeat it in an answer that is no success."""
        self.answer_cut = answer_cut
        """The headers of the answer that are not the client's business, in lower case."""
        self.codings = codings
        """What the body is coded with."""
        self.claim_key = claim_key
        self.estimated = estimated
        """True where the application asks to be told at once what the call comes to."""
        self.told = told
        """True where we ask the provider to tell us what becomes of it."""
        self.labelled = caller.tenant.request_tags is not RequestTags.OFF and endpoint.billable
        """True where the call is tagged with what its body says of itself."""
        self.read_first = endpoint.prepare is not None or told or shared or claim_key is not None or self.labelled
        """True where the body must be read, as far as it is held, before anything is sent; a brief one is in any case."""


class Call:
    """One call under way; filled in as it goes along."""

    # Most calls leave most of these as they are, which then costs them nothing.
    outcome: Outcome | None = None
    error: str | None = None
    upstream_s = 0.0
    """How long the provider was waited for."""
    route: Route | None = None
    caller: Caller | None = None
    recording: Recording
    """As its records name it, once it is known who calls for what."""
    data: bytes
    """The request as it goes to the provider, or its beginning; let go of once it is sent."""
    held_bytes = 0
    """So much of its body is held, where that is not brief."""
    kept: Kept | None = None
    """What there is to estimate its use from, should the answer not say it; None where that is not estimated."""

    def __init__(self) -> None:
        self.arrived_ms = now_ms()
        self.began = _clock_s()
        self.call_id = new_call_id(self.arrived_ms)


class Proxy:
    """Handles calls."""

    def __init__(
        self,
        routes: Routes,
        callers: Callers,
        objects: Objects,
        claims: Claims,
        recorder: Recorder,
        upstream: Upstream,
        origins: Mapping[tuple[str, str], Origin],
        credentials: Mapping[str, Mapping[str, str]],
        secrets: Secrets,
        rules: Rules,
        access_log: AccessLog,
        counters: Counters,
        cost_estimates: CostEstimates,
        estimator: Estimator,
        held: HeldBodies,
        addresses: CallbackAddresses | None = None,
    ) -> None:
        """`addresses` is None where no provider was told where we are."""
        self._addresses = addresses
        self._cost_estimates = cost_estimates
        self._routes = routes
        self._callers = callers
        self._objects = objects
        self._claims = claims
        self._recorder = recorder
        self._pools = {place: upstream.pool(origin) for place, origin in origins.items()}
        self._credentials = credentials
        self._secrets = secrets
        self._rules = rules
        self._access_log = access_log
        self._counters = counters
        self._estimator = estimator
        self._hosts = {provider.name: _hosts(provider, origins) for provider in routes.providers if provider.links}
        self._plans: dict[RequestHead, Plan] = {}
        self._held = held

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Whatever happens, the client gets an answer or a broken connection, and the log a line."""
        if exchange.head.target == "/healthz":
            exchange.answer(200, b"OK", b"\r\nContent-Type: application/json", b'{"status":"ok"}')
            return
        call = Call()
        try:
            await self._call(exchange, call)
        except errors.Refusal as refusal:
            call.error = "client_gone" if exchange.gone else refusal.code
            self._refuse(exchange, call, refusal)
        except ClientGone:
            call.error = "client_gone"
            if exchange.malformed and not exchange.started:
                call.error = "malformed_request"
                exchange.refuse()
            else:
                exchange.abort()
        except (SpoolFailed, SpoolFull) as refused:
            # What the client can not be told to have succeeded must not look as if it had.
            call.error = "usage_not_recorded"
            log.critical("usage_not_recorded", call_id=call.call_id, reason=str(refused))
            exchange.abort()
        except Exception as error:  # noqa: BLE001  The last line of defence: its text could hold anything, its type can not.
            call.error = "internal"
            log.error("call_failed", call_id=call.call_id, error=type(error).__name__, where=_place(error))
            if exchange.started:
                exchange.abort()
            else:
                self._refuse(exchange, call, errors.Internal("The gateway failed; the log has the cause."))
        finally:
            self._let_go(call)
        self._log(exchange, call)

    async def _call(self, exchange: Exchange, call: Call) -> None:
        if exchange.overloaded:
            raise errors.Overloaded("The gateway has more to do than it can right now. Try again shortly.")
        head = exchange.head
        plan = self._plans.get(head)
        if plan is None or plan.snapshot is not self._callers.current or plan.expires_ms <= call.arrived_ms:
            plan = await self._planned(head, call)
        route = call.route = plan.route
        call.caller = plan.caller
        endpoint = plan.endpoint
        if plan.names:
            await plan.own(plan.names)
        if exchange.websocket and endpoint.session is None:
            raise errors.UpgradeRefused("This endpoint is not a WebSocket: send the request without Upgrade.")
        if plan.shared and endpoint.session is not None and not exchange.websocket:
            raise errors.NotOnSharedAccount(
                "On the platform's shared account this endpoint is a WebSocket and nothing else, since it would list what "
                "everybody made: send the request with Upgrade."
            )
        incoming = RequestBody(
            exchange,
            plan.codings,
            References(route.provider) if plan.shared else None,
            plan.own,
            None if endpoint.watch is None else endpoint.watch(),
        )
        body = b""
        kind = plan.kind
        if plan.read_first or (exchange.length is not None and 0 < exchange.length <= BRIEF_BYTES_MAX):
            if exchange.whole:
                body = await incoming.read()
                self._hold(call, len(body))
            else:
                body = await incoming.held(BODY_BYTES_MAX, partial(self._hold, call))
        whole = exchange.body_read
        if plan.claim_key is not None:
            await self._claim(plan, plan.claim_key, call, exchange.head, body, whole=whole)
        if endpoint.called_back is not None and whole:
            body = self._called_back(plan, endpoint.called_back, body)
        prepared = _prepared(route, body, whole=whole, websocket=exchange.websocket)
        call.data = _request(plan, exchange, prepared, whole=whole)
        learnt = incoming.learnt or prepared.without_body()
        if plan.labelled:
            kind = CallKind(self._tagged(plan.caller, route.provider, body), route)
        recording = call.recording = Recording(call.call_id, call.arrived_ms, kind, learnt)
        if endpoint.estimate is not None and whole and not plan.codings:
            call.kept = Kept(prepared.body, self._estimator.allowance)
        del body, prepared
        try:
            await self._recorder.begin(recording)
            await self._forward(exchange, call, plan, incoming, whole=whole)
        except (errors.NotRecordable, errors.UpstreamUnreachable):
            # Where the disk refuses this as well, it is recorded once it does not.
            with suppress(SpoolFailed):
                self._recorder.nothing(recording, "unreachable")
            if plan.claim_key is not None:
                await asyncio.ensure_future(self._claims.release(plan.caller.tenant.tenant_id, plan.claim_key))
            raise
        except (ClientGone, errors.ObjectMissing, errors.OwnerUnknown, errors.EncodedBody):
            self._recorder.nothing(recording, "request not sent whole")
            raise
        except upstream.TooSlow as slow:
            raise errors.UpstreamTooSlow(f"{route.provider.name} did not answer in time. It may have acted.") from slow
        except (upstream.NoAnswer, upstream.BrokenAnswer, UndecodableAnswer) as broken:
            raise errors.UpstreamBroke(
                f"{route.provider.name} broke the connection off. It may have acted."
            ) from broken
        finally:
            if call.kept is not None:
                call.kept.drop()
            call.outcome = self._recorder.lost(recording) or call.outcome

    def _tagged(self, caller: Caller, provider: Provider, body: bytes) -> Caller:
        """The caller, whose call is tagged with what its body says of itself as well."""
        if provider.labels is None:
            return caller
        hashed = partial(reference, self._secrets.reference)
        return caller._replace(tags=tagged(caller.tags, provider.labels(body), caller.tenant.request_tags, hashed))

    def _called_back(self, plan: Plan, asking: Callable[[bytes, CallbackAddress], bytes], body: bytes) -> bytes:
        """The body that has the provider tell us what becomes of what it asks for; unchanged where what is told could not be
        verified: of an account that the application alone has the credential of, or with nobody knowing where we are."""
        if self._addresses is None or plan.credential is None or plan.codings:
            return body
        address = self._addresses.of(plan.route.provider, plan.caller.tenant)
        return body if address is None else asking(body, address)

    async def _claim(self, plan: Plan, key: str, call: Call, head: RequestHead, body: bytes, *, whole: bool) -> None:
        """Take the application's own key for this call, so that it is not forwarded twice."""
        if not whole:
            raise errors.BadHeader(f"X-Gateway-Idempotency-Key: only with bodies up to {BODY_BYTES_MAX >> 20} MiB.")
        tenant_id = plan.caller.tenant.tenant_id
        await asyncio.ensure_future(self._claims.claim(tenant_id, key, call.call_id, head, body))

    # -- what the head decides

    async def _planned(self, head: RequestHead, call: Call) -> Plan:
        route = call.route = self._routes.match(head.method, head.target)
        snapshot = self._callers.current
        caller = call.caller = await self._callers.identify(route.provider, head.headers)
        credential, account, shared = self._credential(route, caller)
        names: list[str] = []
        if shared:
            may_speak_for = () if caller.tenant.integration is None else caller.tenant.integration.on_behalf_of
            names += named_objects(route, head, caller.tenant.account_sid, may_speak_for)
            if "?" in route.target:
                names += References(route.provider).feed(_QUERY_PARTS.sub(b'"', route.target.encode() + b"&"))
        if not route.listed and not self._rules.unlisted_forwarded:
            raise errors.UnlistedDenied(
                "This path is not in the gateway's list, and the operator has set `unlisted = deny`."
            )
        aliases = _aliases(route, caller, credential, account)
        links = self._links(route, head)
        provider = route.provider
        pool = self._pools[provider.name, route.product]
        of_account = frozenset() if caller.brings_credential else provider.account_headers
        expires_ms = caller.key.expires_at_ms
        plan = Plan(
            snapshot,
            float("inf") if expires_ms is None else expires_ms,
            route,
            caller,
            pool,
            _lines(head, route, pool.origin, credential, aliases, changed=bool(aliases) or links is not None),
            tuple(names),
            partial(self._own, caller.tenant.tenant_id, provider.name),
            aliases,
            links,
            credential,
            headers.cut_of_answers(of_account),
            codings_of(head.headers),
            head.headers.get("X-Gateway-Idempotency-Key"),
            shared=shared,
            estimated=_asks_for_estimate(head) and route.endpoint.billable,
            told=route.endpoint.called_back is not None and self._addresses is not None,
        )
        if head.remembered:
            if len(self._plans) >= PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[head] = plan
        return plan

    def _credential(self, route: Route, caller: Caller) -> tuple[Mapping[str, str] | None, str | None, bool]:
        """The credential to send, None for the one that the request brings; the account of the tenant's own that is below
        it, if there is one; and whether the account that the call is about is shared."""
        if caller.brings_credential:
            return None, None, False
        sealed = caller.tenant.credentials.get(route.provider.name)
        if sealed is not None:
            try:
                return self._secrets.unseal(sealed, owner=caller.tenant.tenant_id), None, False
            except NotSealedHere as error:
                raise errors.NoCredential(
                    "The tenant's stored credential can not be opened. Store it again."
                ) from error
        credential = self._credentials.get(route.provider.name)
        if credential is None:
            raise errors.NoCredential(_NO_CREDENTIAL.format(route.provider.name))
        account = route.provider.subaccount_of(caller.tenant.integration)
        own = account is not None and is_within(route, caller.tenant.account_sid)
        return credential, account, not (own or self._rules.shared_reads)

    def _links(self, route: Route, head: RequestHead) -> AnswerLinks | None:
        """What leads URLs in the answer back here; None where none are to be found, or nobody knows where here is."""
        hosts = self._hosts.get(route.provider.name)
        if hosts is None or not hosts.stand_in(route.path):
            return None
        address = address_of(head, tls=self._rules.tls, public_url=self._rules.public_url)
        return None if address is None else AnswerLinks(hosts, f"{address}/{route.provider.name}")

    async def _own(self, tenant_id: str, source: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                owned = await asyncio.ensure_future(self._objects.owns(tenant_id, source, name))
            except DatabaseUnavailable as error:
                raise errors.OwnerUnknown(
                    "Whose object this is can not be found out right now, so the call was not sent. Try again shortly."
                ) from error
            if not owned:
                raise errors.ObjectMissing(name)

    # -- forward and relay

    async def _forward(self, exchange: Exchange, call: Call, plan: Plan, incoming: RequestBody, *, whole: bool) -> None:
        began = _clock_s()
        pool, method = plan.pool, exchange.head.method
        connection = pool.kept()
        if connection is None:
            self._recorder.begun()
            connection = await self._connected(pool)
        try:
            if exchange.gone and not self._rules.drain_on_disconnect:
                raise ClientGone
            self._send(exchange, call, connection, whole=whole)
            if method not in IDEMPOTENT:
                call.data = b""  # It is not sent twice, and a model may think for minutes.
                if call.held_bytes:
                    await connection.writable(lambda: exchange.gone and not exchange.whole)
                    if not connection.writing_paused:
                        self._let_go(call)
            try:
                if not whole:
                    await self._upload(exchange, connection, incoming)
                    learnt = incoming.learnt
                    if learnt is not None:
                        call.recording = Recording(call.call_id, call.arrived_ms, call.recording.kind, learnt)
                head = await connection.answer()
            except upstream.TooSlow:
                raise
            except upstream.NoAnswer:
                if not (connection.used and whole and method in IDEMPOTENT):
                    raise
                # Kept from before and closed by the provider meanwhile. Asking again changes nothing there.
                pool.release(connection)
                connection = await self._connected(pool)
                self._send(exchange, call, connection, whole=True)
                head = await connection.answer()
            call.upstream_s = _clock_s() - began
            if head.succeeded and plan.estimated:
                await self._relay(exchange, call, plan, *await self._with_cost_estimate(call, plan, connection, head))
            elif head.succeeded:
                await self._relay(exchange, call, plan, connection, head)
            elif head.status == 101:
                await self._tunnel(exchange, call, plan, connection, head)
            else:
                await self._relay_failure(exchange, call, plan, connection, head)
        except upstream.NotSent as unsent:
            raise not_recordable() from unsent
        finally:
            pool.release(connection)

    def _hold(self, call: Call, size: int) -> None:
        """Count in how much of its body a call holds. Raises Overloaded where that is more than all may hold."""
        if size > BRIEF_BYTES_MAX:
            assert call.caller is not None
            self._held.add(call.caller.tenant.tenant_id, size - call.held_bytes)
            call.held_bytes = size

    def _let_go(self, call: Call) -> None:
        """The call's body has left, or the call is over."""
        if call.held_bytes:
            assert call.caller is not None
            self._held.drop(call.caller.tenant.tenant_id, call.held_bytes)
            call.held_bytes = 0

    def _send(self, exchange: Exchange, call: Call, connection: Connection, *, whole: bool) -> None:
        if not self._rules.drain_on_disconnect:
            exchange.call_when_gone(connection.give_up)
        connection.send(
            call.data, exchange.strand, method=exchange.head.method, whole=whole, upgrading=exchange.websocket
        )

    async def _connected(self, pool: Pool) -> Connection:
        try:
            return await pool.connected()
        except upstream.ConnectTimeout as slow:
            raise errors.ConnectTimeout(
                "The provider takes no connection in time. Nothing was sent; try again shortly."
            ) from slow
        except upstream.Unreachable as error:
            raise errors.UpstreamUnreachable(
                "The provider can not be reached. Nothing was sent; try again shortly."
            ) from error

    async def _upload(self, exchange: Exchange, connection: Connection, body: RequestBody) -> None:
        """Send the body as it comes, until its end or an early answer."""
        chunked = exchange.length is None
        while not connection.answered:
            if not exchange.readable:
                await exchange.arrival(lambda: connection.answered)
                continue
            chunk = await body.read()
            last = body.ended
            if chunked:
                chunk = http1.chunks(chunk, last=last)
            connection.send_more(chunk, last=last)
            if last:
                return
            if connection.writing_paused:
                await connection.writable(lambda: exchange.gone)

    async def _with_cost_estimate(
        self, call: Call, plan: Plan, connection: Connection, head: ResponseHead
    ) -> tuple[Connection | Begun, ResponseHead]:
        """A successful answer whose head says what it used and about what that costs, where that can be known by then."""
        await asyncio.ensure_future(self._cost_estimates.ready())
        fields = [field for field in head.fields if field.name not in _ESTIMATE_FIELDS]
        if not is_told_in_head(head):
            return connection, head.with_fields(fields)
        began = _clock_s()
        begun = Begun(connection)
        body = await begun.whole(HELD_BYTES_MAX)
        call.upstream_s += _clock_s() - began
        if body is not None:
            meter = plan.route.endpoint.meter(head, call.recording.prepared)
            meter.feed(body)
            fields += self._cost_estimate(call, plan, head.status, meter.finish(whole=True)[1]).fields
        return begun, head.with_fields(fields)

    def _cost_estimate(self, call: Call, plan: Plan, status: int, usage: Usage) -> CostEstimate:
        events = self._recorder.events(call.recording, usage, status)
        return self._cost_estimates.of(events, plan.caller.tenant.plan)

    async def _relay(
        self, exchange: Exchange, call: Call, plan: Plan, connection: Connection | Begun, head: ResponseHead
    ) -> None:
        """Pass a successful answer on, and record what it used before the client can conclude that it succeeded."""
        endpoint, status = plan.endpoint, head.status
        restoring = _restoring(plan, head)
        meter = endpoint.meter(head, call.recording.prepared)
        streamed = head.media_type == "text/event-stream"
        kept = call.kept
        commented = plan.estimated and is_told_at_end(head)
        if commented:
            meter = EndingInComment(meter, lambda usage: self._cost_estimate(call, plan, status, usage).comment)
        if not endpoint.billable:
            # Nothing in the body matters, and its end may look like success to a client before it is over.
            await self._outcome(call, meter, head)
        kept_length = not (commented or (streamed and call.recording.prepared.usage_injected)) and (
            restoring is None or restoring.keeps_length
        )
        length = head.length if kept_length else None
        exchange.start(status, head.reason, _answer_lines(head, plan, call.call_id, restoring), length=length)
        if streamed and not connection.arrived:
            exchange.send(b"")
        held = b""
        followed, deadline = 0, 0.0
        try:
            while not connection.ended:
                if not connection.arrived:
                    began = _clock_s()
                    connection.expect()
                    # As in `arrival`: a coroutine of its own for each event of a stream would cost as much as reading it.
                    while not connection.arrived:
                        await PARK
                    call.upstream_s += _clock_s() - began
                chunk = connection.take()
                if kept is not None:
                    kept.feed(chunk)
                passed = meter.feed(chunk)
                if restoring is not None:
                    passed = restoring.feed(passed)
                if call.outcome is None and meter.concluded:
                    await self._outcome(call, meter, head)
                if passed and (not streamed if length is None else connection.ended):
                    # The last chunk must not leave before the usage is recorded: where any may be the last, one is held.
                    # What ends the body without a byte of it is none, as the end of what is unpacked on its way.
                    held, passed = passed, held
                if exchange.gone:
                    deadline = deadline or time.monotonic() + DRAIN_S
                    followed += len(chunk)
                    if followed > DRAIN_BYTES_MAX or time.monotonic() > deadline:
                        raise upstream.BrokenAnswer("nobody waits for the rest")
                elif passed:
                    exchange.send(passed)
                    if exchange.writing_paused:
                        await exchange.writable()
        except (upstream.BrokenAnswer, UndecodableAnswer):
            call.error = "client_gone" if exchange.gone else "upstream_broke"
            if held:
                exchange.send(held)
            exchange.abort()
            if call.outcome is None:
                _, usage = meter.finish(whole=False)
                if kept is not None and usage.estimable:
                    usage = await self._estimated(call, kept, usage, head, ESTIMATE_ALONE_S)
                call.outcome = self._recorder.outcome(call.recording, usage, status)
            return
        rest, usage = meter.finish(whole=True)
        if call.outcome is None:
            if kept is not None and usage.estimable:
                usage = await self._estimated(call, kept, usage, head, ESTIMATE_S)
            call.outcome = self._recorder.outcome(call.recording, usage, status)
            if self._recorder.syncs:
                await self._recorder.durable()
        elif usage.late:
            self._recorder.late(call.recording, usage.late)
        if restoring is not None:
            try:
                rest = restoring.feed(rest) + restoring.finish()
            except UndecodableAnswer:
                call.error = "upstream_broke"
                exchange.abort()
                return
        if exchange.gone:
            call.error = "client_gone"
        exchange.finish(held + rest if rest else held)

    async def _outcome(self, call: Call, meter: Meter, head: ResponseHead) -> None:
        """Record the outcome of an answer that has concluded and is not over yet."""
        _, usage = meter.finish(whole=True)
        if call.kept is not None:
            if usage.estimable:
                usage = await self._estimated(call, call.kept, usage, head, ESTIMATE_S)
            call.kept.drop()
        call.outcome = self._recorder.outcome(call.recording, usage, head.status)
        if self._recorder.syncs:
            await self._recorder.durable()
        else:
            self._recorder.ended()

    async def _estimated(self, call: Call, kept: Kept, usage: Usage, head: ResponseHead, within_s: float) -> Usage:
        """What is unknown, as it is estimated to be; or as it is, where that can not be had in time."""
        estimating = call.recording.kind.endpoint.estimate
        assert estimating is not None
        estimate = await asyncio.ensure_future(
            self._estimator.estimate(
                estimating,
                kept,
                coding=head.encoding,
                streamed=head.media_type == "text/event-stream",
                model=usage.resource,
                within_s=within_s,
            )
        )
        if estimate is None:
            return usage
        counted_with = f"{estimate.encoding} (fallback)" if estimate.fallback else estimate.encoding
        metadata: dict[str, object] = usage.metadata | {"estimated_with": counted_with}
        if estimate.missing:
            metadata["estimated_without"] = list(estimate.missing)
        return replace(usage, quantities=estimate.quantities, completeness=Completeness.ESTIMATED, metadata=metadata)

    async def _relay_failure(
        self, exchange: Exchange, call: Call, plan: Plan, connection: Connection, head: ResponseHead
    ) -> None:
        """Pass on an answer that is no success; it used nothing."""
        self._recorder.nothing(call.recording, f"status {head.status}")
        if head.status == 401 and plan.credential == {}:
            raise errors.NoCredential(_NO_CREDENTIAL.format(plan.route.provider.name))
        if head.status == 401 and not plan.caller.brings_credential:
            raise errors.UpstreamRefusedCredential(
                f"{plan.route.provider.name} does not accept the credential that the gateway holds for this tenant. "
                "Ask the operator to replace it."
            )
        changes = () if plan.credential is None else _secrets(plan.route.provider, plan.credential)
        changes = (*plan.aliases, *changes)
        restoring = Restoring(changes, head.encoding) if changes else None
        length = head.length if restoring is None or restoring.keeps_length else None
        exchange.start(head.status, head.reason, _answer_lines(head, plan, call.call_id, restoring), length=length)
        try:
            while not connection.ended and not exchange.gone:
                await connection.arrival()
                chunk = connection.take()
                exchange.send(chunk if restoring is None else restoring.feed(chunk))
                if exchange.writing_paused:
                    await exchange.writable()
            rest = b"" if restoring is None else restoring.finish()
        except (upstream.BrokenAnswer, UndecodableAnswer):
            exchange.abort()
            return
        exchange.finish(rest)

    async def _tunnel(
        self, exchange: Exchange, call: Call, plan: Plan, connection: Connection, head: ResponseHead
    ) -> None:
        """Let both sides talk as they like, until one of them ends it. What is used in between is recorded before the
        bytes that tell of it leave; where that fails, they do not leave, and the session ends."""
        session = plan.route.endpoint.session
        assert session is not None  # Else the upgrade was refused.
        meter = session(head, call.recording.prepared)
        sitting = self._recorder.sitting(call.recording, head.status)
        try:
            exchange.switch(_answer_lines(head, plan, call.call_id, None) + _UPGRADE)
            await self._converse(exchange, call, plan, connection, meter, sitting)
            if exchange.gone and connection.arrived:
                # Nobody waits for it, and it may tell what was used.
                await self._told(meter, sitting, connection.take())
        except ClientGone:
            call.error = "client_gone"
        except upstream.BrokenAnswer:
            if not exchange.gone:
                call.error = "upstream_broke"
        except errors.Refusal as refusal:
            # What comes next could not be recorded; or what the client said is not its own, or can not be looked through.
            call.error = refusal.code
            exchange.abort()
        finally:
            sitting.close()
        connection.close()
        call.outcome = self._recorder.outcome(call.recording, meter.finish(), head.status)

    async def _converse(
        self, exchange: Exchange, call: Call, plan: Plan, connection: Connection, meter: SessionMeter, sitting: Sitting
    ) -> None:
        """Pass on what either side says. Raises ClientGone, BrokenAnswer, Refusal, SpoolFailed and SpoolFull."""
        expected = 0
        while not exchange.gone and not connection.ended:
            if not connection.arrived:
                connection.read_on()
            if connection.arrived and not exchange.writing_paused:
                chunk = connection.take()
                billed = await self._told(meter, sitting, chunk)
                exchange.send(chunk)
                if billed or len(meter.under_way) != expected:
                    expected = len(meter.under_way)
                    sitting.expect(meter.under_way)
            elif exchange.readable and not connection.writing_paused:
                chunk = await exchange.read()
                said = meter.heard(chunk)
                if plan.shared and said != ():
                    await self._look_through(plan, meter, said)
                connection.send_more(chunk, last=False)
            else:
                await PARK

    async def _told(self, meter: SessionMeter, sitting: Sitting, chunk: bytes) -> bool:
        """Record what the provider's next bytes say was used; True if it was anything."""
        billed = meter.told(chunk)
        if not billed:
            return False
        for told in billed:
            sitting.record(told)
        if self._recorder.syncs:
            await self._recorder.durable()
        return True

    async def _look_through(self, plan: Plan, meter: SessionMeter, said: Sequence[bytes] | None) -> None:
        """On a shared account, let nothing pass that refers to what is not the caller's own, or that can not be read."""
        if said is None:
            raise errors.EncodedBody(
                "On the platform's shared account, what is said must be readable, and up to 8 MiB."
            )
        for message in said:
            references = References(plan.route.provider)
            for start in range(0, len(message), LOOK_BYTES):
                names = references.feed(message[start : start + LOOK_BYTES])
                others = [name for name in names if name not in meter.under_way]
                if others:
                    await plan.own(others)
                if len(message) > LOOK_BYTES:
                    # Looking through a large message takes longer than other calls should wait.
                    await asyncio.sleep(0)

    # -- what the gateway says itself

    def _refuse(self, exchange: Exchange, call: Call, refusal: errors.Refusal) -> None:
        if exchange.started:
            exchange.abort()
            return
        route = call.route
        provider = self._routes.nearest(exchange.head.target) if route is None else route.provider
        path = "" if route is None else route.target.partition("?")[0]
        if isinstance(refusal, errors.ObjectMissing):
            media_type, body = provider.missing(path, refusal.object_id)
            told = b"\r\nContent-Type: " + media_type
        else:
            media_type, body = provider.refusal(path, refusal.status, refusal.code, refusal.message)
            told = b"\r\nContent-Type: %b\r\nx-tollkeeper-error: %b" % (media_type, refusal.code.encode())
            if refusal.retry_pointless:
                told += b"\r\nx-should-retry: false"
            elif refusal.status == 503:
                told += b"\r\nRetry-After: 1"
        told += b"\r\nx-tollkeeper-call-id: " + call.call_id.encode()
        exchange.answer(refusal.status, REASONS[refusal.status], told, body)

    def _log(self, exchange: Exchange, call: Call) -> None:
        took_us = int((_clock_s() - call.began) * 1e6)
        upstream_us = min(took_us, int(call.upstream_s * 1e6))
        route, caller = call.route, call.caller
        provider = None if route is None else route.provider.name
        self._counters.called(provider, exchange.status, call.error, took_us - upstream_us, upstream_us)
        self._access_log.call(
            arrived_ms=call.arrived_ms,
            call_id=call.call_id,
            status=exchange.status,
            method=exchange.head.method,
            provider=provider,
            endpoint=None if route is None else route.endpoint.name,
            tenant_id=None if caller is None else caller.tenant.tenant_id,
            key_id=None if caller is None else caller.key.key_id,
            took_us=took_us,
            upstream_us=upstream_us,
            outcome=call.outcome,
            error=call.error,
        )


_NO_CREDENTIAL: Final = (
    "The gateway has no {} credential for this tenant. The operator can set one in the settings or with "
    "`tollkeeper credential set`; an application can send its own beside X-Gateway-Key."
)


def _lines(
    head: RequestHead,
    route: Route,
    origin: Origin,
    credential: Mapping[str, str] | None,
    aliases: Sequence[AccountAlias],
    *,
    changed: bool,
) -> bytes:
    """A head as it goes to the provider: as it came, with the documented changes. `changed` is the answer on its way."""
    provider = route.provider
    target = aliases[0].sent(route.target) if aliases else route.target
    cut = frozenset() if credential is None else provider.credential_headers
    lines = [f"{head.method} {origin.prefix}{target} HTTP/1.1\r\nHost: ".encode(), origin.authority, b"\r\n"]
    for name, value in headers.of_request(head.raw_headers, cut):
        if provider.key_subprotocol and name.lower() == b"sec-websocket-protocol":
            lines.append(_without_key(name, value, provider.key_subprotocol.encode(), any_key=credential is not None))
        elif not is_key_in(value):
            lines += (name, b": ", value, b"\r\n")
    if credential is not None:
        lines += [b"%b: %b\r\n" % pair for pair in provider.authorize(credential)]
    return _accepting_plain(b"".join(lines)) if changed else b"".join(lines)


_ESTIMATE_FIELDS: Final = frozenset(
    {b"x-tollkeeper-cost-estimate", b"x-tollkeeper-tokens-input", b"x-tollkeeper-tokens-output"}
)


_QUERY_PARTS: Final = re.compile(rb"[?&=]")
"""Between them stand whole values, as between quotes in a body."""


def _asks_for_estimate(head: RequestHead) -> bool:
    asked = head.headers.get("X-Gateway-Estimate", "off")
    if asked not in ("on", "off"):
        raise errors.BadHeader("X-Gateway-Estimate: on or off.")
    return asked == "on"


_ACCEPT_ENCODING: Final = headers.lines_of(frozenset({b"accept-encoding"}))


def _accepting_plain(lines: bytes) -> bytes:
    """The same head, for an answer that is to be changed on its way."""
    return _ACCEPT_ENCODING.sub(b"", lines) + b"Accept-Encoding: identity\r\n"


_UPGRADE: Final = b"\r\nConnection: Upgrade\r\nUpgrade: websocket"


def _without_key(name: bytes, value: bytes, prefix: bytes, *, any_key: bool) -> bytes:
    """The subprotocols that a WebSocket client offers, less those that are keys: any, or only such as are ours."""
    kept = []
    for offered in value.split(b","):
        protocol = offered.strip()
        if not (any_key and protocol.startswith(prefix)) and not holds_key(protocol.decode("latin-1")):
            kept.append(protocol)
    return b"%b: %b\r\n" % (name, b", ".join(kept)) if kept else b""


def _request(plan: Plan, exchange: Exchange, prepared: Prepared, *, whole: bool) -> bytes:
    """The bytes of the request to the provider: all of it if the body is held, else its beginning."""
    lines = _accepting_plain(plan.lines) if prepared.usage_injected else plan.lines
    body = prepared.body
    if exchange.websocket:
        return b"%bConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % lines
    if whole:
        if body or exchange.head.method not in IDEMPOTENT:
            return b"%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)
        return b"%b\r\n" % lines
    if exchange.length is not None:
        return b"%bContent-Length: %d\r\n\r\n%b" % (lines, exchange.length, body)
    return b"%bTransfer-Encoding: chunked\r\n\r\n%b" % (lines, http1.chunks(body, last=False))


def _prepared(route: Route, body: bytes, *, whole: bool, websocket: bool) -> Prepared:
    prepare = route.endpoint.prepare
    if prepare is None or not whole:
        return as_it_came(body)
    return prepare(route.target.partition("?")[2].encode()) if websocket else prepare(body)


SECRET_BYTES_MIN: Final = 8
"""What is shorter is no secret, and would be found in any answer."""


def _secrets(provider: Provider, credential: Mapping[str, str]) -> tuple[AccountAlias, ...]:
    """What proves to the provider who we are, in the forms in which it is sent and kept."""
    kept = {value.encode() for field, value in credential.items() if field != provider.account_field}
    sent = {value.rpartition(b" ")[2] for _, value in provider.authorize(credential)}
    return tuple(hidden(secret) for secret in sorted(kept | sent) if len(secret) >= SECRET_BYTES_MIN)


def _aliases(
    route: Route, caller: Caller, credential: Mapping[str, str] | None, account: str | None
) -> tuple[AccountAlias, ...]:
    """The names of the account, where the provider has accounts in its paths and the application knows ours: first of the
    account that the call is about, then of that whose credential carries it."""
    field = route.provider.account_field
    if field is None or credential is None:
        return ()
    ours, theirs = caller.tenant.account_sid.encode(), credential[field]
    names = dict.fromkeys((account or theirs, theirs))
    return tuple(AccountAlias(ours, name.encode()) for name in names)


def _restoring(plan: Plan, head: ResponseHead) -> Restoring | None:
    """What changes a successful answer on its way; None where nothing does."""
    leads = plan.links is not None and head.media_type.endswith("json")
    if not plan.aliases and not leads:
        return None
    return Restoring(plan.aliases, head.encoding, Leading(plan.links) if plan.links is not None and leads else None)


def _hosts(provider: Provider, origins: Mapping[tuple[str, str], Origin]) -> Hosts:
    """The addresses by which answers of a provider may name its hosts."""
    return Hosts(provider, {product: origins[provider.name, product].url for product in provider.products})


def _answer_lines(head: ResponseHead, plan: Plan, call_id: str, restoring: Restoring | None) -> bytes:
    """The headers of the answer to the client: as they came, less those that are not the client's business."""
    if restoring is None:
        kept = headers.of_answer(head, plan.answer_cut)
    else:
        kept = restoring.header(headers.of_answer(head, plan.answer_cut | restoring.cut))
    if plan.links is not None:
        kept = plan.links.header(kept)
    return b"%b\r\nx-tollkeeper-call-id: %b" % (kept, call_id.encode())


def _place(error: BaseException) -> str:
    """Where an exception was raised: file and line, never its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
