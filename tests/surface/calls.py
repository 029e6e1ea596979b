"""Every method of OpenAI's Python SDK as calls that can be made, found in its tree of resources and their annotations."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import openai
from openai._resource import SyncAPIResource

from tests.surface.made_up import FILE, MadeUp, made_file

OF_EVERY_METHOD = {"self", "return", "extra_headers", "extra_query", "extra_body", "timeout"}
EXTRA = {
    "extra_headers": {"X-Extra": "a  b, c", "x-EMPTY": "", "Cookie": '__cf_bm=abc.def-1; b="c d"'},
    "extra_query": {"nested": {"a": [1, "ü&="], "b": True}, "empty": "", "list": ["x", "y z"]},
    "extra_body": {"x_unknown": {"ü": [None, 1.0, "…"]}},
}

OF_PROGRAMS = {"tool_handlers", "on_tool_error", "output_type", "response_format", "text_format"}
"""Arguments that are a program's own functions and classes, where they can be left out."""

HELPERS = re.compile(r".*\.(?:parse|stream|\w*poll|wait_for_processing|\w+_stream|prepare\w*|upload_file_chunked)")
"""Methods that make calls of other methods: they are called with what they need."""

POLLS = re.compile(r".*(?:poll|wait_for_processing)")


def special(name: str, directory: Path) -> dict[str, Any]:
    """What no annotation tells of the arguments of a method."""
    picture = made_file(directory)
    return {
        "beta.agents.environments.files.prepare/0": {"files": {"/workspace/ein Bild.png": picture}},
        "beta.agents.environments.files.prepare_directory/0": {
            "root": directory,
            "destination": "/workspace/hier",
            "include": [picture.name],
        },
        "beta.agents.environments.files.upload/0": {"path": "/workspace/ü b.txt"},
        "uploads.upload_file_chunked/0": {"file": picture, "part_size": 300},
        "uploads.upload_file_chunked/1": {"file": FILE, "filename": "ü.wav", "bytes": len(FILE), "part_size": 400},
        "vector_stores.file_batches.upload_and_poll/0": {"files": [("eine.txt", FILE)]},
    }.get(name, {})


@dataclass(frozen=True)
class Method:
    """One way in which a method can be called."""

    path: tuple[str, ...]
    overload: int
    kinds: dict[str, Any]
    """The type of each argument."""
    required: frozenset[str]
    extra: frozenset[str]
    """What it takes beside them."""
    returns: Any

    @property
    def label(self) -> str:
        """Which overload of which method."""
        return f"{self.name}/{self.overload}"

    @property
    def helps(self) -> bool:
        """True if it makes calls of other methods."""
        return HELPERS.fullmatch(self.name) is not None

    def has_raw(self, client: Any) -> bool:
        """True if the SDK's view that gives raw answers has it."""
        try:
            self.of(client.with_raw_response)
        except AttributeError:
            return False
        return not self.helps

    @property
    def polls(self) -> bool:
        """True if it waits until what it asked for is done."""
        return POLLS.fullmatch(self.name) is not None

    @property
    def fields(self) -> dict[str, Any]:
        """What answers to it must say: whoever waits, waits for an end."""
        if not self.polls:
            return {}
        return {"status": "processed" if self.path[-1] == "wait_for_processing" else "completed"}

    @property
    def name(self) -> str:
        """The method, as a program spells it."""
        return ".".join(self.path)

    def of(self, client: Any) -> Any:
        """The method of a client, or of one of its views."""
        for part in self.path[:-1]:
            client = getattr(client, part)
        return getattr(client, self.path[-1])

    def arguments(self, directory: Path, *, everything: bool) -> dict[str, Any]:
        """What to call it with; files are made anew, as they are read once."""
        made_up = MadeUp(self.label, directory, everything=everything)
        given = special(self.label, directory)
        found: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            if name in given:
                found[name] = given[name]
            elif name == "event_handler":
                found[name] = openai.AssistantEventHandler()
            elif name == "idempotency_key":
                found[name] = "a-key-of-the-program"
            elif name in self.required or (everything and name not in OF_PROGRAMS):
                found[name] = made_up.name(name) if kind is str else made_up.value(kind, name)
        return found | {name: EXTRA[name] for name in self.extra if everything}


@cache
def methods() -> list[Method]:
    """All of them, in the order of their names."""
    with openai.OpenAI(api_key="sk-none") as client:
        return list(_of_resource(client, ()))


def _of_resource(resource: Any, path: tuple[str, ...]) -> Iterator[Method]:
    if path:
        for name, function in inspect.getmembers(type(resource), inspect.isfunction):
            if not name.startswith("_"):
                yield from _of_method(function, (*path, name))
    for name in dir(type(resource)):
        if not name.startswith(("_", "with_")) and isinstance(found := getattr(resource, name), SyncAPIResource):
            yield from _of_resource(found, (*path, name))


def _of_method(function: Any, path: tuple[str, ...]) -> Iterator[Method]:
    plain = inspect.unwrap(function)
    for number, overload in enumerate(typing.get_overloads(plain) or [plain]):
        hints = typing.get_type_hints(overload, include_extras=True)
        parameters = inspect.signature(overload).parameters
        kinds = {name: kind for name, kind in hints.items() if name not in OF_EVERY_METHOD}
        required = frozenset(name for name in kinds if parameters[name].default is inspect.Parameter.empty)
        yield Method(path, number, kinds, required, frozenset(EXTRA) & frozenset(parameters), hints["return"])
