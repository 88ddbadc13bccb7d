"""The trial change made to one block at a time, to measure how much the model minds what its MLP loses."""

from sparsedash.engine.pruning.compensation import least_squares
from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.patterns import kept_channels
from sparsedash.engine.pruning.saliency import activation_aware
from sparsedash.engine.pruning.surgery import PrunedMlp

REFERENCE_KEPT = 0.75
DAMPING = 0.01


def reference_cut(layer: Layer) -> PrunedMlp:
    """What the MLP becomes when a quarter of its channels goes, refitted.

    A quarter of those that are ever active: behind a ReLU many are not, and without those nothing would be missing.
    """
    scores = activation_aware(layer)
    n_active = int((scores > 0).sum())
    kept = kept_channels(scores, max(1, int(n_active * REFERENCE_KEPT)))
    return least_squares(layer, kept, DAMPING)
