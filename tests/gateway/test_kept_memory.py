"""What a batch has used is there for the next: the system is not asked for it again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
from gateway.kept_memory import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def batch():
    return len([bytes(2_000) for _ in range(10_000)])

if sys.argv[1] == "kept":
    keep_memory()
for _ in range(3):
    batch()
before = faults()
for _ in range(10):
    batch()
print(faults() - before)
"""


def faults(how):
    told = subprocess.run([sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True, timeout=60)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such option")
def test_the_memory_of_a_batch_is_not_asked_for_again():
    """Watches the options' names, which are numbers: with wrong ones all goes on as before, slowly."""
    assert faults("kept") < 500 < faults("as it is")
