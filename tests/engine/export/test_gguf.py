"""GGUF files: a width for each block where llama.cpp has a graph for it, one width elsewhere,
proven by llama.cpp.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from safetensors.torch import load_file, save_file
from tokenizers import normalizers, pre_tokenizers

from sparsedash.catalog.export_forms import PER_LAYER
from sparsedash.catalog.gguf_names import ARCHITECTURES
from sparsedash.engine.export.reload_proof import gguf_allowed, rounded_activations
from sparsedash.engine.models.gguf_making import write_dense_gguf
from sparsedash.engine.models.gguf_writing import gguf_type
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.quantiser import quantise_file
from sparsedash.schema.errors import ExportError, ModelError, SettingsError
from sparsedash.schema.records import Record
from sparsedash.storage import model_folders
from tests.engine.export.conftest import exported
from tests.engine.tiny import save_tiny, sentencepiece_tokenizer, source_of
from tests.engine.tiny_gguf import write_tiny_gguf

pytest.importorskip("llama_cpp_py_sync")


@pytest.fixture(scope="session")
def gguf_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    keys = {"general.size_label": "1K", "general.quantization_version": 2}
    return lambda family: write_tiny_gguf(
        folder / f"{family}.gguf",
        family=family,
        keys=keys,
    )


@pytest.fixture
def llama(gguf_of, finished_run):
    return finished_run(gguf_of("llama"))


@pytest.mark.parametrize("family", sorted(PER_LAYER.keys() & ARCHITECTURES))
def test_every_block_keeps_its_own_width_and_llama_cpp_computes_the_same_logits(
    family, gguf_of, finished_run, tmp_path
):
    finished = finished_run(gguf_of(family))
    export = exported(finished, 0, "gguf", tmp_path / "out")
    widths = finished[0].get(Record, finished[2].sparse[0]).pruned.widths
    assert len(set(widths)) > 1, "the test needs blocks of different widths"
    fields = GGUFReader(tmp_path / "out" / "out.gguf").fields
    assert fields["general.architecture"].contents() == PER_LAYER[family]
    assert fields[f"{PER_LAYER[family]}.feed_forward_length"].contents() == list(widths)
    assert export.proof.runtime == "llama.cpp"
    assert export.proof.n_run == export.proof.n_verdicts == 20
    assert export.proof.logit_difference < 1e-4


def test_a_fresh_process_proves_a_model_of_one_width_under_its_own_architecture(
    fresh_process, llama, tmp_path
):
    export = exported(llama, 1, "gguf", tmp_path / "out")
    fields = GGUFReader(tmp_path / "out" / "out.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["llama.feed_forward_length"].contents() == 56
    assert not {"general.size_label", "general.quantization_version"} & fields.keys(), (
        "they are of the dense model"
    )
    assert export.proof.logit_difference < 1e-4


@pytest.mark.parametrize(("weights", "most"), [("float32", 1e-4), ("q4_0", 0.3)])
def test_a_model_with_fewer_layers_is_a_plain_one_of_its_architecture(
    weights, most, gguf_of, finished_run, tmp_path
):
    finished = finished_run(gguf_of("llama"), methods=("shortgpt",))
    export = exported(
        finished,
        0,
        "gguf",
        tmp_path / "out",
        weights=weights,
    )
    fields = GGUFReader(tmp_path / "out" / "out.gguf").fields
    assert (
        fields["general.architecture"].contents() == "llama"
        and fields["llama.block_count"].contents() == 2
    )
    assert (
        export.layout.startswith("2 of 3 layers, one width, architecture llama")
        and export.proof.logit_difference < most
    )


def test_layers_that_llama_cpp_tells_apart_by_their_numbers_are_not_left_out(
    gguf_of, finished_run, tmp_path
):
    finished = finished_run(gguf_of("gemma3"), methods=("shortgpt",))
    with pytest.raises(ExportError, match=r"from a layer's number .*gemma3_text"):
        exported(finished, 0, "gguf", tmp_path / "out")
    assert exported(finished, 0, "uniform", tmp_path / "out").proof.holds


def test_rounded_weights_are_those_that_llama_cpp_reads(llama, tmp_path):
    for weights in ("float16", "q8_0", "q6_k", "q4_k_m", "q4_0"):
        export = exported(
            llama,
            0,
            "gguf",
            tmp_path / weights,
            weights=weights,
        )
        assert export.proof.n_meant >= 18
        assert [file.name for file in (tmp_path / weights).glob("*.gguf")] == [
            f"{weights}.gguf"
        ]
    assert export.layout.startswith(
        "a width for each block, llama.cpp's architecture deci; tensors: "
    )
    again = exported(llama, 0, "gguf", tmp_path / "again")
    assert again.proof.logit_difference < 1e-4, (
        "rounding the model in memory has not changed the next export"
    )


@pytest.mark.parametrize(
    "family", ["falcon", "gemma3", "gpt2", "phi3", "qwen2", "qwen3"]
)
def test_a_quantised_file_is_read_back_as_llama_cpp_reads_it(
    family, gguf_of, finished_run, tmp_path
):
    export = exported(
        finished_run(gguf_of(family)),
        0,
        "gguf",
        tmp_path / "out",
        weights="q4_0",
    )
    assert export.proof.n_meant >= 18 and export.proof.logit_difference < 0.3


@pytest.mark.parametrize("weights", ["float16", "q8_0"])
def test_a_rounded_file_of_a_model_with_enormous_logits_is_proven(
    weights, finished_run, tmp_path
):
    folder = save_tiny(
        tmp_path / "tiny",
        "llama",
        tie_word_embeddings=False,
    )
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] *= 1000
    save_file(tensors, file, {"format": "pt"})
    export = exported(
        finished_run(folder),
        0,
        "gguf",
        tmp_path / "out",
        weights=weights,
    )
    assert export.proof.logit_difference > 2.0, (
        "the test needs more than an absolute limit allows"
    )
    assert export.proof.holds


def test_activations_are_rounded_to_eight_bits_with_a_scale_for_each_block_of_neighbours():
    activations = torch.tensor([[127.0, 0.4, -126.6] + 29 * [0.0] + [1.27, 0.006]])
    rounded = rounded_activations(activations, "q8_0")
    assert rounded[0, :3].tolist() == [127, 0, -127]
    assert rounded[0, 32:].tolist() == pytest.approx([1.27, 0.01])
    assert rounded_activations(activations, "q6_k")[0, 32:].tolist() == [1, 0]
    assert rounded_activations(torch.tensor([2049.0]), "float16").tolist() == [2048]


def test_a_difference_of_logits_is_allowed_up_to_four_times_what_rounding_changes_here():
    silu = SimpleNamespace(model_type="llama", hidden_act="silu")
    gelu = SimpleNamespace(model_type="bloom")
    logits = [torch.tensor([[-10.0, 0.0, 30.0]]), torch.tensor([[5.0, 5.0, 6.0]])]
    rounded = [torch.tensor([[-10.0, 0.1, 30.0]]), torch.tensor([[5.0, 4.5, 6.0]])]
    assert gguf_allowed(silu, logits, rounded) == 2.0
    assert gguf_allowed(silu, logits, logits) == 2e-3
    assert gguf_allowed(gelu, logits, logits) == 0.05
    assert (
        gguf_allowed(
            silu, logits, [torch.full_like(rows, torch.inf) for rows in logits]
        )
        == 2e-3
    )


def test_a_full_file_keeps_the_type_of_the_quantised_one_that_it_comes_from(
    finished_run, tmp_path
):
    base = write_tiny_gguf(
        tmp_path / "base.gguf",
        quantised="Q8_0",
        hidden_size=64,
        intermediate_size=128,
    )
    exported(
        finished_run(base),
        1,
        "gguf",
        tmp_path / "out",
        weights="float16",
    )
    out = tmp_path / "out" / "out.gguf"
    assert locate_model(str(out), finished_run(base)[0]).source_type == "Q8_0"


def test_q8_0_is_written_here_to_the_bits_of_llama_cpp(gguf_of, tmp_path):
    quantise_file(str(gguf_of("llama")), str(tmp_path / "theirs.gguf"), 7, 1)
    for tensor in GGUFReader(tmp_path / "theirs.gguf").tensors:
        dense = next(
            candidate
            for candidate in GGUFReader(gguf_of("llama")).tensors
            if candidate.name == tensor.name
        )
        kind = gguf_type(tensor.name, dense.data.shape, "q8_0")
        assert tensor.tensor_type is kind and np.array_equal(
            quants.quantize(dense.data, kind), tensor.data
        ), tensor.name


@pytest.mark.parametrize(
    ("weights", "most", "n_allowed"), [("float32", 1e-4, 0), ("q8_0", 0.3, 2)]
)
def test_a_bfloat16_run_is_proven_by_what_its_file_holds(
    weights, most, n_allowed, gguf_of, finished_run, tmp_path
):
    (gguf_of("llama").parent / "NOTICE.md").write_text("Keep this.")
    finished = finished_run(gguf_of("llama"), dtype="bfloat16")
    export = exported(
        finished,
        0,
        "gguf",
        tmp_path / "out",
        weights=weights,
    )
    assert export.proof.logit_difference <= most
    assert export.proof.n_allowed == n_allowed
    assert (tmp_path / "out" / "NOTICE.md").read_text() == "Keep this."


LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FOLDERS = {
    "llama": ("llama", {}),
    "llama-3": ("llama", {"rope_parameters": LLAMA_3}),
    "linear": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 1e4,
                "factor": 2.0,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    # As real folders have them, where they change nothing.
    "qwen2": (
        "qwen2",
        {
            "max_window_layers": 24,
            "attention_dropout": 0.1,
            "sliding_window": 32,
        },
    ),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_from_a_folder_needs_no_other_file_and_llama_cpp_computes_the_same_logits(
    name, finished_run, tmp_path
):
    family, changes = FOLDERS[name]
    finished = finished_run(save_tiny(tmp_path / "tiny", family, **changes))
    for number in (0, 1):
        export = exported(finished, number, "gguf", tmp_path / f"out-{number}")
        # llama.cpp looks GELU up in a table of 16 bits.
        most = 5e-3 if name.startswith("gemma") else 1e-4
        assert export.proof.logit_difference < most and export.proof.n_run == 20


def test_bytes_words_and_special_tokens_of_a_tokenizer_in_the_manner_of_sentencepiece_are_those_of_llama_cpp(
    finished_run, tmp_path
):
    folder = save_tiny(
        tmp_path / "tiny",
        "mistral",
        sliding_window=None,
    )
    sentencepiece_tokenizer().save_pretrained(folder)
    export = exported(finished_run(folder), 0, "gguf", tmp_path / "out")
    assert export.proof.logit_difference < 1e-4


def test_added_tokens_without_a_row_are_left_out_and_a_missing_first_token_is_that_of_the_config(
    tmp_path,
):
    folder = save_tiny(
        tmp_path / "tiny",
        "mistral",
        sliding_window=None,
    )
    tokenizer = sentencepiece_tokenizer()
    n_rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<new {i}>" for i in range(n_rows - len(tokenizer) + 2)])
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")
    fields = GGUFReader(tmp_path / "dense.gguf").fields
    assert len(fields["tokenizer.ggml.tokens"].data) == n_rows
    assert fields["general.name"].contents() == "tiny"
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 0


def test_of_several_chat_templates_the_default_one_goes_along(tmp_path):
    folder = save_tiny(
        tmp_path / "tiny",
        "mistral",
        sliding_window=None,
    )
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")
    assert (
        GGUFReader(tmp_path / "dense.gguf").fields["tokenizer.chat_template"].contents()
        == "{{ messages }}"
    )


def test_a_head_that_the_config_denies_counts_as_a_weight_and_is_not_left_out(
    store, tmp_path
):
    folder = save_tiny(tmp_path / "tiny", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": True})
    )
    source = locate_model(str(folder), store)
    loaded = load_model(source, "float32")
    assert loaded.shape.n_parameters == sum(
        parameter.numel() for parameter in loaded.model.parameters()
    )
    with pytest.raises(
        ModelError,
        match="its config ties the output head to the embedding, but the two weights differ",
    ):
        write_dense_gguf(source, tmp_path / "dense.gguf")


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_that_changes_or_cuts_texts_otherwise_is_refused(change, tmp_path):
    folder = save_tiny(
        tmp_path / "tiny",
        "mistral",
        sliding_window=None,
    )
    tokenizer = sentencepiece_tokenizer()
    odd = (
        normalizers.Lowercase()
        if change == "normalizer"
        else pre_tokenizers.Split("l", "isolated")
    )
    setattr(tokenizer.backend_tokenizer, change, odd)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"than llama|that llama"):
        write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")


def test_a_full_disk_is_an_error_before_weights_are_written(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "tiny")
    monkeypatch.setattr(
        model_folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000)
    )
    with pytest.raises(ExportError, match="are free"):
        write_dense_gguf(source_of(folder), tmp_path / "dense.gguf")
    assert (tmp_path / "dense.gguf").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("phi3", {}, "none of phi3 can be made here"),
        ("mistral", {"sliding_window": 48}, "reads no sliding window"),
        ("llama", {"hidden_act": "gelu"}, "cannot hold hidden_act = gelu"),
        ("gemma2", {}, "cannot hold query_pre_attn_scalar = 256"),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                }
            },
            "scaling dynamic",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    family, changes, reason, finished_run, tmp_path
):
    finished = finished_run(save_tiny(tmp_path / "tiny", family, **changes))
    with pytest.raises(ModelError, match=reason):
        exported(finished, 0, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dense_gguf_that_is_named_must_be_of_full_weights_and_of_the_model(
    gguf_of, finished_run, tmp_path
):
    finished = finished_run(save_tiny(tmp_path / "tiny", "qwen2"))
    export = exported(
        finished,
        0,
        "gguf",
        tmp_path / "out",
        dense_gguf=str(gguf_of("qwen2")),
    )
    assert export.proof.logit_difference < 1e-4
    other_file = write_tiny_gguf(
        tmp_path / "other.gguf",
        seed=5,
        family="qwen2",
    )
    with pytest.raises(
        ExportError, match=r"other\.gguf is a file of another model: its weights differ"
    ):
        exported(
            finished,
            0,
            "gguf",
            tmp_path / "two",
            dense_gguf=str(other_file),
        )
    assert not (tmp_path / "two").exists()
    nameless = tmp_path / "nameless.gguf"
    nameless.write_bytes(
        other_file.read_bytes().replace(
            b"general.architecture", b"general.architectura"
        )
    )
    with pytest.raises(
        ModelError, match=r"nameless\.gguf holds no model: it names no architecture"
    ):
        exported(
            finished,
            0,
            "gguf",
            tmp_path / "two",
            dense_gguf=str(nameless),
        )
    exported(
        finished_run(gguf_of("qwen2")),
        1,
        "gguf",
        tmp_path / "q8",
        weights="q8_0",
    )
    with pytest.raises(SettingsError, match=r"q8\.gguf.* is quantised \(Q8_0\)"):
        exported(
            finished,
            0,
            "gguf",
            tmp_path / "three",
            dense_gguf=str(tmp_path / "q8" / "q8.gguf"),
        )
