"""What the README tells newcomers to paste is taken out of it and run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes import REPOSITORY, needs_node, run_script
from tests.walks.harness import Installation, eventually, installation

README = (REPOSITORY / "README.md").read_text()
SECTION = re.search(r"^## Pointing an SDK at it\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"

PATIENCE_S = 60

EVENTS = {
    "openai": {"event_type": "llm_call", "resource": "gpt-4o-2024-08-06", "endpoint": "responses"},
    "twilio": {"event_type": "sms_outbound", "resource": "US:long_code", "endpoint": "messages.create"},
    "sendgrid": {"event_type": "email_outbound", "resource": "transactional", "endpoint": "mail.send"},
}
PRINTED = {"openai": r".+", "twilio": r"SM[0-9a-f]{32}", "sendgrid": r"202"}
"""What each snippet prints, by its provider."""


def snippets() -> dict[tuple[str, str], str]:
    """The section's blocks of code, by provider and language."""
    assert SECTION is not None
    found = {}
    for language, code in re.findall(r"^```(python|js)\n(.*?)^```$", SECTION[1], re.MULTILINE | re.DOTALL):
        (provider,) = [name for name in EVENTS if f"{ADDRESS}/{name}" in code]
        assert (provider, language) not in found
        found[provider, language] = code
    return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with installation(tmp_path_factory.mktemp("readme")) as running:
        yield running


def test_there_is_a_snippet_for_each_provider_in_each_language():
    assert set(snippets()) == {(provider, language) for provider in EVENTS for language in ("python", "js")}


@pytest.mark.parametrize("provider", EVENTS)
@pytest.mark.parametrize("language", ["python", pytest.param("js", marks=needs_node)])
def test_a_snippet_runs_as_it_stands_and_its_use_is_in_the_ledger(gateway, tmp_path, provider, language):
    tenant_id = f"{provider}-{language}"
    code = pointed_at(gateway, tenant_id, snippets()[provider, language])

    printed = run(code, language, tmp_path)

    assert re.fullmatch(PRINTED[provider], printed.strip(), re.DOTALL)
    (event,) = eventually(lambda: gateway.events(tenant_id), f"the event of {tenant_id}")
    expected = EVENTS[provider] | {"source": provider}
    assert {name: event[name] for name in expected} == expected
    if provider == "twilio":
        assert event["external_id"] == printed.strip()


def pointed_at(gateway: Installation, tenant_id: str, code: str) -> str:
    """A snippet with what a reader puts into it: the address, a key, and at Twilio the account."""
    key = gateway.tenant(tenant_id)
    filled = (
        code.replace(ADDRESS, gateway.proxy_url).replace("tk_…", key).replace("AC…", gateway.account_sid(tenant_id))
    )
    assert key in filled
    assert "…" not in filled
    return filled


def run(code: str, language: str, directory: Path) -> str:
    """Run it in a process of its own, with the SDKs and nothing else of ours; return what it prints."""
    if language == "js":
        script = directory / "snippet.js"
        script.write_text(code)
        return run_script(script)
    script = directory / "snippet.py"
    script.write_text(code)
    result = subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=directory
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
