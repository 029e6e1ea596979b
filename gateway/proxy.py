"""One call through the gateway, start to finish: all of a call's control flow.

who      callers.identify      key → tenant, scopes            401, 403
where    routes.match          path → provider, endpoint, URL  404
may it   sharing               nothing of other tenants        403, 404
what     address, prepare      credential, hop-by-hop, usage
intent   recorder.begin        before the first byte leaves    503
forward  upstream              one attempt                     502, 504
relay    relay                 every chunk on, and past a meter
outcome  recorder.outcome      before the client can conclude success
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from http import HTTPStatus
from typing import Any

from gateway import errors, headers, upstream
from gateway.account_alias import AccountAlias, Restoring
from gateway.call_ids import new_call_id
from gateway.callers import GATEWAY_PREFIX, Caller, Callers
from gateway.idempotency import Claims
from gateway.keys import NotSealedHere, Secrets
from gateway.listener import ClientGone, Exchange
from gateway.messages import RawHeaders, RequestHead
from gateway.objects import Objects
from gateway.providers.api import Meter, Prepared, as_it_came
from gateway.providers.decoding import UndecodableAnswer
from gateway.recorder import Recorder, Recording
from gateway.request_body import RequestBody
from gateway.routing import Route, Routes
from gateway.sharing import References, named_objects
from gateway.telemetry import AccessLog, log
from gateway.upstream import Answer, Connection, Origin, Upstream
from metering.database import DatabaseUnavailable
from metering.spool import SpoolFailed, SpoolFull
from metering.usage import UsageEvent

BODY_BYTES_MAX = 8 << 20
"""A request body up to this size is held where it must be read or changed; a larger one is forwarded as it comes."""

DRAIN_BYTES_MAX = 64 << 20
DRAIN_S = 600
"""A call whose client has left is followed so far for its usage, then given up."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})

REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings decide about calls."""

    unlisted_forwarded: bool
    drain_on_disconnect: bool
    shared_reads: bool


@dataclass(slots=True)
class Outgoing:
    """A request as it goes to a provider; its bytes are let go of once they are sent."""

    origin: Origin
    data: bytes
    """Its head, and of its body what is held."""
    body: RequestBody
    """Where its rest comes from."""
    whole: bool
    """True if nothing is left to come."""
    alias: AccountAlias | None
    """What names the account on the way, None where the application knows the real one."""


class _Line:
    """What the log will say of one call; filled in as the call goes along."""

    __slots__ = ("arrived_ms", "began", "caller", "error", "event", "route", "upstream_s")

    def __init__(self) -> None:
        self.arrived_ms = time.time_ns() // 1_000_000
        self.began = time.perf_counter()
        self.upstream_s = 0.0
        self.caller: Caller | None = None
        self.route: Route | None = None
        self.event: UsageEvent | None = None
        self.error: str | None = None


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
    ) -> None:
        self._routes = routes
        self._callers = callers
        self._objects = objects
        self._claims = claims
        self._recorder = recorder
        self._upstream = upstream
        self._origins = origins
        self._credentials = credentials
        self._secrets = secrets
        self._rules = rules
        self._access_log = access_log

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request. Whatever happens, the client gets an answer or a broken connection, and the log a line."""
        if exchange.head.target == "/healthz":
            exchange.answer(200, "OK", ((b"Content-Type", b"application/json"),), b'{"status":"ok"}')
            return
        line = _Line()
        call_id = new_call_id(line.arrived_ms)
        try:
            await self._call(exchange, line, call_id)
        except errors.Refusal as refusal:
            line.error = "client_gone" if exchange.gone else refusal.code
            self._refuse(exchange, line.route, refusal, call_id)
        except ClientGone:
            line.error = "client_gone"
            exchange.abort()
        except (SpoolFailed, SpoolFull) as error:
            # What the client can not be told to have succeeded must not look as if it had.
            line.error = "usage_not_recorded"
            log.critical("usage_not_recorded", call_id=call_id, reason=str(error))
            exchange.abort()
        except Exception as error:  # noqa: BLE001  The last line of defence: its text could hold anything, its type can not.
            line.error = "internal"
            log.error("call_failed", call_id=call_id, error=type(error).__name__, where=_place(error))
            if exchange.started:
                exchange.abort()
            else:
                self._refuse(
                    exchange, line.route, errors.Internal("The gateway failed; the log has the cause."), call_id
                )
        self._log(exchange, line, call_id)

    async def _call(self, exchange: Exchange, line: _Line, call_id: str) -> None:
        head = exchange.head
        route = line.route = self._routes.match(head.method, head.target)
        caller = line.caller = await self._callers.identify(route.provider, head.headers)
        credential, shared = self._credential(route, caller)
        own = partial(self._own, caller, route)
        if shared:
            await own(named_objects(route, head, caller.tenant.account_sid))
            if "?" in route.target:
                await own(References(route.provider).feed(route.target.encode()))
        if not route.listed and not self._rules.unlisted_forwarded:
            raise errors.UnlistedDenied(
                "This path is not in the gateway's list, and the operator has set `unlisted = deny`."
            )
        claim_key = head.headers.get("X-Gateway-Idempotency-Key")
        endpoint = route.endpoint
        watch = None if endpoint.watch is None else endpoint.watch()
        incoming = RequestBody(exchange, References(route.provider) if shared else None, own, watch)
        body = b""
        if endpoint.prepare is not None or shared or claim_key is not None:
            body = await _held(incoming)
        whole = incoming.ended
        prepared = endpoint.prepare(body) if whole and endpoint.prepare is not None else as_it_came(body)
        recording = Recording(call_id, line.arrived_ms, caller, route, incoming.learnt or replace(prepared, body=b""))
        alias = _alias(route, caller, credential)
        origin = self._origins[route.provider.name, route.product]
        data = _request(head, route, origin, credential, alias, prepared, whole=whole)
        outgoing = Outgoing(origin, data, incoming, whole, alias)
        del prepared, data
        if claim_key is None:
            del body
            await self._recorded(exchange, line, recording, outgoing)
            return
        if not whole:
            raise errors.BadHeader(f"X-Gateway-Idempotency-Key: only with bodies up to {BODY_BYTES_MAX >> 20} MiB.")
        await self._claims.claim(caller.tenant.tenant_id, claim_key, call_id, head, body)
        del body
        try:
            await self._recorded(exchange, line, recording, outgoing)
        except (errors.NotRecordable, errors.UpstreamUnreachable):
            await self._claims.release(caller.tenant.tenant_id, claim_key)
            raise

    async def _recorded(self, exchange: Exchange, line: _Line, recording: Recording, outgoing: Outgoing) -> None:
        """Forward a call between its intent and its outcome."""
        name = recording.route.provider.name
        await self._recorder.begin(recording)
        try:
            await self._forward(exchange, line, recording, outgoing)
        except errors.UpstreamUnreachable:
            self._recorder.nothing(recording, "unreachable")
            raise
        except (ClientGone, errors.ObjectMissing, errors.OwnerUnknown, errors.EncodedBody):
            self._recorder.nothing(recording, "request not sent whole")
            raise
        except upstream.TooSlow as error:
            raise errors.UpstreamTooSlow(f"{name} did not answer in time. It may have acted.") from error
        except (upstream.NoAnswer, upstream.BrokenAnswer, UndecodableAnswer) as error:
            raise errors.UpstreamBroke(f"{name} broke the connection off. It may have acted.") from error
        finally:
            line.event = self._recorder.lost(recording) or line.event

    # -- may it, and with what

    def _credential(self, route: Route, caller: Caller) -> tuple[Mapping[str, str] | None, bool]:
        """The credential to send, None for the one that the request brings, and whether its account is shared."""
        if caller.brings_credential:
            return None, False
        sealed = caller.tenant.credentials.get(route.provider.name)
        if sealed is not None:
            try:
                return self._secrets.unseal(sealed, owner=caller.tenant.tenant_id), False
            except NotSealedHere as error:
                raise errors.NoCredential(
                    "The tenant's stored credential can not be opened. Store it again."
                ) from error
        credential = self._credentials.get(route.provider.name)
        if credential is None:
            raise errors.NoCredential(
                f"The gateway has no {route.provider.name} credential for this tenant. The operator can set one in the "
                "settings or with `tollkeeper credential set`; an application can send its own beside X-Gateway-Key."
            )
        return credential, not self._rules.shared_reads

    async def _own(self, caller: Caller, route: Route, names: Iterable[str]) -> None:
        for name in names:
            try:
                owned = await self._objects.owns(caller.tenant.tenant_id, route.provider.name, name)
            except DatabaseUnavailable as error:
                raise errors.OwnerUnknown(
                    "Whose object this is can not be found out right now, so the call was not sent. Try again shortly."
                ) from error
            if not owned:
                raise errors.ObjectMissing(name)

    # -- forward and relay

    async def _forward(self, exchange: Exchange, line: _Line, recording: Recording, outgoing: Outgoing) -> None:
        began = time.perf_counter()
        method = exchange.head.method
        connection = await self._connected(exchange, outgoing.origin)
        try:
            try:
                connection.send(outgoing.data, method=method, whole=outgoing.whole)
                if method not in IDEMPOTENT:
                    outgoing.data = b""  # It is not sent twice, and a model may think for minutes.
                if not outgoing.whole:
                    await self._upload(exchange, connection, outgoing.body)
                    recording = recording._replace(prepared=outgoing.body.learnt or recording.prepared)
                answer = await connection.answer()
            except upstream.TooSlow:
                raise
            except upstream.NoAnswer:
                if not (connection.used and outgoing.whole and method in IDEMPOTENT):
                    raise
                # Kept from before and closed by the provider meanwhile. Asking again changes nothing there.
                self._upstream.release(connection)
                connection = await self._connected(exchange, outgoing.origin, fresh=True)
                connection.send(outgoing.data, method=method, whole=True)
                answer = await connection.answer()
            line.upstream_s = time.perf_counter() - began
            if answer.head.succeeded:
                await self._relay(exchange, line, recording, answer, outgoing.alias)
            else:
                await self._relay_failure(exchange, recording, answer, outgoing.alias)
        finally:
            self._upstream.release(connection)

    async def _connected(self, exchange: Exchange, origin: Origin, *, fresh: bool = False) -> Connection:
        try:
            connection = await self._upstream.connection(origin, fresh=fresh)
        except upstream.Unreachable as error:
            raise errors.UpstreamUnreachable(
                "The provider can not be reached. Nothing was sent; try again shortly."
            ) from error
        if not self._rules.drain_on_disconnect:
            exchange.when_gone(connection.give_up)
        return connection

    async def _upload(self, exchange: Exchange, connection: Connection, body: RequestBody) -> None:
        """Send the body as it comes, until its end or an early answer."""
        chunked = "Content-Length" not in exchange.head.headers
        while not connection.answering.done():
            reading = asyncio.ensure_future(body.read())
            await asyncio.wait((reading, connection.answering), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                return
            chunk = reading.result()
            last = body.ended
            if chunked:
                chunk = (_chunk(chunk) if chunk else b"") + (b"0\r\n\r\n" if last else b"")
            await connection.send_more(chunk, last=last)
            if last:
                return

    async def _relay(
        self, exchange: Exchange, line: _Line, recording: Recording, answer: Answer, alias: AccountAlias | None
    ) -> None:
        """Pass a successful answer on, and record what it used before the client can conclude that it succeeded."""
        head, endpoint, prepared = answer.head, recording.route.endpoint, recording.prepared
        restoring = None if alias is None else Restoring(alias, head.headers)
        meter = endpoint.meter(head, prepared)
        streamed = head.media_type == "text/event-stream"
        if not endpoint.billable:
            # Nothing in the body matters, and its end may look like success to a client before it is over.
            line.event = await self._outcome(recording, meter, head.status)
        kept_length = not (prepared.usage_injected and streamed) and (restoring is None or restoring.keeps_length)
        length = _length(head.headers) if kept_length else None
        exchange.start(head.status, head.reason, _answer_headers(head.raw_headers, recording, restoring), length=length)
        if streamed and not answer.arrived:
            await exchange.write(b"")
        held = b""
        followed, deadline = 0, 0.0
        try:
            while not answer.ended:
                chunk = await self._next(answer, line)
                passed = meter.feed(chunk)
                if restoring is not None:
                    passed = restoring.feed(passed)
                if meter.concluded and line.event is None:
                    line.event = await self._outcome(recording, meter, head.status)
                if not streamed or length is not None:
                    # At most one chunk is held: the last one must not leave before the usage is recorded.
                    held, passed = passed, held
                if exchange.gone:
                    deadline = deadline or time.monotonic() + DRAIN_S
                    followed += len(chunk)
                    if followed > DRAIN_BYTES_MAX or time.monotonic() > deadline:
                        raise upstream.BrokenAnswer("nobody waits for the rest")
                elif passed:
                    await exchange.write(passed)
        except (upstream.BrokenAnswer, UndecodableAnswer):
            line.error = "client_gone" if exchange.gone else "upstream_broke"
            if line.event is None:
                _, usage = meter.finish(whole=False)
                line.event = self._recorder.outcome(recording, usage, head.status)
            if held:
                await exchange.write(held)
            exchange.abort()
            return
        rest, usage = meter.finish(whole=True)
        if line.event is None:
            line.event = self._recorder.outcome(recording, usage, head.status)
            await self._recorder.durable()
        if restoring is not None:
            rest = restoring.feed(rest) + restoring.finish()
        if exchange.gone:
            line.error = "client_gone"
        exchange.finish(held + rest)

    async def _outcome(self, recording: Recording, meter: Meter, status: int) -> UsageEvent:
        """Record the outcome of a stream that has concluded and is not over yet."""
        _, usage = meter.finish(whole=True)
        event = self._recorder.outcome(recording, usage, status)
        await self._recorder.durable()
        return event

    async def _relay_failure(
        self, exchange: Exchange, recording: Recording, answer: Answer, alias: AccountAlias | None
    ) -> None:
        """Pass on an answer that is no success; it used nothing."""
        self._recorder.nothing(recording, f"status {answer.head.status}")
        if answer.head.status == 401 and not recording.caller.brings_credential:
            raise errors.UpstreamRefusedCredential(
                f"{recording.route.provider.name} does not accept the credential that the gateway holds for this tenant. "
                "Ask the operator to replace it."
            )
        head = answer.head
        restoring = None if alias is None else Restoring(alias, head.headers)
        length = _length(head.headers) if restoring is None or restoring.keeps_length else None
        exchange.start(head.status, head.reason, _answer_headers(head.raw_headers, recording, restoring), length=length)
        try:
            while not answer.ended and not exchange.gone:
                chunk = await answer.read()
                await exchange.write(chunk if restoring is None else restoring.feed(chunk))
        except (upstream.BrokenAnswer, UndecodableAnswer):
            exchange.abort()
            return
        exchange.finish(b"" if restoring is None else restoring.finish())

    async def _next(self, answer: Answer, line: _Line) -> bytes:
        if answer.arrived:
            return await answer.read()
        began = time.perf_counter()
        try:
            return await answer.read()
        finally:
            line.upstream_s += time.perf_counter() - began

    # -- what the gateway says itself

    def _refuse(self, exchange: Exchange, route: Route | None, refusal: errors.Refusal, call_id: str) -> None:
        if exchange.started:
            exchange.abort()
            return
        provider = self._routes.nearest(exchange.head.target) if route is None else route.provider
        path = "" if route is None else route.target.partition("?")[0]
        if isinstance(refusal, errors.ObjectMissing):
            media_type, body = provider.missing(path, refusal.object_id)
            told = [(b"Content-Type", media_type)]
        else:
            media_type, body = provider.refusal(path, refusal.status, refusal.code, refusal.message)
            told = [(b"Content-Type", media_type), (b"x-tollkeeper-error", refusal.code.encode())]
            if refusal.retry_pointless:
                told.append((b"x-should-retry", b"false"))
            elif refusal.status == 503:
                told.append((b"Retry-After", b"1"))
        told.append((b"x-tollkeeper-call-id", call_id.encode()))
        exchange.answer(refusal.status, REASONS[refusal.status], told, body)

    def _log(self, exchange: Exchange, line: _Line, call_id: str) -> None:
        took = time.perf_counter() - line.began
        fields: dict[str, Any] = {"call_id": call_id, "status": exchange.status, "method": exchange.head.method}
        if line.route is not None:
            fields["provider"] = line.route.provider.name
            fields["endpoint"] = line.route.endpoint.name
        if line.caller is not None:
            fields["tenant_id"] = line.caller.tenant.tenant_id
            fields["key_id"] = line.caller.key.key_id
        fields["duration_ms"] = round(took * 1e3, 3)
        fields["upstream_ms"] = round(line.upstream_s * 1e3, 3)
        fields["gateway_ms"] = round((took - line.upstream_s) * 1e3, 3)
        event = line.event
        if event is not None:
            fields["event_type"] = event.event_type
            fields["resource"] = event.resource
            fields["completeness"] = event.completeness
            fields["usage"] = event.quantities
        if line.error is not None:
            fields["error"] = line.error
        self._access_log.call(line.arrived_ms, fields)


def _request(
    head: RequestHead,
    route: Route,
    origin: Origin,
    credential: Mapping[str, str] | None,
    alias: AccountAlias | None,
    prepared: Prepared,
    *,
    whole: bool,
) -> bytes:
    """The bytes of the request to the provider: as it came, with the documented changes; all of it if the body is held."""
    rewritten = prepared.usage_injected or alias is not None
    target = route.target if alias is None else alias.sent(route.target)
    lines = [f"{head.method} {origin.prefix}{target} HTTP/1.1\r\nHost: ".encode() + origin.authority + b"\r\n"]
    cut = _request_cut(route.provider.credential_headers if credential is not None else frozenset(), rewritten)
    lines += [b"%b: %b\r\n" % pair for pair in cut.crossing(head.raw_headers)]
    if credential is not None:
        lines += [b"%b: %b\r\n" % pair for pair in route.provider.authorize(credential)]
    if rewritten:
        lines.append(b"Accept-Encoding: identity\r\n")
    if whole:
        if prepared.body or head.method not in IDEMPOTENT:
            lines.append(b"Content-Length: %d\r\n" % len(prepared.body))
        return b"".join((*lines, b"\r\n", prepared.body))
    length = head.headers.get("Content-Length")
    if length is not None:
        return b"".join((*lines, f"Content-Length: {int(length)}\r\n\r\n".encode(), prepared.body))
    begun = _chunk(prepared.body) if prepared.body else b""
    return b"".join((*lines, b"Transfer-Encoding: chunked\r\n\r\n", begun))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def _request_cut(credential_headers: frozenset[bytes], rewritten: bool) -> headers.Cut:  # noqa: FBT001  A key of a table.
    coding = frozenset({b"accept-encoding"} if rewritten else ())
    return headers.Cut(headers.OF_REQUESTS | credential_headers | coding, GATEWAY_PREFIX)


@cache
def _answer_cut(account_headers: frozenset[bytes], restored: frozenset[bytes]) -> headers.Cut:
    return headers.Cut(headers.OF_ANSWERS | account_headers | restored)


def _alias(route: Route, caller: Caller, credential: Mapping[str, str] | None) -> AccountAlias | None:
    """The names of the account, where the provider has accounts in its paths and the application knows ours."""
    field = route.provider.account_field
    if field is None or credential is None:
        return None
    return AccountAlias(caller.tenant.account_sid.encode(), credential[field].encode())


async def _held(body: RequestBody) -> bytes:
    """What of a body is held: all of it, or its beginning."""
    chunks: list[bytes] = []
    size = 0
    while not body.ended and size < BODY_BYTES_MAX:
        chunks.append(await body.read())
        size += len(chunks[-1])
    return b"".join(chunks)


def _answer_headers(
    raw_headers: RawHeaders, recording: Recording, restoring: Restoring | None
) -> list[tuple[bytes, bytes]]:
    """The headers of the answer to the client: as they came, less those that are not the client's business."""
    of_account = frozenset() if recording.caller.brings_credential else recording.route.provider.account_headers
    kept = _answer_cut(of_account, frozenset() if restoring is None else restoring.cut).crossing(raw_headers)
    if restoring is not None:
        kept = [(name, restoring.header(value)) for name, value in kept]
    kept.append((b"x-tollkeeper-call-id", recording.call_id.encode()))
    return kept


def _length(headers: Mapping[str, str]) -> int | None:
    """The declared length of a body, or None if its end is told otherwise."""
    value = headers.get("Content-Length")
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def _place(error: BaseException) -> str:
    """Where an exception was raised: file and line, never its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
