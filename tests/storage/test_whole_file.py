"""Results that are written whole, and only where nothing or an earlier result stands."""

import json
import os
from pathlib import Path

import pytest

from sparsedash.reporting.run_reports import run_document
from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage import local_machine
from sparsedash.storage.local_machine import writable_file, write_atomically
from sparsedash.storage.store import Store
from tests.factories import RECORD, RUN

OURS = f'{{\n "format": "{local_machine.RESULT_FORMAT}",\n "model": {{}}}}'
OF_AN_EARLIER_VERSION = '{\n "model": {\n  "reference": "owner/name"}}'
FOREIGN = [
    "old",
    "{}",
    '{"model_type": "llama"}',
    '{"model": "a"}',
    "SQLite format 3\0",
    '[{"format": "sparsedash.run/1"}]',
]


def test_a_new_file_an_empty_one_and_an_earlier_result_may_be_written(tmp_path):
    (tmp_path / "old").write_text(OURS)
    (tmp_path / "older").write_text(OF_AN_EARLIER_VERSION)
    (tmp_path / "empty").touch()
    for name in ("new", "old", "older", "empty", "n" * 255):
        target = writable_file(tmp_path / name, "--json")
        write_atomically(target, "whole")
        assert target.read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new", "n" * 255, "old", "older"]


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


@pytest.mark.parametrize("name", ["x.json", "jobs.sqlite", "records/cache.db", "records/new", "logs/1.log"])
def test_nothing_in_a_data_folder_is_written_over_or_added_to(tmp_path, name):
    Store(tmp_path / "data").close()
    (tmp_path / "data/logs").mkdir()
    (tmp_path / "link").symlink_to("data")
    for folder in ("data", "link"):
        with pytest.raises(SettingsError, match="a file outside the data folder"):
            writable_file(tmp_path / folder / name, "--json")


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
    for name, to in (("to-pipe", "pipe"), ("to-nowhere", "gone/x"), ("round", "round"), ("to-folder", ".")):
        (folder / name).symlink_to(folder / to)
    named = ["pipe", "to-pipe", "to-nowhere", "round", "to-folder", "gone/x", "file/x", "n" * 256, "ü" * 128, "a\0b"]
    odd = ["/dev/null", "/", "/proc/x", "~nosuchuser/x", "..", "."]
    return [folder, *(folder / name for name in named), *map(Path, odd)]


def test_whatever_else_has_the_name_is_refused_by_the_name_of_the_field_and_left_alone(tmp_path):
    for path in hostile(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SettingsError, match="--json"):
            writable_file(path, "--json")
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(SettingsError, match="Permission denied"):
        writable_file(tmp_path / "x", "--json")


def test_what_comes_to_stand_there_during_the_run_is_left_alone(tmp_path):
    target = writable_file(tmp_path / "x", "--json")
    os.mkfifo(target)
    with pytest.raises(StoreError, match="no regular file any more"):
        write_atomically(target, "whole")
    assert target.is_fifo()
    assert list(tmp_path.iterdir()) == [target]


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
