"""Rounds a model's weights in memory as its files keep them, so that both are the same model."""

import torch
from torch import Tensor, nn

from sparsedash.engine.export.gguf import rounded
from sparsedash.engine.pruning.surgery import is_projection, weight_of
from sparsedash.schema.exports import Form, Weights


@torch.no_grad()
def rounded_weights(model: nn.Module, form: Form, weights: Weights) -> None:
    """Round every weight of the model, in place and kept in float32, which holds what each type rounds to.

    What is shared is rounded once; twice would change nothing.
    """
    model.float()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            plain = weight_of(module) if name == "weight" and is_projection(module) else parameter  # type: ignore[arg-type]
            plain.copy_(_as_gguf(plain, weights) if form == "gguf" else plain.to(getattr(torch, weights)))


def _as_gguf(weight: Tensor, weights: Weights) -> Tensor:
    values = rounded(weight.detach().float().cpu().numpy(), weights)
    return torch.from_numpy(values).to(weight.device, weight.dtype)
