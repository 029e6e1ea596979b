"""What a call used, counted out of what was sent and what came, where the answer does not say it. Pure.

Texts are counted with the model's tokenizer, what stands around them by the rules of OpenAI's cookbook ("How to count
tokens with tiktoken"), images by the guide "Images and vision". Where no rule is published, the comment says out of which
recorded answers a figure is. What can not be counted is named in the result, since leaving it out in silence would be
counting it as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.providers import sse
from gateway.providers.api import Estimate, Exchanged
from gateway.providers.decoding import readable
from gateway.providers.openai.image_sizes import size_of_url
from gateway.providers.openai.models import Family, Size, family_of
from gateway.providers.openai.tokenizers import tokens_of

MESSAGE_TOKENS, NAME_TOKENS, REPLY_TOKENS = 3, 1, 3
"""Around each message, before a name in it, and once for the beginning of the answer (cookbook, section 6)."""

PROPERTIES_TOKENS, PROPERTY_TOKENS = 3, 3
CHOICES_TOKENS, CHOICE_TOKENS = -3, 3
FUNCTIONS_TOKENS = 12
"""Of functions: where there are properties, for each, where one lists its values, for each; once at the end (section 7)."""

CALL_TOKENS = 7
"""Around the name and the arguments of a call, in the prompt as in the answer: 7 or 8 in four recorded answers."""

SIZE_ASSUMED = Size(1024, 1024)
"""Of an image that is elsewhere, or of a format that is not known."""

SCHEMA_DEPTH_MAX = 8

Json = Mapping[str, Any]


class _Count:
    """A count under way."""

    def __init__(self, exchanged: Exchanged, request: Json) -> None:
        model = exchanged.model or request.get("model")
        self.family: Family = family_of(model if isinstance(model, str) else None)
        self.missing: dict[str, None] = {}

    def text(self, value: object) -> int:
        return tokens_of(self.family.encoding, value) if isinstance(value, str) and value else 0

    def without(self, what: str) -> int:
        """Take note of something that is not counted."""
        self.missing[what] = None
        return 0

    # -- the prompt

    def message(self, message: Json) -> int:
        role = message.get("role")
        found = MESSAGE_TOKENS + self.text(role) + self.content(message.get("content"))
        if isinstance(message.get("name"), str):
            found += NAME_TOKENS + self.text(message["name"])
        return found + self.calls(message)

    def calls(self, message: Json) -> int:
        """The calls of functions that a message, or the difference to one, makes."""
        calls = [call.get("function") or call.get("custom") for call in _objects(message.get("tool_calls"))]
        return sum(self.call(call) for call in _objects([*calls, message.get("function_call")]))

    def call(self, call: Json) -> int:
        # Of a call that comes in pieces, only the first has the name.
        around = CALL_TOKENS if call.get("name") else 0
        return around + self.text(call.get("name")) + self.text(call.get("arguments")) + self.text(call.get("input"))

    def content(self, content: object) -> int:
        if not isinstance(content, list):
            return self.text(content)
        return sum(self.text(part) if isinstance(part, str) else self.part(part) for part in content)

    def part(self, part: object) -> int:
        if not isinstance(part, dict):
            return 0
        match part.get("type"):
            case "text" | "input_text" | "output_text" | "summary_text":
                return self.text(part.get("text"))
            case "refusal":
                return self.text(part.get("refusal"))
            case "image_url" | "input_image":
                image = part.get("image_url")
                return self.image(image if isinstance(image, dict) else {"url": image, "detail": part.get("detail")})
            case "input_audio":
                return self.without("audio")
            case "file" | "input_file":
                return self.without("files")
            case _:
                return self.without("other content")

    def image(self, image: Json) -> int:
        url, detail = image.get("url"), image.get("detail")
        size = size_of_url(url) if isinstance(url, str) else None
        if size is None:
            self.without("image sizes")
        return self.family.image(size or SIZE_ASSUMED, "low" if detail == "low" else "high")

    def reply(self) -> int:
        """The beginning of the answer; one less in five recorded answers of models that reason, with one to three messages."""
        return REPLY_TOKENS - 1 if self.family.reasons else REPLY_TOKENS

    def functions(self, offered: Iterable[Json]) -> int:
        found = 0
        for function in offered:
            line = f"{_str(function.get('name'))}:{_str(function.get('description')).removesuffix('.')}"
            found += self.family.function_tokens + self.text(line) + self.properties(function.get("parameters"))
        return found + FUNCTIONS_TOKENS if found else 0

    def properties(self, schema: object, depth: int = 0) -> int:
        """The properties of an object; the cookbook counts those of the first level, and what lies in them counts alike."""
        if not isinstance(schema, dict) or depth > SCHEMA_DEPTH_MAX:
            return 0
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return self.properties(schema.get("items"), depth + 1)
        found = PROPERTIES_TOKENS
        for name, described in properties.items():
            found += PROPERTY_TOKENS
            if not isinstance(described, dict):
                continue
            choices = described.get("enum")
            if isinstance(choices, list):
                found += CHOICES_TOKENS + sum(CHOICE_TOKENS + self.text(_str(choice)) for choice in choices)
            description = _str(described.get("description")).removesuffix(".")
            found += self.text(f"{name}:{_str(described.get('type'))}:{description}") + self.properties(
                described, depth + 1
            )
        return found

    # -- the result

    def result(self, quantities: dict[str, int]) -> Estimate:
        return Estimate(
            quantities=quantities,
            encoding=self.family.encoding,
            fallback=not self.family.published,
            missing=tuple(self.missing),
        )


def chat(exchanged: Exchanged) -> Estimate | None:
    """A chat completion."""
    request = _object(exchanged.request)
    if request is None or not isinstance(request.get("messages"), list):
        return None
    count = _Count(exchanged, request)
    prompt = sum(count.message(message) for message in _objects(request["messages"])) + count.reply()
    tools = list(_objects(request.get("tools")))
    offered = [tool.get("function") or tool.get("custom") for tool in tools] + _list(request.get("functions"))
    prompt += count.functions(_objects(offered))
    _note_what_is_hidden(count, request, request.get("reasoning_effort"))
    if _wants_schema(request.get("response_format")):
        count.without("response format")
    if request.get("prediction") is not None:
        count.without("predictions")
    if request.get("audio") is not None:
        count.without("audio")

    def said(event: Json) -> int:
        found = 0
        for choice in _objects(event.get("choices")):
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict):
                index = str(choice.get("index"))
                texts.setdefault(index, []).extend(
                    _str(message.get(name)) for name in ("content", "refusal", "reasoning_content")
                )
                for call in _objects(message.get("tool_calls")):
                    function = call.get("function") or call.get("custom")
                    if isinstance(function, dict):
                        place = index, str(call.get("index", call.get("id")))
                        arguments = _str(function.get("arguments")) or _str(function.get("input"))
                        texts.setdefault(place, []).append(arguments)
                        found += count.call({"name": function.get("name")})
                if isinstance(message.get("function_call"), dict):
                    found += count.call(message["function_call"])
        return found

    texts: dict[object, list[str]] = {}
    return count.result(
        {"input_tokens": prompt, "output_tokens": _output(exchanged, count, said, texts, ("content", "arguments"))}
    )


def completions(exchanged: Exchanged) -> Estimate | None:
    """A completion of a text."""
    request = _object(exchanged.request)
    if request is None or "prompt" not in request:
        return None
    count = _Count(exchanged, request)
    texts: dict[object, list[str]] = {}

    def said(event: Json) -> int:
        for choice in _objects(event.get("choices")):
            texts.setdefault(str(choice.get("index")), []).append(_str(choice.get("text")))
        return 0

    prompt = _inputs(count, request["prompt"]) + count.text(request.get("suffix"))
    output = _output(exchanged, count, said, texts, ("text",))
    return count.result({"input_tokens": prompt, "output_tokens": output})


def embeddings(exchanged: Exchanged) -> Estimate | None:
    """Embeddings: exact in all of 30 recorded answers."""
    request = _object(exchanged.request)
    if request is None or "input" not in request:
        return None
    count = _Count(exchanged, request)
    return count.result({"input_tokens": _inputs(count, request["input"])})


def responses(exchanged: Exchanged) -> Estimate | None:
    """A response. One in the background goes on at the provider, whatever becomes of this connection."""
    request = _object(exchanged.request)
    if request is None or "input" not in request or request.get("background") is True:
        return None
    count = _Count(exchanged, request)
    items = request["input"]
    if not isinstance(items, list):
        items = [{"role": "user", "content": items}] if isinstance(items, str) else []
    prompt = sum(_item(count, item) for item in _objects(items)) + count.reply()
    if request.get("instructions"):
        prompt += count.message({"role": "system", "content": request["instructions"]})
    tools = list(_objects(request.get("tools")))
    prompt += count.functions([tool for tool in tools if tool.get("type") in ("function", "custom")])
    if any(tool.get("type") not in ("function", "custom") for tool in tools):
        count.without("hosted tools")
    if request.get("previous_response_id") is not None or request.get("conversation") is not None:
        count.without("earlier turns")
    if request.get("prompt") is not None:
        count.without("prompt template")
    text = request.get("text")
    if isinstance(text, dict) and _wants_schema(text.get("format")):
        count.without("response format")
    reasoning = request.get("reasoning")
    _note_what_is_hidden(count, request, reasoning.get("effort") if isinstance(reasoning, dict) else None)
    texts: dict[object, list[str]] = {}
    searches: dict[str, int] = {}

    def said(event: Json) -> int:
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                place = str(event.get("output_index")), str(event.get("content_index"))
                texts.setdefault(place, []).append(_str(event.get("delta")))
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                texts.setdefault(str(event.get("output_index")), []).append(_str(event.get("delta")))
            case "response.output_item.added" if isinstance(event.get("item"), dict):
                # Its arguments come by themselves.
                return count.call({"name": event["item"].get("name")})
            case "response.output_item.done" if isinstance(event.get("item"), dict):
                searched = _SEARCHES.get(_str(event["item"].get("type")))
                if searched is not None:
                    searches[searched] = searches.get(searched, 0) + 1
            case None:
                return sum(_output_item(count, item, searches) for item in _objects(event.get("output")))
        return 0

    output = _output(exchanged, count, said, texts, ("text", "arguments"))
    return count.result({"input_tokens": prompt, "output_tokens": output, **searches})


_SEARCHES = {"web_search_call": "web_searches", "file_search_call": "file_searches"}


def _item(count: _Count, item: Json) -> int:
    """An item of a response's input."""
    match item.get("type", "message"):
        case "message":
            return count.message(item)
        case "function_call" | "custom_tool_call":
            return MESSAGE_TOKENS + count.text("assistant") + count.call(item)
        case "function_call_output" | "custom_tool_call_output":
            return MESSAGE_TOKENS + count.text("tool") + count.content(item.get("output"))
        case "reasoning":
            return count.without("earlier reasoning")
        case "item_reference":
            return count.without("earlier turns")
        case _:
            return count.without("hosted tools")


def _output_item(count: _Count, item: Json, searches: dict[str, int]) -> int:
    """An item of a response that came whole."""
    kind = _str(item.get("type"))
    if kind in _SEARCHES:
        searches[_SEARCHES[kind]] = searches.get(_SEARCHES[kind], 0) + 1
        return 0
    if kind == "reasoning":
        return 0
    return count.content(item.get("content")) + count.call(item)


def _inputs(count: _Count, value: object) -> int:
    """A text, a list of tokens, or a list of either."""
    if isinstance(value, list):
        return sum(1 if type(one) is int else _inputs(count, one) for one in value)
    return count.text(value)


def _output(
    exchanged: Exchanged,
    count: _Count,
    said: Callable[[Json], int],
    texts: Mapping[object, list[str]],
    names: tuple[str, ...],
) -> int:
    """The tokens of what came. `said` reads one event of a stream, or the whole answer: it puts texts that come in pieces
    into `texts`, where they are joined before they are counted, and returns the tokens of all else. `names` are the
    fields in which the texts of an answer stand that is not whole and can not be read."""
    plain = readable(exchanged.answer, exchanged.coding)
    if exchanged.streamed:
        found = sum(said(event) for event in _events(plain))
    else:
        answer = _object(plain)
        if answer is None:
            # The model had ended before the first byte left, and what has not come was said all the same.
            count.without("rest of the answer")
            found = sum(count.text(text) for text in _texts_of_broken(plain, names))
        else:
            found = said(answer)
    found += sum(count.text("".join(pieces)) for pieces in texts.values())
    if exchanged.answer_bytes > len(exchanged.answer) > 0:
        # Only its beginning was kept: what followed is taken to hold as many tokens for its size.
        count.without("exact output")
        found = found * exchanged.answer_bytes // len(exchanged.answer)
    return found


def _events(stream: bytes) -> Iterator[Json]:
    for event in sse.Frames().feed(stream):
        found = _object(sse.data(event))
        if found is not None:
            yield found


def _texts_of_broken(body: bytes, names: tuple[str, ...]) -> Iterator[str]:
    """The texts in these fields of JSON that breaks off, the last of which may not be whole."""
    field = "|".join(names)
    written = body.decode("utf-8", "replace")
    for found in re.finditer(rf'"(?:{field})"\s*:\s*"((?:[^"\\]|\\(?:u[0-9a-fA-F]{{4}}|[^u]))*+)', written):
        try:
            yield msgspec.json.decode(f'"{found[1]}"', type=str)
        except (msgspec.DecodeError, UnicodeError):
            yield found[1]


def _note_what_is_hidden(count: _Count, request: Json, effort: object) -> None:
    if count.family.reasons and effort != "none":
        count.without("reasoning")


def _wants_schema(wanted: object) -> bool:
    return isinstance(wanted, dict) and wanted.get("type") == "json_schema"


def _object(written: bytes) -> Json | None:
    """A JSON object, or None. Bytes that are no UTF-8 are read as the characters that stand for them."""
    try:
        value = msgspec.json.decode(written)
    except UnicodeDecodeError:
        return _object(written.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _objects(values: object) -> Iterator[Json]:
    return (value for value in _list(values) if isinstance(value, dict))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
