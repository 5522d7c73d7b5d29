"""What a crowd leaves behind goes back to the machine."""

import subprocess
import sys

import pytest

from opusd import memory

PROGRAM = """
from pathlib import Path
from opusd.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

held = [bytes([n % 256]) * 2000 for n in range(20_000)]
last = bytes([1]) * 2000  # above them all
del held
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(memory._TRIM is None, reason="this C library keeps no such memory")
def test_what_lies_below_something_that_lives_on_is_given_back():
    given = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert int(given.stdout) > 20e6


def test_a_library_that_has_no_such_call_is_let_be(monkeypatch):
    monkeypatch.setattr(memory, "_TRIM", None)
    memory.give_back()
