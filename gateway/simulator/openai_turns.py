"""OpenAI's Responses over a WebSocket, simulated: one response after another, in the events of a stream. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.simulator.api import Answer, Bill, BreakOff, Close, Message, Silence, Step
from gateway.simulator.controls import Controls, Fault

encode = msgspec.json.encode
decode = msgspec.json.decode


class Turns:
    """One session."""

    def __init__(self, respond: Callable[[Mapping[str, Any]], Answer], controls: Controls) -> None:
        """`respond` answers the body of a request, in a stream or with an error."""
        self._respond = respond
        self._controls = controls
        self._asked: deque[Iterator[Step]] = deque()

    def opened(self) -> Iterator[Step]:
        return iter(())

    def heard(self, text: str) -> Iterator[Step]:
        """Answer an event of the client's. What a response says comes from `goes_on`, in its turn."""
        try:
            event = decode(text)
        except (msgspec.DecodeError, RecursionError):
            event = None
        if not isinstance(event, dict) or event.get("type") != "response.create":
            yield refused(400, {"type": "invalid_request_error", "message": "Invalid value: 'type'.", "param": "type"})
            return
        body = {name: value for name, value in event.items() if name not in ("type", "stream_id", "event_id")}
        answer = self._respond(body)
        if answer.events is None:
            yield refused(answer.status, decode(answer.body)["error"])
            return
        lane = {"stream_id": event["stream_id"]} if isinstance(event.get("stream_id"), str) else {}
        self._asked.append(self._told(answer, lane))

    def goes_on(self) -> Step | None:
        while self._asked:
            step = next(self._asked[0], None)
            if step is not None:
                return step
            self._asked.popleft()
        return None

    def _told(self, answer: Answer, lane: Mapping[str, str]) -> Iterator[Step]:
        """A response, start to finish: what a stream of server-sent events would hold."""
        assert answer.events is not None
        fault = self._controls.fault
        events = [event.partition(b"data: ")[2].strip() for event in answer.events()]
        for number, event in enumerate(events):
            text = encode({**decode(event), **lane})
            if number == len(events) // 2 and fault is Fault.CUT_STREAM:
                yield BreakOff(text)
                return
            if number == len(events) // 2 and fault is Fault.STALL_STREAM:
                yield Silence()
                return
            if number < len(events) - 1:
                yield Message(text)
            elif fault is Fault.NO_DONE:
                yield Close(1000)
                return
            else:
                yield Message(text, Bill(str(answer.object_id), str(answer.model), answer.usage))
        if self._controls.close_code is not None:
            yield Close(self._controls.close_code, "This session asked to be closed.")


def refused(status: int, error: Mapping[str, Any]) -> Message:
    return Message(encode({"type": "error", "status": status, "error": error}))
