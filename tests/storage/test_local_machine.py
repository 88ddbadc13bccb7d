"""Paths, disk space, atomic writes of results, and memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedash.reporting.run_reports import run_document
from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage import local_machine
from sparsedash.storage.local_machine import (
    absolute_data_folder,
    free_in_words,
    lies_below,
    path_kind,
    require_job_room,
    writable_file,
    write_atomically,
)
from sparsedash.storage.store import Store
from tests.factories import RECORD, RUN


@pytest.fixture
def places(tmp_path):
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed / "model", other / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "allowed-too").mkdir()
    (other / "secret.txt").write_text("secret")
    return allowed, other


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
def test_a_path_lies_below_a_folder_once_every_link_is_followed_and_never_with_two_dots(places, path, below):
    allowed, other = places
    (allowed / "links").mkdir()
    for link, to in (("out.txt", other / "secret.txt"), ("out", other), ("round", "round")):
        (allowed / "links" / link).symlink_to(to)
    (other / "in").symlink_to(allowed / "model")
    assert lies_below(allowed.parent / path, [str(allowed)]) == below
    assert not lies_below(allowed, [])


def test_a_folder_with_a_link_that_leads_out_is_refused_whole(places):
    allowed, other = places
    (allowed / "model" / "tokenizer.json").symlink_to(other / "secret.txt")
    assert not lies_below(allowed / "model", [str(allowed)])


def test_pipes_and_devices_are_told_from_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "file.txt").touch()
    kinds = [path_kind(tmp_path / name) for name in ("pipe.txt", "zero.txt", ".", "file.txt", "none")]
    assert kinds == ["other", "other", "folder", "file", "nothing"]


def test_a_data_folder_of_an_unknown_user_is_refused():
    with pytest.raises(StoreError, match="cannot be used: its user is unknown"):
        absolute_data_folder(Path("~nosuchuser/x"))


def test_any_other_is_taken_from_the_root_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_data_folder(Path("data")) == absolute_data_folder(Path("~/data")) == tmp_path / "data"
    assert absolute_data_folder(Path("/a/~b")) == Path("/a/~b")
    assert absolute_data_folder(Path()) == tmp_path


def test_a_folder_with_room_that_can_be_written_to_is_fine_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000_000))
    require_job_room(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_with_the_folder_and_how_much_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=199_000_000))
    with pytest.raises(StoreError, match=f"Only 199 MB are free where the data folder {tmp_path} lies"):
        require_job_room(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, there):
    # Not even root can make a file there.
    folder = "/proc/self" if there else tmp_path / "gone"
    with pytest.raises(StoreError, match=f"The data folder {folder} cannot be written to"):
        require_job_room(folder)


def test_a_folder_that_is_gone_is_told_so(tmp_path):
    assert "cannot be reached" in free_in_words(OSError(), tmp_path / "gone")
    assert free_in_words(OSError(), None) == ""


OURS = f'{{\n "format": "{local_machine.RESULT_FORMAT}",\n "model": {{}}}}'
FOREIGN = ["old", '{"model_type": "llama"}', "SQLite format 3\0", '[{"format": "sparsedash.run/1"}]']


def test_a_new_file_an_empty_one_and_an_earlier_result_may_be_written(tmp_path):
    (tmp_path / "old").write_text(OURS)
    (tmp_path / "empty").touch()
    for name in ("new", "old", "empty", "n" * 255):
        target = writable_file(tmp_path / name, "--json")
        write_atomically(target, "whole")
        assert target.read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new", "n" * 255, "old"]


def test_a_result_of_a_run_is_known_as_one(tmp_path):
    document = run_document(RUN, RECORD, [])
    for text in (json.dumps(document, indent=1), json.dumps(document), json.dumps(document, indent="\t")):
        (tmp_path / "x").write_text(text)
        assert writable_file(tmp_path / "x", "--json") == tmp_path / "x"


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_no_result_is_refused_with_what_is_allowed(tmp_path, content):
    (tmp_path / "x").write_text(content)
    with pytest.raises(
        SettingsError, match=r"--json: .*/x' is not possible; allowed: a new file, an empty one"
    ) as told:
        writable_file(tmp_path / "x", "--json")
    assert told.value.advice == "Name another file."
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", content)]


def test_a_file_that_is_not_ours_and_comes_to_stand_there_during_the_run_is_left_alone(tmp_path):
    target = writable_file(tmp_path / "x", "--json")
    target.write_text("a thesis")
    with pytest.raises(StoreError, match="is another file by now"):
        write_atomically(target, "whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "a thesis")]


@pytest.mark.parametrize("name", ["x.json", "records/cache.db"])
def test_nothing_in_a_data_folder_is_written_over_or_added_to(tmp_path, name):
    Store(tmp_path / "data").close()
    with pytest.raises(SettingsError, match="a file outside the data folder"):
        writable_file(tmp_path / "data" / name, "--json")


def test_any_file_is_replaced_where_that_is_asked_for(tmp_path):
    (tmp_path / "texts.jsonl").write_text("anything")
    write_atomically(tmp_path / "texts.jsonl", "new", replace=True)
    assert (tmp_path / "texts.jsonl").read_text() == "new"


def test_a_link_to_a_regular_file_stays_a_link(tmp_path):
    (tmp_path / "real").write_text(OURS)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(writable_file(tmp_path / "link", "--json"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def hostile(folder: Path) -> list[Path]:
    """Names under which no file may be written."""
    os.mkfifo(folder / "pipe")
    (folder / "file").touch()
    (folder / "round").symlink_to(folder / "round")
    named = ["pipe", "round", "gone/x", "file/x", "n" * 256, "a\0b"]
    return [folder, *(folder / name for name in named), Path("/dev/null"), Path("~nosuchuser/x")]


def test_whatever_else_has_the_name_is_refused_by_the_name_of_the_field_and_left_alone(tmp_path):
    for path in hostile(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SettingsError, match="--json"):
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
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == OURS


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
def test_settings_of_the_environment_are_not_overruled():
    kept_less, _, _ = told(MALLOC_ARENA_TEST="8")
    assert kept_less > 0.9 * PIECES


def test_where_no_library_tells_all_may_have_been_freed_and_nothing_fails(monkeypatch):
    for name in ("_mallinfo", "_trim", "_mallopt"):
        monkeypatch.setattr(local_machine, name, None)
    local_machine.keep_freed()
    local_machine.give_back_freed()
    assert local_machine.freed_bytes() > local_machine.MUCH
