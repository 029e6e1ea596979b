"""Runs the tests that OpenAI keeps for its Python SDK, directly and through the gateway, and compares what passes.

They are not in this repository: `pip download --no-deps --no-binary :all: openai==VERSION` has them, and DIRECTORY is where
that was unpacked. They ask a provider that answers by the SDK's own types; so this is about what comes through, and a test
that fails both ways is of no interest here.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import typing
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import openai
from openai._streaming import extract_stream_chunk_type

from tests.surface.answers import answer_to
from tests.surface.calls import methods
from tests.surface.made_up import MadeUp
from tests.surface.upstream import Answer, Seen, Upstream, upstream
from tests.surface.ways import ways

_ASKS = re.compile(r'self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?"(/[^"]*)"')


class ByType(Upstream):
    """Answers each path with what the SDK's method for it returns."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._plain: dict[tuple[str, str], Answer] = {}
        self._streams: dict[tuple[str, str], Answer] = {}
        with openai.OpenAI(api_key="sk-none") as client:
            for method in methods():
                source = inspect.getsource(inspect.unwrap(method.of(client).__func__))
                found = _ASKS.search(source)
                if found is None:
                    continue
                verb = (
                    found[1].upper() if found[1] != "get_api_list" else "POST" if 'method="post"' in source else "GET"
                )
                kind = typing.get_origin(method.returns) or method.returns
                streamed = isinstance(kind, type) and issubclass(kind, openai.Stream)
                events = extract_stream_chunk_type(method.returns) if streamed else None
                answer = answer_to(MadeUp(method.label, directory, everything=False), method.returns, events, {})
                (self._streams if streamed else self._plain).setdefault((verb, found[2]), answer)

    def take(self, seen: Seen) -> Answer:
        verb, target, _ = seen.line.decode().split(" ")
        path = target.partition("?")[0].removeprefix("/v1").rstrip("/")
        of_verb = [template for known, template in self._plain.keys() | self._streams.keys() if known == verb]
        fitting = [one for one in of_verb if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one), path)]
        if not fitting:
            return Answer(b'{"error": {"message": "No such path"}}', status=b"404 Not Found")
        place = verb, min(fitting, key=lambda template: template.count("{"))
        asks = re.search(rb'"stream": ?true|name="stream"\r\n\r\ntrue', seen.body) or "stream=true" in target
        first, second = (self._streams, self._plain) if asks else (self._plain, self._streams)
        return first.get(place) or second[place]


def outcomes(python: str, directory: Path, base_url: str, key: str, arguments: tuple[str, ...]) -> dict[str, str]:
    """What came of each test; the SDK is given the gateway's key, if there is one, in a header of its own."""
    environment = {**os.environ, "TEST_API_BASE_URL": base_url}
    if key:
        environment["OPENAI_CUSTOM_HEADERS"] = f"X-Gateway-Key: {key}"
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [python, "-m", "pytest", "-q", f"--junitxml={report.name}", *arguments]
        subprocess.run(command, cwd=directory, env=environment, check=False)
        return {
            f"{case.get('classname')}::{case.get('name')}": next((found.tag for found in case), "passed")
            for case in ET.parse(report.name).iter("testcase")
        }


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1)
@click.option("--python", default=sys.executable, help="One that has what these tests import.")
def main(directory: Path, arguments: tuple[str, ...], python: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        working = Path(name)
        with upstream(ByType(working)) as provider, ways(working, provider) as found:
            arguments = arguments or ("tests/api_resources",)
            direct = outcomes(python, directory, found.direct.base_url, "", arguments)
            through = outcomes(python, directory, found.own.base_url, found.own.key, arguments)
    different = {
        test: (direct.get(test), through.get(test))
        for test in sorted(direct.keys() | through.keys())
        if direct.get(test) != through.get(test)
    }
    passed = sum(outcome == "passed" for outcome in direct.values())
    print(json.dumps({"tests": len(direct), "passed directly": passed, "different": different}, indent=2))
    sys.exit(bool(different) or not passed)


if __name__ == "__main__":
    main()
