"""Files that are written whole, and only where a regular one may stand."""

import os
from pathlib import Path

import pytest

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.storage import whole_file
from sparsedash.storage.whole_file import writable_file, write_whole


def test_a_new_file_and_a_regular_one_may_be_written(tmp_path):
    (tmp_path / "old").write_text("old")
    for name in ("new", "old", "n" * 255):
        target = writable_file(tmp_path / name, "--json")
        write_whole(target, "whole")
        assert target.read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "n" * 255, "old"]


def test_a_link_to_a_regular_file_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(writable_file(tmp_path / "link", "--json"), "new")
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
        write_whole(target, "whole")
    assert target.is_fifo()
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def full(path, *_, **__):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_whole(tmp_path / "x", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"
