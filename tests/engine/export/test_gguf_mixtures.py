"""GGUF files of mixtures: all experts of a block in one tensor, sliced."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from sparsedash.catalog.gguf_names import CUTS_OF, WORDS_OF_BYTES
from sparsedash.engine.models.gguf_making import write_dense_gguf
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.schema.errors import ModelError, SettingsError
from sparsedash.schema.records import Record
from sparsedash.storage.store import Store
from tests.engine.export.conftest import exported, proofs  # noqa: F401 - a fixture
from tests.engine.run.small_runs import MODEL_CACHE, ran, records
from tests.engine.run.test_experts import CHANNELS, EXPERTS, REAP, tiny_mixture
from tests.engine.tiny import IDS, small_run, source_of, tiny_tokenizer
from tests.engine.tiny_gguf import write_tiny_gguf

MIXTURES = {
    # Keys as llama.cpp's graphs compute them: gates of the chosen experts sum to 1, or do not.
    "qwen3_moe": {"norm_topk_prob": True},
    "olmoe": {},
}


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "data")
    yield opened
    opened.close()


def saved(folder, model_type, **changes):
    tiny_mixture(model_type, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", MIXTURES)
def test_llama_cpp_runs_a_file_with_fewer_or_narrower_experts(
    model_type, store, passage_file, tmp_path
):
    folder = saved(tmp_path / "tiny", model_type, **MIXTURES[model_type])
    text = f"file:{passage_file}"
    settings = small_run(
        folder,
        text,
        f"{text}[20:]",
        methods=(EXPERTS, CHANNELS),
        sparsities_permille=(500,),
    )
    run = ran(settings, store)
    n, hidden, width = (
        load_model(source_of(folder), "float32").experts[0].module.down_proj.shape
    )
    for number, shape in ((0, (n // 2, hidden, width)), (1, (n, hidden, width // 2))):
        export = exported(
            (store, MODEL_CACHE, run), number, "gguf", tmp_path / f"out-{number}"
        )
        assert export.proof.logit_difference < 1e-4 and export.proof.n_run == 10
        (file,) = (tmp_path / f"out-{number}").glob("*.gguf")
        tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
        down = tensors["blk.0.ffn_down_exps.weight"]
        assert tuple(reversed(down.shape.tolist())) == shape


@pytest.mark.parametrize("weights", ["float16", "q8_0"])
def test_a_file_of_a_mixture_in_fewer_bits_keeps_its_routers(
    weights, store, passage_file, tmp_path
):
    folder = saved(tmp_path / "tiny", "olmoe")
    text = f"file:{passage_file}"
    settings = small_run(
        folder, text, f"{text}[20:]", methods=(EXPERTS,), sparsities_permille=(500,)
    )
    run = (store, MODEL_CACHE, ran(settings, store))
    export = exported(run, 0, "gguf", tmp_path / "out", weights=weights)
    assert export.proof.holds
    with pytest.raises(
        SettingsError, match="float32, float16, q8_0 or as-stored for a mixture"
    ):
        exported(run, 0, "gguf", tmp_path / "fewer", weights="q4_k_m")


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_mixture_is_read_from_its_file_as_from_its_folder(
    model_type, store, tmp_path, monkeypatch
):
    # The tests' tokenizer stands for Qwen's.
    monkeypatch.setitem(CUTS_OF, (WORDS_OF_BYTES,), "qwen2")
    folder = saved(tmp_path / "tiny", model_type, **MIXTURES[model_type])
    write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")
    from_file = load_model(locate_model(str(tmp_path / "dense.gguf"), store), "float32")
    from_folder = load_model(source_of(folder), "float32")
    assert torch.equal(from_file.model(IDS).logits, from_folder.model(IDS).logits)
    assert from_file.structure.mixtures.keys() == from_folder.structure.mixtures.keys()


def test_a_mixture_that_llama_cpp_would_compute_otherwise_is_refused(tmp_path):
    folder = saved(tmp_path / "tiny", "qwen3_moe", norm_topk_prob=False)
    with pytest.raises(ModelError, match="cannot hold norm_topk_prob = False"):
        write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")


def test_whole_experts_are_cut_out_of_a_quantised_file_to_the_bit(
    store, passage_file, tmp_path
):
    dense_file = write_tiny_gguf(
        tmp_path / "dense.gguf",
        family="qwen3moe",
        quantised="Q8_0",
        moe_intermediate_size=32,
    )
    text = f"file:{passage_file}"
    settings = small_run(
        dense_file,
        text,
        f"{text}[20:]",
        methods=(REAP, EXPERTS),
        sparsities_permille=(250,),
    )
    run = (store, MODEL_CACHE, ran(settings, store))
    export = exported(run, 0, "gguf", tmp_path / "out", weights="as-stored")
    assert export.proof.holds
    (file,) = (tmp_path / "out").glob("*.gguf")
    before = {tensor.name: tensor for tensor in GGUFReader(dense_file).tensors}
    kept = store.get(Record, run[2].sparse[0]).pruned.experts
    for tensor in GGUFReader(file).tensors:
        dense = before[tensor.name]
        values = dense.data
        if "_exps." in tensor.name or ".ffn_gate_inp." in tensor.name:
            values = values[list(kept[int(tensor.name.split(".")[1])])]
        assert tensor.tensor_type == dense.tensor_type
        assert np.array_equal(tensor.data, values)
    with pytest.raises(SettingsError, match="the experts that stay are refitted"):
        exported(run, 1, "gguf", tmp_path / "refitted", weights="as-stored")


def test_experts_of_a_quantised_file_are_chosen_and_refitted_alike_streamed(
    store, passage_file, tmp_path
):
    dense_file = write_tiny_gguf(
        tmp_path / "dense.gguf",
        family="qwen3moe",
        quantised="Q8_0",
        moe_intermediate_size=32,
    )
    text = f"file:{passage_file}"
    settings = small_run(
        dense_file,
        text,
        f"{text}[20:]",
        methods=(EXPERTS, CHANNELS),
        sparsities_permille=(250,),
    )
    resident = records(store, ran(settings, store))[1:]
    elsewhere = Store(tmp_path / "streamed")
    streamed = records(
        elsewhere, ran(replace(settings, residency="streamed"), elsewhere)
    )[1:]
    elsewhere.close()
    assert len(resident) == 2 and resident[0].pruned.kept.experts
    for record, twin in zip(resident, streamed, strict=True):
        assert (record.outcomes, record.pruned) == (twin.outcomes, twin.pruned)
