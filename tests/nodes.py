"""Node, and the official SDKs for it, which `make setup` installs where Node is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).parent / "node"
MODULES = REPOSITORY / ".venv" / "node" / "node_modules"
NODE = shutil.which("node")

PATIENCE_S = 90

needs_node = pytest.mark.skipif(
    NODE is None or not MODULES.is_dir(),
    reason="there is no `node` here" if NODE is None else f"the SDKs are not in {MODULES}: `make setup` installs them",
)


def run_script(script: Path, *arguments: str) -> str:
    """Run a script with the SDKs at hand, in a process of its own that must end well; return what it prints."""
    assert NODE is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "TWILIO"))}
    result = subprocess.run(
        [NODE, script, *arguments],
        env={**environment, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout
