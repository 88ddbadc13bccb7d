"""Unpacked models: what is known of them, and how one is deleted."""

import pytest
from filelock import FileLock

from sparsedash.schema.errors import StoreError
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import drop_unpacked, unpacked_models
from sparsedash.storage.store import Store
from tests.storage.upkeep.every_kind import LARGE, unpack


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def test_what_is_whole_is_listed_with_its_size_and_what_is_unfinished_is_not(store):
    folder = unpack(store, "tiny-0123")
    (folder.parent / "unfinished-x").mkdir()
    (folder.parent / "tiny-0123.lock").touch()
    (model,) = unpacked_models(store)
    assert (model.name, model.n_files, model.n_bytes) == ("tiny-0123", 2, len(LARGE) + 2)
    assert model.identity.startswith("sha256:")


def test_deleting_one_takes_its_folder_and_what_was_noted_and_twice_is_no_fault(store):
    folder = unpack(store, "tiny-0123")
    drop_unpacked("tiny-0123", store)
    drop_unpacked("tiny-0123", store)
    assert not folder.exists() and unpacked_models(store) == []
    assert not any(entry.name.startswith("note/unpacked") for entry in store.entries("records"))


def test_one_that_is_being_unpacked_is_left(store):
    folder = unpack(store, "tiny-0123")
    with FileLock(folder.with_name("tiny-0123.lock")), pytest.raises(StoreError, match="being unpacked"):
        drop_unpacked("tiny-0123", store)
    assert folder.exists()


@pytest.mark.parametrize("name", ["", "..", "../records", "a/b", "unfinished-x", ".x"])
def test_no_name_leads_out_of_the_folder_of_models(store, name):
    with pytest.raises(StoreError):
        drop_unpacked(name, store)
    assert (store.folder / "records" / "cache.db").exists()


def test_the_size_of_a_folder_follows_no_link(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"12345")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b")
    assert folder_size(tmp_path / "a")[:2] == (1, 5)
    assert folder_size(tmp_path / "nowhere") == (0, 0, 0.0)
