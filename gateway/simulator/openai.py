"""OpenAI, simulated: chat, responses, realtime, completions, embeddings, pictures, speech, batches, and what an account has
besides. No I/O.

The shapes are the API's own, so that the official SDKs work against it. The words mean nothing; how many there are, and
what is said to have been used, follows from the request alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
import string
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from math import ceil
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from gateway.simulator import openai_later, openai_media, prose
from gateway.simulator.api import Answer, Asked, Bill, Setup
from gateway.simulator.controls import Fault
from gateway.simulator.openai_asked import (
    CHAT,
    CHOICES_MAX,
    COMPLETION,
    EMBEDDING,
    MODELS,
    MODERATION,
    REALTIME,
    ApiError,
    chosen_tool,
    failure_of,
    input_items,
    inputs_of,
    integer,
    is_tool_result,
    json_object,
    length_of,
    listed,
    model_for,
    no_such_model,
    read_form,
    required,
    seed_of,
    tier_of,
    tools_of,
    wants_usage,
)
from gateway.simulator.openai_books import (
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    MODERATIONS,
    SEARCHES,
    SPEECHES,
    TRANSCRIPTIONS,
    Books,
    Whose,
    tokens_of,
)
from gateway.simulator.openai_realtime import Realtime
from gateway.simulator.openai_told import (
    Made,
    chat_events,
    read_back,
    response_stream,
    streamed,
    text_events,
    told,
    waiting,
    whole_chat,
    whole_text,
)
from gateway.simulator.openai_turns import Turns
from gateway.simulator.openai_usage import (
    chat_usage,
    counts,
    input_tokens,
    offered_tokens,
    output_tokens,
    prompt_tokens,
    reasoning_tokens,
    reported,
    response_usage,
    said,
    with_usage,
)
from gateway.simulator.store import Newest

encode = msgspec.json.encode
decode = msgspec.json.decode

ORGANIZATION = "org-simulated"
PROJECT = "proj_simulated"
CREATED = 1_735_689_600
"""When the models and the project were made, so to speak."""

PAGE_ITEMS = 20

DIMENSIONS = {"text-embedding-3-large": 3072}
DIMENSIONS_DEFAULT = 1536

MODERATION_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip

KEY_OFFERED = re.compile(r"openai-insecure-api-key\.([^,\s]+)")
"""A browser can give a WebSocket no header, and puts the key among the subprotocols that it offers."""
WEBSOCKET_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

ORGANIZATION_USED = ("/v1/organization/usage/", "/v1/organization/costs")
"""Where only an admin key leads."""
BOOKED: Mapping[str, str] = {
    "/v1/chat/completions": COMPLETIONS,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/moderations": MODERATIONS,
    "/v1/images/generations": IMAGES,
    "/v1/audio/speech": SPEECHES,
    "/v1/audio/transcriptions": TRANSCRIPTIONS,
}
"""What is used, and where."""

ALPHANUMERIC = string.ascii_letters + string.digits


class Remembered(NamedTuple):
    """A stored response."""

    body: bytes
    items: bytes
    """Its input, as JSON."""
    queued: bool
    """True for one made in the background that nobody has asked for since."""


class OpenAI:
    """The API: `answer` is all of it, and `ROUTES` at the end of this file is its map."""

    name: ClassVar[str] = "openai"
    mount: ClassVar[str] = "openai"
    default_key: ClassVar[str] = "simulator-openai-key"
    admin_key: ClassVar[str] = "sk-admin-simulator-openai-key"
    """Opens what an organization used and what that cost, and no model."""
    default_credential: ClassVar[Mapping[str, str]] = {"api_key": default_key}
    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})

    def __init__(self, setup: Setup) -> None:
        self._keys = setup.keys
        self._random = setup.random
        self._now = setup.now
        self._responses = Newest[Remembered](lambda stored: len(stored.body) + len(stored.items))
        self._chats = Newest[bytes](len)
        self._files = Newest[bytes](len)
        self._contents = Newest[bytes](len)
        self._books = Books()
        self._goes = Newest[openai_later.Goes](lambda one: len(one.final) + len(one.under_way))

    def credential(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
        offered = KEY_OFFERED.search(headers.get("Sec-WebSocket-Protocol", ""))
        return offered[1] if offered and is_upgrade(headers) else None

    def answer(self, asked: Asked) -> Answer:
        try:
            answer = self._answer(asked)
        except ApiError as error:
            answer = error.answer
        except RecursionError:
            answer = failure_of(400, "The body of this request is nested too deeply.")
        return self._signed(answer)

    def refusal(self, status: int, message: str) -> Answer:
        return self._signed(failure_of(status, message))

    def _signed(self, answer: Answer) -> Answer:
        """The answer, with the headers that all of them have."""
        return msgspec.structs.replace(answer, headers=answer.headers + self._headers())

    def _answer(self, asked: Asked, *, batch: bool = False) -> Answer:
        self._admit(self.credential(asked.headers), asked.path)
        if asked.controls.status is not None:
            return failure_of(asked.controls.status, f"This request asked for status {asked.controls.status}.")
        for method, pattern, endpoint in ROUTES:
            if method == asked.method and (found := pattern.fullmatch(asked.path)):
                answer = endpoint(self, asked, *map(unquote, found.groups()))
                if method == "POST" and answer.status == 200:
                    self._book(asked, answer, batch=batch)
                return answer
        raise ApiError(f"Invalid URL ({asked.method} {asked.path})", status=404)

    def _book(self, asked: Asked, answer: Answer, *, batch: bool) -> None:
        """Keep what this used."""
        kind = BOOKED.get(asked.path)
        if kind is None or answer.model is None:
            return
        used = answer.usage if answer.billed is None else answer.billed
        tier = tier_of(json_object(asked)) if kind == COMPLETIONS else "default"
        whose = self._whose(asked, kind, answer.model)._replace(batch=batch, service_tier=tier)
        at = self._at(asked)
        if kind in (COMPLETIONS, EMBEDDINGS):
            self._books.add(at, whose, tokens_of(used))
        else:
            self._books.add(at, whose, openai_media.counted(asked, kind))
        searches = answer.tool_usage
        if isinstance(searches, Mapping):
            searched = {"num_requests": searches["web_search"]["num_requests"]}
            self._books.add(at, whose._replace(kind=SEARCHES), searched)

    def _whose(self, asked: Asked, kind: str, model: str) -> Whose:
        key = self.credential(asked.headers) or ""
        project = asked.headers.get("OpenAI-Project") or PROJECT
        return Whose(kind, project, key_id(key), model, batch=False, service_tier="default")

    def _bills(self, asked: Asked) -> Callable[[Bill], None]:
        """Keeps what a session of this request says was used."""

        def bills(bill: Bill) -> None:
            heard = isinstance(bill.usage, Mapping) and bill.usage.get("seconds")
            kind = TRANSCRIPTIONS if heard else COMPLETIONS
            used = {"seconds": ceil(heard)} if heard else tokens_of(bill.usage)
            self._books.add(self._now(), self._whose(asked, kind, bill.model), used)

        return bills

    def _at(self, asked: Asked) -> float:
        """When what is used here was used, by what it says."""
        now, at = self._now(), asked.controls.at
        if at is not None and at > now:
            raise ApiError("x-simulator-at is a time that has passed.")
        return now if at is None else at

    def bill(self, first: date, last: date) -> list[dict[str, Any]]:
        """What was used on these days, both included."""
        return self._books.bill(first, last)

    def _admit(self, key: str | None, path: str) -> None:
        if key is None:
            raise ApiError("No API key was given: send it as Authorization: Bearer.", status=401)
        if key == self.admin_key:
            if not path.startswith("/v1/organization/"):
                raise ApiError("An admin key opens the organization, and no model.", status=403)
        elif path.startswith(ORGANIZATION_USED):
            raise ApiError("You have insufficient permissions for this operation: api.usage.read.", status=403)
        elif key not in self._keys:
            shown = f"{key[:8]}{'*' * min(len(key) - 12, 16)}{key[-4:]}" if len(key) > 12 else "*" * len(key)
            raise ApiError(f"Incorrect API key provided: {shown}.", status=401, code="invalid_api_key")

    def _headers(self) -> tuple[tuple[str, str], ...]:
        cookie = f"__cf_bm={self._token(43)}-{int(self._now())}-1.0.1.1-{self._token(20)}"
        return (
            ("openai-version", "2020-10-01"),
            ("openai-organization", ORGANIZATION),
            ("openai-project", PROJECT),
            ("openai-processing-ms", str(self._random.randint(5, 900))),
            ("x-request-id", f"req_{self._hex(32)}"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-limit-tokens", "2000000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-remaining-tokens", "1999742"),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-ratelimit-reset-tokens", "7ms"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
            ("x-content-type-options", "nosniff"),
            ("set-cookie", f"{cookie}; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None"),
            ("Server", "cloudflare"),
            ("CF-RAY", f"{self._hex(16)}-IST"),
            ("cf-cache-status", "DYNAMIC"),
        )

    def _token(self, length: int) -> str:
        return "".join(self._random.choices(ALPHANUMERIC, k=length))

    def _hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"

    # Chat and text completions.

    def chat(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for(body, CHAT)
        messages = listed(body, "messages")
        seed = seed_of(model, messages)
        tool = chosen_tool(body, asked_for=not is_tool_result(messages), of=lambda tool: tool.get("function"))
        texts = integer(body, "n", 1, CHOICES_MAX) or 1
        limit = integer(body, "max_completion_tokens") or integer(body, "max_tokens")
        words, cut = length_of(asked, seed, limit, tool)
        prompt = sum(map(prompt_tokens, messages), 3) + offered_tokens(body)
        visible = texts * output_tokens(words, tool)
        made = Made(
            id=f"chatcmpl-{self._token(29)}",
            created=int(self._now()),
            model=model,
            tier=tier_of(body),
            seed=seed,
            texts=texts,
            words=words,
            finish="tool_calls" if tool else "length" if cut else "stop",
            tool=tool,
            call_ids=tuple(f"call_{self._token(24)}" for _ in range(texts if tool else 0)),
            usage=reported(asked, lambda: chat_usage(model, seed, messages, prompt, visible)),
            usage_in_stream=wants_usage(body),
        )
        if body.get("store") is True:
            self._chats.put(made.id, encode({**whole_chat(made), "metadata": body.get("metadata") or {}}))
        if not body.get("stream"):
            return told(made, encode(whole_chat(made)))
        return streamed(made, chat_events)

    def chat_retrieve(self, _asked: Asked, chat_id: str) -> Answer:
        stored = known(self._chats.get(chat_id), "chat completion", chat_id)
        return read_back(stored)

    def chat_update(self, asked: Asked, chat_id: str) -> Answer:
        stored = known(self._chats.get(chat_id), "chat completion", chat_id)
        changed = encode({**decode(stored), "metadata": json_object(asked).get("metadata")})
        self._chats.put(chat_id, changed)
        return read_back(changed)

    def chat_delete(self, _asked: Asked, chat_id: str) -> Answer:
        known(self._chats.pop(chat_id), "chat completion", chat_id)
        return deleted(chat_id, "chat.completion.deleted")

    def completions(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for(body, COMPLETION)
        prompts = inputs_of(required(body, "prompt"))
        seed = seed_of(model, prompts)
        texts = min((integer(body, "n", 1, CHOICES_MAX) or 1) * len(prompts), CHOICES_MAX)
        limit = integer(body, "max_tokens")
        words, cut = length_of(asked, seed, limit, None)
        prompt, completion = sum(map(input_tokens, prompts)), texts * words
        made = Made(
            id=f"cmpl-{self._token(29)}",
            created=int(self._now()),
            model=model,
            tier="default",
            seed=seed,
            texts=texts,
            words=words,
            finish="length" if cut else "stop",
            tool=None,
            call_ids=(),
            usage=reported(asked, lambda: counts(prompt, completion)),
            usage_in_stream=wants_usage(body),
        )
        answer = streamed(made, text_events) if body.get("stream") else told(made, encode(whole_text(made)))
        return msgspec.structs.replace(answer, headers=(("openai-model", model),))

    # Responses.

    def responses(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for(body, CHAT, unknown_status=400)
        previous = body.get("previous_response_id")
        if previous is not None and (not isinstance(previous, str) or self._responses.get(previous) is None):
            code = "previous_response_not_found"
            raise ApiError(f"There is no previous response {previous}.", param="previous_response_id", code=code)
        items = [self._input_item(item) for item in input_items(required(body, "input"))]
        final = self._response(asked, body, model, items)
        stored = encode(final)
        background, stream = body.get("background") is True, bool(body.get("stream"))
        if body.get("store") is not False:
            queued = background and not stream
            self._responses.put(final["id"], Remembered(stored, encode(items), queued))
        if stream:
            return response_stream(final, 0)
        if background:
            queued_body = encode(waiting(final, "queued"))
            return Answer(body=queued_body, object_id=final["id"], model=model, billed=final.get("usage"))
        return read_back(stored)

    def responses_session(self, asked: Asked) -> Answer:
        if not is_upgrade(asked.headers):
            raise ApiError(f"Invalid URL ({asked.method} {asked.path})", status=404)

        def respond(body: Mapping[str, Any]) -> Answer:
            try:
                return self.responses(asked._replace(body=encode({**body, "stream": True})))
            except ApiError as error:
                return error.answer

        session, object_id = Turns(respond, asked.controls), f"sess_{self._token(21)}"
        return Answer(status=101, session=session, object_id=object_id, bills=self._bills(asked))

    def _response(
        self, asked: Asked, body: Mapping[str, Any], model: str, items: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The response as it will be when it is over."""
        seed = seed_of(model, body["input"])
        answered = bool(items) and items[-1].get("type") == "function_call_output"
        tool = chosen_tool(body, asked_for=not answered, of=lambda tool: tool)
        limit = integer(body, "max_output_tokens")
        words, cut = length_of(asked, seed, limit, tool)
        reasoning = reasoning_tokens(model, seed)
        searched = any(str(tool.get("type", "")).startswith("web_search") for tool in tools_of(body))
        failed = asked.controls.fault is Fault.RESPONSE_FAILED
        status = "failed" if failed else "incomplete" if cut else "completed"
        output: list[dict[str, Any]] = []
        if reasoning:
            output.append({"id": f"rs_{self._hex(50)}", "type": "reasoning", "summary": []})
        if searched:
            action = {"type": "search", "query": "toll"}
            output.append(
                {"id": f"ws_{self._hex(50)}", "type": "web_search_call", "status": "completed", "action": action}
            )
        if tool:
            call = {"type": "function_call", "status": "completed", "arguments": tool.arguments, "name": tool.name}
            output.append({"id": f"fc_{self._hex(50)}", "call_id": f"call_{self._token(24)}", **call})
        else:
            text = "".join(prose.words(seed, words))
            message = {"type": "message", "status": "incomplete" if cut or failed else "completed", "role": "assistant"}
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
            output.append({"id": f"msg_{self._hex(50)}", **message, "content": [part]})
        prompt = (
            sum(map(prompt_tokens, items), 3) + offered_tokens(body) + prose.tokens(str(body.get("instructions") or ""))
        )
        usage = reported(
            asked, lambda: response_usage(model, seed, prompt, output_tokens(words, tool) + reasoning, reasoning)
        )
        now = int(self._now())
        final: dict[str, Any] = {
            "id": f"resp_{self._hex(50)}",
            "object": "response",
            "created_at": now,
            "status": status,
            "background": body.get("background") is True,
            "completed_at": now if status == "completed" else None,
            "error": {"code": "server_error", "message": "This request asked to fail."} if failed else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": limit,
            "max_tool_calls": body.get("max_tool_calls"),
            "model": model,
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": body.get("previous_response_id"),
            "prompt_cache_key": body.get("prompt_cache_key"),
            "reasoning": body.get("reasoning") or {"effort": "medium" if reasoning else None, "summary": None},
            "safety_identifier": body.get("safety_identifier"),
            "service_tier": tier_of(body),
            "store": body.get("store") is not False,
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_logprobs": body.get("top_logprobs", 0),
            "top_p": body.get("top_p", 1.0),
            "truncation": body.get("truncation", "disabled"),
            "usage": usage,
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }
        if usage is msgspec.UNSET:
            del final["usage"]
        if searched:
            image_tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
            details = {"input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
            final["tool_usage"] = {"image_gen": image_tokens | details, "web_search": {"num_requests": 1}}
        return final

    def _input_item(self, item: Mapping[str, Any]) -> dict[str, Any]:
        kind = item.get("type", "message")
        content = item.get("content")
        given: dict[str, Any] = {"id": f"msg_{self._hex(50)}", **item, "type": kind}
        if kind == "message":
            given.setdefault("status", "completed")
            if isinstance(content, str):
                given["content"] = [{"type": "input_text", "text": content}]
        return given

    def response_retrieve(self, asked: Asked, response_id: str) -> Answer:
        stored = known(self._responses.get(response_id), "response", response_id)
        if stored.queued:
            self._responses.put(response_id, stored._replace(queued=False))
        query = parse_qs(asked.query)
        if query.get("stream") == ["true"]:
            after = natural(query.get("starting_after", [""])[0])
            return response_stream(decode(stored.body), 0 if after is None else after + 1)
        return read_back(stored.body)

    def response_cancel(self, _asked: Asked, response_id: str) -> Answer:
        stored = known(self._responses.get(response_id), "response", response_id)
        final = decode(stored.body)
        if not final["background"]:
            raise ApiError("Only a response that is made in the background can be cancelled.")
        if stored.queued:
            stored = Remembered(encode(waiting(final, "cancelled")), stored.items, queued=False)
            self._responses.put(response_id, stored)
        return read_back(stored.body)

    def response_delete(self, _asked: Asked, response_id: str) -> Answer:
        known(self._responses.pop(response_id), "response", response_id)
        return deleted(response_id, "response")

    def response_input_items(self, asked: Asked, response_id: str) -> Answer:
        stored = known(self._responses.get(response_id), "response", response_id)
        return page(decode(stored.items), asked.query)

    # Realtime.

    def realtime(self, asked: Asked) -> Answer:
        if not is_upgrade(asked.headers):
            raise ApiError("This is a WebSocket endpoint: ask for an upgrade, of version 13, with a key.")
        name = next(iter(parse_qs(asked.query).get("model", ())), "")
        try:
            model, unknown = model_for({"model": name}, REALTIME), None
        except ApiError as error:
            model, unknown = name, str(error)

        def new_id(prefix: str) -> str:
            return f"{prefix}_{self._token(21)}"

        session = Realtime(model, unknown, asked.controls, new_id, int(self._now()))
        known_model = model if unknown is None else None
        return Answer(status=101, session=session, object_id=session.id, model=known_model, bills=self._bills(asked))

    # Everything else.

    def embeddings(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for(body, EMBEDDING)
        inputs = inputs_of(required(body, "input"))
        dimensions = integer(body, "dimensions", 1, 4096) or DIMENSIONS.get(model, DIMENSIONS_DEFAULT)
        vectors: list[object] = []
        for text in inputs:
            floats = prose.vector(seed_of(model, text), dimensions)
            in_base64 = body.get("encoding_format") == "base64"
            vectors.append(base64.b64encode(array("f", floats).tobytes()).decode() if in_base64 else floats)
        prompt = sum(map(input_tokens, inputs))
        usage = reported(asked, lambda: {"prompt_tokens": prompt, "total_tokens": prompt})
        data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(vectors)]
        answer = {"object": "list", "data": data, "model": model}
        return Answer(body=encode(with_usage(answer, usage)), model=model, usage=said(usage))

    def moderations(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for({"model": "omni-moderation-latest"} | body, MODERATION)
        result = {
            "flagged": False,
            "categories": dict.fromkeys(MODERATION_CATEGORIES, False),
            "category_scores": dict.fromkeys(MODERATION_CATEGORIES, 1.5e-06),
            "category_applied_input_types": {category: ["text"] for category in MODERATION_CATEGORIES},
        }
        moderation_id = f"modr-{self._hex(32)}"
        results = [result for _ in inputs_of(required(body, "input"))]
        answer = {"id": moderation_id, "model": model, "results": results}
        return Answer(body=encode(answer), object_id=moderation_id, model=model)

    def images(self, asked: Asked) -> Answer:
        return openai_media.images(asked)

    def transcriptions(self, asked: Asked) -> Answer:
        return openai_media.transcription(asked)

    def speech(self, asked: Asked) -> Answer:
        return openai_media.speech(asked)

    def models(self, _asked: Asked) -> Answer:
        return Answer(body=encode({"object": "list", "data": [model_card(name) for name in MODELS]}))

    def model(self, _asked: Asked, name: str) -> Answer:
        if name not in MODELS:
            raise no_such_model(name, 404)
        return Answer(body=encode(model_card(name)))

    def file_create(self, asked: Asked) -> Answer:
        upload = read_form(asked)
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise ApiError("Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter")
        body = self._filed(upload.filename, purpose, upload.size, upload.content)
        return Answer(body=body, object_id=decode(body)["id"])

    def _filed(self, filename: str, purpose: str, size: int, content: bytes) -> bytes:
        """Keep a file, and say what it is."""
        file_id = f"file-{self._token(22)}"
        stored = {
            "object": "file",
            "id": file_id,
            "purpose": purpose,
            "filename": filename,
            "bytes": size,
            "created_at": int(self._now()),
            "expires_at": None,
            "status": "processed",
            "status_details": None,
        }
        body = encode(stored)
        self._files.put(file_id, body)
        self._contents.put(file_id, content)
        return body

    def file_content(self, _asked: Asked, file_id: str) -> Answer:
        content = known(self._contents.get(file_id), "file", file_id)
        return Answer(body=content, content_type="application/octet-stream", object_id=file_id)

    def file_list(self, asked: Asked) -> Answer:
        return page([decode(stored) for stored in self._files], asked.query)

    def file_retrieve(self, _asked: Asked, file_id: str) -> Answer:
        return Answer(body=known(self._files.get(file_id), "file", file_id), object_id=file_id)

    def file_delete(self, _asked: Asked, file_id: str) -> Answer:
        known(self._files.pop(file_id), "file", file_id)
        self._contents.pop(file_id)
        return deleted(file_id, "file")

    # What goes on after it was answered.

    def batch_create(self, asked: Asked) -> Answer:
        body = json_object(asked)
        file_id, endpoint = required(body, "input_file_id"), required(body, "endpoint")
        content = known(self._contents.get(str(file_id)), "file", str(file_id))

        def answered(path: str, line: bytes) -> Answer:
            try:
                return self._answer(openai_later.inner(asked, path, line), batch=True)
            except ApiError as error:
                return error.answer

        worked = openai_later.worked_off(content, str(endpoint), answered, lambda: self._hex(32))
        files = [
            decode(self._filed(f"{name}.jsonl", "batch_output", len(held), held))["id"] if held else None
            for name, held in (("output", worked.output), ("errors", worked.errors))
        ]
        batch_id = f"batch_{self._hex(32)}"
        goes = openai_later.batch(batch_id, body, worked, (files[0], files[1]), int(self._now()))
        self._goes.put(batch_id, goes)
        return Answer(body=goes.now, object_id=batch_id, usage={"kind": "batch", "models": worked.models})

    def batch_retrieve(self, _asked: Asked, batch_id: str) -> Answer:
        return self._gone_on("batch", batch_id)

    def job_create(self, asked: Asked) -> Answer:
        body = json_object(asked)
        model = model_for(body, CHAT)
        file_id = str(required(body, "training_file"))
        content = known(self._contents.get(file_id), "file", file_id)
        job_id = f"ftjob-{self._token(24)}"
        goes = openai_later.job(job_id, body, model, content, int(self._now()))
        self._goes.put(job_id, goes)
        trained = {"kind": "job", "trained_tokens": openai_later.trained_tokens(content)}
        return Answer(body=goes.now, object_id=job_id, model=model, usage=trained)

    def job_retrieve(self, _asked: Asked, job_id: str) -> Answer:
        return self._gone_on("fine-tuning job", job_id)

    def _gone_on(self, what: str, object_id: str) -> Answer:
        goes = known(self._goes.get(object_id), what, object_id)
        goes = goes._replace(asked=goes.asked + 1)
        self._goes.put(object_id, goes)
        return Answer(body=goes.now, object_id=object_id)

    def organization_usage(self, asked: Asked, kind: str) -> Answer:
        return Answer(body=encode(self._books.usage(kind, asked.query, self._now())))

    def organization_costs(self, asked: Asked) -> Answer:
        return Answer(body=encode(self._books.costs(asked.query, self._now())))

    def projects(self, asked: Asked) -> Answer:
        project = {"id": PROJECT, "object": "organization.project", "name": "Simulated"}
        return page([{**project, "created_at": CREATED, "archived_at": None, "status": "active"}], asked.query)


def key_id(key: str) -> str:
    """What a key is called where it must not be shown."""
    return f"key_{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:16]}"


def is_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether the request asks for a WebSocket, and can have one."""
    connection = (token.strip() for token in headers.get("Connection", "").lower().split(","))
    wanted = headers.get("Upgrade", "").lower() == "websocket" and "upgrade" in connection
    key = headers.get("Sec-WebSocket-Key", "")
    return wanted and headers.get("Sec-WebSocket-Version") == "13" and bool(WEBSOCKET_KEY.fullmatch(key))


def deleted(object_id: str, kind: str) -> Answer:
    return Answer(body=encode({"id": object_id, "object": kind, "deleted": True}), object_id=object_id)


def known(item: Any, what: str, object_id: str) -> Any:
    """The stored object, or the API's way of saying that there is none."""
    if item is None:
        raise ApiError(f"No {what} found with id '{object_id}'.", status=404)
    return item


def model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


def natural(text: str) -> int | None:
    """A number out of a query; None where there is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def page(items: Sequence[Mapping[str, Any]], query: str) -> Answer:
    """One page of a list: newest first, unless the query asks for `order=asc`."""
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    ordered = list(items) if asked.get("order") == "asc" else list(reversed(items))
    ids = [item["id"] for item in ordered]
    start = ids.index(asked["after"]) + 1 if asked.get("after") in ids else 0
    limit = natural(asked.get("limit", "")) or PAGE_ITEMS
    shown = ordered[start : start + limit]
    answer = {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(ordered),
    }
    return Answer(body=encode(answer))


def route(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{id\}", "([^/]+)"))


ROUTES: tuple[tuple[str, re.Pattern[str], Callable[..., Answer]], ...] = (
    ("POST", route("/v1/chat/completions"), OpenAI.chat),
    ("GET", route("/v1/chat/completions/{id}"), OpenAI.chat_retrieve),
    ("POST", route("/v1/chat/completions/{id}"), OpenAI.chat_update),
    ("DELETE", route("/v1/chat/completions/{id}"), OpenAI.chat_delete),
    ("POST", route("/v1/responses"), OpenAI.responses),
    ("GET", route("/v1/responses"), OpenAI.responses_session),
    ("GET", route("/v1/responses/{id}"), OpenAI.response_retrieve),
    ("DELETE", route("/v1/responses/{id}"), OpenAI.response_delete),
    ("POST", route("/v1/responses/{id}/cancel"), OpenAI.response_cancel),
    ("GET", route("/v1/responses/{id}/input_items"), OpenAI.response_input_items),
    ("GET", route("/v1/realtime"), OpenAI.realtime),
    ("POST", route("/v1/completions"), OpenAI.completions),
    ("POST", route("/v1/embeddings"), OpenAI.embeddings),
    ("POST", route("/v1/moderations"), OpenAI.moderations),
    ("POST", route("/v1/images/generations"), OpenAI.images),
    ("POST", route("/v1/audio/transcriptions"), OpenAI.transcriptions),
    ("POST", route("/v1/audio/speech"), OpenAI.speech),
    ("GET", route("/v1/models"), OpenAI.models),
    ("GET", route("/v1/models/{id}"), OpenAI.model),
    ("POST", route("/v1/files"), OpenAI.file_create),
    ("GET", route("/v1/files"), OpenAI.file_list),
    ("GET", route("/v1/files/{id}"), OpenAI.file_retrieve),
    ("DELETE", route("/v1/files/{id}"), OpenAI.file_delete),
    ("GET", route("/v1/files/{id}/content"), OpenAI.file_content),
    ("POST", route("/v1/batches"), OpenAI.batch_create),
    ("GET", route("/v1/batches/{id}"), OpenAI.batch_retrieve),
    ("POST", route("/v1/fine_tuning/jobs"), OpenAI.job_create),
    ("GET", route("/v1/fine_tuning/jobs/{id}"), OpenAI.job_retrieve),
    ("GET", route("/v1/organization/projects"), OpenAI.projects),
    ("GET", route("/v1/organization/usage/{id}"), OpenAI.organization_usage),
    ("GET", route("/v1/organization/costs"), OpenAI.organization_costs),
)
"""Every endpoint there is; all other paths are answered as the API answers an invalid URL."""
