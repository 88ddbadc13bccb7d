"""Checkpoints that are incomplete or wrong: refused with the names, never filled with random numbers."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.schema.errors import ModelError
from tests.engine.tiny import CONFIGS, save_tiny, tiny_model

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "copy")


def refused(folder, store):
    with pytest.raises(ModelError) as caught:
        load_model(locate_model(str(folder), store), "float32")
    assert caught.value.advice
    return caught.value.message


def rewrite(folder, change):
    """Save the weights again as `change` leaves them."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def reconfigure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_missing_tensor_is_refused_by_name(folder, store):
    rewrite(folder, lambda weights: weights.pop(DOWN))
    assert refused(folder, store) == f"The checkpoint {folder} lacks {DOWN}."


def test_a_tensor_that_the_config_knows_nothing_of_is_refused_by_name(folder, store):
    rewrite(folder, lambda weights: weights.update({"model.layers.3.mlp.down_proj.weight": torch.zeros(2, 2)}))
    assert "knows nothing of, model.layers.3.mlp.down_proj.weight" in refused(folder, store)


def test_a_config_with_fewer_layers_than_the_file_is_refused(folder, store):
    reconfigure(folder, num_hidden_layers=2)
    assert "knows nothing of, model.layers.2." in refused(folder, store)
    reconfigure(folder, num_hidden_layers=4)
    assert re.search(r"lacks model\.layers\.3\..*, .* and \d+ more", refused(folder, store))


def test_a_tensor_of_another_shape_is_refused_by_name(folder, store):
    rewrite(folder, lambda weights: weights.update({DOWN: torch.zeros(33, 96)}))
    assert f"in another shape than its config says {DOWN}" in refused(folder, store)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, store, value, dtype):
    rewrite(folder, lambda weights: weights[DOWN].__setitem__((3, 5), value))
    with pytest.raises(ModelError, match=f"NaN or infinite values in {re.escape(DOWN)}"):
        load_model(locate_model(str(folder), store), dtype)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_as_it_is_saved_is_whole_and_without_one_tensor_is_not(family, store, tmp_path):
    folder = save_tiny(tmp_path / "whole", family)
    load_model(locate_model(str(folder), store), "float32")
    name = next(name for name in load_file(folder / "model.safetensors") if ".0." in name and name.endswith("weight"))
    rewrite(folder, lambda weights: weights.pop(name))
    assert "lacks" in refused(folder, store)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_tensor_of_numbers_that_are_no_weights_is_refused_by_name(folder, store, dtype, kind):
    rewrite(folder, lambda weights: weights.update({DOWN: weights[DOWN].to(dtype)}))
    if kind == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"none of float64, float32, float16, bfloat16: {re.escape(DOWN)} ") as caught:
        locate_model(str(folder), store)
    assert caught.value.advice


def test_masks_that_old_checkpoints_keep_are_no_weights(store, tmp_path):
    folder = save_tiny(tmp_path / "m", "gpt2")
    mask = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool) for i in range(3)}
    rewrite(folder, lambda weights: weights.update(mask))
    load_model(locate_model(str(folder), store), "float32")


def test_a_table_of_positions_that_would_fill_the_memory_is_refused(store, tmp_path):
    folder = save_tiny(tmp_path / "m", "gptj")
    reconfigure(folder, n_positions=10**8)
    assert "weights, and its files hold" in refused(folder, store)


def test_a_file_that_is_cut_off_is_named(folder, store):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors is damaged" in refused(folder, store)


class TestShards:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = save_tiny(tmp_path / "m")
        (folder / "model.safetensors").unlink()
        tiny_model("llama").save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
        return folder

    def test_whole_they_are_read(self, folder, store):
        assert len(load_model(locate_model(str(folder), store), "float32").mlps) == 3

    def test_a_missing_one_is_named(self, folder, store):
        lost = sorted(folder.glob("*.safetensors"))[1]
        lost.unlink()
        assert f"names {lost.name!r}, which is not in the folder" in refused(folder, store)

    def test_a_damaged_one_is_named(self, folder, store):
        cut = sorted(folder.glob("*.safetensors"))[1]
        cut.write_bytes(cut.read_bytes()[:-8])
        assert f"{cut.name} is damaged" in refused(folder, store)

    @pytest.mark.parametrize("elsewhere", ["../other.safetensors", "/etc/hostname", 7, None])
    def test_an_index_that_points_elsewhere_is_refused(self, folder, store, elsewhere):
        shutil.copy(sorted(folder.glob("*.safetensors"))[0], folder.parent / "other.safetensors")
        index = folder / "model.safetensors.index.json"
        whole = json.loads(index.read_text())
        whole["weight_map"][DOWN] = elsewhere
        index.write_text(json.dumps(whole))
        assert "which is not in the folder" in refused(folder, store)

    @pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "[" * 10_000])
    def test_an_index_that_is_none_is_refused(self, folder, store, text):
        (folder / "model.safetensors.index.json").write_text(text)
        assert "model.safetensors.index.json" in refused(folder, store)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers = 100000; possible: 1 to 2,000"),
        ({"num_hidden_layers": None}, "config"),
        ({"num_hidden_layers": "three"}, "config"),
        ({"num_hidden_layers": [3]}, "config"),
        ({"num_attention_heads": 0}, "config"),
        ({"hidden_size": -32}, "config"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"intermediate_size": 10**7}, "weights, and its files hold"),
        ({"intermediate_size": "wide"}, "config"),
        ({"return_dict": False}, "return_dict = False; possible: True"),
        ({"pad_token_id": 10**9}, "describes no model: Padding_idx"),
        ({"num_labels": 10**8}, "num_labels = 100000000; possible: 0 to 10,000"),
        ({"model_type": "gpt_neo", "attention_types": [[["global"], 10**8]]}, "attention_types = 100000000"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
    ],
)
def test_an_impossible_config_is_refused_before_a_model_is_built(folder, store, changes, said):
    reconfigure(folder, **changes)
    with pytest.raises(ModelError, match=re.escape(said)):
        load_model(locate_model(str(folder), store), "float32")


@pytest.mark.parametrize("text", ["", "null", "[]", '"llama"', '{"model_type": 7}', "{" * 10_000, '{"a":' * 50_000])
def test_a_config_that_is_none_is_refused(folder, store, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        locate_model(str(folder), store)


def test_a_config_that_asks_for_code_beside_it_runs_none(folder, store, tmp_path):
    proof = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Tokenizer: pass\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(locate_model(str(folder), store), "float32")
    assert not proof.exists()
