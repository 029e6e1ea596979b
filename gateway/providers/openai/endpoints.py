"""OpenAI's endpoints: what can be asked, and what each answer is metered by. Pure."""

from __future__ import annotations

from gateway.providers.api import Endpoint
from gateway.providers.free import reads_back
from gateway.providers.openai.answers import meter
from gateway.providers.openai.requests import ask_for_usage, read_model_query, read_model_request

ENDPOINTS = (
    Endpoint(
        name="chat.completions",
        method="POST",
        path="/v1/chat/completions",
        event_type="llm_call",
        describes="chat completion",
        meter=meter,
        prepare=ask_for_usage,
    ),
    Endpoint(
        name="completions",
        method="POST",
        path="/v1/completions",
        event_type="llm_call",
        describes="completion",
        meter=meter,
        prepare=ask_for_usage,
    ),
    Endpoint(
        name="responses",
        method="POST",
        path="/v1/responses",
        event_type="llm_call",
        describes="response",
        meter=meter,
        prepare=read_model_request,
    ),
    Endpoint(
        name="embeddings",
        method="POST",
        path="/v1/embeddings",
        event_type="embedding",
        describes="embedding",
        meter=meter,
        prepare=read_model_request,
    ),
    Endpoint(
        name="realtime",
        method="GET",
        path="/v1/realtime",
        event_type="realtime",
        describes="realtime session",
        meter=meter,
        prepare=read_model_query,
        websocket=True,
    ),
    reads_back("chat.completions.retrieve", "GET", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.update", "POST", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.delete", "DELETE", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.messages", "GET", "/v1/chat/completions/{id}/messages"),
    reads_back("responses.retrieve", "GET", "/v1/responses/{id}"),
    reads_back("responses.delete", "DELETE", "/v1/responses/{id}"),
    reads_back("responses.cancel", "POST", "/v1/responses/{id}/cancel"),
    reads_back("responses.input_items", "GET", "/v1/responses/{id}/input_items"),
)
