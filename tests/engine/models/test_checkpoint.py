"""Incomplete or wrong checkpoints are refused by name, never filled with random numbers."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.engine.models.checkpoint_reading import weight_files
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import ModelError
from tests.engine.tiny import CONFIGS, load_folder, save_tiny, tiny_model

DOWN = "model.layers.1.mlp.down_proj.weight"
THIRD = "model.layers.3.mlp.down_proj.weight"


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "copy")


def refused(folder, store, dtype="float32"):
    with pytest.raises(ModelError) as caught:
        load_model(locate_model(str(folder), store), dtype)
    assert caught.value.advice
    return caught.value.message


def rewrite(folder, change):
    """Save the weights again as `change` leaves them."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(
        weights,
        file,
        metadata={"format": "pt"},
    )


def reconfigure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def holding(value):
    return lambda weights: weights[DOWN].__setitem__((3, 5), value)


def of_type(dtype):
    return lambda weights: weights.update({DOWN: weights[DOWN].to(dtype)})


WEIGHTS = {
    "a hole": (lambda weights: weights.pop(DOWN), f"lacks {DOWN}."),
    "one more": (
        lambda weights: weights.update({THIRD: torch.zeros(2)}),
        f"knows nothing of, {THIRD}",
    ),
    "another shape": (
        lambda weights: weights.update({DOWN: torch.zeros(33, 96)}),
        f"than its config says {DOWN}",
    ),
    **{
        f"{value}": (holding(float(value)), f"NaN or infinite values in {DOWN}")
        for value in ("nan", "inf", "-inf")
    },
    **{
        str(dtype): (
            of_type(dtype),
            f"none of float64, float32, float16, bfloat16: {DOWN} (",
        )
        for dtype in (torch.int8, torch.bool, torch.int32, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("safetensors", "float32"), ("bin", "bfloat16")]
)
@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_weights_are_refused_by_name(name, kind, dtype, folder, store):
    change, message = WEIGHTS[name]
    rewrite(folder, change)
    if kind == "bin":
        torch.save(
            load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
        )
        (folder / "model.safetensors").unlink()
    assert message in refused(folder, store, dtype)


MASKED = {
    "gpt2": "transformer.h.{}.attn",
    "gptj": "transformer.h.{}.attn",
    "gpt_neo": "transformer.h.{}.attn.attention",
    "gpt_neox": "gpt_neox.layers.{}.attention",
}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_as_it_is_saved_is_whole_and_without_one_tensor_is_not(
    family, store, tmp_path
):
    folder = save_tiny(tmp_path / "whole", family)
    if attention := MASKED.get(family):
        # Masks that old checkpoints keep are no weights.
        mask = torch.ones(1, dtype=torch.uint8)
        masks = {}
        for index in range(3):
            path = attention.format(index)
            masks |= {f"{path}.bias": mask.clone(), f"{path}.masked_bias": mask.clone()}
        rewrite(folder, lambda weights: weights.update(masks))
    load_folder(folder, store)
    name = next(
        name
        for name in load_file(folder / "model.safetensors")
        if ".0." in name and name.endswith("weight")
    )
    rewrite(folder, lambda weights: weights.pop(name))
    assert "lacks" in refused(folder, store)


def cut(file, n_bytes):
    file.write_bytes(file.read_bytes()[:-n_bytes])


def pointing(to):
    def harm(folder):
        shutil.copy(
            sorted(folder.glob("*.safetensors"))[0], folder.parent / "other.safetensors"
        )
        index = folder / "model.safetensors.index.json"
        whole = json.loads(index.read_text())
        whole["weight_map"][DOWN] = to
        index.write_text(json.dumps(whole))

    return harm


def index_of(text):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


SHARDS = {
    "missing": (
        lambda folder: min(folder.glob("*.safetensors")).unlink(),
        "which is not in the folder",
    ),
    "cut off": (lambda folder: cut(min(folder.glob("*.safetensors")), 8), "is damaged"),
    **{
        f"at {to}": (pointing(to), "which is not in the folder")
        for to in ("../other.safetensors", "inner/other.safetensors", "/etc/hostname")
    },
    "a number": (pointing(7), "index.json of"),
    **{
        f"index {text[:9]}": (index_of(text), "index.json of")
        for text in ("", "[]", '{"weight_map": 3}', "[" * 10_000)
    },
}


@pytest.mark.parametrize("harm", [None, *SHARDS])
def test_shards_are_read_whole_or_refused(harm, store, tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    tiny_model("llama").save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    if harm is None:
        assert len(load_folder(folder, store).mlps) == 3
    else:
        damage, message = SHARDS[harm]
        damage(folder)
        assert message in refused(folder, store)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 2}, "knows nothing of, model.layers.2."),
        ({"num_hidden_layers": 4}, "lacks model.layers.3."),
        ({"num_hidden_layers": None}, "config"),
        ({"num_attention_heads": 0}, "config"),
        ({"hidden_size": -32}, "config"),
        ({"intermediate_size": 10**7}, "weights, and its files hold"),
        ({"intermediate_size": "wide"}, "config"),
        ({"return_dict": False}, "return_dict = False; possible: True"),
        (
            {"slow_but_exact": True, "pretraining_tp": 2},
            "slow_but_exact = True; possible: False",
        ),
        ({"pad_token_id": 10**9}, "describes no model: Padding_idx"),
        (
            {"model_type": "gpt_neo", "attention_types": [[["global"], 10**8]]},
            "attention_types = 100000000",
        ),
        (
            {"model_type": "gpt_neo", "attention_types": [[["local"] * 1500, 1]] * 2},
            "attention_types = 3000",
        ),
        (
            {"model_type": "gpt_neo", "attention_types": [["local"]]},
            "attention_types = [['local']]",
        ),
        (
            {"is_causal": False},
            "is_causal = False: a model that sees what it is to predict",
        ),
        (
            {"use_bidirectional_attention": "all"},
            "use_bidirectional_attention = all: a model that sees",
        ),
    ],
)
def test_an_impossible_config_is_refused_before_a_model_is_built(
    folder, store, changes, said
):
    reconfigure(folder, **changes)
    message = refused(folder, store)
    assert said in message
    assert "lacks" not in said or re.search(r", .* and \d+ more", message)


@pytest.mark.parametrize(
    "text", ["", "null", '"llama"', '{"model_type": 7}', "{" * 10_000, '{"a":' * 50_000]
)
def test_a_config_that_is_none_is_refused(folder, store, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        locate_model(str(folder), store)


def test_a_config_that_asks_for_code_beside_it_runs_none(folder, store, tmp_path):
    proof = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(proof)!r}, 'w')\nclass Tokenizer: pass\nclass Config: pass\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    )
    assert "tokenizer" in refused(folder, store)
    reconfigure(
        folder,
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config"},
    )
    refused(folder, store)
    assert not proof.exists()


def test_an_attention_that_the_config_names_is_not_used(folder, store):
    reconfigure(
        folder,
        _attn_implementation="paged|eager",
        attn_implementation="paged|eager",
    )
    loaded = load_folder(folder, store)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_a_whole_file_comes_before_an_index_as_in_transformers_and_an_index_of_bin_files_stays_in_its_folder(
    tmp_path,
):
    folder = save_tiny(tmp_path / "m")
    tiny_model("llama", seed=7).save_pretrained(folder, max_shard_size="40KB")
    assert weight_files(folder, "m") == [folder / "model.safetensors"]
    (folder / "model.safetensors").unlink()
    assert len(weight_files(folder, "m")) > 2
    for file in (
        *folder.glob("*.safetensors"),
        folder / "model.safetensors.index.json",
    ):
        file.unlink()
    assert weight_files(folder, "m") == []
    (folder / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"x": "../w.bin"}}'
    )
    with pytest.raises(ModelError, match="not in the folder"):
        weight_files(folder, "m")
