"""Where each model family keeps its decoder blocks and their MLPs, in plain values, and which configs are refused.

One row adds a family. The keys are values of `model_type` in config.json.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


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

_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), (1, 2_000)),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), (1, 10_000)),
    **dict.fromkeys(("hidden_size", "n_embd"), (1, 1_000_000)),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), (1, 10_000_000)),
    "vocab_size": (1, 100_000_000),
    # transformers makes a dictionary of as many names, and a list of as many layers.
    "num_labels": (0, 10_000),
    "attention_types": (0, 2_000),
}
"""Least and most of a size, by its names in the families' configs; what is not said has the family's usual value."""


def config_problem(config: Mapping[str, Any], name: object) -> str:
    """Why a model with this config.json cannot be pruned; empty where nothing speaks against it. name: of the model."""
    family = config.get("model_type", "")
    if family == "":
        return f"the config of {name} has no model_type. Fetch or save the model again."
    if not isinstance(family, str) or family not in FAMILIES:
        return f"models of type {str(family)[:40]!r} cannot be pruned yet; possible: {', '.join(FAMILIES)}."
    if config.get("quantization_config") is not None:
        return (
            f"the weights in {name} are quantised, and a sparse model is computed from full ones. "
            "Name the model that it was made from, or a GGUF file of it."
        )
    for size, value in _sizes(config):
        least, most = _SIZES[size]
        if type(value) is not int or not least <= value <= most:
            return f"the config of {name} says {size} = {str(value)[:40]}; possible: {least} to {most:,}."
    if config.get("return_dict") is False:
        return f"the config of {name} says return_dict = False; possible: True. Change it: no weight depends on it."
    return ""


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every size that this config states."""
    for name in _SIZES:
        value = config.get(name)
        # GPT-Neo lists patterns of layers, each with how often it is repeated.
        listed = value if isinstance(value, list) and value else [[None, value]]
        for entry in listed:
            size = entry[1] if isinstance(entry, list) and len(entry) > 1 else entry
            if size is not None:
                yield name, size
