"""The trial change made to one block at a time, to measure how much the model minds what its MLP loses.

Dimensions: d hidden width, m inner width.
"""

from torch import Tensor

from sparsedash.engine.pruning.compensation import least_squares
from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.patterns import kept_channels
from sparsedash.engine.pruning.saliency import activation_aware

REFERENCE_KEPT = 0.75
DAMPING = 0.01


def reference_change(layer: Layer) -> tuple[Tensor, Tensor]:
    """The change of the out-projection (d, m) and of its bias (d,) when a quarter of the channels goes, refitted.

    A quarter of those that are ever active: behind a ReLU many are not, and without those nothing would be missing.
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
