"""The MLPs of a model, by its structure."""

from transformers import PreTrainedModel

from sparsedash.engine.pruning.surgery import Mlp
from sparsedash.schema.model_shape import ModelStructure


def block_mlps(model: PreTrainedModel, structure: ModelStructure) -> list[Mlp]:
    """The MLPs of a model, of every block that has one."""
    blocks = model.get_submodule(structure.blocks).children()
    mlps = []
    for block, layout in zip(blocks, structure.mlps, strict=True):
        if layout is not None:
            inner = tuple(block.get_submodule(name) for name in layout.inner)
            mlps.append(Mlp(inner, block.get_submodule(layout.out), layout.fused))
    return mlps
