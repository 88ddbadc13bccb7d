"""The config.json of a model on this machine, and nothing where there is none that can be read."""

import json

import pytest
from huggingface_hub import constants

from sparsedash.storage.model_folders import MAX_CONFIG_BYTES, model_config

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


def test_a_folder_has_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert model_config(str(tmp_path)) == CONFIG


def test_what_the_hub_gave_before_is_known_without_asking_it(fetched):
    assert model_config("owner/model") == CONFIG
    assert model_config(f"owner/model@{'a' * 40}") == CONFIG
    assert model_config("owner/model@other") is None
    assert model_config("owner/other") is None


@pytest.mark.parametrize(
    "name", ["", "a" * 200, "../../etc", "owner/model/more", "/nowhere", "\x00", "x.gguf", "@main"]
)
def test_a_name_of_nothing_has_none(name, fetched):
    assert model_config(name) is None


@pytest.mark.parametrize("text", ["[]", "{", "", "9" * 9000, "[" * 100_000, " " * (MAX_CONFIG_BYTES + 1), "\udcff"])
def test_a_file_that_is_no_config_is_none(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert model_config(str(tmp_path)) is None
