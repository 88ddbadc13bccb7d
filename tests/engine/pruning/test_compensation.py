"""What is refitted is the optimum, found here by other means."""

import pytest
import torch

from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.linalg import damped_cholesky
from sparsedash.schema.errors import CalibrationError
from tests.engine.pruning.layers import inputs, layer

KEPT = torch.tensor([0, 2, 3, 6, 7])


def test_none_keeps_the_columns():
    one = layer(bias=True)
    weight, bias = COMPENSATIONS["none"].refit(one, KEPT, 0.01)
    assert torch.equal(weight, one.out_weight[:, KEPT])
    assert torch.equal(bias, one.out_bias)


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_bias_takes_up_the_mean_of_what_is_gone(has_bias):
    one, x = layer(bias=has_bias), inputs(8)
    weight, bias = COMPENSATIONS["bias"].refit(one, KEPT, 0.01)
    before = x @ one.out_weight.T + (one.out_bias if has_bias else 0)
    after = x[:, KEPT] @ weight.T + bias
    assert torch.allclose(before.mean(dim=0), after.mean(dim=0), atol=1e-4)


def test_least_squares_is_the_closed_form_of_ordinary_regression():
    one, x = layer(), inputs(8).double()
    weight, _ = COMPENSATIONS["least-squares"].refit(one, KEPT, 1e-9)
    by_regression = torch.linalg.lstsq(x[:, KEPT], x @ one.out_weight.double().T).solution.T
    assert torch.allclose(weight.double(), by_regression, atol=1e-3)


def test_with_a_bias_least_squares_is_regression_with_an_intercept():
    one, x = layer(bias=True), inputs(8).double()
    weight, bias = COMPENSATIONS["least-squares"].refit(one, KEPT, 1e-9)
    ones = torch.ones(len(x), 1).double()
    target = x @ one.out_weight.double().T + one.out_bias.double()
    solution = torch.linalg.lstsq(torch.cat([x[:, KEPT], ones], dim=1), target).solution.T
    assert torch.allclose(weight.double(), solution[:, :-1], atol=1e-3)
    assert torch.allclose(bias.double(), solution[:, -1], atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_a_part_of_the_moment_is_that_of_the_whole_to_the_bit(bias):
    made = layer(m=9, bias=bias)
    rows, columns = torch.tensor([0, 3, 8]), torch.tensor([1, 2])
    assert torch.equal(made.moment_of(rows, columns), made.moment()[rows][:, columns])


def test_damping_leaves_the_moment_as_it_was():
    moment = layer(m=6).moment()
    before = moment.clone()
    damped_cholesky(moment, 0.5)
    assert torch.equal(moment, before)


def test_heavy_damping_leaves_the_dense_columns():
    one = layer()
    weight, _ = COMPENSATIONS["least-squares"].refit(one, KEPT, 1e9)
    assert torch.allclose(weight, one.out_weight[:, KEPT], atol=1e-4)


def test_damping_is_measured_by_the_median():
    moment = torch.diag(torch.tensor([1e12, 4.0, 4.0])).double()
    factor = damped_cholesky(moment, 0.5)
    assert torch.allclose((factor @ factor.T).diagonal()[1:], torch.tensor([6.0, 6.0]).double())


def test_a_moment_without_full_rank_is_damped_until_it_can_be_solved():
    # Slightly negative, as rounding leaves it.
    moment = torch.diag(torch.tensor([1.0, 1.0, -0.05])).double()
    assert torch.isfinite(damped_cholesky(moment, 0.01)).all()


def test_channels_that_are_enormous_together_cost_the_others_no_damping():
    """As at the first token of every text: rounded in single precision, such channels contradict each other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 24, generator=generator)
    x[::50, :6] = 2e4 * torch.rand(6, generator=generator)
    moment = (x.T @ x / len(x)).double()
    ordinary = slice(6, 24)
    failed = torch.linalg.cholesky_ex(moment + 0.01 * moment.diagonal().median() * torch.eye(24))[1]
    assert failed
    factor = damped_cholesky(moment, 0.01)
    added = (factor @ factor.T - moment).diagonal()
    assert (added[ordinary] < 0.011 * moment.diagonal().median()).all()


@pytest.mark.parametrize(("value", "told"), [(torch.nan, "not finite"), (-1e12, "heavy damping")])
def test_a_moment_that_cannot_be_solved_is_told(value, told):
    with pytest.raises(CalibrationError, match=told):
        damped_cholesky(torch.diag(torch.tensor([1.0, 1.0, value])).double(), 0.01)
