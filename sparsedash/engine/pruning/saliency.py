"""Which channels matter. One function and one row add a criterion.

Dimensions: d hidden width, m inner width. Every function returns (m,) float32; larger means keep.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer


def activation_aware(layer: Layer) -> Tensor:
    """Size of the out-projection's column times the size of its input over the calibration tokens.

    Source: Wanda, arXiv:2306.11695, taken over the whole column.
    """
    columns: Tensor = torch.linalg.vector_norm(layer.out_weight.float(), dim=0)
    return columns * layer.second_moment.diagonal().sqrt()


def magnitude(layer: Layer) -> Tensor:
    """Euclidean size of all weights that leave with the channel; blind to the calibration text."""
    squares = layer.out_weight.float().square().sum(dim=0)
    for weight in layer.inner_weights:
        squares += weight.float().square().sum(dim=1)
    return squares.sqrt()


def random(layer: Layer) -> Tensor:
    """Lots drawn from the method's seed and the block's index: the floor that a criterion must beat."""
    generator = torch.Generator().manual_seed(layer.seed)
    return torch.rand(layer.out_weight.shape[1], generator=generator)


SALIENCIES: dict[str, Callable[[Layer], Tensor]] = {
    "activation-aware": activation_aware,
    "magnitude": magnitude,
    "random": random,
}
