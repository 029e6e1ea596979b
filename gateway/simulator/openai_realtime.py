"""OpenAI's realtime API, simulated: one session, what a client says in it and what it is told. No I/O.

It is the protocol as it is generally available, for sessions of type `realtime`; the older beta shapes, transcription
sessions and the sideband of a call are not there. Each response is billed by itself: what it heard is the whole
conversation so far, of which the part that the response before it heard as well comes from the cache.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from gateway.simulator import prose
from gateway.simulator.api import Bill, BreakOff, Close, Message, Silence, Step
from gateway.simulator.controls import Controls, Fault
from gateway.simulator.openai_asked import WORDS_MIN, WORDS_SPREAD, Tool, chosen_tool, seed_of
from gateway.simulator.openai_told import fragments
from gateway.simulator.openai_usage import IMAGE_TOKENS, MESSAGE_TOKENS, offered_tokens

encode = msgspec.json.encode
decode = msgspec.json.decode

ITEMS_MAX = 10_000
"""More items are refused; a real model would have forgotten the first ones long before."""
AUDIO_BYTES_MAX = 15 << 20
"""What the input buffer holds; the API takes no more at once either."""

BYTES_PER_MS: Mapping[str, int] = {"audio/pcm": 48, "audio/pcmu": 8, "audio/pcma": 8}
MS_PER_TOKEN_HEARD, MS_PER_TOKEN_SPOKEN = 100, 50
TOKENS_PER_WORD_SPOKEN = 4
COMMIT_MS_MIN = 100
SILENCE_MS = 500
SESSION_S_MAX = 3600

CLOSED_OVER_MODEL = 4000
"""How the API ends a session that it let begin, for want of a model."""


class ClientError(Exception):
    """The client said something that makes no sense; the session goes on, and an `error` event says so."""

    def __init__(self, message: str, *, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Tokens(NamedTuple):
    """What was heard, by kind. The kinds never overlap."""

    text: int = 0
    audio: int = 0
    image: int = 0

    @property
    def sum(self) -> int:
        return self.text + self.audio + self.image

    def with_(self, other: Tokens) -> Tokens:
        return Tokens(self.text + other.text, self.audio + other.audio, self.image + other.image)

    def within(self, other: Tokens) -> Tokens:
        return Tokens(min(self.text, other.text), min(self.audio, other.audio), min(self.image, other.image))

    @property
    def told(self) -> dict[str, int]:
        return {"text_tokens": self.text, "audio_tokens": self.audio, "image_tokens": self.image}


class Item(NamedTuple):
    """A part of the conversation."""

    fields: dict[str, Any]
    """As it is told: without its audio."""
    tokens: Tokens


@dataclass(slots=True, kw_only=True)
class Speaking:
    """A response under way."""

    id: str
    item_id: str
    wanted: Mapping[str, Any]
    """The session's settings, with those of the response over them."""
    in_conversation: bool
    heard: Tokens
    cached: Tokens
    seed: int
    tool: Tool | None
    metadata: object
    words: int = 0
    """How many were said so far."""
    stopped_by: str | None = None
    """Why it is to say no more."""
    text: list[str] = field(default_factory=list)

    @property
    def aloud(self) -> bool:
        return self.tool is None and "audio" in self.wanted["output_modalities"]


class Realtime:
    """One session."""

    def __init__(
        self, model: str, unknown: str | None, controls: Controls, new_id: Callable[[str], str], now_s: int
    ) -> None:
        """`unknown` is what is wrong with the model that was asked for; the session then ends as soon as it begins."""
        self.id = new_id("sess")
        self._model = model
        self._unknown = unknown
        self._controls = controls
        self._new_id = new_id
        self._conversation_id = new_id("conv")
        self._settings = settings_of(self.id, model, now_s + SESSION_S_MAX)
        self._items: dict[str, Item] = {}
        self._audio = bytearray()
        self._hearing = False
        """True while somebody speaks, where the API listens for that itself."""
        self._silent_bytes = 0
        self._heard = Tokens()
        """What the last response heard, as far as it is in the cache."""
        self._cached_behind = 0
        """The instructions and tools that it heard before it: the cache holds beginnings."""
        self._speaking: Speaking | None = None
        self._steps: Iterator[Step] | None = None

    # -- what the socket's side asks for

    def opened(self) -> Iterator[Step]:
        if self._unknown is not None:
            error = {
                "type": "invalid_request_error",
                "code": "invalid_model",
                "message": self._unknown,
                "param": "model",
            }
            yield self._event("error", error={**error, "event_id": None})
            yield Close(CLOSED_OVER_MODEL, "invalid_request_error.invalid_model")
            return
        yield self._event("session.created", session=self._settings)

    def heard(self, text: str) -> Iterator[Step]:
        """Answer an event of the client's. What a response says comes from `goes_on`."""
        event_id = None
        try:
            event = event_of(text)
            event_id = event.get("event_id") if isinstance(event.get("event_id"), str) else None
            answer = ANSWERS.get(str(event.get("type")))
            if answer is None:
                known = ", ".join(f"'{name}'" for name in ANSWERS)
                raise ClientError(f"Invalid value for 'type'. Supported values are: {known}.", param="type")
            yield from answer(self, event)
        except ClientError as error:
            yield self._error(error, event_id)
        except RecursionError:
            yield self._error(ClientError("This event is nested too deeply."), event_id)

    def goes_on(self) -> Step | None:
        """The next step of the response under way; None where there is none."""
        if self._steps is None:
            return None
        step = next(self._steps, None)
        if step is None:
            self._steps = self._speaking = None
        return step

    # -- the client's events

    def session_update(self, event: Mapping[str, Any]) -> Iterator[Step]:
        wanted = object_in(event, "session")
        if wanted.get("type") != "realtime":
            raise ClientError("Missing or invalid 'session.type': 'realtime'.", param="session.type")
        if wanted.get("model") not in (None, self._model, self._settings["model"]):
            raise ClientError("The model of a session can not be changed.", param="session.model")
        self._settings = checked({**merged(self._settings, wanted), "model": self._model, "id": self.id})
        yield self._event("session.updated", session=self._settings)

    def item_create(self, event: Mapping[str, Any]) -> Iterator[Step]:
        fields = object_in(event, "item")
        item_id = fields.get("id") or self._new_id("item")
        if not isinstance(item_id, str) or item_id in self._items:
            raise ClientError("This item id is taken, or is none.", code="item_create_invalid_item_id", param="item.id")
        after = event.get("previous_item_id")
        if after is not None and after != "root" and str(after) not in self._items:
            raise ClientError(
                "There is no such previous item.", code="item_create_invalid_previous_item_id", param="previous_item_id"
            )
        item = item_of(item_id, fields, self._settings)
        yield from self._add(item, after)

    def item_retrieve(self, event: Mapping[str, Any]) -> Iterator[Step]:
        item = self._item(event, "retrieve")
        yield self._event("conversation.item.retrieved", item=item.fields)

    def item_delete(self, event: Mapping[str, Any]) -> Iterator[Step]:
        item = self._item(event, "delete")
        del self._items[item.fields["id"]]
        self._heard = Tokens()  # This is no longer how the conversation began.
        yield self._event("conversation.item.deleted", item_id=item.fields["id"])

    def item_truncate(self, event: Mapping[str, Any]) -> Iterator[Step]:
        item = self._item(event, "truncate")
        end_ms = event.get("audio_end_ms")
        if item.fields.get("role") != "assistant" or type(end_ms) is not int or end_ms < 0:
            raise ClientError("Only what the assistant said aloud can be cut, after so many ms.", param="audio_end_ms")
        audio = min(item.tokens.audio, end_ms // MS_PER_TOKEN_SPOKEN)
        content = [{**part, "transcript": ""} for part in item.fields["content"]]
        self._items[item.fields["id"]] = Item({**item.fields, "content": content}, Tokens(MESSAGE_TOKENS, audio))
        self._heard = Tokens()
        place = {"item_id": item.fields["id"], "content_index": event.get("content_index", 0)}
        yield self._event("conversation.item.truncated", **place, audio_end_ms=end_ms)

    def audio_append(self, event: Mapping[str, Any]) -> Iterator[Step]:
        try:
            audio = base64.b64decode(event.get("audio") or "", validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ClientError("Invalid 'audio': it is base64.", param="audio") from None
        if len(self._audio) + len(audio) > AUDIO_BYTES_MAX:
            raise ClientError(f"The input buffer holds {AUDIO_BYTES_MAX} bytes. Commit or clear it.", param="audio")
        self._audio += audio
        if (turns := self._settings["audio"]["input"]["turn_detection"]) is not None:
            yield from self._listen(audio, turns)

    def audio_commit(self, event: Mapping[str, Any]) -> Iterator[Step]:
        if self._ms(len(self._audio)) < COMMIT_MS_MIN:
            message = f"The input buffer is too small to be committed: it takes {COMMIT_MS_MIN} ms of audio."
            raise ClientError(message, code="input_audio_buffer_commit_empty")
        yield from self._commit(self._new_id("item"))

    def audio_clear(self, event: Mapping[str, Any]) -> Iterator[Step]:
        self._audio.clear()
        self._hearing, self._silent_bytes = False, 0
        yield self._event("input_audio_buffer.cleared")

    def response_create(self, event: Mapping[str, Any]) -> Iterator[Step]:
        if self._steps is not None:
            message = "The conversation already has an active response. Wait until it is over, or cancel it."
            raise ClientError(message, code="conversation_already_has_active_response")
        wanted = event.get("response")
        if wanted is not None and not isinstance(wanted, dict):
            raise ClientError("Invalid 'response': it is an object.", code="invalid_type", param="response")
        self._begin(wanted or {})
        return iter(())

    def response_cancel(self, event: Mapping[str, Any]) -> Iterator[Step]:
        if self._speaking is None or event.get("response_id") not in (None, self._speaking.id):
            raise ClientError("There is no such response under way.", code="response_cancel_not_active")
        self._speaking.stopped_by = "client_cancelled"
        return iter(())

    # -- hearing

    def _listen(self, audio: bytes, turns: Mapping[str, Any]) -> Iterator[Step]:
        """Find where somebody begins and stops to speak: bytes of zero are silence, all others are speech."""
        speech = audio.rstrip(b"\0")
        if not self._hearing and not speech.strip(b"\0"):
            return
        end_ms = self._ms(len(self._audio))
        if not self._hearing:
            self._hearing, self._spoken_id = True, self._new_id("item")
            start_ms = max(0, end_ms - self._ms(len(audio)))
            yield self._event("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self._spoken_id)
            if self._speaking is not None and turns.get("interrupt_response", True):
                self._speaking.stopped_by = "turn_detected"
        self._silent_bytes = len(audio) - len(speech) if speech else self._silent_bytes + len(audio)
        if self._ms(self._silent_bytes) < turns.get("silence_duration_ms", SILENCE_MS):
            return
        self._hearing, self._silent_bytes = False, 0
        yield self._event("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=self._spoken_id)
        yield from self._commit(self._spoken_id)
        if turns.get("create_response", True):
            # Who was interrupted has to come to an end first.
            while (step := self.goes_on()) is not None:
                yield step
            self._begin({})

    def _commit(self, item_id: str) -> Iterator[Step]:
        ms = self._ms(len(self._audio))
        self._audio.clear()
        yield self._event("input_audio_buffer.committed", previous_item_id=self._last_id(), item_id=item_id)
        part = {"type": "input_audio", "transcript": None}
        fields = {"type": "message", "role": "user", "content": [part]}
        tokens = Tokens(MESSAGE_TOKENS, -(-ms // MS_PER_TOKEN_HEARD))
        yield from self._add(Item(whole_item(item_id, fields), tokens), None)
        transcription = self._settings["audio"]["input"]["transcription"]
        if transcription is not None:
            yield from self._transcribe(item_id, str(transcription.get("model")), ms)

    def _transcribe(self, item_id: str, model: str, ms: int) -> Iterator[Step]:
        """What was heard, in writing. Another model does that, and bills it for itself."""
        count = max(1, ms // 300)
        text = "".join(prose.words(seed_of(model, ms), count))
        audio = -(-ms // MS_PER_TOKEN_HEARD)
        usage: dict[str, Any] = {"type": "duration", "seconds": ms / 1000}
        if model != "whisper-1":
            counts = {"input_tokens": audio, "output_tokens": count, "total_tokens": audio + count}
            usage = {"type": "tokens", **counts, "input_token_details": {"text_tokens": 0, "audio_tokens": audio}}
        kind = "conversation.item.input_audio_transcription"
        place = {"item_id": item_id, "content_index": 0}
        yield self._event(f"{kind}.delta", **place, delta=text)
        told = self._event(f"{kind}.completed", **place, transcript=text, usage=usage)
        yield told._replace(bill=Bill(item_id, model, usage))

    # -- speaking

    def _begin(self, wanted: Mapping[str, Any]) -> None:
        """Let a response begin."""
        settings = checked(merged(self._settings, {name: wanted[name] for name in wanted if name in OF_RESPONSES}))
        given = wanted.get("input")
        items = list(self._items.values()) if given is None else self._given(given, settings)
        in_conversation = wanted.get("conversation", "auto") != "none"
        heard = Tokens(prose.tokens(str(settings["instructions"])) + offered_tokens(settings))
        for item in items:
            heard = heard.with_(item.tokens)
        behind = seed_of(str(settings["instructions"]), settings["tools"])
        cached = self._heard.within(heard) if given is None and behind == self._cached_behind else Tokens()
        answered = bool(items) and items[-1].fields["type"] == "function_call_output"
        self._speaking = Speaking(
            id=self._new_id("resp"),
            item_id=self._new_id("item"),
            wanted=settings,
            in_conversation=in_conversation,
            heard=heard,
            cached=cached,
            seed=seed_of(self._model, [item.fields | {"id": None} for item in items]),
            tool=chosen_tool(settings, asked_for=not answered, of=lambda tool: tool),
            metadata=wanted.get("metadata"),
        )
        if given is None:
            self._heard, self._cached_behind = heard, behind
        self._steps = self._respond(self._speaking)

    def _respond(self, saying: Speaking) -> Iterator[Step]:
        """A response, start to finish."""
        fault = self._controls.fault
        of = {"response_id": saying.id}
        begun = self._response(saying, "in_progress", [], None)
        yield self._event("response.created", response=begun)
        limit = saying.wanted["max_output_tokens"]
        wanted = self._controls.words
        if wanted is None:
            wanted = WORDS_MIN + (saying.seed >> 16) % WORDS_SPREAD
        each = 1 + TOKENS_PER_WORD_SPOKEN * saying.aloud
        words = wanted if limit == "inf" or saying.tool else min(wanted, limit // each)
        before = self._last_id()
        at = {**of, "output_index": 0}
        started = self._output(saying, "in_progress")
        yield self._event("response.output_item.added", **at, item=started)
        if saying.in_conversation:
            yield self._event("conversation.item.added", previous_item_id=before, item=started)
        for number, step in enumerate(self._words(saying, words, {**at, "item_id": saying.item_id})):
            if number == 1 and fault is Fault.CUT_STREAM:
                yield BreakOff(step.text)
                return
            if number == 1 and fault is Fault.STALL_STREAM:
                yield Silence()
                return
            yield step
        cut = saying.tool is None and words < wanted and saying.stopped_by is None
        status = "cancelled" if saying.stopped_by else "incomplete" if cut else "completed"
        if fault is Fault.RESPONSE_FAILED:
            status = "failed"
        output = self._output(saying, "completed" if status == "completed" else "incomplete")
        yield self._event("response.output_item.done", **at, item=output)
        if saying.in_conversation:
            spoken = TOKENS_PER_WORD_SPOKEN * saying.words if saying.aloud else 0
            self._items[saying.item_id] = Item(output, Tokens(MESSAGE_TOKENS + self._said(saying), spoken))
            yield self._event("conversation.item.done", previous_item_id=before, item=output)
        if fault is Fault.NO_DONE:
            yield Close(1000)
            return
        usage = self._usage(saying)
        limits = [{"name": "tokens", "limit": 40_000, "remaining": 39_000, "reset_seconds": 1.5}]
        yield self._event("rate_limits.updated", rate_limits=limits)
        final = self._response(saying, status, [output], usage)
        done = self._event("response.done", response=final)
        yield done._replace(bill=Bill(saying.id, self._model, usage))
        if self._controls.close_code is not None:
            yield Close(self._controls.close_code, "This session asked to be closed.")

    def _words(self, saying: Speaking, words: int, at: Mapping[str, Any]) -> Iterator[Message]:
        """What a response says, in deltas, until it is to stop."""
        if saying.tool is not None:
            call = {**at, "call_id": f"call_{saying.item_id[5:]}"}
            for fragment in fragments(saying.tool.arguments):
                yield self._event("response.function_call_arguments.delta", **call, delta=fragment)
            whole = {"name": saying.tool.name, "arguments": saying.tool.arguments}
            yield self._event("response.function_call_arguments.done", **call, **whole)
            return
        at = {**at, "content_index": 0}
        part = {"type": "audio", "transcript": ""} if saying.aloud else {"type": "text", "text": ""}
        yield self._event("response.content_part.added", **at, part=part)
        kind = "output_audio_transcript" if saying.aloud else "output_text"
        form = saying.wanted["audio"]["output"]["format"]["type"]
        spoken = base64.b64encode(
            b"\x01\x7f" * (BYTES_PER_MS[form] * MS_PER_TOKEN_SPOKEN * TOKENS_PER_WORD_SPOKEN // 2)
        ).decode()
        for word in prose.words(saying.seed, words):
            if saying.stopped_by:
                break
            saying.words += 1
            saying.text.append(word)
            yield self._event(f"response.{kind}.delta", **at, delta=word)
            if saying.aloud:
                yield self._event("response.output_audio.delta", **at, delta=spoken)
        text = "".join(saying.text)
        if saying.aloud:
            yield self._event("response.output_audio.done", **at)
            yield self._event(f"response.{kind}.done", **at, transcript=text)
        else:
            yield self._event(f"response.{kind}.done", **at, text=text)
        part = {"type": "audio", "transcript": text} if saying.aloud else {"type": "text", "text": text}
        yield self._event("response.content_part.done", **at, part=part)

    def _output(self, saying: Speaking, status: str) -> dict[str, Any]:
        """The item that a response makes."""
        if saying.tool is not None:
            arguments = "" if status == "in_progress" else saying.tool.arguments
            call = {"name": saying.tool.name, "call_id": f"call_{saying.item_id[5:]}", "arguments": arguments}
            return {**whole_item(saying.item_id, {"type": "function_call", **call}), "status": status}
        text = "".join(saying.text)
        part = {"type": "output_audio", "transcript": text} if saying.aloud else {"type": "output_text", "text": text}
        fields = {"type": "message", "role": "assistant", "content": [] if status == "in_progress" else [part]}
        return {**whole_item(saying.item_id, fields), "status": status}

    def _response(
        self, saying: Speaking, status: str, output: Sequence[Mapping[str, Any]], usage: object
    ) -> dict[str, Any]:
        details: dict[str, Any] | None = None
        if status == "cancelled":
            details = {"type": "cancelled", "reason": saying.stopped_by}
        elif status == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        elif status == "failed":
            details = {"type": "failed", "error": {"type": "server_error", "code": "server_error"}}
        return {
            "object": "realtime.response",
            "id": saying.id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self._conversation_id if saying.in_conversation else None,
            "output_modalities": saying.wanted["output_modalities"],
            "max_output_tokens": saying.wanted["max_output_tokens"],
            "audio": {"output": {name: saying.wanted["audio"]["output"][name] for name in ("format", "voice")}},
            "usage": usage,
            "metadata": saying.metadata,
        }

    def _usage(self, saying: Speaking) -> object:
        """What a response used, or what the request dictates; None where it is to say nothing."""
        if self._controls.usage_left_out:
            return None
        if self._controls.usage is not None:
            return self._controls.usage
        text, audio = self._said(saying), TOKENS_PER_WORD_SPOKEN * saying.words if saying.aloud else 0
        return {
            "total_tokens": saying.heard.sum + text + audio,
            "input_tokens": saying.heard.sum,
            "output_tokens": text + audio,
            "input_token_details": {
                **saying.heard.told,
                "cached_tokens": saying.cached.sum,
                "cached_tokens_details": saying.cached.told,
            },
            "output_token_details": {"text_tokens": text, "audio_tokens": audio},
        }

    @staticmethod
    def _said(saying: Speaking) -> int:
        """Text tokens of the answer: the call's arguments, or the words, spoken or not."""
        return prose.tokens(saying.tool.arguments) + 8 if saying.tool else saying.words

    # -- the conversation

    def _add(self, item: Item, after: str | None) -> Iterator[Step]:
        """Put an item into the conversation: at its end, at its beginning (`root`), or behind another."""
        if len(self._items) >= ITEMS_MAX:
            raise ClientError(f"A conversation has {ITEMS_MAX} items at most.")
        ids = list(self._items)
        place = len(ids) if after is None else 0 if after == "root" else ids.index(after) + 1
        previous = ids[place - 1] if place else None
        if place == len(ids):
            self._items[item.fields["id"]] = item
        else:
            ordered = list(self._items.items())
            ordered.insert(place, (item.fields["id"], item))
            self._items = dict(ordered)
            self._heard = Tokens()
        yield self._event("conversation.item.added", previous_item_id=previous, item=item.fields)
        yield self._event("conversation.item.done", previous_item_id=previous, item=item.fields)

    def _item(self, event: Mapping[str, Any], what: str) -> Item:
        item = self._items.get(str(event.get("item_id")))
        if item is None:
            raise ClientError("There is no such item.", code=f"item_{what}_invalid_item_id", param="item_id")
        return item

    def _given(self, items: object, settings: Mapping[str, Any]) -> list[Item]:
        """The input that a response brings instead of the conversation; an item of it may be a reference."""
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ClientError("Invalid 'response.input': it is a list of items.", param="response.input")
        return [
            self._item({"item_id": item.get("id")}, "retrieve")
            if item.get("type") == "item_reference"
            else item_of(self._new_id("item"), item, settings)
            for item in items
        ]

    def _last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def _ms(self, audio_bytes: int) -> int:
        return audio_bytes // BYTES_PER_MS[self._settings["audio"]["input"]["format"]["type"]]

    def _error(self, error: ClientError, event_id: str | None) -> Message:
        told = {"type": "invalid_request_error", "code": error.code, "message": str(error), "param": error.param}
        return self._event("error", error={**told, "event_id": event_id})

    def _event(self, kind: str, **fields: object) -> Message:
        return Message(encode({"type": kind, "event_id": self._new_id("event"), **fields}))

    _spoken_id: str = ""
    """The item that what is being said will become."""


def settings_of(session_id: str, model: str, expires_at_s: int) -> dict[str, Any]:
    """What a session is set to when it begins."""
    form = {"type": "audio/pcm", "rate": 24_000}
    turns = {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": SILENCE_MS,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    hearing = {"format": form, "transcription": None, "noise_reduction": None, "turn_detection": turns}
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio"],
        "instructions": "Speak of tolls, and of nothing else.",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": expires_at_s,
        "audio": {"input": hearing, "output": {"format": form, "voice": "marin", "speed": 1.0}},
        "include": None,
    }


OF_RESPONSES = frozenset({"audio", "instructions", "max_output_tokens", "output_modalities", "tool_choice", "tools"})
"""The settings that one response can have for itself."""


def merged(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with others over them; what is not named stays as it is."""
    after = dict(before)
    for name, value in wanted.items():
        old = after.get(name)
        after[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return after


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, where they can be had."""
    if settings["output_modalities"] not in (["text"], ["audio"]):
        raise ClientError("Supported combinations are: ['text'] and ['audio'].", param="session.output_modalities")
    limit = settings["max_output_tokens"]
    if limit != "inf" and not (type(limit) is int and 1 <= limit <= 4096):
        raise ClientError("It is 'inf', or an integer from 1 to 4096.", param="session.max_output_tokens")
    hearing, speaking = (inner(inner(settings, "audio"), side) for side in ("input", "output"))
    for side in (hearing, speaking):
        if inner(side, "format").get("type") not in tuple(BYTES_PER_MS):
            raise ClientError(f"Supported formats are: {', '.join(BYTES_PER_MS)}.", param="session.audio")
    for name in ("transcription", "turn_detection"):
        if hearing[name] is not None:
            inner(hearing, name)
    silence_ms = (hearing["turn_detection"] or {}).get("silence_duration_ms", SILENCE_MS)
    if type(silence_ms) is not int or silence_ms < 0:
        raise ClientError("'silence_duration_ms' is an integer.", param="session.audio.input.turn_detection")
    return settings


def inner(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object that stands there."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise ClientError(f"'{name}' is an object.", code="invalid_type", param=f"session.{name}")
    return value


def event_of(text: str) -> dict[str, Any]:
    try:
        event = decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ClientError("We could not parse the JSON of this event.", code="invalid_json") from None
    if not isinstance(event, dict):
        raise ClientError("An event is a JSON object.", code="invalid_type")
    return event


def object_in(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise ClientError(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
    return value


def item_of(item_id: str, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Item:
    """An item that a client says, and what hearing it costs."""
    match fields.get("type"):
        case "message":
            parts = fields.get("content")
            if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
                raise ClientError("It is a list of parts.", code="invalid_type", param="item.content")
            tokens = Tokens(MESSAGE_TOKENS)
            for part in parts:
                tokens = tokens.with_(tokens_of(part, settings))
            shown = [{name: value for name, value in part.items() if name != "audio"} for part in parts]
            return Item(whole_item(item_id, {**fields, "content": shown}), tokens)
        case "function_call" | "function_call_output":
            said = "".join(str(fields.get(name) or "") for name in ("name", "arguments", "output"))
            return Item(whole_item(item_id, fields), Tokens(MESSAGE_TOKENS + prose.tokens(said)))
        case _:
            known = "'message', 'function_call', 'function_call_output'"
            raise ClientError(f"Invalid value for 'item.type'. Supported values are: {known}.", param="item.type")


def tokens_of(part: Mapping[str, Any], settings: Mapping[str, Any]) -> Tokens:
    """What hearing one part of a message costs."""
    match part.get("type"):
        case "input_text" | "output_text" if isinstance(part.get("text"), str):
            return Tokens(prose.tokens(part["text"]))
        case "input_audio" if isinstance(part.get("audio"), str):
            form = settings["audio"]["input"]["format"]["type"]
            ms = len(part["audio"]) * 3 // 4 // BYTES_PER_MS[form]
            return Tokens(audio=-(-ms // MS_PER_TOKEN_HEARD))
        case "output_audio" if isinstance(part.get("transcript"), str):
            return Tokens(prose.tokens(part["transcript"]))
        case "input_image" if isinstance(part.get("image_url"), str):
            return Tokens(image=IMAGE_TOKENS)
    raise ClientError("This part of the content is of no known kind, or is empty.", param="item.content")


def whole_item(item_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, "id": item_id, "object": "realtime.item", "status": "completed"}


ANSWERS: Mapping[str, Callable[[Realtime, Mapping[str, Any]], Iterable[Step]]] = {
    "session.update": Realtime.session_update,
    "conversation.item.create": Realtime.item_create,
    "conversation.item.retrieve": Realtime.item_retrieve,
    "conversation.item.delete": Realtime.item_delete,
    "conversation.item.truncate": Realtime.item_truncate,
    "input_audio_buffer.append": Realtime.audio_append,
    "input_audio_buffer.commit": Realtime.audio_commit,
    "input_audio_buffer.clear": Realtime.audio_clear,
    "response.create": Realtime.response_create,
    "response.cancel": Realtime.response_cancel,
}
"""Every event that a client can send."""
