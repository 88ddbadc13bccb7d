"""What the model loses with the output of one block's MLP, and how that grows as the block gets narrower.

Dimensions: d hidden width, m inner width.
"""

import torch
from torch import Tensor

from sparsedash.engine.pruning.compensation import least_squares
from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linear import damped_cholesky
from sparsedash.engine.pruning.patterns import kept_channels
from sparsedash.engine.pruning.saliency import activation_aware

REFERENCE_KEPT = 0.75
DAMPING = 0.01


def reference_change(layer: Layer) -> tuple[Tensor, Tensor]:
    """(d, m) added to the out-projection and (d,) to its bias when a quarter of the channels goes and the rest is refitted.

    The damage that every block is tried with alone, to measure how much the model minds. A quarter of those that are ever
    active: behind a ReLU many are not, and without those nothing would be missing.
    """
    scores = activation_aware(layer)
    n_active = int((scores > 0).sum())
    kept = kept_channels(scores, max(1, int(n_active * REFERENCE_KEPT)))
    weight, bias = least_squares(layer, kept, DAMPING)
    change = -layer.out_weight
    change[:, kept] += weight
    if bias is None or layer.out_bias is None:
        return change, change.new_zeros(len(change))
    return change, bias - layer.out_bias


def refit_errors(layer: Layer, scores: Tensor, damping: float) -> Tensor:
    """(m + 1,) float64: squared error of the output with the best k channels kept and refitted, for k = 0 to m.

    With the channels in the order of their scores and H + lam I = L L^T, keeping k leaves W_P S W_P^T, where S is the
    trailing block of L times its transpose. So column c of W L is lost by every k <= c: one factorisation gives all.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    factor = damped_cholesky(layer.moment()[order][:, order], damping)
    lost = (layer.out_weight.double()[:, order] @ factor).square().sum(dim=0)
    return torch.cat([lost.flip(0).cumsum(0).flip(0), lost.new_zeros(1)])
