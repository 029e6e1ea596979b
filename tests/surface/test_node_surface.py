"""Every method of OpenAI's SDK for Node through the gateway: what the provider gets and what the SDK hears and returns is what
it is directly, byte for byte but for the documented changes.

The methods are found in the SDK's tree of resources. What they are given and answered comes of the annotations of the SDK
for Python, which has the same methods: this one's types are gone when it runs.
"""

from __future__ import annotations

import base64
import io
import json
import typing
from pathlib import Path
from typing import Any

import openai
from openai._streaming import extract_stream_chunk_type

from tests.nodes import SCRIPTS, needs_node, run_script
from tests.surface.answers import answer_to
from tests.surface.calls import Method, methods
from tests.surface.made_up import FILE, NAMES, MadeUp
from tests.surface.ways import Heard, Told, Way, Ways, differences

pytestmark = needs_node

METHODS = methods()


def call_of(method: Method, directory: Path) -> dict[str, Any]:
    """What the script is told of a call."""
    arguments = method.arguments(directory, everything=not method.helps)
    options = {name: arguments.pop(f"extra_{name}", None) for name in ("headers", "query", "body")}
    return {
        "label": f"node {method.label}",
        "method": method.name,
        "params": in_json(arguments),
        "ids": list(NAMES),
        "file": file_in_json(FILE, "ü a.wav", "audio/wav"),
        "options": {"headers": options["headers"]} if options["headers"] else {},
    }


def in_json(value: Any) -> Any:
    """A value as the script reads it, files and all."""
    if isinstance(value, dict):
        return {name: in_json(item) for name, item in value.items()}
    if isinstance(value, Path):
        return {"$file": file_in_json(value.read_bytes(), value.name, "")}
    if isinstance(value, io.BytesIO):
        return {"$file": file_in_json(value.read(), "a.bin", "")}
    if isinstance(value, bytes):
        return {"$file": file_in_json(value, "b.bin", "")}
    if isinstance(value, tuple):
        content = value[1].read() if isinstance(value[1], io.BytesIO) else value[1]
        return {"$file": file_in_json(content, value[0], value[2] if len(value) > 2 else "")}
    return [in_json(item) for item in value] if isinstance(value, list) else value


def file_in_json(content: bytes, name: str, media_type: str) -> dict[str, str]:
    return {"bytes": base64.b64encode(content).decode(), "name": name, "type": media_type}


def arrange(found: Ways, method: Method, directory: Path) -> None:
    """Let the provider answer such a call with what it returns."""
    label, kind = f"node {method.label}", method.returns
    plain = typing.get_origin(kind) or kind
    streamed = isinstance(plain, type) and issubclass(plain, openai.Stream)
    events = extract_stream_chunk_type(kind) if streamed else None
    made_up = MadeUp(label, directory, everything=True)
    found.upstream.answers[label.encode()] = [answer_to(made_up, kind, events, method.fields)]


def walked(
    found: Ways, way: Way, calls: list[dict[str, Any]], directory: Path
) -> tuple[dict[str, tuple[str, Told]], list[str]]:
    """What came of each call on this way, with the name of its method, and the names of all methods."""
    out = directory / "told.json"
    side = {"baseUrl": way.base_url, "key": way.key, "headers": way.headers}
    told_to = directory / "calls.json"
    told_to.write_text(json.dumps({"side": side, "calls": calls, "out": str(out)}))
    run_script(SCRIPTS / "surface.cjs", str(told_to))
    said = json.loads(out.read_text())
    return {
        label: (
            told["method"],
            Told(found.upstream.taken(label.encode()), [heard(answer) for answer in told["heard"]], told["result"]),
        )
        for label, told in said["told"].items()
    }, said["methods"]


def heard(answer: dict[str, Any]) -> Heard:
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"])
    return Heard(answer["status"], answer["reason"].encode(), headers, base64.b64decode(answer["body"]))


LOCAL = {"webhooks.unwrap", "webhooks.verifySignature"}
"""Methods that ask the provider nothing."""

HELPERS = {
    "beta.threads.createAndRunStream": "beta.threads.createAndRun",
    "beta.threads.runs.createAndStream": "beta.threads.runs.create",
    "beta.threads.runs.stream": "beta.threads.runs.create",
    "beta.threads.runs.submitToolOutputsStream": "beta.threads.runs.submitToolOutputs",
    "chat.completions.parse": "chat.completions.create",
    "chat.completions.runTools": "chat.completions.create",
    "chat.completions.stream": "chat.completions.create",
    "responses.parse": "responses.create",
    "responses.stream": "responses.create",
}
"""Methods that make something of what another one is told, which is compared: events that were made up do not fit together."""


def test_every_method_does_through_the_gateway_what_it_does_directly(found, tmp_path):
    every = [method for method in METHODS if method.path[-1] != "connect" and (not method.helps or method.polls)]
    for method in every:
        arrange(found, method, tmp_path)
    calls = [call_of(method, tmp_path) for method in every]

    direct, names = walked(found, found.direct, calls, tmp_path)
    through = [(way.cut, walked(found, way, calls, tmp_path)[0]) for way in (found.own, found.brought)]

    assert len(names) > 300
    assert {method for method, _ in direct.values()} | HELPERS.keys() == set(names)
    assert {method for method, told in direct.values() if not told.seen} == LOCAL
    assert {method for method, told in direct.values() if told.raised} == LOCAL
    assert [
        (label, different)
        for cut, tolds in through
        for label, (_, told) in tolds.items()
        if (different := differences(direct[label][1], told, cut))
    ] == []
