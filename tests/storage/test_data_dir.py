"""The data folder's name, before a folder is made of it."""

from pathlib import Path

import pytest

from sparsedash.schema.errors import StoreError
from sparsedash.storage.local_machine import absolute_data_folder


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b", "a\nb", " ", "/a/ /b", "x/\x1b[31m"])
def test_a_name_that_nobody_means_is_refused(name):
    with pytest.raises(StoreError, match="cannot be used") as refused:
        absolute_data_folder(Path(name))
    assert str(refused.value).isprintable()


def test_any_other_is_taken_from_the_root_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_data_folder(Path("data")) == absolute_data_folder(Path("~/data")) == tmp_path / "data"
    assert absolute_data_folder(Path("/a/~b")) == Path("/a/~b")
    assert absolute_data_folder(Path()) == tmp_path
