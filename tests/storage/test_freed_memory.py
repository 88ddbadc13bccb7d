"""What was freed stays with the process until it is given back."""

import os
import subprocess
import sys

import pytest

from sparsedash.storage import local_machine

CHILD = """
import os
from pathlib import Path
from sparsedash.storage.local_machine import freed_bytes, give_back_freed, keep_freed

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

keep_freed()
pieces = [b"x" * (16 << 20) for _ in range(17)]
# One stays, so that what lies before it is no end that the library cuts off itself.
last = pieces.pop()
full, before = held(), freed_bytes()
pieces.clear()
kept, freed = held(), freed_bytes() - before
give_back_freed()
print(full - kept, freed, full - held())
"""
PIECES = 16 * 2**24

glibc = pytest.mark.skipif(local_machine._mallinfo is None, reason="only a newer glibc tells what was freed")


def told(**environment):
    plain = {name: said for name, said in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ran = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, env=plain | environment
    )
    return [float(number) for number in ran.stdout.split()]


@glibc
def test_freed_memory_is_kept_and_counted_until_it_is_given_back():
    kept_less, freed, less = told()
    assert kept_less < 0.1 * PIECES
    assert freed > 0.9 * PIECES
    assert less > 0.9 * PIECES


@glibc
def test_whoever_has_said_how_memory_is_kept_is_not_overruled():
    kept_less, _, _ = told(MALLOC_ARENA_TEST="8")
    assert kept_less > 0.9 * PIECES


def test_where_no_library_tells_all_may_have_been_freed_and_nothing_fails(monkeypatch):
    for name in ("_mallinfo", "_trim", "_mallopt"):
        monkeypatch.setattr(local_machine, name, None)
    local_machine.keep_freed()
    local_machine.give_back_freed()
    assert local_machine.freed_bytes() > local_machine.MUCH
