"""Models of text and images: pruned in their language model alone, and exported whole."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from sparsedash.engine.models.structure_proof import tiny_random_model
from sparsedash.engine.models.tiny_config import tiny_config
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from tests.engine.export.conftest import exported
from tests.engine.tiny import tiny_tokenizer

IMAGE_TOKEN = 10


@pytest.fixture(scope="module")
def wrapper_folder(tmp_path_factory):
    """A tiny LLaVA whose tower is stored in another type, with a file of its processor."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    config = tiny_config(AutoConfig.for_model("llava"))
    config.image_token_id = IMAGE_TOKEN
    tiny_random_model(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if "vision_tower" in name:
            weights[name] = tensor.bfloat16()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text('{"size": 28}')
    return folder


@pytest.fixture(scope="module")
def finished(wrapper_folder, passage_file, finished_run):
    return finished_run(wrapper_folder, ("least-squares",))


def seen(model):
    """Logits for an image of four patches between words."""
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 4, 6, 7]])
    with torch.inference_mode():
        return model(input_ids=ids, pixel_values=pixels.to(model.dtype)).logits


def test_an_export_sees_images_as_the_sparse_model_and_its_tower_is_the_stored_one(
    finished, wrapper_folder, tmp_path
):
    store, model_cache, run = finished
    folder = tmp_path / "exported"
    exported(finished, 0, "uniform", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["intermediate_size"] == 40
    assert (folder / "preprocessor_config.json").read_text() == '{"size": 28}'
    before = load_file(wrapper_folder / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    tower = [name for name in before if "vision_tower" in name]
    assert len(tower) > 10
    for name in tower:
        # Under the name that the class has for it today.
        stored = after[f"model.{name}"]
        assert stored.dtype == torch.bfloat16 and torch.equal(stored, before[name])
    rebuilt = rebuild_model(
        store.get(Record, run.sparse[0]), store, ignore_steps, model_cache
    )
    with rebuilt.sparse.applied():
        expected = seen(rebuilt.loaded.model)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    assert torch.allclose(seen(model), expected, atol=1e-4)
