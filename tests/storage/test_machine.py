"""What this process holds, and what this machine has."""

import subprocess
import sys

import pytest

from sparsedash.storage import local_machine
from sparsedash.storage.local_machine import memory_bytes, peak_memory_bytes

HELD = """
from sparsedash.storage.local_machine import forget_peak_memory, peak_memory_bytes
before = peak_memory_bytes()
bytearray(300_000_000)
held = peak_memory_bytes()
forget_peak_memory()
print(before, held, peak_memory_bytes())
"""


def test_a_peak_is_forgotten_once_it_is_over():
    if not (local_machine._SELF / "clear_refs").exists():
        pytest.skip("this system forgets no peak")
    said = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    before, held, after = map(int, said.split())
    assert held >= before + 290_000_000
    assert after < before + 100_000_000


def test_where_the_system_tells_no_peak_it_is_that_of_the_whole_life(monkeypatch, tmp_path):
    told = peak_memory_bytes()
    monkeypatch.setattr(local_machine, "_SELF", tmp_path)
    assert peak_memory_bytes() >= told // 2
    assert peak_memory_bytes() < memory_bytes()
