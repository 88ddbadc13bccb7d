"""Which projections of a block have the same input, such as queries, keys and values, or gate and up."""

import torch
from torch import Tensor

from sparsedash.engine.models.block_walk import capture_inputs
from sparsedash.engine.models.loading import LoadedModel


@torch.no_grad()
def shared_inputs(loaded: LoadedModel) -> list[list[list[str]]]:
    """The names of each block's projections, grouped by the input tensor that they share.

    Seen on two tokens. One that is never called is not among them.
    """
    blocks = loaded.projections("decoder")
    modules = [module for block in blocks for module in block.values()]
    # Kept until the end: the place of a tensor that is gone may be taken by another.
    seen: dict[int, Tensor] = {}
    sinks = [lambda x, m=module: seen.update({id(m): x}) for module in modules]
    with capture_inputs(modules, sinks):
        ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.model.device)
        loaded.model.base_model(input_ids=ids, use_cache=False)
    found = []
    for block in blocks:
        groups: dict[tuple[int, torch.Size], list[str]] = {}
        for name, module in block.items():
            if id(module) in seen:
                tensor = seen[id(module)]
                groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
        found.append(list(groups.values()))
    return found
