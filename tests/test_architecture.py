"""What the folders promise, checked."""

from __future__ import annotations

import ast
import re
import tokenize
from importlib.metadata import requires
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from gateway.providers import PROVIDERS
from gateway.settings import described

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "metering", "pricing", "migrations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

NAMED_BY_PROMISE = {
    "twilio_account_sid",
    "twilio_messaging_services",
    "twilio_subaccount",
    "sendgrid_subuser",
    "sendgrid_categories",
    "sendgrid_verification_key",
    "openai_project",
}
"""Names of the API's contract that hold a provider's."""

COMMANDS_BY_PROMISE = {
    "gateway/cli.py": {'"twilio"', '"gateway.commands.twilio:twilio"'},
    "gateway/commands/twilio.py": {"twilio", '"twilio"'},
}
"""The same for `tollkeeper twilio`, by the module: it names the provider, and decides nothing on it."""

PROVIDER_NAMES = re.compile(r"openai|twilio|sendgrid", re.IGNORECASE)


def test_imports_run_one_way_and_what_thinks_does_no_io():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_every_module_opens_by_saying_what_it_is_for():
    silent = [str(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]

    assert silent == []


def test_no_module_outside_the_providers_knows_a_provider_by_name():
    knowing = []
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[:2] in (("gateway", "providers"), ("gateway", "simulator")):
            continue
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.string in COMMANDS_BY_PROMISE.get(path.relative_to(ROOT).as_posix(), ()):
                    continue
                # Docstrings and comments may give an example; code may not decide on one.
                if token.type == tokenize.COMMENT or token.string.startswith(('"""', 'r"""')):
                    continue
                if PROVIDER_NAMES.search(token.string) and not any(name in token.string for name in NAMED_BY_PROMISE):
                    knowing.append(f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}")

    assert knowing == []


def test_only_one_module_uses_the_private_interfaces_of_the_http_library():
    users = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(
            r"aiohttp\.(http_parser|base_protocol)|from aiohttp import .*(http_parser|base_protocol)", path.read_text()
        )
    ]

    assert users == ["gateway/http1.py"]


def test_every_setting_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    missing = [row.environment_name for row in described() if row.environment_name not in readme]

    assert missing == []


@pytest.mark.parametrize("lock", ["requirements.lock", "tests/requirements.lock", ".bootstrap.lock"])
def test_the_locks_hold_a_hash_for_every_package_and_name_no_index(lock):
    text = (ROOT / lock).read_text()

    packages = re.findall(r"^[a-z0-9._-]+==[^\n]*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)

    assert len(packages) == len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)) > 0
    assert not re.search(r"https?://|--index|--find-links|file:", text)


def test_the_runtime_lock_is_part_of_the_test_lock():
    def pinned(lock):
        return set(re.findall(r"^([a-z0-9._-]+==[^\s;\\]+)", (ROOT / lock).read_text(), re.MULTILINE))

    assert pinned("requirements.lock") <= pinned("tests/requirements.lock")


def test_no_official_sdk_is_needed_to_run():
    needed = {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requires("tollkeeper") or ()}

    assert not needed & {provider.name for provider in PROVIDERS}


def test_every_source_file_of_the_repository_is_free_of_paths_of_one_machine():
    found = [
        str(path.relative_to(ROOT))
        for path in (
            *SOURCES,
            *(ROOT / "tests").rglob("*.py"),
            ROOT / "README.md",
            ROOT / "CHANGELOG.md",
            ROOT / "Makefile",
        )
        if re.search(r"(?<![\w.])/(?:work|farm|root|home)/", path.read_text(encoding="utf-8"))
        and path.name != Path(__file__).name
    ]

    assert found == []
