"""Where each model family keeps its decoder blocks and their MLPs. One row adds a family.

The keys are values of `model_type` in config.json; catalog.FAMILIES names the same ones.
"""

from dataclasses import dataclass
from typing import cast

from torch import nn

from sparsedash.engine.pruning.surgery import Mlp
from sparsedash.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths to the parts that are pruned.

    blocks: from the model to the list of decoder blocks. inner, out: from a block to its projections.
    fused: parts in one inner projection. width: the config field that a checkpoint of another uniform width
    sets, empty where the family cannot load one.
    """

    blocks: str
    inner: tuple[str, ...]
    out: str
    fused: int = 1
    width: str = "intermediate_size"


_GATED = Family(blocks="model.layers", inner=("mlp.gate_proj", "mlp.up_proj"), out="mlp.down_proj")

FAMILIES: dict[str, Family] = {
    "bloom": Family(
        blocks="transformer.h", inner=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h", width=""
    ),
    "falcon": Family(
        blocks="transformer.h",
        inner=("mlp.dense_h_to_4h",),
        out="mlp.dense_4h_to_h",
        width="ffn_hidden_size",
    ),
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "gpt2": Family(blocks="transformer.h", inner=("mlp.c_fc",), out="mlp.c_proj", width="n_inner"),
    "gpt_neo": Family(blocks="transformer.h", inner=("mlp.c_fc",), out="mlp.c_proj"),
    "gpt_neox": Family(
        blocks="gpt_neox.layers", inner=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h"
    ),
    "gptj": Family(blocks="transformer.h", inner=("mlp.fc_in",), out="mlp.fc_out", width="n_inner"),
    "llama": _GATED,
    "mistral": _GATED,
    "olmo2": _GATED,
    "opt": Family(blocks="model.decoder.layers", inner=("fc1",), out="fc2", width="ffn_dim"),
    "phi": Family(blocks="model.layers", inner=("mlp.fc1",), out="mlp.fc2"),
    "phi3": Family(
        blocks="model.layers", inner=("mlp.gate_up_proj",), out="mlp.down_proj", fused=2
    ),
    "qwen2": _GATED,
    "qwen3": _GATED,
    "smollm3": _GATED,
    "starcoder2": Family(blocks="model.layers", inner=("mlp.c_fc",), out="mlp.c_proj"),
}


def family_named(model_type: str) -> Family:
    """The row of a family. Raises ModelError with the families there are."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise ModelError(
            f"Models of type {model_type!r} cannot be pruned yet; possible: {', '.join(sorted(FAMILIES))}.",
            "Adding a family is one row: see CONTRIBUTING.md.",
        ) from None


def blocks_of(model: nn.Module, family: Family) -> list[nn.Module]:
    """The decoder blocks in the order they run. Raises ModelError where the model is built otherwise."""
    try:
        return list(model.get_submodule(family.blocks).children())
    except AttributeError as error:
        raise ModelError(
            f"The model has no decoder blocks at {family.blocks!r}: {error}."
        ) from error


def mlps_of(model: nn.Module, family: Family) -> list[Mlp]:
    """The MLP of every decoder block, in the same order. Raises ModelError where one is built otherwise."""
    try:
        return [
            Mlp(
                inner=tuple(_projection(block, name) for name in family.inner),
                out=_projection(block, family.out),
                fused=family.fused,
            )
            for block in blocks_of(model, family)
        ]
    except AttributeError as error:
        raise ModelError(
            f"A decoder block has no MLP as its family describes: {error}.",
            "Models with experts or mixed blocks are not supported.",
        ) from error


def _projection(block: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, block.get_submodule(name))
