"""Families whose own graph in llama.cpp reads a width for each block: made from a dense GGUF file
that is named.
"""

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from sparsedash.schema.records import Record
from tests.engine import tiny_gguf
from tests.engine.export.conftest import exported
from tests.engine.tiny import VOCABULARY, WIDTHS_BY_BLOCK, save_tiny, tiny_model

pytest.importorskip("llama_cpp_py_sync")

_ALIKE = {
    "vocab_size": VOCABULARY,
    "context_length": 256,
    "embedding_length": 32,
    "block_count": 4,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
_KEYS = {
    "gemma4_text": {
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.key_length_swa": 8,
        "attention.value_length_swa": 8,
        "attention.sliding_window": 48,
        "attention.sliding_window_pattern": [True, True, True, False],
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": 8,
        "feed_forward_length": 96,
        "final_logit_softcapping": 30.0,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.dimension_count": 16,
        "rope.dimension_count_swa": 8,
    },
    "nemotron_h": {
        "attention.head_count_kv": [0, 0, 2, 0],
        "attention.key_length": 8,
        "attention.value_length": 8,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "feed_forward_length": [0, 96, 0, 96],
        "rope.dimension_count": 8,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 64,
        "ssm.state_size": 8,
        "ssm.time_step_rank": 4,
        "ssm.group_count": 1,
    },
}
_NAMES = {
    "gemma4_text": {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "per_layer_input_gate": "inp_gate",
        "per_layer_projection": "proj",
        "post_per_layer_input_norm": "post_norm",
    },
    "nemotron_h": {
        "model.embeddings": "token_embd",
        "model.norm_f": "output_norm",
        "lm_head": "output",
        "norm": "attn_norm",
        "mixer.in_proj": "ssm_in",
        "mixer.conv1d": "ssm_conv1d",
        "mixer.norm": "ssm_norm",
        "mixer.out_proj": "ssm_out",
        "mixer.q_proj": "attn_q",
        "mixer.k_proj": "attn_k",
        "mixer.v_proj": "attn_v",
        "mixer.o_proj": "attn_output",
        "mixer.up_proj": "ffn_up",
        "mixer.down_proj": "ffn_down",
    },
}
"""Modules by their names in the model, or within a block of it, and those of llama.cpp's converter."""


@pytest.fixture(params=sorted(WIDTHS_BY_BLOCK))
def dense(request, tmp_path):
    """The folder of a tiny model, its GGUF file and its architecture there."""
    model_type = request.param
    architecture = model_type.removesuffix("_text")
    writer = GGUFWriter(tmp_path / "dense.gguf", architecture)
    for name, value in (_ALIKE | _KEYS[model_type]).items():
        tiny_gguf.add_key(writer, f"{architecture}.{name}", value)
    for name, value in tiny_gguf.tokenizer_keys(VOCABULARY).items():
        tiny_gguf.add_key(writer, name, value)
    for name, weight in tiny_model(model_type).state_dict().items():
        _add_weight(writer, model_type, name, weight.float().numpy())
    if model_type == "gemma4_text":
        # A quarter of each head of full attention is rotated.
        writer.add_tensor(
            "rope_freqs.weight", np.array([1, 1] + [1e30] * 6, np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (
        save_tiny(tmp_path / "tiny", model_type),
        tmp_path / "dense.gguf",
        architecture,
    )


def _add_weight(writer, model_type, name, values):
    """As llama.cpp's converter names and turns it."""
    names = _NAMES[model_type]
    _, _, in_block = name.partition(".layers.")
    number, _, inner = in_block.partition(".")
    if not in_block:
        module, _, kind = name.rpartition(".")
        if model_type == "gemma4_text" and module == "lm_head":
            return
        full_name = f"{names[module]}.{kind}"
    elif inner == "layer_scalar":
        full_name = f"blk.{number}.layer_output_scale.weight"
    elif inner == "mixer.dt_bias":
        full_name = f"blk.{number}.ssm_dt.bias"
    elif inner in ("mixer.A_log", "mixer.D"):
        full_name = f"blk.{number}.ssm_{inner[6].lower()}"
        values = (-np.exp(values) if inner == "mixer.A_log" else values)[:, None]
    else:
        module, _, kind = inner.rpartition(".")
        full_name = f"blk.{number}.{names[module]}.{kind}"
    if full_name.endswith("ssm_norm.weight"):
        values = values[None]
    if full_name.endswith("ssm_conv1d.weight"):
        values = values[:, 0]
    writer.add_tensor(full_name, np.ascontiguousarray(values))


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_every_block_keeps_its_own_width(dense, weights, finished_run, tmp_path):
    folder, file, architecture = dense
    finished = finished_run(folder)
    export = exported(
        finished, 0, "gguf", tmp_path / "out", dense_gguf=str(file), weights=weights
    )
    widths = finished[0].get(Record, finished[2].sparse[0]).pruned.widths
    assert len(set(widths) - {0}) > 1, "the test needs blocks of different widths"
    fields = GGUFReader(tmp_path / "out" / "out.gguf").fields
    assert fields[f"{architecture}.feed_forward_length"].contents() == list(widths)
    assert export.proof.n_run == export.proof.n_verdicts == 20
    assert export.proof.logit_difference < 0.05
