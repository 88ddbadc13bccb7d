"""Scores of how much each channel matters. To add a saliency: one function and one row.

Dimensions: d hidden width, m inner width, s sequences. Every score is (m,); larger means keep.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import complement
from sparsedash.engine.pruning.obs_order import elimination_order
from sparsedash.engine.pruning.patterns import kept_channels


def activation_aware(layer: Layer) -> Tensor:
    """Size of the out-projection's column times the size of its input over the calibration tokens.

    Source: Wanda, arXiv:2306.11695, taken over the whole column.
    """
    columns: Tensor = torch.linalg.vector_norm(layer.out_weight.float(), dim=0)
    return columns * layer.known.mean_squares.sqrt()


def magnitude(layer: Layer) -> Tensor:
    """Euclidean size of all weights that leave with the channel; blind to the calibration text."""
    squares = layer.out_weight.float().square().sum(dim=0)
    for weight in layer.inner_weights:
        squares += weight.float().square().sum(dim=1)
    return squares.sqrt()


def fluctuation(layer: Layer) -> Tensor:
    """Variance of the channel times the square of its column: what a constant in its place would miss.

    Source: WIFV of FLAP, arXiv:2312.11983.
    """
    variance = (layer.known.mean_squares - layer.mean.square()).clamp_min(0)
    return variance * layer.out_weight.float().square().sum(dim=0)


def surgeon(layer: Layer) -> Tensor:
    """Rank in the order in which a greedy structured OBS, which mends after every channel, takes them out."""
    order = elimination_order(layer)
    ranks = torch.empty(layer.width)
    ranks[order] = torch.arange(layer.width, dtype=ranks.dtype)
    return ranks


def fisher(layer: Layer) -> Tensor:
    """Diagonal Fisher information of the channels' mask: squared gradients, summed over the sequences.

    Source: arXiv:2204.09656.
    """
    return _mask_gradients(layer).square().sum(dim=0)


def random(layer: Layer) -> Tensor:
    """Lots drawn from the method's seed and the block's index: the floor that a criterion must beat."""
    generator = torch.Generator().manual_seed(layer.seed)
    return torch.rand(layer.width, generator=generator)


def largest(layer: Layer, scores: Tensor, n_kept: int) -> Tensor:
    """The channels with the largest scores, (k,) ascending; nested: what 10 % removes, 30 % removes too."""
    return kept_channels(scores, n_kept)


def rearranged(layer: Layer, scores: Tensor, n_kept: int) -> Tensor:
    """The channels that stay after the published greedy rearrangement, (k,) ascending; not nested.

    Starts from the lowest scores. Then each further channel, from low to high, joins those that go, and the one
    leaves them whose staying brings the length of their summed gradients down most: channels that cancel go together.
    Source: arXiv:2204.09656, section 4.3.
    """
    gradients = _mask_gradients(layer).double()
    order = torch.argsort(scores, stable=True)
    n_gone = layer.width - n_kept
    gone = order[:n_gone].clone()
    if not 0 < n_gone < layer.width:
        return kept_channels(scores, n_kept)
    squares = gradients.square().sum(dim=0)
    products = gradients.T @ gradients
    with_total = gradients.T @ gradients[:, gone].sum(dim=1)
    for joins in order[n_gone:].tolist():
        # A row for a column, which is the same and lies together in memory.
        with_total += products[joins]
        candidates = torch.cat([gone, torch.tensor([joins])])
        # |total - g|^2 = |total|^2 - 2 g total + |g|^2; the first is the same for all.
        leaves = int((squares[candidates] - 2 * with_total[candidates]).argmin())
        with_total -= products[candidates[leaves]]
        if leaves < n_gone:
            gone[leaves] = joins
    return complement(gone, layer.width)


@dataclass(frozen=True)
class Saliency:
    """score: (m,) of a layer. choose: the kept channels from the scores. by_gradient: needs the backward pass."""

    score: Callable[[Layer], Tensor]
    choose: Callable[[Layer, Tensor, int], Tensor] = largest
    by_gradient: bool = False


SALIENCIES: dict[str, Saliency] = {
    "activation-aware": Saliency(activation_aware),
    "magnitude": Saliency(magnitude),
    "wifv": Saliency(fluctuation),
    "obs": Saliency(surgeon),
    "fisher": Saliency(fisher, rearranged, by_gradient=True),
    "random": Saliency(random),
}


def _mask_gradients(layer: Layer) -> Tensor:
    assert layer.mask_gradients is not None, "this criterion's row says by_gradient"
    return layer.mask_gradients
