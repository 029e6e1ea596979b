"""What a response's hosted tools used, which is billed apart from its tokens. Pure.

How often they were used stands in `tool_usage` (in answers since 2026, in no reference) or has to be counted among the
items of `output`. A file search costs by the call, a web search by the search (looking at a page it found is no further
one): each model has its price for them. The code interpreter costs by the container, and a picture by the tokens of the
model that made it: each of those is an event of its own, so that its price, or the lack of one, is its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from gateway.providers.json_scan import UNREADABLE
from gateway.providers.learnt import Usage
from gateway.providers.openai.requests import text
from gateway.providers.openai.usage import UNSEEN_MAX, count, counted, is_field, pictured, unseen
from metering.usage import Completeness


class Tools(NamedTuple):
    """What a response's tools used."""

    quantities: dict[str, int]
    """What is priced by the model that called them, in its event."""
    further: tuple[Usage, ...] = ()
    """What is priced by another model."""
    unseen: tuple[str, ...] = ()


FURTHER_MAX = 16
"""So many pictures of one response become events of their own; none has been seen with more than a few."""


class _Item(msgspec.Struct):
    """One item of a response's output."""

    type: object = None
    action: msgspec.Raw = msgspec.Raw(b"")
    container_id: object = None
    svg_usage: msgspec.Raw = msgspec.Raw(b"")
    model: object = None


class _Tool(msgspec.Struct):
    """A tool that the response was offered; the answer repeats it."""

    type: object = None
    model: object = None
    container: object = None
    """The name of a container that there was before, or how to make one."""


_read_items = msgspec.json.Decoder(list[_Item]).decode
_read_tools = msgspec.json.Decoder(list[_Tool]).decode
_read_told = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_object = msgspec.json.Decoder(dict[str, object]).decode
_read_named = msgspec.json.Decoder(_Tool).decode


_KNOWN = frozenset({"web_search", "image_gen"})


def tools_used(output: msgspec.Raw, tool_usage: msgspec.Raw, tools: msgspec.Raw) -> Tools:
    """What an answer's items and its `tool_usage` say."""
    items = _items(output)
    told = _told(tool_usage)
    web_searches = count(_object(told.get("web_search")), "num_requests")
    if web_searches is None:
        web_searches = sum(item.type == "web_search_call" and _is_search(item.action) for item in items)
    found = {
        "web_searches": web_searches,
        "file_searches": sum(item.type == "file_search_call" for item in items),
    }
    written = [item.svg_usage for item in items if bytes(item.svg_usage).startswith(b"{")]
    further = [drawn_as_svg(usage) for usage in written[:FURTHER_MAX]]
    used = {text(item.container_id) for item in items if item.type == "code_interpreter_call"}
    if used:
        further += _containers(used, tools)
    pictures = sum(item.type == "image_generation_call" for item in items)
    drawn = told.get("image_gen", msgspec.Raw(b""))
    if pictures or bytes(drawn).startswith(b"{"):
        further += _pictures(pictures, drawn, tools)
    return Tools(
        {name: amount for name, amount in found.items() if amount},
        tuple(further),
        tuple(f"tool_usage.{name}" for name in told if name not in _KNOWN and is_field(name))[:UNSEEN_MAX],
    )


def _containers(used: Collection[str | None], tools: msgspec.Raw) -> list[Usage]:
    """The containers that a response's code ran in, except one that it was given, which was counted when it was made.

    A container is priced by its minutes and memory, whatever the model. One that a conversation goes on with is counted
    with each response that uses it: no answer says how old it is.
    """
    given = {tool.container for tool in _offered(tools) if isinstance(tool.container, str)}
    made = [container for container in used if container not in given]
    if not made:
        return []
    return [
        Usage(
            event_type="storage",
            quantities={"containers": len(made)},
            completeness=Completeness.REPORTED,
            resource=CONTAINER,
            metadata={"tool": "code_interpreter"},
        )
    ]


CONTAINER = "container"
"""The resource of containers; where it is known, their memory follows: `container-4g`."""


def _pictures(pictures: int, drawn: msgspec.Raw, tools: msgspec.Raw) -> list[Usage]:
    """What the pictures of a response used. Nothing, where there was none; not known, where nobody says."""
    quantities, kept = counted(drawn) if drawn else ({}, {})
    if not pictures and not any(quantities.values()):
        return []
    known = any(quantities.values())
    if known and pictures:
        quantities["images"] = pictures
    return [
        Usage(
            event_type="image",
            quantities=pictured(quantities) if known else {},
            completeness=Completeness.REPORTED if known else Completeness.UNKNOWN,
            resource=_image_model(tools),
            metadata={"tool": "image_generation", "usage": kept} if known else {"tool": "image_generation"},
            unseen=unseen(drawn) if drawn else (),
        )
    ]


def _image_model(tools: msgspec.Raw) -> str | None:
    return next((text(tool.model) for tool in _offered(tools) if tool.type == "image_generation"), None)


def _offered(tools: msgspec.Raw) -> list[_Tool]:
    try:
        return _read_tools(tools) if tools else []
    except UNREADABLE:
        return []


def drawn_as_svg(usage: msgspec.Raw) -> Usage:
    """What writing a picture as SVG used, at the price of the model that wrote it."""
    told = _object(usage)
    quantities, kept = counted(usage)
    reasoning = count(told, "reasoning_tokens") or 0
    if "output_tokens" in quantities and reasoning:
        # Here the reasoning stands beside the output, not among its details; whether it is a part of it the total says.
        if count(told, "total_tokens") != quantities.get("input_tokens", 0) + quantities["output_tokens"] + reasoning:
            reasoning = min(reasoning, quantities["output_tokens"])
            quantities["output_tokens"] -= reasoning
        quantities["output_tokens_reasoning"] = reasoning
    return Usage(
        event_type="llm_call",
        quantities=quantities,
        completeness=Completeness.REPORTED if quantities else Completeness.UNKNOWN,
        resource=text(told.get("model")),
        metadata={"tool": "svg", "usage": kept},
    )


def _items(output: msgspec.Raw) -> list[_Item]:
    try:
        return _read_items(output) if output else []
    except UNREADABLE:
        return []


def _told(tool_usage: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _read_told(tool_usage) if tool_usage else {}
    except UNREADABLE:
        return {}


def _object(value: msgspec.Raw | None) -> Mapping[str, object]:
    try:
        return _read_object(value) if value else {}
    except UNREADABLE:
        return {}


def _is_search(action: msgspec.Raw) -> bool:
    """True unless the action says that it is another one than searching."""
    try:
        return not action or _read_named(action).type in (None, "search")
    except UNREADABLE:
        return True
