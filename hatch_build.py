"""What a wheel holds besides the sources: the path of a call, compiled by mypyc, where TOLLKEEPER_COMPILE=1 asks for it.

A module that was compiled does what its source does, at less than half of the CPU time. Its source lies beside it, and is
what runs where there is no wheel for the platform. `make compiled` builds such a wheel and installs it beside the sources,
into `.venv/compiled`; the tests start that gateway as well, and `make bench` measures it.

What to know when a module is on that list (all seen in trials of mypyc 2.4, and held by the tests that run it compiled):

- Classes that the interpreter must make, such as structs of msgspec, do not compile: they are in modules of their own.
- What annotations say is enforced, also of what other libraries return. Those that talk to the database are therefore not
  on the list, but for one that only asks whether there is a row: `asyncio.gather` returns no tuple, whatever its annotation
  says, and a row is none either.
- In one function, one name stands for one type of exception: two clauses with the same name fail at the second.
- A slice of bytes that runs backwards raises, where the interpreter says that it is empty.
- What a slice begins with may be worked out twice: `rest[os.write(fd, rest) :]` of a memoryview writes twice.
- `items[at] += 1` adds as the interpreter does; `items[at] = items[at] + 1` is as cheap as it looks.
- A tuple of known length is made anew wherever it is passed on or gone through, unless it is annotated as any length's.
- A constant that is `Final` costs nothing to look up; another one is looked for in a dictionary each time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompilesThePath(BuildHookInterface[Any]):
    """Adds the compiled modules that `compiled` lists in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the wheel only points to the sources. Raises where the compiler does."""
        if version == "editable" or os.environ.get("TOLLKEEPER_COMPILE") != "1":
            return
        directory = Path(mkdtemp(prefix="tollkeeper-compiled-"))
        for made in _compiled(self.config["compiled"], directory):
            build_data["force_include"][str(made)] = str(made.relative_to(directory / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compiled(modules: list[str], directory: Path) -> list[Path]:
    """The extension modules that these sources become."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles needs a compiler.
    from setuptools import Distribution  # noqa: PLC0415

    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        extensions = mypycify(
            [*modules, "--python-executable", sys.executable], opt_level="2", target_dir=str(directory)
        )
        distribution = Distribution({"name": "tollkeeper", "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.build_lib = str(directory / "lib")  # type: ignore[attr-defined]
        command.build_temp = str(directory / "temp")  # type: ignore[attr-defined]
        command.ensure_finalized()
        command.run()
    finally:
        sys.argv = arguments
    return sorted((directory / "lib").rglob("*.so"))
