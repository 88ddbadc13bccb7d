"""The room that is left, and who may write."""

import shutil
from types import SimpleNamespace

import pytest

from sparsedash.schema.errors import StoreError
from sparsedash.storage.local_machine import free_in_words, require_job_room


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
