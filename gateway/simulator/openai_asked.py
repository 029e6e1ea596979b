"""What a request to the simulated OpenAI asks for, and the errors that it gets where that makes no sense. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.simulator import prose
from gateway.simulator.api import Answer, Asked

encode = msgspec.json.encode
decode = msgspec.json.decode

CHAT, COMPLETION, EMBEDDING, MODERATION, REALTIME = "chat", "completion", "embedding", "moderation", "realtime"
IMAGE, TRANSCRIPTION, SPEECH = "image", "transcription", "speech"

SNAPSHOTS: dict[str, tuple[str, str]] = {
    "gpt-3.5-turbo": (CHAT, "gpt-3.5-turbo-0125"),
    "gpt-4": (CHAT, "gpt-4-0613"),
    "gpt-4-turbo": (CHAT, "gpt-4-turbo-2024-04-09"),
    "gpt-4o": (CHAT, "gpt-4o-2024-08-06"),
    "gpt-4o-mini": (CHAT, "gpt-4o-mini-2024-07-18"),
    "gpt-4.1": (CHAT, "gpt-4.1-2025-04-14"),
    "gpt-4.1-mini": (CHAT, "gpt-4.1-mini-2025-04-14"),
    "gpt-4.1-nano": (CHAT, "gpt-4.1-nano-2025-04-14"),
    "o3": (CHAT, "o3-2025-04-16"),
    "o4-mini": (CHAT, "o4-mini-2025-04-16"),
    "gpt-5": (CHAT, "gpt-5-2025-08-07"),
    "gpt-5-mini": (CHAT, "gpt-5-mini-2025-08-07"),
    "gpt-5-nano": (CHAT, "gpt-5-nano-2025-08-07"),
    "gpt-5.4": (CHAT, "gpt-5.4"),
    "gpt-5.6-sol": (CHAT, "gpt-5.6-sol"),
    "gpt-6-luna": (CHAT, "gpt-6-luna"),
    "gpt-6.1-sol": (CHAT, "gpt-6.1-sol"),
    "gpt-6.1-terra": (CHAT, "gpt-6.1-terra"),
    "gpt-3.5-turbo-instruct": (COMPLETION, "gpt-3.5-turbo-instruct:20230824-v2"),
    "davinci-002": (COMPLETION, "davinci:2023-07-21-v2"),
    "text-embedding-3-small": (EMBEDDING, "text-embedding-3-small"),
    "text-embedding-3-large": (EMBEDDING, "text-embedding-3-large"),
    "text-embedding-ada-002": (EMBEDDING, "text-embedding-ada-002-v2"),
    "omni-moderation-latest": (MODERATION, "omni-moderation-2024-09-26"),
    "gpt-image-1": (IMAGE, "gpt-image-1"),
    "dall-e-3": (IMAGE, "dall-e-3"),
    "gpt-4o-transcribe": (TRANSCRIPTION, "gpt-4o-transcribe"),
    "whisper-1": (TRANSCRIPTION, "whisper-1"),
    "gpt-4o-mini-tts": (SPEECH, "gpt-4o-mini-tts"),
    "tts-1": (SPEECH, "tts-1"),
    "gpt-realtime": (REALTIME, "gpt-realtime-2025-08-28"),
    "gpt-realtime-mini": (REALTIME, "gpt-realtime-mini-2025-12-15"),
    "gpt-realtime-2.1": (REALTIME, "gpt-realtime-2.1"),
}
"""The models there are, under the names that applications use: what they are for, and the name that answers."""

MODELS: Mapping[str, tuple[str, str]] = SNAPSHOTS | {
    snapshot: (kind, snapshot) for kind, snapshot in SNAPSHOTS.values() if ":" not in snapshot
}
"""Snapshots answer to their own names too, except those that the API only ever shows."""

FINE_TUNED = re.compile(r"ft:(?P<base>[\w.-]+):[\w:.-]+", re.ASCII)
"""A model of the account's own; it answers under its own name."""

CHOICES_MAX = 128
WORDS_MIN, WORDS_SPREAD = 12, 24
"""An answer whose length nobody decides has so many words at least, and up to so many more."""

ERRORS: Mapping[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
}
"""The `type` and `code` of an error; else of the two kinds below, by whose fault it is."""
THEIR_ERROR, OUR_ERROR = ("invalid_request_error", None), ("server_error", None)


class ApiError(Exception):
    """The request cannot be answered, and the API says why."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.answer = failure(status, message, kind, param, code)


def failure(status: int, message: str, kind: str, param: str | None, code: str | None) -> Answer:
    """An error, in the shape that all of the API shares."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = (("retry-after", "1"),) if status in (429, 503) else ()
    return Answer(status=status, headers=headers, body=encode(body))


def failure_of(status: int, message: str) -> Answer:
    """An error of this status, with the `type` and `code` that it usually has."""
    kind, code = ERRORS.get(status, OUR_ERROR if status >= 500 else THEIR_ERROR)
    return failure(status, message, kind, None, code)


class Tool(NamedTuple):
    """The call that an answer makes instead of giving a text."""

    name: str
    arguments: str


def json_object(asked: Asked) -> dict[str, Any]:
    if not asked.whole:
        raise ApiError(f"The body is too large: {asked.body_bytes} bytes.", status=413)
    try:
        body = decode(asked.body)
    except (msgspec.DecodeError, RecursionError):
        raise ApiError("The body of this request is not valid JSON.") from None
    if not isinstance(body, dict):
        raise ApiError("The body of this request is not a JSON object.")
    return body


def required(body: Mapping[str, Any], name: str) -> Any:
    value = body.get(name)
    if value is None:
        raise ApiError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return value


def listed(body: Mapping[str, Any], name: str) -> list[Any]:
    value = required(body, name)
    if not isinstance(value, list) or not value:
        raise ApiError(f"Invalid '{name}': it is a list of at least one.", param=name, code="invalid_type")
    return value


def integer(body: Mapping[str, Any], name: str, low: int = 1, high: int = 1 << 31) -> int | None:
    value = body.get(name)
    if value is None or (type(value) is int and low <= value <= high):
        return value
    raise ApiError(f"Invalid '{name}': it is an integer from {low} to {high}.", param=name, code="invalid_value")


def model_for(body: Mapping[str, Any], kind: str, unknown_status: int = 404) -> str:
    """The model that answers, where the request names one of this kind."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError("You must say which model is to answer: 'model' is missing.")
    tuned = FINE_TUNED.fullmatch(name)
    model_kind, snapshot = MODELS.get(tuned["base"] if tuned else name, (None, ""))
    if model_kind != kind:
        raise no_such_model(name, unknown_status)
    return name if tuned else snapshot


def no_such_model(name: str, status: int) -> ApiError:
    param = "model" if status == 400 else None
    message = f"The model `{name}` does not exist, or you have no access to it."
    return ApiError(message, status=status, param=param, code="model_not_found")


def inputs_of(value: object) -> list[Any]:
    """A text, a list of texts, a list of tokens or a list of such lists: as a list with one entry for each text."""
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return value
    return [value]


def input_items(value: object) -> list[dict[str, Any]]:
    """The input of a response, always as items."""
    items = value if isinstance(value, list) else [{"role": "user", "content": value}]
    if not all(isinstance(item, dict) for item in items):
        raise ApiError("Invalid 'input': it is a text or a list of items.", param="input", code="invalid_type")
    return items


def is_tool_result(messages: Sequence[object]) -> bool:
    """True where the last message answers a call: the model then has what it wanted, and says something."""
    last = messages[-1]
    return isinstance(last, Mapping) and last.get("role") == "tool"


def tools_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = body.get("tools")
    return [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []


def chosen_tool(body: Mapping[str, Any], *, asked_for: bool, of: Callable[[Mapping[str, Any]], object]) -> Tool | None:
    """The function that the answer calls: the one that `tool_choice` names, else the first, or none."""
    choice = body.get("tool_choice", "auto")
    if choice == "none" or (choice == "auto" and not asked_for):
        return None
    offered = [of(tool) for tool in tools_of(body) if tool.get("type") == "function"]
    functions = [tool for tool in offered if isinstance(tool, Mapping)]
    named = [function for function in functions if isinstance(function.get("name"), str)]
    chosen = of(choice) if isinstance(choice, Mapping) else None
    if isinstance(chosen, Mapping):
        named = [function for function in named if function["name"] == chosen.get("name")]
    if not named:
        return None
    return Tool(named[0]["name"], encode(prose.example(named[0].get("parameters"))).decode())


def length_of(asked: Asked, seed: int, limit: int | None, tool: Tool | None) -> tuple[int, bool]:
    """How many words to say, and whether the limit cut some off."""
    if tool:
        return 0, False
    wanted = asked.controls.words
    if wanted is None:
        wanted = WORDS_MIN + (seed >> 16) % WORDS_SPREAD
    return (limit, True) if limit is not None and limit < wanted else (wanted, False)


def tier_of(body: Mapping[str, Any]) -> str:
    """The tier that serves the request; it decides the price, and is told in the answer."""
    match body.get("service_tier"):
        case "fast" | "priority":
            return "priority"
        case "flex":
            return "flex"
        case _:
            return "default"


def wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def seed_of(model: str, said: object) -> int:
    """What decides the answer: the model and what was said to it, however the answer is to be told."""
    return int.from_bytes(hashlib.sha256(encode((model, said))).digest()[:6], "big")


class Form(NamedTuple):
    fields: dict[str, str]
    filename: str
    size: int
    """Bytes of the file."""
    content: bytes
    """What was kept of it."""


def read_form(asked: Asked) -> Form:
    """A multipart body, which may be longer than what was kept of it: the file is then its last part."""
    found = re.search(r'boundary="?([^";]+)', asked.headers.get("Content-Type", ""))
    if found is None:
        raise ApiError("The body of this request is not multipart/form-data.")
    delimiter = b"\r\n--" + found[1].encode("latin-1")
    closing_bytes = len(delimiter) + len(b"--\r\n")
    fields: dict[str, str] = {}
    filename, size, file = None, 0, b""
    # The first delimiter has nothing before it; with a line end in front it is one like all others.
    begin = -len(b"\r\n")
    for part in (b"\r\n" + asked.body).split(delimiter):
        head, _, content = part.partition(b"\r\n\r\n")
        is_cut = not asked.whole and begin + len(part) == len(asked.body)
        disposition = head.decode("utf-8", "replace")
        if name := re.search(r'filename="([^"]*)"', disposition):
            rest = asked.body_bytes - begin - len(head) - len(b"\r\n\r\n") - closing_bytes
            filename, size, file = name[1], rest if is_cut else len(content), content
        elif name := re.search(r' name="([^"]*)"', disposition):
            fields[name[1]] = content.decode("utf-8", "replace")
        begin += len(part) + len(delimiter)
    if filename is None:
        raise ApiError("Missing required parameter: 'file'.", param="file", code="missing_required_parameter")
    return Form(fields, filename, size, file)
