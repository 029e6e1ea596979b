"""What OpenAI does after it has answered: batches and fine-tuning jobs. No I/O.

A batch is worked off at once, by the very endpoints that its lines name, and a job's tokens are counted from its file. Both
say so late: the first question after them finds them under way, and those after it over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.simulator.api import Answer, Asked
from gateway.simulator.openai_asked import ApiError

encode = msgspec.json.encode
decode = msgspec.json.decode

EPOCHS = 3
BYTES_OF_A_TOKEN = 4


class Goes(NamedTuple):
    """Something that goes on by itself."""

    final: bytes
    """As it will be when it is over."""
    under_way: bytes
    asked: int = 0
    """How often somebody has asked for it."""

    @property
    def now(self) -> bytes:
        return self.under_way if self.asked <= 1 else self.final


class Worked(NamedTuple):
    """The requests of a batch and what came of them."""

    output: bytes
    errors: bytes
    completed: int
    failed: int
    models: Mapping[str, Mapping[str, int]]
    """What was used, by the model that answered: how many answers, and the sums of their tokens."""


def worked_off(
    content: bytes, endpoint: str, answered: Callable[[str, bytes], Answer], new_id: Callable[[], str]
) -> Worked:
    """Do what the lines of an input file ask for. Raises ApiError for what is no such file."""
    output, errors = [], []
    models: dict[str, dict[str, int]] = {}
    for line in content.splitlines():
        try:
            request = decode(line)
            custom_id, url, body = request["custom_id"], request["url"], encode(request["body"])
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise ApiError("A line of the input file is no request.", param="input_file_id") from error
        if url != endpoint:
            raise ApiError(f"A line of the input file is for {url}, not {endpoint}.", param="input_file_id")
        answer = answered(url, body)
        response = {"status_code": answer.status, "request_id": new_id(), "body": msgspec.Raw(answer.body)}
        told = {"id": f"batch_req_{new_id()}", "custom_id": custom_id, "response": response, "error": None}
        if answer.status != 200:
            errors.append(encode(told))
            continue
        output.append(encode(told))
        if isinstance(answer.usage, Mapping):
            sums = models.setdefault(answer.model or "", {"answers": 0})
            sums["answers"] += 1
            for name, amount in answer.usage.items():
                if type(amount) is int:
                    sums[name] = sums.get(name, 0) + amount
    return Worked(_lines(output), _lines(errors), len(output), len(errors), models)


def _lines(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def batch(
    batch_id: str, asked: Mapping[str, Any], worked: Worked, files: tuple[str | None, str | None], now: int
) -> Goes:
    """A batch as it goes on; `files` are those of the answers and of the errors."""
    final: dict[str, Any] = {
        "id": batch_id,
        "object": "batch",
        "endpoint": asked["endpoint"],
        "errors": None,
        "input_file_id": asked["input_file_id"],
        "completion_window": asked.get("completion_window", "24h"),
        "status": "completed",
        "output_file_id": files[0],
        "error_file_id": files[1],
        "created_at": now,
        "in_progress_at": now,
        "expires_at": now + 86_400,
        "finalizing_at": now,
        "completed_at": now,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {
            "total": worked.completed + worked.failed,
            "completed": worked.completed,
            "failed": worked.failed,
        },
        "metadata": asked.get("metadata"),
    }
    nothing = {"output_file_id": None, "error_file_id": None, "finalizing_at": None, "completed_at": None}
    counts = {"total": worked.completed + worked.failed, "completed": 0, "failed": 0}
    return Goes(encode(final), encode(final | nothing | {"status": "in_progress", "request_counts": counts}))


def job(job_id: str, asked: Mapping[str, Any], model: str, content: bytes, now: int) -> Goes:
    """A fine-tuning job as it goes on."""
    final: dict[str, Any] = {
        "id": job_id,
        "object": "fine_tuning.job",
        "created_at": now,
        "finished_at": now,
        "error": None,
        "fine_tuned_model": f"ft:{model}:simulated::{job_id[-8:]}",
        "hyperparameters": {"n_epochs": EPOCHS, "batch_size": 1, "learning_rate_multiplier": 1.0},
        "model": model,
        "organization_id": "org-simulated",
        "result_files": [],
        "seed": 1,
        "status": "succeeded",
        "trained_tokens": trained_tokens(content),
        "training_file": asked["training_file"],
        "validation_file": None,
        "integrations": [],
        "metadata": asked.get("metadata"),
    }
    nothing = {"status": "running", "trained_tokens": None, "finished_at": None, "fine_tuned_model": None}
    return Goes(encode(final), encode(final | nothing))


def trained_tokens(content: bytes) -> int:
    return EPOCHS * (len(content) // BYTES_OF_A_TOKEN)


def inner(asked: Asked, path: str, body: bytes) -> Asked:
    """A line of a batch as the request that it stands for."""
    return asked._replace(method="POST", path=path, query="", body=body, body_bytes=len(body), whole=True)
