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
from http import HTTPStatus
from typing import Any

from gateway import errors, upstream
from gateway.call_ids import new_call_id
from gateway.callers import GATEWAY_PREFIX, TENANT_HEADER, Caller, Callers
from gateway.idempotency import Claims
from gateway.keys import NotSealedHere, Secrets
from gateway.listener import ClientGone, Exchange
from gateway.messages import RawHeaders, RequestHead
from gateway.objects import Objects
from gateway.providers.api import Meter, Prepared, as_it_came
from gateway.recorder import Recorder, Recording
from gateway.routing import Route, Routes
from gateway.sharing import References, named_objects
from gateway.telemetry import AccessLog, log
from gateway.upstream import Answer, Connection, Origin, Upstream
from metering.database import DatabaseUnavailable
from metering.spool import SpoolFailed, SpoolFull
from metering.usage import UsageEvent

BODY_BYTES_MAX = 8 << 20
"""A request body up to this size is held where it must be read or changed; a larger one is forwarded as it comes."""

LOOK_BYTES = 64 << 10
"""So much of a body is looked through for other tenants' objects at once."""

DRAIN_BYTES_MAX = 64 << 20
DRAIN_S = 600
"""A call whose client has left is followed so far for its usage, then given up."""

HOP_BY_HOP = frozenset(
    {
        b"connection",  # RFC 9110 section 7.6.1, with all that it names.
        b"keep-alive",
        b"proxy-authenticate",  # These two are between us and a proxy in front of us.
        b"proxy-authorization",
        b"proxy-connection",  # Never a standard, still sent.
        b"te",
        b"trailer",  # Trailers are not relayed.
        b"transfer-encoding",  # Each side has its own framing.
        b"upgrade",
    }
)
REQUEST_CUT = HOP_BY_HOP | {TENANT_HEADER, b"host", b"content-length", b"expect"}
ANSWER_CUT = HOP_BY_HOP | {b"content-length", b"x-tollkeeper-call-id", b"x-tollkeeper-error"}

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
    whole: bool
    """True if that is all of it; else the rest follows as it comes."""
    references: References | None
    """What looks for other tenants' objects in the rest; None where the account is not shared."""


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
        origins: Mapping[str, Origin],
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
        references = None
        if shared:
            await self._own(caller, route, named_objects(route, head.method))
            references = References(route.provider)
        if not route.listed and not self._rules.unlisted_forwarded:
            raise errors.UnlistedDenied(
                "This path is not in the gateway's list, and the operator has set `unlisted = deny`."
            )
        claim_key = head.headers.get("X-Gateway-Idempotency-Key")
        must_hold = route.endpoint.prepare is not None or references is not None or claim_key is not None
        body, whole = (
            await self._held_body(exchange, caller, route, references) if must_hold else (b"", exchange.body_read)
        )
        prepared = route.endpoint.prepare(body) if whole and route.endpoint.prepare is not None else as_it_came(body)
        recording = Recording(call_id, line.arrived_ms, caller, route, replace(prepared, body=b""))
        origin = self._origins[route.provider.name]
        outgoing = Outgoing(origin, _request(head, route, origin, credential, prepared, whole=whole), whole, references)
        del prepared
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
        except (ClientGone, errors.ObjectMissing, errors.OwnerUnknown):
            self._recorder.nothing(recording, "request not sent whole")
            raise
        except upstream.TooSlow as error:
            raise errors.UpstreamTooSlow(f"{name} did not answer in time. It may have acted.") from error
        except (upstream.NoAnswer, upstream.BrokenAnswer) as error:
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

    async def _held_body(
        self, exchange: Exchange, caller: Caller, route: Route, references: References | None
    ) -> tuple[bytes, bool]:
        """What of the request body is held, and whether that is all of it."""
        if exchange.body_read:
            return b"", True
        codings = exchange.head.headers.getall("Content-Encoding", [])
        if references is not None and any(coding.lower() != "identity" for coding in codings):
            raise errors.EncodedBody("On the platform's shared account, request bodies must come uncompressed.")
        chunks: list[bytes] = []
        size = 0
        while not exchange.body_read and size < BODY_BYTES_MAX:
            chunk = await exchange.read()
            if references is not None:
                for start in range(0, len(chunk), LOOK_BYTES):
                    await self._own(caller, route, references.feed(chunk[start : start + LOOK_BYTES]))
                    if size:
                        # Looking through a large body takes longer than other calls should wait.
                        await asyncio.sleep(0)
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks), exchange.body_read

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
                    await self._upload(exchange, connection, recording, outgoing.references)
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
                await self._relay(exchange, line, recording, answer)
            else:
                await self._relay_failure(exchange, recording, answer)
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

    async def _upload(
        self, exchange: Exchange, connection: Connection, recording: Recording, references: References | None
    ) -> None:
        """Send the body as it comes, until its end or an early answer."""
        chunked = "Content-Length" not in exchange.head.headers
        while not connection.answering.done():
            reading = asyncio.ensure_future(exchange.read())
            await asyncio.wait((reading, connection.answering), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                return
            chunk = reading.result()
            if references is not None:
                await self._own(recording.caller, recording.route, references.feed(chunk))
            last = exchange.body_read
            if chunked:
                chunk = (_chunk(chunk) if chunk else b"") + (b"0\r\n\r\n" if last else b"")
            await connection.send_more(chunk, last=last)
            if last:
                return

    async def _relay(self, exchange: Exchange, line: _Line, recording: Recording, answer: Answer) -> None:
        """Pass a successful answer on, and record what it used before the client can conclude that it succeeded."""
        head, endpoint, prepared = answer.head, recording.route.endpoint, recording.prepared
        meter = endpoint.meter(head, prepared)
        streamed = head.media_type == "text/event-stream"
        if not endpoint.billable:
            # Nothing in the body matters, and its end may look like success to a client before it is over.
            line.event = await self._outcome(recording, meter, head.status)
        length = None if prepared.usage_injected and streamed else _length(head.headers)
        exchange.start(head.status, head.reason, _answer_headers(head.raw_headers, recording), length=length)
        if streamed and not answer.arrived:
            await exchange.write(b"")
        held = b""
        followed, deadline = 0, 0.0
        try:
            while not answer.ended:
                chunk = await self._next(answer, line)
                passed = meter.feed(chunk)
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
        except upstream.BrokenAnswer:
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
        if exchange.gone:
            line.error = "client_gone"
        exchange.finish(held + rest)

    async def _outcome(self, recording: Recording, meter: Meter, status: int) -> UsageEvent:
        """Record the outcome of a stream that has concluded and is not over yet."""
        _, usage = meter.finish(whole=True)
        event = self._recorder.outcome(recording, usage, status)
        await self._recorder.durable()
        return event

    async def _relay_failure(self, exchange: Exchange, recording: Recording, answer: Answer) -> None:
        """Pass on an answer that is no success; it used nothing."""
        self._recorder.nothing(recording, f"status {answer.head.status}")
        if answer.head.status == 401 and not recording.caller.brings_credential:
            raise errors.UpstreamRefusedCredential(
                f"{recording.route.provider.name} does not accept the credential that the gateway holds for this tenant. "
                "Ask the operator to replace it."
            )
        head = answer.head
        exchange.start(
            head.status, head.reason, _answer_headers(head.raw_headers, recording), length=_length(head.headers)
        )
        try:
            while not answer.ended and not exchange.gone:
                await exchange.write(await answer.read())
        except upstream.BrokenAnswer:
            exchange.abort()
            return
        exchange.finish()

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
        # A path without a provider gets the first one's error shape: any is as good, and SDKs understand it.
        provider = self._routes.providers[0] if route is None else route.provider
        if isinstance(refusal, errors.ObjectMissing):
            body = provider.missing(refusal.object_id)
            headers = [(b"Content-Type", b"application/json")]
        else:
            body = provider.refusal(refusal.status, refusal.code, refusal.message)
            headers = [(b"Content-Type", b"application/json"), (b"x-tollkeeper-error", refusal.code.encode())]
            if refusal.retry_pointless:
                headers.append((b"x-should-retry", b"false"))
            elif refusal.status == 503:
                headers.append((b"Retry-After", b"1"))
        headers.append((b"x-tollkeeper-call-id", call_id.encode()))
        exchange.answer(refusal.status, REASONS[refusal.status], headers, body)

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
    prepared: Prepared,
    *,
    whole: bool,
) -> bytes:
    """The bytes of the request to the provider: as it came, with the documented changes; all of it if the body is held."""
    cut = REQUEST_CUT
    if credential is not None:
        cut = cut | route.provider.credential_headers
    if prepared.usage_injected:
        cut = cut | {b"accept-encoding"}
    named = _named_by_connection(head.raw_headers)
    lines = [f"{head.method} {origin.prefix}{route.target} HTTP/1.1\r\nHost: ".encode() + origin.authority + b"\r\n"]
    for name, value in head.raw_headers:
        lowered = name.lower()
        if lowered not in cut and lowered not in named and not lowered.startswith(GATEWAY_PREFIX):
            lines.append(name + b": " + value + b"\r\n")
    if credential is not None:
        for name, value in route.provider.authorize(credential):
            lines.append(name + b": " + value + b"\r\n")
    if prepared.usage_injected:
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


def _named_by_connection(raw_headers: RawHeaders) -> frozenset[bytes]:
    """The headers that Connection declares to be hop-by-hop. None of ours are among them: those are cut anyway."""
    named: set[bytes] = set()
    for name, value in raw_headers:
        if len(name) == 10 and name.lower() == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return frozenset(named)


def _answer_headers(raw_headers: RawHeaders, recording: Recording) -> list[tuple[bytes, bytes]]:
    """The headers of the answer to the client: as they came, less those that are not the client's business."""
    cut = ANSWER_CUT
    if not recording.caller.brings_credential:
        cut = cut | recording.route.provider.account_headers
    named = _named_by_connection(raw_headers)
    kept = []
    for pair in raw_headers:
        lowered = pair[0].lower()
        if lowered not in cut and lowered not in named:
            kept.append(pair)
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
