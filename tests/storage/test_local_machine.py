"""Paths, disk space, atomic writes of results, and memory."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage import local_machine
from sparsedash.storage.local_machine import (
    free_in_words,
    lies_below,
    multiplies_bfloat16,
    path_kind,
    require_job_room,
    writable_file,
    write_atomically,
)
from tests.factories import RECORD, RUN
from tests.reporting.held_results import document_of


@pytest.fixture
def places(tmp_path):
    allowed = tmp_path / "allowed"
    outside = tmp_path / "other"
    (allowed / "model").mkdir(parents=True)
    (allowed / "model" / "config.json").touch()
    (tmp_path / "allowed-too").mkdir()
    outside.mkdir()
    (outside / "secret.txt").touch()
    return allowed, outside


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("allowed", True),
        ("allowed/model", True),
        ("allowed/nothing.txt", True),
        ("other/secret.txt", False),
        ("allowed-too", False),
        ("allowed/model/../model", False),
        ("allowed/links/out.txt", False),
        ("other/in", True),
        ("allowed/a\0b", False),
    ],
)
def test_a_path_lies_below_a_folder_once_every_link_is_followed_and_never_with_two_dots(
    places, path, below
):
    allowed, outside = places
    (allowed / "links").mkdir()
    (allowed / "links" / "out.txt").symlink_to(outside / "secret.txt")
    (outside / "in").symlink_to(allowed / "model")
    assert lies_below(allowed.parent / path, [str(allowed)]) == below
    assert not lies_below(allowed, [])
    (allowed / "model" / "tokenizer.json").symlink_to(outside / "secret.txt")
    assert not lies_below(allowed / "model", [str(allowed)]), "a link in it leads out"


def test_pipes_and_devices_are_told_from_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "file.txt").touch()
    kinds = [
        path_kind(tmp_path / name)
        for name in ("pipe.txt", "zero.txt", ".", "file.txt", "none")
    ]
    assert kinds == ["other", "other", "folder", "file", "nothing"]


def test_too_little_room_is_told_with_the_folder_and_how_much_there_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000_000)
    )
    require_job_room(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=199_000_000)
    )
    with pytest.raises(
        StoreError, match=f"Only 199 MB are free for the data folder {tmp_path}"
    ):
        require_job_room(tmp_path)
    assert free_in_words(OSError(), tmp_path) == f"199 MB are free for {tmp_path}."
    with pytest.raises(
        StoreError, match=r"The data folder .*/gone cannot be written to"
    ):
        require_job_room(tmp_path / "gone")


OURS = json.dumps(document_of(RUN, replace(RECORD, pruned=None)), indent=1)


def test_a_new_file_an_empty_one_and_an_earlier_result_may_be_written(tmp_path):
    (tmp_path / "old").write_text(OURS)
    (tmp_path / "empty").touch()
    for name in ("new", "old", "empty", "n" * 255):
        target = writable_file(tmp_path / name, "--json")
        write_atomically(target, "whole")
        assert target.read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty",
        "new",
        "n" * 255,
        "old",
    ]


def test_whatever_else_has_the_name_is_refused_by_the_name_of_the_field_and_left_alone(
    tmp_path,
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text('[{"format": "sparsedash.run/1"}]')
    (tmp_path / "round").symlink_to("round")
    before = sorted(tmp_path.iterdir())
    names = (
        ".",
        "pipe",
        "file",
        "round",
        "gone/x",
        "file/x",
        "n" * 256,
        "a\0b",
        "/dev/null",
    )
    for path in (*(tmp_path / name for name in names), Path("~nosuchuser/x")):
        with pytest.raises(SettingsError, match=r"^--json must be a new file"):
            writable_file(path, "--json")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "x").write_text(OURS)

    def full(path, *_, **__):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_machine.Path, "write_bytes", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_atomically(tmp_path / "x", "whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("x", OURS)
    ]


CHILD = """
import os
from pathlib import Path
from sparsedash.storage.local_machine import (
    forget_peak_memory, freed_bytes, give_back_freed, keep_freed, peak_memory_bytes
)

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
peak = peak_memory_bytes()
forget_peak_memory()
print(full - kept, freed, full - held(), peak - peak_memory_bytes())
"""
PIECES = 16 * 2**24


@pytest.mark.skipif(
    local_machine._mallinfo is None, reason="only a newer glibc tells what was freed"
)
@pytest.mark.parametrize(
    ("variables", "is_kept"),
    [({}, True), ({"MALLOC_ARENA_TEST": "8"}, False)],
    ids=["ours", "environment"],
)
def test_freed_memory_is_kept_unless_the_environment_says_how_given_back_and_a_peak_forgotten(
    variables, is_kept
):
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
    } | variables
    child = [sys.executable, "-c", CHILD]
    ran = subprocess.run(
        child,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    kept_less, freed, less, peak_less = map(float, ran.stdout.split())
    assert (kept_less < 0.1 * PIECES) == is_kept
    assert freed > 0.9 * PIECES or not is_kept
    assert less > 0.9 * PIECES and peak_less > 0.8 * PIECES


@pytest.mark.parametrize(("load", "is_busy"), [(2.0, False), (2.5, False), (2.6, True)])
def test_a_machine_is_overloaded_above_five_threads_for_four_processors(
    load, is_busy, monkeypatch
):
    monkeypatch.setattr(local_machine.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(local_machine.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert local_machine.is_overloaded() == is_busy


@pytest.mark.parametrize(
    ("flags", "multiplies"),
    [
        ("avx512f amx_bf16 amx_tile", True),
        ("avx512f avx512_bf16", True),
        ("avx512f avx512_vnni", False),
    ],
)
def test_a_processor_says_whether_it_multiplies_bfloat16(tmp_path, flags, multiplies):
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"flags\t: fpu {flags}\n")
    assert multiplies_bfloat16(cpu) == multiplies


def test_a_processor_that_says_nothing_counts_as_without_bfloat16(tmp_path):
    assert not multiplies_bfloat16(tmp_path / "nothing")
