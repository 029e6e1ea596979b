"""OpenAI's endpoints: what can be asked, and what each answer is metered by. Pure.

Sources: the resource tree of the official Python SDK 3.54 and the API reference. Names are the SDK's; those of what costs
something leave out the `create`.
"""

from __future__ import annotations

from gateway.providers.api import Endpoint
from gateway.providers.free import free, makes, reads_back
from gateway.providers.openai import estimates, late, media
from gateway.providers.openai.administration import ADMINISTRATION
from gateway.providers.openai.answers import meter
from gateway.providers.openai.kept import kept
from gateway.providers.openai.requests import (
    WatchedRequest,
    ask_for_usage,
    read_media_request,
    read_model_query,
    read_model_request,
    read_session_request,
    read_speech_request,
)
from gateway.providers.openai.sessions import realtime, referring

MODELS = (
    Endpoint(
        name="chat.completions",
        method="POST",
        path="/v1/chat/completions",
        event_type="llm_call",
        describes="chat completion",
        meter=meter,
        prepare=ask_for_usage,
        estimate=estimates.chat,
    ),
    Endpoint(
        name="completions",
        method="POST",
        path="/v1/completions",
        event_type="llm_call",
        describes="completion",
        meter=meter,
        prepare=ask_for_usage,
        estimate=estimates.completions,
    ),
    Endpoint(
        name="responses",
        method="POST",
        path="/v1/responses",
        event_type="llm_call",
        describes="response",
        meter=meter,
        prepare=read_model_request,
        settles=late.RESPONSE,
        estimate=estimates.responses,
    ),
    Endpoint(
        name="responses.compact",
        method="POST",
        path="/v1/responses/compact",
        event_type="llm_call",
        describes="compaction",
        meter=meter,
        prepare=read_model_request,
    ),
    Endpoint(
        name="decisions",
        method="POST",
        path="/v1/decisions",
        event_type="llm_call",
        describes="decision",
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
        estimate=estimates.embeddings,
    ),
    Endpoint(
        name="moderations",
        method="POST",
        path="/v1/moderations",
        event_type="moderation",
        describes="moderation",
        meter=media.moderation,
        prepare=read_media_request,
    ),
    Endpoint(
        name="images.generate",
        method="POST",
        path="/v1/images/generations",
        event_type="image",
        describes="image",
        meter=media.images,
        prepare=read_media_request,
    ),
    Endpoint(
        name="images.edit",
        method="POST",
        path="/v1/images/edits",
        event_type="image",
        describes="image edit",
        meter=media.images,
        watch=WatchedRequest,
    ),
    Endpoint(
        name="images.create_variation",
        method="POST",
        path="/v1/images/variations",
        event_type="image",
        describes="image variation",
        meter=media.images,
        watch=WatchedRequest,
    ),
    Endpoint(
        name="audio.transcriptions",
        method="POST",
        path="/v1/audio/transcriptions",
        event_type="audio_transcription",
        describes="transcription",
        meter=media.transcription,
        watch=WatchedRequest,
    ),
    Endpoint(
        name="audio.translations",
        method="POST",
        path="/v1/audio/translations",
        event_type="audio_transcription",
        describes="translation",
        meter=media.transcription,
        watch=WatchedRequest,
    ),
    Endpoint(
        name="audio.speech",
        method="POST",
        path="/v1/audio/speech",
        event_type="audio_speech",
        describes="speech",
        meter=media.speech,
        prepare=read_speech_request,
    ),
    *(
        Endpoint(
            name=f"videos.{verb}",
            method="POST",
            path=path,
            event_type="video",
            describes="video",
            meter=metered,
            watch=WatchedRequest,
            settles=late.VIDEO,
        )
        for verb, path, metered in (
            ("create", "/v1/videos", media.video),
            ("edit", "/v1/videos/edits", media.video),
            ("extend", "/v1/videos/extensions", media.extension),
            ("remix", "/v1/videos/{video_id}/remix", media.video),
        )
    ),
    Endpoint(
        name="fine_tuning.alpha.graders.run",
        method="POST",
        path="/v1/fine_tuning/alpha/graders/run",
        event_type="llm_call",
        describes="grader",
        meter=media.grader,
    ),
)
"""What models do, by the token, second, character or picture."""

TOOLS = (
    Endpoint(
        name="containers.create",
        method="POST",
        path="/v1/containers",
        event_type="storage",
        describes="container",
        meter=media.container,
    ),
    Endpoint(
        name="vector_stores.search",
        method="POST",
        path="/v1/vector_stores/{vector_store_id}/search",
        event_type="storage",
        describes="search",
        meter=media.search,
    ),
)
"""What is billed by the call, without a model."""

SESSIONS = (
    Endpoint(
        name="realtime",
        method="GET",
        path="/v1/realtime",
        event_type="realtime",
        describes="realtime session",
        meter=free,
        prepare=read_model_query,
        session=realtime,
    ),
    Endpoint(
        name="realtime.translations",
        method="GET",
        path="/v1/realtime/translations",
        event_type="realtime",
        describes="realtime translation",
        meter=free,
        prepare=read_model_query,
        session=realtime,
    ),
    *(
        Endpoint(
            name=name,
            method="GET",
            path=path,
            event_type="realtime",
            describes="live session",
            meter=free,
            session=referring,
        )
        for name, path in (
            ("live.sessions", "/v1/live/sessions"),
            ("live.sideband", "/v1/live/sessions/{session_id}/attach"),
            ("live.forks", "/v1/live/sessions/{session_id}/fork"),
        )
    ),
    Endpoint(
        name="responses.connect",
        method="GET",
        path="/v1/responses",
        event_type="llm_call",
        describes="response",
        meter=free,
        session=referring,
    ),
    *(
        Endpoint(
            name=name,
            method="POST",
            path=path,
            event_type="realtime",
            describes="realtime session past the gateway",
            meter=media.past_the_gateway,
            watch=WatchedRequest if path == "/v1/realtime/calls" else None,
            prepare=None if path == "/v1/realtime/calls" else read_session_request,
        )
        for name, path in (
            ("realtime.client_secrets.create", "/v1/realtime/client_secrets"),
            ("realtime.translations.client_secrets.create", "/v1/realtime/translations/client_secrets"),
            ("realtime.calls.create", "/v1/realtime/calls"),
            ("realtime.calls.accept", "/v1/realtime/calls/{part}/accept"),
            ("beta.realtime.sessions.create", "/v1/realtime/sessions"),
            ("beta.realtime.transcription_sessions.create", "/v1/realtime/transcription_sessions"),
            ("live.create", "/v1/live/sessions"),
            ("live.sessions.accept", "/v1/live/sessions/{session_id}/accept"),
            ("live.sessions.fork", "/v1/live/sessions/{session_id}/fork"),
            ("beta.chatkit.sessions.create", "/v1/chatkit/sessions"),
            ("beta.agents.sessions.create", "/v1/agents/sessions"),
            ("beta.agents.sessions.events.create", "/v1/agents/sessions/{session_id}/events"),
            ("beta.agents.automations.invocations.create", "/v1/agents/automations/{automation_id}/invocations"),
        )
    ),
    *(
        reads_back(f"realtime.calls.{verb}", "POST", f"/v1/realtime/calls/{{part}}/{verb}")
        for verb in ("hangup", "refer", "reject")
    ),
    *(
        reads_back(f"live.sessions.{verb}", "POST", f"/v1/live/sessions/{{session_id}}/{verb}")
        for verb in ("hangup", "refer", "reject")
    ),
    reads_back("live.sessions.download_recording", "GET", "/v1/live/sessions/{session_id}/content"),
)
"""What begins here and goes on elsewhere. Only a WebSocket's frames come past the gateway; the media of WebRTC and of
telephony, and all that an agent does by itself, go between client and provider."""

FREE = (
    reads_back("chat.completions.list", "GET", "/v1/chat/completions", lists=True),
    reads_back("chat.completions.retrieve", "GET", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.update", "POST", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.delete", "DELETE", "/v1/chat/completions/{id}"),
    reads_back("chat.completions.messages", "GET", "/v1/chat/completions/{id}/messages"),
    reads_back("responses.delete", "DELETE", "/v1/responses/{id}"),
    reads_back("responses.input_items", "GET", "/v1/responses/{id}/input_items"),
    # Says how many tokens a request would have, and is no use of them.
    reads_back("responses.input_tokens.count", "POST", "/v1/responses/input_tokens"),
    *kept("conversations", "/v1/conversations/{conversation_id}", "create retrieve update delete"),
    *kept("conversations.items", "/v1/conversations/{conversation_id}/items/{part}", "create list retrieve delete"),
    *kept("models", "/v1/models/{value}", "list retrieve"),
    # A model of the account's own is made long after its job was, and nobody knows here whose it is.
    reads_back("models.delete", "DELETE", "/v1/models/{value}", lists=True),
    *kept("files", "/v1/files/{file_id}", "create list retrieve delete content"),
    *kept("uploads", "/v1/uploads/{upload_id}", "create cancel"),
    Endpoint(name="uploads.complete", method="POST", path="/v1/uploads/{upload_id}/complete", event_type="api_call", meter=media.upload),
    makes("uploads.parts.create", "/v1/uploads/{upload_id}/parts"),
    *kept("batches", "/v1/batches/{batch_id}", "list"),
    *kept("fine_tuning.jobs", "/v1/fine_tuning/jobs/{fine_tuning_job_id}", "list pause resume"),
    reads_back("fine_tuning.jobs.list_events", "GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events"),
    reads_back("fine_tuning.jobs.checkpoints.list", "GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints"),
    *kept("fine_tuning.checkpoints.permissions", "/v1/fine_tuning/checkpoints/{model}/permissions/{part}", "create list delete"),
    reads_back("fine_tuning.alpha.graders.validate", "POST", "/v1/fine_tuning/alpha/graders/validate"),
    *kept("evals", "/v1/evals/{eval_id}", "create list retrieve update delete"),
    *kept("evals.runs", "/v1/evals/{eval_id}/runs/{part}", "list delete"),
    *kept("evals.runs.output_items", "/v1/evals/{eval_id}/runs/{part}/output_items/{part}", "list retrieve"),
    *kept("vector_stores", "/v1/vector_stores/{vector_store_id}", "create list retrieve update delete"),
    *kept("vector_stores.files", "/v1/vector_stores/{vector_store_id}/files/{file_id}", "create list retrieve update delete content"),
    *kept("vector_stores.file_batches", "/v1/vector_stores/{vector_store_id}/file_batches/{part}", "create retrieve cancel"),
    reads_back("vector_stores.file_batches.list_files", "GET", "/v1/vector_stores/{vector_store_id}/file_batches/{part}/files"),
    *kept("containers", "/v1/containers/{container_id}", "list retrieve delete"),
    *kept("containers.files", "/v1/containers/{container_id}/files/{part}", "create list retrieve delete content"),
    *kept("videos", "/v1/videos/{video_id}", "list delete content"),
    makes("videos.create_character", "/v1/videos/characters"),
    reads_back("videos.get_character", "GET", "/v1/videos/characters/{character_id}"),
    *kept("audio.voices", "/v1/audio/voices/{voice_id}", "create delete"),
    *kept("audio.voice_consents", "/v1/audio/voice_consents/{consent_id}", "create list retrieve update delete"),
    *kept("skills", "/v1/skills/{skill_id}", "create list retrieve update delete content"),
    *kept("skills.versions", "/v1/skills/{skill_id}/versions/{part}", "create list retrieve delete content"),
    reads_back("content_provenance_checks.create", "POST", "/v1/content_provenance_checks"),
    # The Assistants API.
    *kept("beta.assistants", "/v1/assistants/{assistant_id}", "create list retrieve update delete"),
    *kept("beta.threads", "/v1/threads/{thread_id}", "create retrieve update delete"),
    *kept("beta.threads.messages", "/v1/threads/{thread_id}/messages/{part}", "create list retrieve update delete"),
    *kept("beta.threads.runs", "/v1/threads/{thread_id}/runs/{part}", "list update"),
    *kept("beta.threads.runs.steps", "/v1/threads/{thread_id}/runs/{part}/steps/{part}", "list retrieve"),
    # Agents, their sessions and what they may use.
    *kept("beta.agents", "/v1/agents/{agent_id}", "create list retrieve update delete"),
    *kept("beta.agents.automations", "/v1/agents/automations/{automation_id}", "create list retrieve update delete pause resume"),
    *kept("beta.agents.automations.invocations", "/v1/agents/automations/{automation_id}/invocations/{part}", "list retrieve"),
    *kept("beta.agents.environments", "/v1/agents/environments/{environment_id}", "create list retrieve"),
    *kept("beta.agents.environments.files", "/v1/agents/environments/{environment_id}/files/{part}", "create list"),
    *kept("beta.agents.environments.templates", "/v1/agents/environments/templates/{template_id}", "create list retrieve update delete"),
    *kept("beta.agents.sessions", "/v1/agents/sessions/{session_id}", "list retrieve update delete"),
    *kept("beta.agents.sessions.artifacts", "/v1/agents/sessions/{session_id}/artifacts/{part}", "list retrieve delete content"),
    reads_back("beta.agents.sessions.events.stream", "GET", "/v1/agents/sessions/{session_id}/events"),
    reads_back("beta.agents.sessions.items.list", "GET", "/v1/agents/sessions/{session_id}/items"),
    reads_back("beta.agents.sessions.traces.list", "GET", "/v1/agents/sessions/{session_id}/traces"),
    *kept("beta.agents.sessions.turns", "/v1/agents/sessions/{session_id}/turns/{part}", "list retrieve"),
    *kept("beta.agents.sessions.turns.items", "/v1/agents/sessions/{session_id}/turns/{part}/items/{part}", "list"),
    *kept("beta.agents.sessions.subagents", "/v1/agents/sessions/{session_id}/subagents/{part}", "list retrieve"),
    *kept("beta.agents.sessions.subagents.items", "/v1/agents/sessions/{session_id}/subagents/{part}/items/{part}", "list"),
    *kept("beta.agents.sessions.subagents.turns", "/v1/agents/sessions/{session_id}/subagents/{part}/turns/{part}", "list retrieve"),
    *kept("beta.agents.sessions.subagents.turns.items", "/v1/agents/sessions/{session_id}/subagents/{part}/turns/{part}/items/{part}", "list"),
    *kept("beta.agents.vaults", "/v1/vaults/{vault_id}", "create list retrieve update delete"),
    *kept("beta.agents.vaults.credentials", "/v1/vaults/{vault_id}/credentials/{part}", "create list retrieve update delete"),
    # What concerns the whole account.
    reads_back("beta.chatkit.sessions.cancel", "POST", "/v1/chatkit/sessions/{part}/cancel"),
    *kept("beta.chatkit.threads", "/v1/chatkit/threads/{part}", "list retrieve delete"),
    reads_back("beta.chatkit.threads.list_items", "GET", "/v1/chatkit/threads/{part}/items"),
    reads_back("safety.alerts.retrieve", "GET", "/v1/safety/alerts/{part}"),
    reads_back("safety.cases.retrieve", "GET", "/v1/safety/cases/{part}"),
    reads_back("webhooks.event_types.list", "GET", "/v1/webhook_event_types"),
    *kept("webhooks", "/v1/webhook_endpoints/{part}", "create list retrieve update delete rotate_secret test"),
    *ADMINISTRATION,
)  # fmt: skip

ENDPOINTS = MODELS + TOOLS + SESSIONS + FREE + late.ENDPOINTS
