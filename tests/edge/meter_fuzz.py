"""Feed mutated answers to every meter for as long as asked, and stop at what should not be: part of `make fuzz`.

Guided by the ways that the bytes take through the providers' code. Exit status 1 if anything was found; each finding is
printed with what feeds it again.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from types import CodeType, ModuleType

import msgspec

from gateway.providers.api import Endpoint
from gateway.providers.learnt import Prepared, as_it_came
from metering.event_types import DIMENSIONS
from metering.facts import validated
from metering.usage import UsageEvent
from tests.edge.guided import BYTES_MAX, Coverage, mutated
from tests.gateway.providers.test_every_provider import CODED, ENDPOINTS, fed

TARGETS: dict[str, Endpoint] = {str(param.id): param.values[0] for param in ENDPOINTS}  # type: ignore[misc]

ROUND = 2_000
"""After so many inputs it is said how it goes."""

SHOWN_MAX = 5
"""More findings of one round are most often the same one."""

MEDIA_TYPES = ("application/json", "text/event-stream", "text/event-stream", "application/xml", "audio/mpeg", "")
CODINGS = ("", "", "", *sorted(CODED))

USAGE = b'{"prompt_tokens":117,"completion_tokens":46,"total_tokens":163,"prompt_tokens_details":{"cached_tokens":44}}'
CHAT = b'{"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","service_tier":"default","choices":[],"usage":%b}' % USAGE
RESPONSE = b'{"id":"resp_1","model":"gpt-5","status":"completed","output":[{"type":"web_search_call"}],"usage":%b}' % (
    USAGE.replace(b"prompt", b"input").replace(b"completion", b"output")
)
SEEDS = (
    CHAT,
    RESPONSE,
    b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"x"}}],"usage":null}\n\ndata: %b\n\ndata: [DONE]\n\n'
    % CHAT,
    b": ping\r\n\r\ndata: %b\r\n\r\ndata: [DONE]\r\n\r\n" % CHAT,
    b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % RESPONSE,
    b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":false},"messages":[]}',
    b'{"sid":"SM%032d","status":"queued","num_segments":"2","to":"+12025550143","price":null}' % 0,
    b"<TwilioResponse><Message><Sid>SM%032d</Sid><NumSegments>2</NumSegments></Message></TwilioResponse>" % 0,
    b'{"personalizations":[{"to":[{"email":"ada@example.com"}]}],"mail_settings":{"sandbox_mode":{"enable":true}}}',
    b"To=%2B12025550143&From=%2B15005550006&Body=Hello&MediaUrl=x",
)
HEAD_BYTES = 4
"""The first bytes of an input say what the answer's head says, what was asked for, and where the body is cut."""


@cache
def words() -> tuple[bytes, ...]:
    """The names that the providers' code looks for, out of that code."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("gateway.providers.")]
    found = {name for module in modules for name in _names_in(module)}
    return tuple(sorted(name.encode() for name in found if re.fullmatch(r"[A-Za-z][\w.-]{1,40}", name)))


def _names_in(module: ModuleType) -> Iterator[str]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            yield from value.__struct_fields__
        elif code := getattr(value, "__code__", None):
            yield from _texts_in(code)
        elif isinstance(value, frozenset | tuple):
            yield from (item for item in value if isinstance(item, str))


def _texts_in(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, bytes):
            yield constant.decode("latin-1")
        elif isinstance(constant, CodeType):
            yield from _texts_in(constant)


def problem(endpoint: Endpoint, data: bytes) -> str | None:
    """What is wrong with how an endpoint takes these bytes; None if nothing is."""
    media, coding, how, seed = data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")
    body = data[HEAD_BYTES:]
    try:
        return _problem_of_request(endpoint, body) or _problem_of_answer(
            endpoint,
            (200, MEDIA_TYPES[media % len(MEDIA_TYPES)], CODINGS[coding % len(CODINGS)]),
            Prepared(body=b"", resource="gpt-4o", stream=bool(how & 1), usage_injected=bool(how & 1)),
            body,
            random.Random(seed),
            whole=not how & 2,
            raw=bool(how & 4),
        )
    except Exception as error:  # noqa: BLE001  That nothing raises is what is tested.
        return f"it raised {error!r}"


def _problem_of_answer(
    endpoint: Endpoint,
    head: tuple[int, str, str],
    prepared: Prepared,
    body: bytes,
    rng: random.Random,
    *,
    whole: bool,
    raw: bool,
) -> str | None:
    sent = body if raw else CODED[head[2]](body)
    cuts = [rng.randrange(len(sent) + 1) for _ in range(rng.randrange(8))]
    passed, usage = fed(endpoint, head, prepared, sent, (), whole=whole)
    if fed(endpoint, head, prepared, sent, cuts, whole=whole) != (passed, usage):
        return f"it minds that the answer is cut at {sorted(cuts)}"
    if passed != sent and not (prepared.usage_injected and head[1] == "text/event-stream" and _less(sent, passed)):
        return f"the client gets {passed!r}"
    event = UsageEvent(
        event_id="e",
        tenant_id="t",
        source="s",
        event_type=usage.event_type or endpoint.event_type,
        endpoint=endpoint.name,
        occurred_at_ms=1,
        completeness=usage.completeness,
        quantities=dict(usage.quantities),
        resource=usage.resource,
        external_id=usage.external_id,
        metadata=msgspec.to_builtins(usage.metadata),
    )
    if validated(event) is not event or not usage.quantities.keys() <= set(DIMENSIONS):
        return f"it says what is no fact: {usage}"
    msgspec.json.encode(event)
    return None


def _less(sent: bytes, passed: bytes) -> bool:
    """True where only whole events with a usage in them are missing, or blank lines before one."""
    rest = passed
    for event in _events(sent):
        if rest.startswith(event):
            rest = rest[len(event) :]
        elif event.strip(b"\r\n") and b"usage" not in event and b"\\u" not in event:
            return False
    return not rest


def _events(stream: bytes) -> Iterator[bytes]:
    """Line by line, as the standard tells it: a blank line ends an event."""
    event = b""
    for line in re.findall(rb"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++", stream):
        event += line
        if line in (b"\n", b"\r", b"\r\n"):
            yield event
            event = b""
    if event:
        yield event


def _problem_of_request(endpoint: Endpoint, body: bytes) -> str | None:
    prepared = (endpoint.prepare or as_it_came)(body)
    if prepared.body != body and not prepared.usage_injected:
        return f"the provider gets {prepared.body!r}"
    if endpoint.watch is not None:
        watch = endpoint.watch()
        watch.feed(body)
        watch.finish(whole=True)
    return None


class Fuzz:
    """Inputs for each target, of which those are kept that went further than all before them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        # Each by itself: where many have been, one may be for the first time.
        self.coverage = {name: Coverage("/gateway/providers/") for name in TARGETS}
        heads = [bytes((media, 0, how, 7)) for media in range(2) for how in range(2)]
        self.kept = {name: [head + text for head in heads for text in SEEDS] for name in TARGETS}
        self.fed = 0

    def run(self, count: int) -> Iterable[str]:
        """Feed so many inputs, the targets taking turns; gives what was found."""
        names = list(TARGETS)
        for _ in range(count):
            name = names[self.fed % len(names)]
            kept = self.kept[name]
            chosen = self._rng.choice(kept)
            # At first each as it is.
            turn = self.fed // len(names)
            data = kept[turn] if turn < len(SEEDS) * 4 else mutated(self._rng, chosen, kept, words())
            self.fed += 1
            found, further = self.coverage[name].goes_further(lambda name=name, data=data: problem(TARGETS[name], data))  # type: ignore[misc]
            if found is not None:
                yield f"--target {name} --data {data.hex()}: {found}"
            elif further and len(data) < BYTES_MAX:
                kept.append(data)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.edge.meter_fuzz", description=__doc__.partition(":")[0])
    options.add_argument("--seconds", type=float, default=3600, help="how long; a round begun is ended")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--target", choices=TARGETS, help="feed this one, and no other…")
    options.add_argument("--data", type=bytes.fromhex, help="… with these bytes, in hexadecimal")
    asked = options.parse_args()
    if asked.target is not None:
        found = problem(TARGETS[asked.target], asked.data or b"")
        print(found or "nothing is wrong")
        return int(found is not None)
    until = time.monotonic() + asked.seconds
    fuzz = Fuzz(asked.seed)
    while True:
        findings = list(fuzz.run(ROUND))
        kept = sum(map(len, fuzz.kept.values()))
        ways = sum(len(coverage.gone) for coverage in fuzz.coverage.values())
        print(f"{fuzz.fed} fed, {ways} ways, {kept} kept, {len(findings)} found", flush=True)
        for line in findings[:SHOWN_MAX]:
            print(line)
        if findings:
            return 1
        if time.monotonic() > until:
            return 0


if __name__ == "__main__":
    sys.exit(main())
