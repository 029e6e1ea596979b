"""What administers an OpenAI organisation: it costs nothing, and on a shared account it is closed. Pure."""

from __future__ import annotations

from gateway.providers.api import Endpoint
from gateway.providers.free import reads_back
from gateway.providers.openai.kept import kept

_KEPT = (
    ("admin_api_keys", "organization/admin_api_keys/{key_id}", "create list retrieve delete"),
    ("certificates", "organization/certificates/{certificate_id}", "create list retrieve update delete"),
    ("external_keys", "organization/external_keys/{external_key_id}", "create list retrieve delete validate"),
    ("external_storage", "organization/external_storage/{external_storage_id}", "create list retrieve delete validate"),
    ("groups", "organization/groups/{group_id}", "create list retrieve update delete"),
    ("groups.roles", "organization/groups/{group_id}/roles/{role_id}", "create list retrieve delete"),
    ("groups.users", "organization/groups/{group_id}/users/{user_id}", "create list retrieve delete"),
    ("invites", "organization/invites/{invite_id}", "create list retrieve delete"),
    ("projects.api_keys", "organization/projects/{project_id}/api_keys/{api_key_id}", "list retrieve update delete"),
    ("projects.groups", "organization/projects/{project_id}/groups/{group_id}", "create list retrieve delete"),
    ("projects.groups.roles", "projects/{project_id}/groups/{group_id}/roles/{role_id}", "create list retrieve delete"),
    ("projects", "organization/projects/{project_id}", "create list retrieve update archive"),
    ("projects.roles", "projects/{project_id}/roles/{role_id}", "create list retrieve update delete"),
    (
        "projects.service_accounts",
        "organization/projects/{project_id}/service_accounts/{service_account_id}",
        "create list retrieve update delete",
    ),
    (
        "projects.spend_alerts",
        "organization/projects/{project_id}/spend_alerts/{alert_id}",
        "create list retrieve update delete",
    ),
    ("projects.users.roles", "projects/{project_id}/users/{user_id}/roles/{role_id}", "create list retrieve delete"),
    ("projects.users", "organization/projects/{project_id}/users/{user_id}", "create list retrieve update delete"),
    ("roles", "organization/roles/{role_id}", "create list retrieve update delete"),
    ("spend_alerts", "organization/spend_alerts/{alert_id}", "create list retrieve update delete"),
    ("users.roles", "organization/users/{user_id}/roles/{role_id}", "create list retrieve delete"),
    ("users", "organization/users/{user_id}", "list retrieve update delete"),
    (
        "workload_identity_providers.federation_rules",
        "organization/workload_identity_providers/{provider_id}/federation_rules/{rule_id}",
        "create list retrieve update delete",
    ),
    (
        "workload_identity_providers",
        "organization/workload_identity_providers/{workload_identity_provider_id}",
        "create list retrieve update delete",
    ),
)
"""(name, path, verbs) as :func:`kept` takes them, below `admin.organization` and `/v1`."""

_SINGLE = (
    ("audit_logs.list", "GET", "organization/audit_logs"),
    ("certificates.activate", "POST", "organization/certificates/activate"),
    ("certificates.deactivate", "POST", "organization/certificates/deactivate"),
    ("data_retention.retrieve", "GET", "organization/data_retention"),
    ("data_retention.update", "POST", "organization/data_retention"),
    ("projects.certificates.activate", "POST", "organization/projects/{project_id}/certificates/activate"),
    ("projects.certificates.deactivate", "POST", "organization/projects/{project_id}/certificates/deactivate"),
    ("projects.certificates.list", "GET", "organization/projects/{project_id}/certificates"),
    ("projects.data_retention.retrieve", "GET", "organization/projects/{project_id}/data_retention"),
    ("projects.data_retention.update", "POST", "organization/projects/{project_id}/data_retention"),
    ("projects.hosted_tool_permissions.retrieve", "GET", "organization/projects/{project_id}/hosted_tool_permissions"),
    ("projects.hosted_tool_permissions.update", "POST", "organization/projects/{project_id}/hosted_tool_permissions"),
    ("projects.model_permissions.delete", "DELETE", "organization/projects/{project_id}/model_permissions"),
    ("projects.model_permissions.retrieve", "GET", "organization/projects/{project_id}/model_permissions"),
    ("projects.model_permissions.update", "POST", "organization/projects/{project_id}/model_permissions"),
    ("projects.rate_limits.list_rate_limits", "GET", "organization/projects/{project_id}/rate_limits"),
    (
        "projects.rate_limits.update_rate_limit",
        "POST",
        "organization/projects/{project_id}/rate_limits/{rate_limit_id}",
    ),
    (
        "projects.service_accounts.api_keys.create",
        "POST",
        "organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys",
    ),
    ("projects.service_tier_settings.retrieve", "GET", "organization/projects/{project_id}/service_tier_settings"),
    ("projects.service_tier_settings.update", "POST", "organization/projects/{project_id}/service_tier_settings"),
    ("projects.spend_limit.delete", "DELETE", "organization/projects/{project_id}/spend_limit"),
    ("projects.spend_limit.retrieve", "GET", "organization/projects/{project_id}/spend_limit"),
    ("projects.spend_limit.update", "POST", "organization/projects/{project_id}/spend_limit"),
    ("spend_limit.delete", "DELETE", "organization/spend_limit"),
    ("spend_limit.retrieve", "GET", "organization/spend_limit"),
    ("spend_limit.update", "POST", "organization/spend_limit"),
    ("usage.audio_speeches", "GET", "organization/usage/audio_speeches"),
    ("usage.audio_transcriptions", "GET", "organization/usage/audio_transcriptions"),
    ("usage.code_interpreter_sessions", "GET", "organization/usage/code_interpreter_sessions"),
    ("usage.completions", "GET", "organization/usage/completions"),
    ("usage.costs", "GET", "organization/costs"),
    ("usage.decisions", "GET", "organization/usage/decisions"),
    ("usage.embeddings", "GET", "organization/usage/embeddings"),
    ("usage.file_search_calls", "GET", "organization/usage/file_search_calls"),
    ("usage.images", "GET", "organization/usage/images"),
    ("usage.moderations", "GET", "organization/usage/moderations"),
    ("usage.vector_stores", "GET", "organization/usage/vector_stores"),
    ("usage.web_search_calls", "GET", "organization/usage/web_search_calls"),
)
"""(name, method, path) of what there is one of, and of what breaks the pattern."""

ADMINISTRATION: tuple[Endpoint, ...] = (
    *(
        reads_back(f"admin.organization.{endpoint.name}", endpoint.method, endpoint.path)
        for name, path, verbs in _KEPT
        for endpoint in kept(name, f"/v1/{path}", verbs)
    ),
    *(reads_back(f"admin.organization.{name}", method, f"/v1/{path}") for name, method, path in _SINGLE),
)
"""Also what it makes is nobody's to own."""
