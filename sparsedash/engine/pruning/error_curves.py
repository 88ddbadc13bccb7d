"""What the output of one MLP loses as it keeps fewer of its channels, for every number of them at once.

Dimensions: d hidden width, m inner width. Every function takes the channels in the order in which they are kept, (m,),
the best first, and returns (m + 1,) float64: the mean squared error of the output over the calibration tokens with the
first k channels kept, for k = 0 to m.
"""

import torch
from torch import Tensor

from sparsedash.engine.pruning.layer import Layer
from sparsedash.engine.pruning.linalg import damped_factor


def cut_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the kept columns are left as they are."""
    return _uncompensated(layer.out_weight, layer.part(order, order), order)


def bias_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the bias takes up the mean of what goes."""
    return _uncompensated(layer.out_weight, layer.covariance_of(order, order), order)


def refit_errors(layer: Layer, order: Tensor, damping: float) -> Tensor:
    """The errors where the kept columns are refitted, with what the ridge costs by holding them back.

    With H + R = L L^T in this order and R the ridge, keeping k leaves W_P (S - R_P) W_P^T, where S is the trailing
    block of L times its transpose. So column c of W L is lost by every k <= c: one factorisation gives all.
    """
    factor, ridge = damped_factor(layer.moment(order), damping)
    weight = layer.out_weight[:, order].to(factor)
    lost = (weight @ factor).square().sum(dim=0) - ridge.to(factor) * weight.square().sum(dim=0)
    return _of_every_number(lost.double())


def _uncompensated(weight: Tensor, moment: Tensor, order: Tensor) -> Tensor:
    """W_P H_PP W_P^T for what goes: each channel by itself, and with each of those that go before it.

    moment: (m, m) in this order; overwritten.
    """
    weight = weight[:, order]
    products = moment.mul_(weight.T @ weight)
    alone = products.diagonal().double()
    return _of_every_number(2 * products.triu_(1).sum(dim=1, dtype=torch.float64) + alone)


def _of_every_number(lost: Tensor) -> Tensor:
    """From what each channel adds to the loss when it goes after all that follow it in the order."""
    return torch.cat([lost.flip(0).cumsum(0).flip(0), lost.new_zeros(1)])
