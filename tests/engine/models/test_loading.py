"""Loading: weights, tokens, and the cache that keeps a model."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from tokenizers import Regex, pre_tokenizers

from sparsedash.engine.models.loading import ModelCache, load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import ModelError
from tests.engine.tiny import load_folder, save_tiny, tiny_loaded, tiny_tokenizer


def test_a_local_folder_gives_its_model_its_tokenizer_and_its_dtype(
    model_folder, store
):
    loaded = load_model(locate_model(str(model_folder), store), "bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert len(loaded.mlps) == 3
    assert loaded.tokenizer("the lamp").input_ids
    assert loaded.max_length == 256
    assert not loaded.model.training


def test_a_bin_file_that_would_run_code_is_refused(store, tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    proof = tmp_path / "ran"
    torch.save({"model.norm.weight": _Touch(str(proof))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could not be read"):
        load_folder(folder, store)
    assert not proof.exists()


class _Touch:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


def test_a_cache_keeps_one_model_and_reads_it_once(model_folder, store, tmp_path):
    model_cache = ModelCache()
    source = locate_model(str(model_folder), store)
    first = model_cache.take(source, "float32")
    assert model_cache.take(source, "float32") is first
    second = locate_model(str(save_tiny(tmp_path / "m", seed=5)), store)
    assert model_cache.take(second, "float32") is not first
    assert model_cache.take(source, "bfloat16").model.dtype == torch.bfloat16


def test_a_model_whose_files_were_changed_in_place_is_read_again_for_a_copy_of_what_they_were(
    store, tmp_path
):
    folder = save_tiny(tmp_path / "m")
    copied = shutil.copytree(folder, tmp_path / "copy")
    model_cache = ModelCache()

    def logits(folder):
        loaded = model_cache.take(locate_model(str(folder), store), "float32")
        return loaded.model(torch.tensor([[1, 2, 3]])).logits

    expected = logits(folder)
    changed = (save_tiny(tmp_path / "other", seed=5) / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.write(changed)
    assert torch.equal(logits(copied), expected)


@pytest.mark.parametrize("after", ["", " <|end|>"])
@pytest.mark.parametrize(
    ("before", "prefix"), [("", []), ("<|end|> ", [0]), ("<|end|> <|end|> ", [0, 0])]
)
def test_tokens_have_prepended_special_tokens_and_no_appended_ones(
    before, prefix, after
):
    loaded = replace(
        tiny_loaded("llama"), tokenizer=tiny_tokenizer(f"{before}$A{after}")
    )
    ids = tiny_tokenizer()("the lamp").input_ids
    assert loaded.tokens("the lamp") == prefix + ids
    # A text that has the token gets no second one.
    assert loaded.prefix_and_ids("<|end|>the lamp") == ([0], ids)


def test_a_token_without_an_embedding_is_refused(loaded):
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.add_tokens([*(f"<{number}>" for number in range(200)), "🦊"])
    with pytest.raises(
        ModelError, match=r"cannot read 'a 🦊': token 4\d\d is none of its 400"
    ):
        replace(loaded, tokenizer=tokenizer).tokens("a 🦊")


def test_a_text_that_the_tokenizer_fails_on_is_refused(loaded):
    tokenizer = copy.deepcopy(loaded.tokenizer)
    rule = Regex(r"^(([a-z ])+.)+[A-Z]([a-z ])+$")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(rule, "isolated")
    with pytest.raises(
        ModelError, match=r"cannot read 'aaa.*retry-limit-in-match over"
    ):
        replace(loaded, tokenizer=tokenizer).tokens("a" * 200)


def test_end_and_padding_tokens_without_an_embedding_are_not_used(store, tmp_path):
    folder = save_tiny(tmp_path / "m", vocab_size=len(tiny_tokenizer()))
    loaded = load_folder(folder, store)
    assert (loaded.eos_ids, loaded.tokenizer.pad_token_id) == ([0], 0)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 1000000000]}')
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "[PAD]"}))
    loaded = load_folder(folder, store)
    assert (loaded.eos_ids, loaded.tokenizer.pad_token_id) == ([7], None)
