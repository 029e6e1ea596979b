"""The simulator's sockets: reads requests, has providers answer them, logs the truth, writes the answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import random
import socket
import struct
import time
from collections.abc import Set as AbstractSet
from email.utils import formatdate
from typing import NamedTuple

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from gateway.simulator import codings, controls, wire
from gateway.simulator.api import Answer, Asked, Bill, Provider, Session, Setup
from gateway.simulator.controls import NEVER_ANSWERED, ControlError, Controls, Fault
from gateway.simulator.deliveries import Deliveries
from gateway.simulator.director import Director
from gateway.simulator.misdelivery import misdelivered
from gateway.simulator.openai import OpenAI
from gateway.simulator.rates import Rates
from gateway.simulator.sendgrid import SendGrid
from gateway.simulator.sessions import WebSocket
from gateway.simulator.truth import Billed, Closed, Opened, TruthLog, fingerprint
from gateway.simulator.twilio import Twilio
from gateway.simulator.wire import Client, Ending, Plan

PROVIDERS: tuple[type[Provider], ...] = (OpenAI, SendGrid, Twilio)
"""Each is mounted under its name."""

BODY_BYTES_KEPT_MAX = 32 << 20
"""Of a longer body the rest is only counted and hashed; endpoints that need all of it refuse it."""
HEADER_BYTES_MAX = 64 << 10
"""So generous that the simulator is never the one to complain."""
RETRY_AFTER_S = 1
"""How long who calls too often is asked to wait."""
SHUTDOWN_S = 0.25
"""How long an answer that has begun may go on after SIGTERM. Stalled ones never end by themselves."""

NO_PROVIDER = Answer(status=404, body=b'{"error":"No provider is mounted here."}')


class Options(NamedTuple):
    """What the command line says."""

    seed: int | None = None
    latency_ms: int = 0
    record_bodies: bool = False
    keys: tuple[str, ...] = ()
    real_links: bool = False
    rate_limit: int | None = None
    """Calls per second and credential; None where there is no limit."""


class Body(NamedTuple):
    """A request's body as it came."""

    kept: bytes
    """Its beginning."""
    size: int
    sha256: str


class Received(NamedTuple):
    """A request as it came: each byte of its head one character."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: Body


class Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the wire already, in bytes of our own."""

    def __init__(self, *, good_for_another: bool) -> None:
        super().__init__()
        self._good_for_another = good_for_another

    @property
    def keep_alive(self) -> bool:
        return self._good_for_another

    async def prepare(self, _request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        return None


class Simulator:
    """All the providers, behind one handler."""

    def __init__(self, truth: TruthLog, options: Options) -> None:
        self._random = ids = random.Random(options.seed)  # noqa: S311 - ids, not secrets
        self._providers: dict[str, Provider] = {
            provider.name: provider(
                Setup(frozenset(options.keys or (provider.default_key,)), ids, time.time, options.real_links)
            )
            for provider in PROVIDERS
        }
        self._rates = Rates(options.rate_limit)
        openai, sendgrid, twilio = (self._providers[provider.name] for provider in PROVIDERS)
        assert isinstance(openai, OpenAI)
        assert isinstance(sendgrid, SendGrid)
        assert isinstance(twilio, Twilio)
        self._providers[Director.name] = Director(openai, sendgrid, twilio, self._rates, time.time)
        self._truth = truth
        self._deliveries = Deliveries(truth)
        self._latency_ms = options.latency_ms
        self._record_bodies = options.record_bodies
        self._numbers = itertools.count(1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One exchange, start to finish."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        # So that waiting for the socket means waiting until it has taken everything.
        transport.set_write_buffer_limits(high=0)
        try:
            body = await read_body(request, transport)
        except web.RequestPayloadError:
            transport.abort()
            return Written(good_for_another=False)
        received = Received(
            method=request.method,
            target=request.raw_path.encode("utf-8", "surrogateescape").decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers],
            body=body,
        )
        provider, path, query = self._provider_of(received.target)
        refusal = self._limited(provider, received)
        wanted, answer = (controls.NOTHING, refusal) if refusal else respond(provider, path, query, received)
        n = next(self._numbers)
        self._truth.write(self._opened(n, received, provider, answer, wanted.fault))
        # Whatever becomes of the answer: what was asked for has happened.
        posted = misdelivered(answer.later, wanted.callbacks, self._random)
        self._deliveries.lose(n, posted.lost)
        self._deliveries.take(n, posted.sent)
        if answer.session is not None and wanted.fault not in NEVER_ANSWERED:
            await self._converse(n, request, transport, answer, answer.session, wanted)
            return Written(good_for_another=False)
        connection = Connection(request, transport)
        completed = False
        try:
            completed = await self._send(connection, request, answer, wanted)
        except ConnectionError:
            transport.abort()
        except Exception:
            # Part of the answer may be out: an error message behind it would be worse than none.
            transport.abort()
            raise
        finally:
            self._truth.write(
                Closed(run=self._truth.run, n=n, completed=completed, bytes_sent=connection.body_bytes_sent)
            )
        return Written(good_for_another=connection.good_for_another)

    def _limited(self, provider: Provider | None, received: Received) -> Answer | None:
        """The refusal of a call that is one too many within a second."""
        credential = provider.credential(CIMultiDict(received.headers)) if provider else None
        if provider is None or credential is None:
            return None
        if self._rates.admits(f"{provider.name} {fingerprint(credential)}", time.monotonic()):
            return None
        refusal = provider.refusal(429, "Too Many Requests")
        return msgspec.structs.replace(refusal, headers=(*refusal.headers, ("Retry-After", str(RETRY_AFTER_S))))

    async def _converse(
        self,
        n: int,
        request: web.BaseRequest,
        transport: asyncio.Transport,
        answer: Answer,
        session: Session,
        wanted: Controls,
    ) -> None:
        """One session, start to finish."""
        await self._wait(wanted)

        def bill(told: Bill) -> None:
            at_ms = int(time.time() * 1000)
            self._truth.write(Billed(run=self._truth.run, n=n, at_ms=at_ms, **told._asdict()))
            if answer.bills is not None:
                answer.bills(told)

        socket = WebSocket(request, transport, bill, compressed=wanted.encoding == "deflate")
        try:
            await socket.carry_out(session, answer.headers, wanted)
        except ConnectionError:
            transport.abort()
        finally:
            in_order, sent = socket.close_code is not None, socket.bytes_sent
            self._truth.write(
                Closed(run=self._truth.run, n=n, completed=in_order, bytes_sent=sent, close_code=socket.close_code)
            )

    async def _wait(self, wanted: Controls) -> None:
        latency_ms = self._latency_ms if wanted.latency_ms is None else wanted.latency_ms
        if latency_ms:
            await asyncio.sleep(latency_ms / 1000)

    async def close(self) -> None:
        """Send nothing more by itself."""
        await self._deliveries.close()

    def _provider_of(self, target: str) -> tuple[Provider | None, str, str]:
        path, _, query = target.partition("?")
        _, name, rest = (*path.split("/", 2), "", "")[:3]
        return self._providers.get(name), f"/{rest}", query

    def _opened(
        self, n: int, received: Received, provider: Provider | None, answer: Answer, fault: Fault | None
    ) -> Opened:
        """What the truth log says before the answer begins."""
        never = fault in NEVER_ANSWERED
        says_usage = wire.says_usage(answer, fault)
        credential = provider.credential(CIMultiDict(received.headers)) if provider else None
        secret = provider.credential_headers if provider else frozenset({"authorization"})
        return Opened(
            run=self._truth.run,
            n=n,
            at_ms=int(time.time() * 1000),
            provider=provider.name if provider else None,
            credential=None if credential is None else fingerprint(credential),
            method=received.method,
            target=received.target,
            headers=[(name, shown(name, value, secret, credential)) for name, value in received.headers],
            body_bytes=received.body.size,
            body_sha256=received.body.sha256,
            body_b64=base64.b64encode(received.body.kept).decode() if self._record_bodies else msgspec.UNSET,
            status=None if never else answer.status,
            stream=answer.events is not None or answer.session is not None,
            object_id=None if never else answer.object_id,
            model=None if never else answer.model,
            usage=answer.usage if says_usage else None,
            tool_usage=answer.tool_usage if says_usage else None,
            fault=fault,
        )

    async def _send(self, connection: Connection, request: web.BaseRequest, answer: Answer, wanted: Controls) -> bool:
        await self._wait(wanted)
        if wanted.fault is Fault.RESET_BEFORE_HEAD:
            connection.reset()
            return False
        if wanted.fault is Fault.HANG:
            await connection.until_client_goes()
        client = Client(request.method, request.headers, request.version >= (1, 1), request.keep_alive)
        plan = wire.plan(answer, wanted, client, formatdate(usegmt=True))
        return await connection.carry_out(plan, wanted.chunk_ms / 1000)


class Connection:
    """One exchange's use of a connection."""

    def __init__(self, request: web.BaseRequest, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writer = request.writer
        self.body_bytes_sent = 0
        self.good_for_another = False

    async def carry_out(self, plan: Plan, pause_s: float) -> bool:
        """Write all of it, and say whether the answer is complete. Cancelled when the client goes."""
        ahead = plan.head
        if plan.head_alone:
            await self._write(ahead)
            ahead = b""
        for index, piece in enumerate(plan.pieces):
            if index and pause_s:
                await asyncio.sleep(pause_s)
            for write in plan.writes(piece):
                if write:
                    await self._write(ahead + plan.framed(write))
                    self.body_bytes_sent += len(write)
                    ahead = b""
        if ahead or plan.last:
            await self._write(ahead + plan.last)
        match plan.ending:
            case Ending.BROKEN_OFF:
                self._transport.abort()
            case Ending.STALLED:
                await self.until_client_goes()
            case Ending.KEPT:
                self.good_for_another = True
        return plan.ending in wire.WHOLE

    async def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        await self._writer.drain()

    async def until_client_goes(self) -> None:
        """Wait: the server cancels whoever handles a request when its connection is lost."""
        await asyncio.Event().wait()

    def reset(self) -> None:
        """End the connection so that the client gets an RST."""
        peer = self._transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def read_body(request: web.BaseRequest, transport: asyncio.Transport) -> Body:
    """Read all of a request's body, and keep its beginning."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    kept, size, sha256 = bytearray(), 0, hashlib.sha256()
    async for piece in request.content.iter_any():
        size += len(piece)
        sha256.update(piece)
        kept += piece[: BODY_BYTES_KEPT_MAX - len(kept)]
    return Body(bytes(kept), size, sha256.hexdigest())


def respond(provider: Provider | None, path: str, query: str, received: Received) -> tuple[Controls, Answer]:
    """What the request asks the simulator to do, and what the provider answers."""
    if provider is None:
        return controls.NOTHING, NO_PROVIDER
    try:
        wanted = controls.read(received.headers)
    except ControlError as refusal:
        return controls.NOTHING, provider.refusal(400, str(refusal))
    headers, body = CIMultiDict(received.headers), received.body
    whole = body.size == len(body.kept)
    try:
        plain = codings.decoded(body.kept, headers.get("Content-Encoding", "")) if whole else body.kept
    except ValueError as undecodable:
        return controls.NOTHING, provider.refusal(400, f"The content coding of this request: {undecodable}.")
    answer = provider.answer(Asked(received.method, path, query, headers, plain, body.size, whole, wanted))
    if objection := wire.objection(answer, wanted):
        return controls.NOTHING, provider.refusal(400, objection)
    return wanted, answer


def shown(name: str, value: str, secret: AbstractSet[str], credential: str | None) -> str:
    """A header as the truth log shows it: without the credential."""
    if name.lower() in secret:
        return concealed(value)
    if name.lower() == "sec-websocket-protocol" and credential:
        return value.replace(credential, fingerprint(credential))
    return value


def concealed(value: str) -> str:
    """A credential header as the truth log shows it: the scheme, and the fingerprint of the rest."""
    scheme, space, credential = value.partition(" ")
    return f"{scheme} {fingerprint(credential.strip())}" if space else fingerprint(value)


async def listen(simulator: Simulator, host: str, port: int) -> tuple[web.ServerRunner, int]:
    """Start to listen; the port is the one that was found where 0 was asked for."""
    server = web.Server(
        simulator.handle,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    return runner, runner.addresses[0][1]
