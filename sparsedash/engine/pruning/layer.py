"""What the pruning functions see of one block: its weights and its calibration statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """What calibration remembers of the inner activations x of one MLP.

    second_moment: (m, m) float32, mean of x x^T over the tokens. mean: (m,) float32.
    held_out: (t, m) float32, activations of tokens that are in neither of them. n_tokens: how many are.
    """

    second_moment: Tensor
    mean: Tensor
    held_out: Tensor
    n_tokens: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One MLP as the criteria and the compensation see it.

    out_weight: (d, m). out_bias: (d,) or None. inner_weights: (m, d) each. second_moment, mean: see Statistics.
    seed: differs from block to block, for whatever is drawn by lot.
    mask_gradients: (s, m), for each of s sequences the derivative of its loss by each channel's mask; None where the
    saliency does not ask for it.
    """

    out_weight: Tensor
    out_bias: Tensor | None
    inner_weights: list[Tensor]
    second_moment: Tensor
    mean: Tensor
    seed: int
    mask_gradients: Tensor | None = None

    @property
    def width(self) -> int:
        """Inner channels, m."""
        return self.out_weight.shape[1]

    def moment(self) -> Tensor:
        """(m, m) float64 that a fit of the out-projection minimises over.

        The second moment; the covariance where the layer has a bias, which then takes up the means.
        """
        moment = self.second_moment.double()
        if self.out_bias is None:
            return moment
        mean = self.mean.double()
        return moment - torch.outer(mean, mean)
