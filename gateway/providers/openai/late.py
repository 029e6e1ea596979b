"""What OpenAI says after the call: of background responses, batches, jobs, evaluations, videos and assistants' runs. Pure.

Facts from the API reference: a background response is polled by GET /v1/responses/{id}, and holds its usage when its
status is final; a batch names the file with an answer per line, each with its own usage, and takes at most 24 hours; a
fine-tuning job says how many tokens it trained; a run has its usage once it is over, and an evaluation's run has it by
model; a video says how long it is, and one that failed is not billed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from urllib.parse import quote

import msgspec

from gateway.messages import ResponseHead
from gateway.providers import decoding, sse
from gateway.providers.api import Endpoint, Meter, Pending, ReadOn, Settles
from gateway.providers.body import Gathered, WhenOver
from gateway.providers.free import reads_back
from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Late, Prepared, Usage
from gateway.providers.openai.answers import CONCLUDING, meter, read_usage
from gateway.providers.openai.documents import COUNT_MAX
from gateway.providers.openai.media import seconds_of_video
from gateway.providers.openai.requests import read_model_request, text, whole_number
from gateway.providers.openai.usage import count, quantities
from metering.event_types import INPUT_TOKENS
from metering.usage import CONTEXT_TOKENS, Completeness

BODY_BYTES_MAX = 4 << 20
"""A larger answer that passes by is left to whoever asks for it in the end."""

LARGE_CONTEXT_TOKENS = 272_000
"""Requests that read more than this have prices of their own (OpenAI's price list): in a batch they are counted apart."""

MODELS_MAX = 200
"""A batch is of one model, by OpenAI's rules. Should one name more than this, those beyond are counted without a name."""

RESPONSE_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
BATCH_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
JOB_ENDED = frozenset({"succeeded", "failed", "cancelled"})
EVALUATION_ENDED = frozenset({"completed", "failed", "canceled"})
VIDEO_ENDED = frozenset({"completed", "failed"})
RUN_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})


class _Object(msgspec.Struct):
    """What is read of an object that goes on after the call that made it."""

    id: object = None
    kind: object = msgspec.field(name="object", default=None)
    status: object = None
    background: object = None
    thread_id: object = None
    model: object = None
    output_file_id: object = None
    error_file_id: object = None
    request_counts: object = None
    trained_tokens: object = None
    eval_id: object = None
    per_model_usage: object = None
    seconds: object = None


class _Event(msgspec.Struct):
    type: object = None
    response: msgspec.Raw = msgspec.Raw(b"")


_read_object = msgspec.json.Decoder(_Object).decode
_read_event = msgspec.json.Decoder(_Event).decode


def _object(body: bytes) -> _Object:
    try:
        return _read_object(body)
    except UNREADABLE:
        return _Object()


def _over(body: bytes, kind: str, ended: Collection[str]) -> tuple[_Object, str, str] | None:
    """An object of this kind with its id and its status, where that is one of those in which nothing more comes."""
    found = _object(body)
    external_id, status = text(found.id), text(found.status)
    if external_id is None or found.kind != kind or status is None or status not in ended:
        return None
    return found, external_id, status


NOTHING_ASKED = Prepared(body=b"")


def _ended(external_id: str, status: object, used: Usage) -> tuple[Late, ...]:
    """What is over: with what it used, or without a word of that."""
    usage = replace(used, metadata={"status": text(status)} | used.metadata, external_id=None, further=())
    if not used.quantities:
        usage = replace(usage, completeness=Completeness.UNKNOWN)
        return (Late(external_id=external_id, phase="ended", usage=usage),)
    further = [
        Late(external_id=external_id, phase=f"final:{number}", usage=one) for number, one in enumerate(used.further)
    ]
    return (Late(external_id=external_id, usage=usage), *further)


def response(body: bytes) -> tuple[Late, ...]:
    """A response that was made in the background, once it is over. Of any other its call has said what it used."""
    found = _object(body)
    external_id = text(found.id)
    if external_id is None or found.background is not True or text(found.status) not in RESPONSE_ENDED:
        return ()
    return _ended(external_id, found.status, read_usage(body, NOTHING_ASKED))


def run(body: bytes) -> tuple[Late, ...]:
    """An assistant's run, once it is over."""
    over = _over(body, "thread.run", RUN_ENDED)
    if over is None:
        return ()
    _, external_id, status = over
    return _ended(external_id, status, read_usage(body, NOTHING_ASKED))


def job(body: bytes) -> tuple[Late, ...]:
    """A fine-tuning job, once it is over."""
    over = _over(body, "fine_tuning.job", JOB_ENDED)
    if over is None:
        return ()
    found, external_id, status = over
    tokens = count({"trained_tokens": found.trained_tokens}, "trained_tokens")
    usage = Usage(
        quantities={} if tokens is None else {"trained_tokens": tokens},
        completeness=Completeness.REPORTED,
        resource=text(found.model),
    )
    return _ended(external_id, status, usage)


def evaluation(body: bytes) -> tuple[Late, ...]:
    """A run of an evaluation, once it is over: each model has a price of its own. One whose graders ask no model used
    nothing. Only sums are told, of which the mean says how large a request's context was."""
    over = _over(body, "eval.run", EVALUATION_ENDED)
    if over is None:
        return ()
    found, external_id, status = over
    told = found.per_model_usage
    if not isinstance(told, list):
        return _ended(external_id, status, Usage(quantities={}, completeness=Completeness.UNKNOWN))
    sums: dict[str, dict[str, int]] = {}
    requests: dict[str, int] = {}
    unknown = 0
    for one in told:
        used = _used_by_model(one) if isinstance(one, dict) else {}
        if not used:
            unknown += 1
            continue
        model = text(one.get("model_name")) or ""
        if model not in sums and len(sums) >= MODELS_MAX:
            model = ""
        of_model = sums.setdefault(model, {})
        for name, amount in used.items():
            of_model[name] = min(of_model.get(name, 0) + amount, COUNT_MAX)
        requests[model] = min(requests.get(model, 0) + (count(one, "invocation_count") or 0), COUNT_MAX)
    late = [
        Late(
            external_id=external_id,
            phase=f"final:{model}",
            usage=Usage(
                quantities=of_model,
                completeness=Completeness.REPORTED,
                resource=model or None,
                event_type="llm_call",
                metadata={
                    "status": status,
                    "answers": requests[model],
                    CONTEXT_TOKENS: sum(of_model.get(name, 0) for name in INPUT_TOKENS) // max(1, requests[model]),
                },
            ),
        )
        for model, of_model in sorted(sums.items())
    ]
    return _in_parts(external_id, late, unknown)


def _in_parts(external_id: str, parts: Iterable[Late], unknown: int) -> tuple[Late, ...]:
    """What was used in parts, and beside them so many answers that do not say it; where there is neither, nothing was."""
    usage = Usage(quantities={}, completeness=Completeness.UNKNOWN, metadata={"answers": unknown})
    silent = (Late(external_id=external_id, phase="ended", usage=usage),) if unknown else ()
    return (*parts, *silent) or (_nothing(external_id),)


def _used_by_model(told: dict[str, object]) -> dict[str, int]:
    """What an evaluation used of one model; what was cached stands beside the prompt that it is a part of."""
    details = {"cached_tokens": told.get("cached_tokens")}
    return quantities(told | {"prompt_tokens_details": details})


def video(body: bytes) -> tuple[Late, ...]:
    """A video, once it is there or has failed. It is billed as the model that was ordered, whatever its answers call it."""
    over = _over(body, "video", VIDEO_ENDED)
    if over is None:
        return ()
    found, external_id, status = over
    metadata: dict[str, object] = {"status": status}
    if status == "failed":
        usage = Usage(quantities={}, completeness=Completeness.REPORTED, metadata=metadata)
        return (Late(external_id=external_id, usage=usage),)
    known = seconds_of_video(whole_number(found.seconds))
    return _ended(external_id, status, Usage(quantities=known, completeness=Completeness.REPORTED))


class BatchLines:
    """Sums the output file of a batch: by model, and requests of a large context apart from the others."""

    def __init__(self, external_id: str, answers: int) -> None:
        """`answers` is how many the batch says there are: a file that holds fewer is not whole."""
        self._external_id = external_id
        self._answers = answers
        self._read = 0
        self._sums: dict[tuple[str, bool], dict[str, int]] = {}
        self._largest: dict[tuple[str, bool], int] = {}
        self._requests: dict[tuple[str, bool], int] = {}
        self._unknown = 0
        """Answers that do not say what they used."""

    def feed(self, line: bytes | None) -> None:
        if line is not None and not line.strip():
            return
        try:
            answer = None if line is None else _read_line(line)
        except UNREADABLE:
            answer = None
        if answer is not None and answer.response is not None and answer.response.status_code != SUCCESS:
            return
        self._read += 1
        told = None if answer is None else answer.response
        usage = None if told is None else read_usage(bytes(told.body), NOTHING_ASKED)
        if usage is None or not usage.quantities:
            self._unknown += 1
            return
        for one in (usage, *usage.further):
            self._add(one)

    def _add(self, usage: Usage) -> None:
        context = sum(usage.quantities.get(name, 0) for name in INPUT_TOKENS)
        group = usage.resource or "", context > LARGE_CONTEXT_TOKENS
        if group not in self._sums and len(self._sums) >= MODELS_MAX:
            group = "", group[1]
        sums = self._sums.setdefault(group, {})
        for name, amount in usage.quantities.items():
            sums[name] = sums.get(name, 0) + amount
        self._largest[group] = max(context, self._largest.get(group, 0))
        self._requests[group] = self._requests.get(group, 0) + 1

    def finish(self) -> tuple[Late, ...]:
        if self._read < self._answers:
            return ()
        return _in_parts(self._external_id, [self._late(*group) for group in sorted(self._sums)], self._unknown)

    def _late(self, model: str, large: bool) -> Late:  # noqa: FBT001 - what groups are told by
        group = model, large
        usage = Usage(
            quantities=self._sums[group],
            completeness=Completeness.REPORTED,
            resource=model or None,
            event_type="batch",
            metadata={"answers": self._requests[group], CONTEXT_TOKENS: self._largest[group]},
        )
        phase = f"final:{model}:large" if large else f"final:{model}"
        return Late(external_id=self._external_id, phase=phase, usage=usage)


class _LineResponse(msgspec.Struct):
    status_code: object = None
    body: msgspec.Raw = msgspec.Raw(b"")


class _Line(msgspec.Struct):
    response: _LineResponse | None = None


_read_line = msgspec.json.Decoder(_Line).decode
SUCCESS = 200


def _nothing(external_id: str) -> Late:
    """A batch of which no request succeeded: those that fail cost nothing."""
    return Late(external_id=external_id, usage=Usage(quantities={}, completeness=Completeness.REPORTED))


def batch(body: bytes) -> tuple[Late, ...] | ReadOn:
    """A batch, once it is over: one that was cancelled or has expired has answers, too."""
    over = _over(body, "batch", BATCH_ENDED)
    if over is None:
        return ()
    found, external_id, status = over
    file_id = text(found.output_file_id)
    if file_id is None:
        return (_nothing(external_id),)
    used = read_usage(body, NOTHING_ASKED)
    # The sum of all requests says nothing of how large any was.
    metadata: dict[str, object] = {"status": status, CONTEXT_TOKENS: 0}
    usage = replace(used, event_type="batch", external_id=None, further=(), metadata=metadata)
    without = (Late(external_id=external_id, phase=f"final:{used.resource or ''}", usage=usage),)
    answers = count(found.request_counts if isinstance(found.request_counts, dict) else {}, "completed") or 0
    return ReadOn(
        f"/v1/files/{quote(file_id, safe='')}/content",
        lambda: BatchLines(external_id, answers),
        without if used.quantities else (),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Passing by


class PassingBy:
    """The meter of what is read back: it costs nothing, and may say what became of a call of before."""

    concluded = False

    def __init__(self, head: ResponseHead, read: Callable[[bytes], tuple[Late, ...]]) -> None:
        self._read = read
        self._late: tuple[Late, ...] = ()
        self._body = Gathered(BODY_BYTES_MAX)
        self._frames = sse.Frames() if head.media_type == "text/event-stream" else None

    def feed(self, chunk: bytes) -> bytes:
        if self._frames is None:
            self._body.feed(chunk)
        else:
            self._see(self._frames.feed(chunk))
        return chunk

    def _see(self, events: Iterable[bytes]) -> None:
        for event in events:
            # The bytes that each of the events that end a stream holds, and few others.
            if event.find(b'"response.') >= 0 and event.find(b'"usage"') >= 0:
                try:
                    told = _read_event(sse.data(event))
                except UNREADABLE:
                    continue
                if isinstance(told.type, str) and told.type in CONCLUDING:
                    self._late = self._read(bytes(told.response))
            elif event.find(RUN_OBJECT) >= 0:
                self._late = self._read(sse.data(event)) or self._late

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        if self._frames is not None:
            self._see((bytes(self._frames.rest),))
        elif whole and (body := self._body.known):
            self._late = self._read(body)
        return b"", Usage(quantities={}, completeness=Completeness.REPORTED, late=self._late)


RUN_OBJECT = b'"thread.run"'
"""Stands in each event of a stream that tells of a run, and in none of its steps; these events have no `type`."""


def reads_final(name: str, method: str, path: str, read: Callable[[bytes], tuple[Late, ...]]) -> Endpoint:
    """An endpoint that reads or stops what a call of before has made: free, but its answer may be the last word on it."""

    def passing_by(head: ResponseHead, prepared: Prepared) -> Meter:
        return decoding.plain_for(PassingBy(head, read), head)

    return replace(reads_back(name, method, path), meter=passing_by)


# ---------------------------------------------------------------------------------------------------------------------
# What is over only after its call


def _going_on(body: bytes | None, asked: str | None) -> Usage:
    """What is known of something that is not over, out of what was last told of it: what it uses is said when it is."""
    made = _object(body or b"")
    external_id = text(made.id)
    metadata: dict[str, object] = {} if asked is None else {"model": asked}
    # Where it is asked for is below what it belongs to.
    owners = ("thread_id", text(made.thread_id)), ("eval_id", text(made.eval_id))
    metadata |= {name: value for name, value in owners if value is not None}
    return Usage(
        quantities={},
        completeness=Completeness.UNKNOWN if external_id is None else Completeness.PENDING,
        resource=text(made.model) or asked,
        external_id=external_id,
        metadata=metadata,
    )


class BegunRun:
    """The meter of a run that is streamed: it ends with what it used, or waits for its tools and goes on in another call,
    or has broken off and goes on alone. The steps of a run have parts of its use, and are not read."""

    def __init__(self, prepared: Prepared) -> None:
        self.concluded = False
        self._prepared = prepared
        self._frames = sse.Frames()
        self._last = b""

    def feed(self, chunk: bytes) -> bytes:
        for event in self._frames.feed(chunk):
            self._see(event)
        if self._frames.rest.endswith((b"\n", b"\r", b"[DONE]")):
            # A client may act on a line before the blank one that ends the event has come.
            self._see(bytes(self._frames.rest))
        return chunk

    def _see(self, event: bytes) -> None:
        if event.find(RUN_OBJECT) >= 0:
            told = _object(sse.data(event))
            if told.kind == "thread.run":
                self._last = sse.data(event)
                self.concluded = self.concluded or told.status == "requires_action" or text(told.status) in RUN_ENDED
        elif event.find(b"[DONE]") >= 0:
            self.concluded = self.concluded or sse.data(event).strip() == b"[DONE]"

    def finish(self, *, whole: bool) -> tuple[bytes, Usage]:
        self._see(bytes(self._frames.rest))
        if text(_object(self._last).status) not in RUN_ENDED:
            return b"", _going_on(self._last, self._prepared.resource)
        return b"", read_usage(self._last, self._prepared)


def begun_run(head: ResponseHead, prepared: Prepared) -> Meter:
    of_stream = head.media_type == "text/event-stream"
    return decoding.plain_for(BegunRun(prepared), head) if of_stream else begun(head, prepared)


def begun(head: ResponseHead, prepared: Prepared) -> Meter:
    """A stream tells how it ends, and anything else only how it began."""
    if head.media_type == "text/event-stream":
        return meter(head, prepared)
    return decoding.plain_for(WhenOver(lambda body: _going_on(body, prepared.resource), BODY_BYTES_MAX), head)


def _of_batch(body: bytes | None) -> Usage:
    """A batch that is read: free, but the file that it names is from then on this tenant's to fetch. Where several share an
    account, nobody else's event says whose that is."""
    read = _object(body or b"")
    file_id = text(read.output_file_id) or text(read.error_file_id)
    return Usage(quantities={}, completeness=Completeness.REPORTED, external_id=file_id)


def of_batch(head: ResponseHead, prepared: Prepared) -> Meter:
    return decoding.plain_for(WhenOver(_of_batch, BODY_BYTES_MAX), head)


def _at(path: str) -> Callable[[Pending], str]:
    return lambda pending: path.format(quote(pending.external_id, safe=""))


def _below(path: str, owner: str) -> Callable[[Pending], str | None]:
    """Where something is that belongs to another, which the event's metadata names."""

    def at(pending: Pending) -> str | None:
        owned_by = pending.metadata.get(owner)
        if not isinstance(owned_by, str):
            return None
        return path.format(quote(owned_by, safe=""), quote(pending.external_id, safe=""))

    return at


HOUR_S, DAY_S = 3600.0, 86_400.0

RESPONSE = Settles(path=_at("/v1/responses/{}"), read=response, first_s=2, days_max=1, gone_s=HOUR_S)
BATCH = Settles(path=_at("/v1/batches/{}"), read=batch, first_s=5, days_max=3, gone_s=3 * DAY_S)
JOB = Settles(path=_at("/v1/fine_tuning/jobs/{}"), read=job, first_s=30, days_max=30, gone_s=30 * DAY_S)
RUN = Settles(path=_below("/v1/threads/{}/runs/{}", "thread_id"), read=run, first_s=2, days_max=1, gone_s=HOUR_S)
EVALUATION = Settles(
    path=_below("/v1/evals/{}/runs/{}", "eval_id"), read=evaluation, first_s=10, days_max=7, gone_s=7 * DAY_S
)
VIDEO = Settles(path=_at("/v1/videos/{}"), read=video, first_s=15, days_max=2, gone_s=2 * DAY_S)

ENDPOINTS = (
    Endpoint(
        name="batches.create",
        method="POST",
        path="/v1/batches",
        event_type="batch",
        describes="batch",
        meter=begun,
        settles=BATCH,
    ),
    Endpoint(
        name="fine_tuning.jobs.create",
        method="POST",
        path="/v1/fine_tuning/jobs",
        event_type="fine_tuning",
        describes="fine-tuning job",
        meter=begun,
        prepare=read_model_request,
        settles=JOB,
    ),
    Endpoint(
        name="evals.runs.create",
        method="POST",
        path="/v1/evals/{eval_id}/runs",
        event_type="job",
        describes="evaluation",
        meter=begun,
        prepare=read_model_request,
        settles=EVALUATION,
    ),
    Endpoint(
        name="beta.threads.runs.create",
        method="POST",
        path="/v1/threads/{id}/runs",
        event_type="llm_call",
        describes="run",
        meter=begun_run,
        prepare=read_model_request,
        settles=RUN,
    ),
    Endpoint(
        name="beta.threads.create_and_run",
        method="POST",
        path="/v1/threads/runs",
        event_type="llm_call",
        describes="run",
        meter=begun_run,
        prepare=read_model_request,
        settles=RUN,
    ),
    reads_final("responses.retrieve", "GET", "/v1/responses/{id}", response),
    reads_final("responses.cancel", "POST", "/v1/responses/{id}/cancel", response),
    reads_final("fine_tuning.jobs.retrieve", "GET", "/v1/fine_tuning/jobs/{id}", job),
    reads_final("fine_tuning.jobs.cancel", "POST", "/v1/fine_tuning/jobs/{id}/cancel", job),
    reads_final("evals.runs.retrieve", "GET", "/v1/evals/{eval_id}/runs/{part}", evaluation),
    reads_final("evals.runs.cancel", "POST", "/v1/evals/{eval_id}/runs/{part}/cancel", evaluation),
    reads_final("videos.retrieve", "GET", "/v1/videos/{video_id}", video),
    reads_final("beta.threads.runs.retrieve", "GET", "/v1/threads/{id}/runs/{part}", run),
    reads_final("beta.threads.runs.cancel", "POST", "/v1/threads/{id}/runs/{part}/cancel", run),
    # The run goes on, and says at its end what it used from its beginning on: that is its own event's.
    reads_final(
        "beta.threads.runs.submit_tool_outputs", "POST", "/v1/threads/{id}/runs/{part}/submit_tool_outputs", run
    ),
    Endpoint(
        name="batches.retrieve",
        method="GET",
        path="/v1/batches/{id}",
        event_type="api_call",
        describes="batch, read",
        meter=of_batch,
    ),
    reads_back("batches.cancel", "POST", "/v1/batches/{id}/cancel"),
)
