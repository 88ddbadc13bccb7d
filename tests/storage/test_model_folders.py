"""Folders of models: configs, unpacked ones, and exports: two at once, a kill, and what is
swept.
"""

import json
import subprocess
import sys

import pytest
from filelock import FileLock
from huggingface_hub import constants

from sparsedash.schema.errors import ExportError, StoreError
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.model_folders import (
    MAX_CONFIG_BYTES,
    UNFINISHED_EXPORT,
    drop_unpacked,
    is_being_written,
    model_config,
    new_folder,
    sweep_exports,
    unfinished_exports,
    unpacked_models,
)
from tests.storage.every_kind import LARGE, unpack

CONFIG = {"model_type": "llama"}


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A local cache that has one revision of owner/model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--model"
    folder = model / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)


def test_a_folder_has_its_own_and_what_the_hub_gave_before_is_known_without_asking_it(
    fetched, tmp_path
):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert model_config(str(tmp_path)) == model_config("owner/model") == CONFIG
    assert model_config(f"owner/model@{'a' * 40}") == CONFIG
    assert model_config("owner/model@other") is None
    assert model_config("owner/other") is None


@pytest.mark.parametrize(
    "name",
    ["", "a" * 200, "../../etc", "owner/model/more", "/nowhere", "\x00", "@main"],
)
def test_a_name_of_nothing_has_none(name, fetched):
    assert model_config(name) is None


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, " " * (MAX_CONFIG_BYTES + 1)]
)
def test_a_file_that_is_no_config_is_none(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert model_config(str(tmp_path)) is None


def test_what_is_whole_is_listed_with_its_size_and_what_is_unfinished_is_not(store):
    folder = unpack(store, "tiny-0123")
    (folder.parent / f"{UNFINISHED_EXPORT}x").mkdir()
    (folder.parent / "tiny-0123.lock").touch()
    (model,) = unpacked_models(store)
    assert (model.name, model.size.n_bytes) == ("tiny-0123", len(LARGE) + 2)
    assert model.identity.startswith("sha256:")


def test_deleting_one_takes_its_folder_and_note_unless_it_is_being_unpacked_and_twice_is_no_fault(
    store,
):
    folder = unpack(store, "tiny-0123")
    with (
        FileLock(folder.with_name("tiny-0123.lock")),
        pytest.raises(StoreError, match="being unpacked"),
    ):
        drop_unpacked("tiny-0123", store)
    assert folder.exists()
    drop_unpacked("tiny-0123", store)
    drop_unpacked("tiny-0123", store)
    assert not folder.exists() and unpacked_models(store) == []
    assert not any(
        entry.name.startswith("note/unpacked") for entry in store.entries("records")
    )


@pytest.mark.parametrize("name", ["", "..", "../records", "a/b", ".x"])
def test_no_name_leads_out_of_the_folder_of_models(store, name):
    with pytest.raises(StoreError):
        drop_unpacked(name, store)
    assert (store.folder / "records" / "cache.db").exists()


def test_the_size_of_a_folder_follows_no_link(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"12345")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b")
    assert folder_size(tmp_path / "a").n_bytes == 5
    assert folder_size(tmp_path / "nowhere") == (0, 0.0)


def test_of_two_at_the_same_time_one_wins_and_the_other_says_so(tmp_path):
    out = tmp_path / "out"
    with (
        pytest.raises(ExportError, match="already exists"),
        new_folder(out),
        new_folder(out) as inside,
    ):
        (inside / "first").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["first"]


KILLED = """
import sys, time
from pathlib import Path
from sparsedash.storage.model_folders import new_folder
with new_folder(Path(sys.argv[1])) as inside:
    (inside / "model.safetensors").write_bytes(bytes(1000))
    print("written", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_has_another_name_and_is_swept_at_once(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    living = subprocess.Popen(command, stdout=subprocess.PIPE)
    killed = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert living.stdout.readline() == killed.stdout.readline() == b"written\n"
        assert list(map(is_being_written, unfinished_exports(tmp_path))) == [True, True]
        killed.kill()
        killed.wait()
        assert not out.exists()
        sweep_exports(tmp_path)
        assert list(map(is_being_written, unfinished_exports(tmp_path))) == [True]
    finally:
        for process in (living, killed):
            process.kill()
            process.wait()
            process.stdout.close()
