"""What the pruning functions see of one block: its weights and its calibration statistics."""

from dataclasses import dataclass

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
    """

    out_weight: Tensor
    out_bias: Tensor | None
    inner_weights: list[Tensor]
    second_moment: Tensor
    mean: Tensor
    seed: int
