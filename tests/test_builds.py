"""What is tested is what is said to be tested; and the source is such that it can be compiled."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.release import is_compiled
from tests.builds import COMPILED, REPOSITORY, TESTED, environment_of, has_compiled

MODULES = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["custom"]["compiled"]


def test_what_is_imported_is_the_build_that_is_tested():
    assert is_compiled() == (TESTED == "compiled")


@pytest.mark.skipif(not has_compiled(), reason="there is no C compiler here, so no other build than the source")
def test_the_gateway_that_the_walks_start_is_the_one_that_is_shipped():
    command = [sys.executable, "-m", "gateway", "version", "--json"]

    told = subprocess.run(
        command, env={**os.environ, **environment_of(command)}, capture_output=True, text=True, check=True, timeout=60
    )

    assert json.loads(told.stdout)["compiled"]


@pytest.mark.skipif(not has_compiled(), reason="there is no C compiler here, so no other build than the source")
@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_compiled_out_of_the_source_that_is_here(module):
    """Guards a build that is older than the source: the tests would hold what nobody ships."""
    assert (COMPILED / module).read_bytes() == (REPOSITORY / module).read_bytes()
    assert list(COMPILED.glob(f"{module.removesuffix('.py')}.*.so"))


def exceptions_by_name(function: ast.AST) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for handler in ast.walk(function):
        if isinstance(handler, ast.ExceptHandler) and handler.name and handler.type is not None:
            found[handler.name].add(ast.unparse(handler.type))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_function_that_is_compiled_has_one_name_for_two_kinds_of_exception(module):
    """The second clause would raise a TypeError in place of handling what it catches (hatch_build.py)."""
    tree = ast.parse(Path(REPOSITORY / module).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    for function in functions:
        assert all(len(kinds) == 1 for kinds in exceptions_by_name(function).values()), function.name


@pytest.mark.parametrize("module", MODULES)
def test_no_module_that_is_compiled_makes_structs(module):
    """They would lose what their definition says besides the fields, such as the tag of a log line (hatch_build.py)."""
    tree = ast.parse(Path(REPOSITORY / module).read_text())
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}

    assert "msgspec.Struct" not in bases
