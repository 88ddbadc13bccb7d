"""The damage that sensitivities are measured with is that which the refit leaves."""

import pytest
import torch

from sparsedash.engine.pruning.channel_pruning import REFERENCE_KEPT, reference_cut
from sparsedash.engine.pruning.compensation import refit_errors
from sparsedash.engine.pruning.saliency import activation_aware
from tests.engine.pruning.layers import inputs, layer


@pytest.mark.parametrize("bias", [False, True])
def test_the_reference_damage_is_the_error_of_the_refit(bias):
    # Means far larger than what varies: a bias takes them up, and an error that counted them would be a hundred times
    # as large.
    own = layer(m=32, d=5, bias=bias, x=inputs(32) + (10 if bias else 0))
    order = torch.argsort(activation_aware(own), descending=True)
    errors = refit_errors(own, order, 1e-9)
    cut = reference_cut(own)
    assert cut.lost == pytest.approx(float(errors[int(32 * REFERENCE_KEPT)]), rel=0.05)
    assert own.mean_square(*cut.change(own.out_weight, own.out_bias)) == pytest.approx(cut.lost, rel=1e-3)


def test_a_mean_square_is_that_of_the_outputs():
    x = inputs(6)
    own = layer(m=6, x=x)
    weight, bias = torch.randn(3, 6), torch.randn(3)
    outputs = (x @ weight.T + bias).square().sum(dim=1)
    assert own.mean_square(weight, bias) == pytest.approx(float(outputs.mean()), rel=1e-4)
    assert own.mean_square(weight) == pytest.approx(float((x @ weight.T).square().sum(dim=1).mean()), rel=1e-4)
