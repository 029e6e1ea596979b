"""Whoever has no provider account: one command, what it prints works when pasted, and its usage is seen."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.providers import PROVIDERS
from gateway.sandbox import _first_steps
from tests.walks.harness import REPOSITORY, Process, eventually


@pytest.fixture
def sandbox(tmp_path):
    environment = {
        "TOLLKEEPER_DATA_DIR": str(tmp_path / "data"),
        "TOLLKEEPER_PROXY__PORT": "0",
        "TOLLKEEPER_CONTROL__PORT": "18973",
        "TOLLKEEPER_LOG_FORMAT": "json",
    }
    process = Process([str(Path(sys.executable).with_name("tollkeeper")), "sandbox"], environment)
    process.start()
    eventually(lambda: "and start again" in "".join(process.lines) or process.popen.poll() is not None, "the greeting")
    yield process
    assert process.stop() == 0


def pasted(sandbox, text, tmp_path):
    """Run lines of the greeting in a shell, where `tollkeeper` and `python3` are those of this installation."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir(exist_ok=True)
    python3 = bin_directory / "python3"
    if not python3.exists():
        python3.symlink_to(sys.executable)
    return subprocess.run(
        ["/bin/bash", "-ec", text],
        env={
            **os.environ,
            **sandbox.environment,
            "PYTHONPATH": os.pathsep.join(
                [str(REPOSITORY), *(path for path in sys.path if path.endswith("site-packages"))]
            ),
            "PATH": f"{bin_directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "200",
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_it_prints_works_when_pasted_and_its_usage_is_seen(sandbox, tmp_path):
    said = "".join(line for line in sandbox.lines if not line.startswith("{"))
    snippet = re.search(r"openai \(simulated.*?\):\n(.*?)\n\n", said, re.DOTALL)[1]
    question = re.search(r"What it used:\n\s*(.*?)\n", said)[1]

    called = pasted(sandbox, snippet, tmp_path)

    assert called.returncode == 0, called.stderr
    assert '"object":"chat.completion"' in called.stdout
    seen = eventually(
        lambda: (r := pasted(sandbox, question, tmp_path)) and "llm_call" in r.stdout and r,
        "the usage of the pasted calls",
    )
    assert "gpt-4o-2024-08-06" in seen.stdout


def test_it_says_which_providers_are_simulated_and_how_to_go_live(sandbox):
    said = "".join(sandbox.lines)

    assert "openai (simulated" in said
    assert "TOLLKEEPER_PROVIDERS__OPENAI__API_KEY" in said


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_without_curl_the_first_call_needs_nothing_but_python(monkeypatch, tmp_path, provider):
    monkeypatch.setenv("PATH", str(tmp_path))
    made = {"proxy": "http://127.0.0.1:1", "key": "tk_key", "account_sid": "AC1"}

    steps = _first_steps(provider.first_steps, made)

    command = steps.partition("\n")[0].strip()
    program = shlex.split(command)[2]
    assert shlex.split(command)[:2] == ["python3", "-c"]
    compile(program, "pasted", "exec")
    assert re.search(r"b'(.*?)'", program)[1] == provider.first_steps.body


def test_a_postgres_that_the_settings_name_is_no_place_for_what_is_simulated(tmp_path):
    """Guards a ledger that lasts: an empty database would be made the sandbox's, with its secret, for good."""
    environment = {
        "TOLLKEEPER_DATA_DIR": str(tmp_path / "data"),
        "TOLLKEEPER_DATABASE_URL": "postgresql://keeper@127.0.0.1:1/ledger",
    }
    process = Process([sys.executable, "-m", "gateway", "sandbox"], environment)

    process.start()

    assert process.wait() == 1
    eventually(lambda: "TOLLKEEPER_DATABASE_URL" in "".join(process.lines), "a sentence")
    assert "Traceback" not in "".join(process.lines)
    assert not (tmp_path / "data").exists()
