"""How much each token counts in the calibration statistics. To add a way: one function and one row.

Every function takes the residual stream after a block, (..., d), and returns (...) float32, positive; only the weights'
ratios matter.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def equal_weights(hidden: Tensor) -> Tensor:
    """Every token as much as every other."""
    return hidden.new_ones(hidden.shape[:-1], dtype=torch.float32)


def residual_weights(hidden: Tensor) -> Tensor:
    """1 / the mean square of a token's residual stream.

    A later norm divides by its root, so that an error there arrives, squared, that many times smaller; the first tokens
    of a passage, whose streams are enormous, decide nothing.
    """
    return 1 / hidden.float().square().mean(dim=-1).clamp_min(1e-20)


TOKEN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"equal": equal_weights, "residual": residual_weights}
