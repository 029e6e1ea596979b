"""Twilio's conversations and Studio's executions, simulated: what belongs to something longer. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from gateway.simulator.twilio_asked import NUMBER, ApiError, Asking
from gateway.simulator.twilio_objects import Ids, Thing, things
from gateway.simulator.twilio_told import Told, gone, iso_8601, url_page

CONVERSATION_CHARACTERS_MAX = 1600


class Conversations:
    """Conversations v1, and the messages in each."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._conversations = things()
        self._messages = things()

    def create(self, asking: Asking) -> Told:
        sid, at = self._ids.sid("CH"), iso_8601(asking.at)
        url = f"https://conversations.twilio.com/v1/Conversations/{sid}"
        fields: dict[str, Any] = {
            "account_sid": asking.account.sid,
            "attributes": asking.form.one("Attributes") or "{}",
            "bindings": {},
            "chat_service_sid": f"IS{asking.account.sid[2:]}",
            "date_created": at,
            "date_updated": at,
            "friendly_name": asking.form.one("FriendlyName"),
            "links": {
                "participants": f"{url}/Participants",
                "messages": f"{url}/Messages",
                "webhooks": f"{url}/Webhooks",
            },
            "messaging_service_sid": asking.form.one("MessagingServiceSid"),
            "sid": sid,
            "state": "active",
            "timers": {},
            "unique_name": asking.form.one("UniqueName"),
            "url": url,
        }
        self._conversations.put(Thing(sid, asking.account.sid, fields))
        return Told(fields=fields, kind="", status=201, object_id=sid)

    def listing(self, asking: Asking) -> Told:
        own = self._conversations.of(asking.account)
        return url_page(asking, "conversations", "conversations", own, lambda made: made.fields)

    def fetch(self, asking: Asking, sid: str) -> Told:
        return Told(fields=self._conversations.get(asking.account, sid).fields, kind="", object_id=sid)

    def delete(self, asking: Asking, sid: str) -> Told:
        self._conversations.pop(asking.account, sid)
        return gone(sid)

    def message_create(self, asking: Asking, conversation_sid: str) -> Told:
        self._conversations.get(asking.account, conversation_sid)
        sid, at, body = self._ids.sid("IM"), iso_8601(asking.at), asking.form.one("Body") or ""
        if len(body) > CONVERSATION_CHARACTERS_MAX:
            raise ApiError(50511, f"Message body exceeds {CONVERSATION_CHARACTERS_MAX} characters")
        url = f"https://conversations.twilio.com/v1/Conversations/{conversation_sid}/Messages/{sid}"
        fields: dict[str, Any] = {
            "account_sid": asking.account.sid,
            "attributes": asking.form.one("Attributes") or "{}",
            "author": asking.form.one("Author") or "system",
            "body": body,
            "content_sid": None,
            "conversation_sid": conversation_sid,
            "date_created": at,
            "date_updated": at,
            "delivery": None,
            "index": sum(made.fields["conversation_sid"] == conversation_sid for made in self._of(asking)),
            "links": {"delivery_receipts": f"{url}/Receipts", "channel_metadata": f"{url}/ChannelMetadata"},
            "media": None,
            "participant_sid": None,
            "sid": sid,
            "url": url,
        }
        self._messages.put(Thing(sid, asking.account.sid, fields))
        truth = {"kind": "conversation_message", "conversation_sid": conversation_sid}
        return Told(fields=fields, kind="", status=201, object_id=sid, usage=truth)

    def message_list(self, asking: Asking, conversation_sid: str) -> Told:
        self._conversations.get(asking.account, conversation_sid)
        own = [made for made in self._of(asking) if made.fields["conversation_sid"] == conversation_sid]
        return url_page(asking, "conversations", "messages", own, lambda made: made.fields)

    def _of(self, asking: Asking) -> list[Thing]:
        return self._messages.of(asking.account)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/v1/Conversations", create),
        ("GET", "/v1/Conversations", listing),
        ("GET", "/v1/Conversations/{id}", fetch),
        ("DELETE", "/v1/Conversations/{id}", delete),
        ("POST", "/v1/Conversations/{id}/Messages", message_create),
        ("GET", "/v1/Conversations/{id}/Messages", message_list),
    )


class Studio:
    """Studio v2: executions. A flow that was not made here is taken for one that was drawn in the console."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._executions = things()

    def create(self, asking: Asking, flow_sid: str) -> Told:
        to, source = asking.form.one("To"), asking.form.one("From")
        if to is None or source is None or not NUMBER.fullmatch(to):
            raise ApiError(20001, "To and From are required, and To is a phone number")
        sid, at = self._ids.sid("FN"), iso_8601(asking.at)
        url = f"https://studio.twilio.com/v2/Flows/{flow_sid}/Executions/{sid}"
        fields: dict[str, Any] = {
            "account_sid": asking.account.sid,
            "contact_channel_address": to,
            "context": {},
            "date_created": at,
            "date_updated": at,
            "flow_sid": flow_sid,
            "links": {"steps": f"{url}/Steps", "execution_context": f"{url}/Context"},
            "sid": sid,
            "status": "active",
            "url": url,
        }
        self._executions.put(Thing(sid, asking.account.sid, fields))
        truth = {"kind": "execution", "flow_sid": flow_sid, "to": to}
        return Told(fields=fields, kind="", status=201, object_id=sid, usage=truth)

    def listing(self, asking: Asking, flow_sid: str) -> Told:
        own = [made for made in self._executions.of(asking.account) if made.fields["flow_sid"] == flow_sid]
        return url_page(asking, "studio", "executions", own, lambda made: made.fields)

    def fetch(self, asking: Asking, _flow_sid: str, sid: str) -> Told:
        return Told(fields=self._executions.get(asking.account, sid).fields, kind="", object_id=sid)

    def delete(self, asking: Asking, _flow_sid: str, sid: str) -> Told:
        self._executions.pop(asking.account, sid)
        return gone(sid)

    ROUTES: ClassVar[tuple[tuple[str, str, Callable[..., Told]], ...]] = (
        ("POST", "/v2/Flows/{id}/Executions", create),
        ("GET", "/v2/Flows/{id}/Executions", listing),
        ("GET", "/v2/Flows/{id}/Executions/{id}", fetch),
        ("DELETE", "/v2/Flows/{id}/Executions/{id}", delete),
    )
