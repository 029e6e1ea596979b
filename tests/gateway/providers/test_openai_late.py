"""What OpenAI says after the call, read from the formats that its API reference documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.api import Pending, ReadOn
from gateway.providers.learnt import as_it_came
from gateway.providers.openai import PROVIDER
from gateway.providers.openai.late import (
    BATCH,
    EVALUATION,
    LARGE_CONTEXT_TOKENS,
    RESPONSE,
    RUN,
    VIDEO,
    BatchLines,
    batch,
    evaluation,
    job,
    response,
    run,
    video,
)
from metering.facts import validated
from metering.late import late_fact
from metering.usage import Completeness
from tests.builders import answer_head

USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 6},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}
USED = {"input_tokens": 30, "input_tokens_cached": 6, "output_tokens": 23, "output_tokens_reasoning": 64}
RESPONSE_OBJECT = {
    "id": "resp_1",
    "object": "response",
    "background": True,
    "status": "completed",
    "model": "gpt-5-2025-08-07",
    "service_tier": "flex",
    "output": [{"type": "web_search_call", "id": "ws_1"}],
    "usage": USAGE,
}


def said(**changes):
    return json.dumps(RESPONSE_OBJECT | changes).encode()


# ---------------------------------------------------------------------------------------------------------------------
# Responses


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_a_background_response_that_is_over_says_what_it_used(status):
    (late,) = response(said(status=status))

    assert (late.external_id, late.phase, late.usage.completeness) == ("resp_1", "final", "reported")
    assert late.usage.quantities == USED | {"web_searches": 1}
    assert late.usage.resource == "gpt-5-2025-08-07"
    assert (late.usage.metadata["service_tier"], late.usage.metadata["status"]) == ("flex", status)


@pytest.mark.parametrize(
    "body",
    [
        said(status="queued"),
        said(status="in_progress", usage=None),
        said(background=False),
        said(background=None),
        said(id=None),
        said(status={}),
        b"",
        b"[]",
        b'"completed"',
        b"{",
        b"[" * 100_000,
    ],
)
def test_what_is_not_over_or_was_counted_by_its_call_says_nothing(body):
    """Guards that reading back never bills: in the foreground the call itself has said it all."""
    assert response(body) == ()


def test_one_that_is_over_without_a_word_of_its_use_is_unknown_and_leaves_room_for_one_who_knows():
    (late,) = response(said(status="cancelled", usage=None, output=[]))

    assert (late.phase, late.usage.completeness, late.usage.quantities) == ("ended", "unknown", {})


def passing(endpoint, pieces, content_type="application/json"):
    """What the meter of an endpoint says before the answer's body and after it."""
    listed = next(one for one in PROVIDER.endpoints if one.name == endpoint)
    meter = listed.meter(answer_head(headers=[("Content-Type", content_type)]), None)
    before = meter.finish(whole=True)[1]
    for piece in pieces:
        assert meter.feed(piece) == piece
    return before, meter.finish(whole=True)[1], listed.billable


def test_an_answer_that_passes_by_costs_nothing_and_says_what_is_over():
    before, after, billable = passing("responses.retrieve", [said()[:40], said()[40:]])

    assert not billable
    assert (before.quantities, before.late, after.quantities) == ({}, (), {})
    assert after.late == response(said())


@given(st.integers(1, 400))
def test_a_stream_that_is_resumed_says_the_same_wherever_it_is_cut(step):
    stream = b"".join(
        b"event: %b\r\ndata: %b\r\n\r\n"
        % (kind.encode(), json.dumps({"type": kind, "response": RESPONSE_OBJECT | changes}).encode())
        for kind, changes in (
            ("response.created", {"status": "in_progress", "usage": None}),
            ("response.completed", {}),
        )
    )
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]

    _, after, _ = passing("responses.retrieve", pieces, "text/event-stream")

    assert after.late == response(said())


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def answer(number, usage=None, status=200, model="gpt-4o-mini-2024-07-18"):
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if usage is None else usage
    body = {"id": f"chatcmpl-{number}", "model": model, "usage": usage}
    told = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": f"batch_req_{number}", "custom_id": f"{number}", "response": told, "error": None}).encode()


def summed(*lines, answers=0):
    reading = BatchLines("batch_1", answers)
    for line in lines:
        reading.feed(line)
    return reading.finish()


def batch_object(**changes):
    values = {
        "id": "batch_1",
        "object": "batch",
        "status": "completed",
        "output_file_id": "file-a/b",
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
    }
    return json.dumps(values | changes).encode()


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_a_batch_that_is_over_is_read_on_in_its_file(status):
    found = batch(batch_object(status=status))

    assert isinstance(found, ReadOn)
    assert found.path == "/v1/files/file-a%2Fb/content"
    lines = found.lines()
    lines.feed(answer(1))
    assert lines.finish() == ()
    lines.feed(answer(2))
    assert lines.finish()[0].usage.quantities == {"input_tokens": 200, "output_tokens": 20}


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", None])
def test_a_batch_that_is_under_way_says_nothing(status):
    assert batch(batch_object(status=status)) == ()


def test_a_batch_of_which_nothing_succeeded_used_nothing():
    (late,) = batch(batch_object(status="failed", output_file_id=None))

    assert (late.phase, late.usage.quantities, late.usage.completeness) == ("final", {}, "reported")


def test_answers_are_summed_by_model_and_large_contexts_apart():
    """Guards money: each model has its price, and so have requests beyond the size from which all tokens cost more."""
    large = {"prompt_tokens": LARGE_CONTEXT_TOKENS + 1, "completion_tokens": 1, "total_tokens": 0}

    found = summed(answer(1), answer(2, large), b"", answer(3), answer(4, model="gpt-5"), answer(5, status=429))

    assert {late.phase: (late.usage.quantities, late.usage.metadata) for late in found} == {
        "final:gpt-4o-mini-2024-07-18": (
            {"input_tokens": 200, "output_tokens": 20},
            {"answers": 2, "context_tokens": 100},
        ),
        "final:gpt-4o-mini-2024-07-18:large": (
            {"input_tokens": LARGE_CONTEXT_TOKENS + 1, "output_tokens": 1},
            {"answers": 1, "context_tokens": LARGE_CONTEXT_TOKENS + 1},
        ),
        "final:gpt-5": ({"input_tokens": 100, "output_tokens": 10}, {"answers": 1, "context_tokens": 100}),
    }
    assert {late.usage.event_type for late in found} == {"batch"}


def test_answers_that_do_not_say_what_they_used_are_unknown_beside_those_that_do():
    found = summed(answer(1), answer(2, usage={}), None, b"{", answers=4)

    assert [(late.phase, late.usage.completeness) for late in found] == [
        ("final:gpt-4o-mini-2024-07-18", "reported"),
        ("ended", "unknown"),
    ]
    assert found[1].usage.metadata == {"answers": 3}


@given(st.lists(st.one_of(st.none(), st.binary(max_size=60), st.just(answer(1)))))
def test_no_line_can_stop_the_reading_of_a_file(lines):
    for late in summed(*lines):
        usage = late.usage
        validated(late_fact("acme", "openai", late.external_id, late.phase, usage.completeness, usage.quantities))


# ---------------------------------------------------------------------------------------------------------------------
# Jobs and runs


def test_a_fine_tuning_job_that_is_over_says_how_many_tokens_it_trained():
    told = {"id": "ftjob-1", "object": "fine_tuning.job", "model": "gpt-4o-mini-2024-07-18"}
    under_way = told | {"status": "running", "trained_tokens": None}
    over = told | {"status": "succeeded", "trained_tokens": 5768}

    assert job(json.dumps(under_way).encode()) == ()
    (late,) = job(json.dumps(over).encode())
    assert (late.phase, late.usage.quantities) == ("final", {"trained_tokens": 5768})
    (failed,) = job(json.dumps(told | {"status": "failed", "trained_tokens": None}).encode())
    assert (failed.phase, failed.usage.completeness) == ("ended", "unknown")


def test_a_run_that_is_over_says_what_it_used_and_is_asked_for_where_its_thread_is():
    usage = {"prompt_tokens": 123, "completion_tokens": 456, "total_tokens": 579}
    told = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "model": "gpt-4o"}

    assert run(json.dumps(told | {"status": "requires_action", "usage": None}).encode()) == ()
    (late,) = run(json.dumps(told | {"status": "completed", "usage": usage}).encode())
    assert late.usage.quantities == {"input_tokens": 123, "output_tokens": 456}
    assert RUN.path(Pending("run_1", {"thread_id": "thread_1"})) == "/v1/threads/thread_1/runs/run_1"
    assert RUN.path(Pending("run_1", {})) is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "batches.create",
        "fine_tuning.jobs.create",
        "evals.runs.create",
        "beta.threads.runs.create",
        "beta.threads.create_and_run",
    ],
)
def test_what_goes_on_after_its_call_is_pending_under_the_name_that_it_was_given(endpoint):
    listed = next(one for one in PROVIDER.endpoints if one.name == endpoint)
    meter = listed.meter(answer_head(), listed.prepare(b'{"model": "gpt-4o"}') if listed.prepare else as_it_came(b""))
    meter.feed(b'{"id": "thing_1", "thread_id": "thread_1", "status": "queued"}')

    _, usage = meter.finish(whole=True)

    assert (usage.completeness, usage.external_id, usage.quantities) == (Completeness.PENDING, "thing_1", {})
    assert usage.metadata["thread_id"] == "thread_1"
    assert listed.settles is not None


def run_object(status, usage=None):
    told = {"id": "run_1", "object": "thread.run", "thread_id": "thread_1", "model": "gpt-4o"}
    return told | {"status": status, "usage": usage}


RUN_USAGE = {"prompt_tokens": 123, "completion_tokens": 456, "total_tokens": 579}


def run_events(*values):
    return b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values) + b"data: [DONE]\n\n"


STEP = {"id": "step_1", "object": "thread.run.step", "status": "completed", "usage": RUN_USAGE}
STEP |= {"metadata": {"belongs to": "thread.run"}}  # That bytes are found says nothing yet.
SUBMITTED = "beta.threads.runs.submit_tool_outputs"


def test_what_a_run_s_tools_put_out_bills_nothing_and_its_answer_may_be_the_last_word_on_the_run():
    """Guards money: a run says at its end what it used from its beginning on, and has an event already."""
    over = json.dumps(run_object("completed", RUN_USAGE)).encode()
    _, after, billable = passing(SUBMITTED, [over])
    assert not billable
    assert (after.quantities, after.external_id, after.late) == ({}, None, run(over))

    _, going_on, _ = passing(SUBMITTED, [json.dumps(run_object("queued")).encode()])
    assert going_on.late == ()
    _, of_step, _ = passing(SUBMITTED, [run_events(STEP)], "text/event-stream")
    assert of_step.late == ()


@given(st.integers(1, 400))
def test_a_run_that_goes_on_as_a_stream_settles_once_wherever_that_is_cut(step):
    over = run_object("completed", RUN_USAGE)
    stream = run_events(run_object("in_progress"), STEP, over)
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]

    _, after, _ = passing(SUBMITTED, pieces, "text/event-stream")

    assert (after.quantities, after.late) == ({}, run(json.dumps(over).encode()))
    assert len(after.late) == 1


@pytest.mark.parametrize("last", [run_object("requires_action"), run_object("in_progress"), STEP])
@pytest.mark.parametrize("whole", [True, False])
def test_a_streamed_run_that_waits_for_its_tools_or_broke_off_is_pending_and_can_be_asked_for(last, whole):
    """Guards money: what a step says that it used is not what the run did."""
    listed = next(one for one in PROVIDER.endpoints if one.name == "beta.threads.runs.create")
    meter = listed.meter(answer_head(headers=[("Content-Type", "text/event-stream")]), as_it_came(b""))
    meter.feed(run_events(run_object("queued"), STEP, last))

    usage = meter.finish(whole=whole)[1]

    assert (usage.completeness, usage.external_id, usage.quantities) == (Completeness.PENDING, "run_1", {})
    assert RUN.path(Pending("run_1", usage.metadata)) == "/v1/threads/thread_1/runs/run_1"


# ---------------------------------------------------------------------------------------------------------------------
# Evaluations and videos


def of_model(name, prompt, completion, cached=0, invocations=1, **changes):
    told = {"model_name": name, "invocation_count": invocations, "prompt_tokens": prompt}
    told |= {"completion_tokens": completion, "total_tokens": prompt + completion, "cached_tokens": cached}
    return told | changes


def evaluated(*models, **changes):
    values = {"id": "evalrun_1", "object": "eval.run", "eval_id": "eval_1", "status": "completed", "model": "gpt-4o"}
    return json.dumps(values | {"per_model_usage": list(models)} | changes).encode()


@pytest.mark.parametrize("status", ["completed", "failed", "canceled"])
def test_an_evaluation_that_is_over_says_what_it_used_of_each_model_at_the_usual_price(status):
    """Guards money: graders are other models than what they grade, and what was cached stands inside the prompt."""
    found = evaluation(
        evaluated(of_model("gpt-4o", 900_000, 40, 300_000, 30), of_model("o3-mini", 70, 7), status=status)
    )

    assert {late.phase: (late.usage.resource, late.usage.quantities, late.usage.metadata) for late in found} == {
        "final:gpt-4o": (
            "gpt-4o",
            {"input_tokens": 600_000, "input_tokens_cached": 300_000, "output_tokens": 40},
            {"status": status, "answers": 30, "context_tokens": 30_000},
        ),
        "final:o3-mini": (
            "o3-mini",
            {"input_tokens": 70, "output_tokens": 7},
            {"status": status, "answers": 1, "context_tokens": 70},
        ),
    }
    assert {(late.external_id, late.usage.event_type) for late in found} == {("evalrun_1", "llm_call")}


@pytest.mark.parametrize(
    "body", [evaluated(status="queued"), evaluated(status="in_progress"), evaluated(object="eval"), evaluated(id=None)]
)
def test_an_evaluation_that_is_under_way_says_nothing(body):
    assert evaluation(body) == ()


def test_an_evaluation_says_each_model_once_and_nothing_and_unknown_are_not_the_same():
    (nothing,) = evaluation(evaluated())
    assert (nothing.phase, nothing.usage.quantities, nothing.usage.completeness) == ("final", {}, "reported")
    (unknown,) = evaluation(evaluated(per_model_usage=None))
    assert (unknown.phase, unknown.usage.completeness) == ("ended", "unknown")

    found = evaluation(evaluated(of_model("a", 1, 2), of_model("a", 3, 4), {"model_name": "b"}, 7))

    assert [(late.phase, late.usage.quantities) for late in found] == [
        ("final:a", {"input_tokens": 4, "output_tokens": 6}),
        ("ended", {}),
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(of_model("a", 1, 1))), inner),
)


@given(anything, st.sampled_from([evaluated(), json.dumps({"id": "video_1", "object": "video"}).encode()]))
def test_no_answer_can_stop_the_reading_of_what_is_over(value, body):
    told = json.loads(body) | {"status": "completed", "per_model_usage": value, "seconds": value}

    for late in (*evaluation(json.dumps(told).encode()), *video(json.dumps(told).encode())):
        usage = late.usage
        validated(late_fact("acme", "openai", late.external_id, late.phase, usage.completeness, usage.quantities))


def filmed(**changes):
    values = {"id": "video_1", "object": "video", "status": "completed", "model": "sora-2-2025-10-06", "seconds": "8"}
    return json.dumps(values | changes).encode()


def test_a_video_that_is_there_says_how_long_it_is_and_one_that_failed_used_nothing():
    """Guards money: without the model's name in an answer, what was held for the one that was ordered is taken back."""
    (made,) = video(filmed())
    (failed,) = video(filmed(status="failed"))
    (silent,) = video(filmed(seconds="long"))

    assert (made.phase, made.usage.quantities, made.usage.completeness) == ("final", {"seconds": 8}, "reported")
    assert (failed.phase, failed.usage.quantities, failed.usage.completeness) == ("final", {}, "reported")
    assert (silent.phase, silent.usage.completeness) == ("ended", "unknown")
    assert made.usage.resource is failed.usage.resource is None


@pytest.mark.parametrize(
    "body", [filmed(status="queued"), filmed(status="in_progress"), filmed(object="video.deleted"), b"[]", filmed(id=7)]
)
def test_a_video_that_is_being_made_says_nothing(body):
    assert video(body) == ()


@pytest.mark.parametrize(
    ("endpoint", "body", "read"),
    [
        ("evals.runs.retrieve", evaluated(of_model("a", 1, 2)), evaluation),
        ("evals.runs.cancel", evaluated(of_model("a", 1, 2), status="canceled"), evaluation),
        ("videos.retrieve", filmed(), video),
    ],
)
def test_evaluations_and_videos_are_heard_of_in_answers_that_pass_by(endpoint, body, read):
    _, after, billable = passing(endpoint, [body[:30], body[30:]])

    assert not billable
    assert (after.quantities, after.late) == ({}, read(body))
    assert after.late


def test_an_evaluation_is_asked_for_below_what_it_is_of_and_videos_by_their_names():
    listed = {one.name: one for one in PROVIDER.endpoints}
    meter = listed["evals.runs.create"].meter(answer_head(), as_it_came(b""))
    meter.feed(evaluated(status="queued", per_model_usage=None))
    usage = meter.finish(whole=True)[1]

    assert EVALUATION.path(Pending("evalrun_1", usage.metadata)) == "/v1/evals/eval_1/runs/evalrun_1"
    assert EVALUATION.path(Pending("evalrun_1", {})) is None
    assert VIDEO.path(Pending("video_1", {})) == "/v1/videos/video_1"
    assert all(listed[f"videos.{verb}"].settles is VIDEO for verb in ("create", "edit", "extend", "remix"))


def test_names_in_paths_can_lead_nowhere_else():
    assert RESPONSE.path(Pending("resp_1/../../v1/files?x", {})) == "/v1/responses/resp_1%2F..%2F..%2Fv1%2Ffiles%3Fx"
    assert BATCH.path(Pending("batch_1", {})) == "/v1/batches/batch_1"
