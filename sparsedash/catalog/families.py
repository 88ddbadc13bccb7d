"""Where each model family keeps its decoder blocks and their MLPs, in plain values. One row adds a family.

The keys are values of `model_type` in config.json.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths to the parts that are pruned.

    blocks: from the model to the list of decoder blocks. inner, out: from a block to its projections. fused: parts in
    one inner projection. width: the key of config.json that says the inner width; empty where the family has none, and
    its code knows one width only.
    """

    blocks: str
    inner: tuple[str, ...]
    out: str
    fused: int = 1
    width: str = "intermediate_size"

    @property
    def mlp(self) -> tuple[str, ...]:
        """Paths from a block to all projections of its MLP."""
        return (*self.inner, self.out)


_GATED = Family(blocks="model.layers", inner=("mlp.gate_proj", "mlp.up_proj"), out="mlp.down_proj")

FAMILIES: dict[str, Family] = {
    "bloom": Family(blocks="transformer.h", inner=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h", width=""),
    "falcon": Family(
        blocks="transformer.h", inner=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h", width="ffn_hidden_size"
    ),
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "gpt2": Family(blocks="transformer.h", inner=("mlp.c_fc",), out="mlp.c_proj", width="n_inner"),
    "gpt_neo": Family(blocks="transformer.h", inner=("mlp.c_fc",), out="mlp.c_proj"),
    "gpt_neox": Family(blocks="gpt_neox.layers", inner=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h"),
    "gptj": Family(blocks="transformer.h", inner=("mlp.fc_in",), out="mlp.fc_out", width="n_inner"),
    "llama": _GATED,
    "mistral": _GATED,
    "olmo2": _GATED,
    "opt": Family(blocks="model.decoder.layers", inner=("fc1",), out="fc2", width="ffn_dim"),
    "phi": Family(blocks="model.layers", inner=("mlp.fc1",), out="mlp.fc2"),
    "phi3": Family(blocks="model.layers", inner=("mlp.gate_up_proj",), out="mlp.down_proj", fused=2),
    "qwen2": _GATED,
    "qwen3": _GATED,
    "smollm3": _GATED,
    "starcoder2": Family(blocks="model.layers", inner=("mlp.c_fc",), out="mlp.c_proj"),
}
