"""Refits against other solutions, damping, and error curves against one number of channels at a
time.
"""

import pytest
import torch

from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.pruning.linalg import damped_factor, damped_solution
from sparsedash.schema.errors import CalibrationError
from tests.engine.pruning.layers import inputs, layer

KEPT = torch.tensor([0, 2, 3, 6, 7])


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_bias_takes_up_the_mean_of_what_is_gone(has_bias):
    one, x = layer(bias=has_bias), inputs(8)
    made = COMPENSATIONS["bias"].refit(one, KEPT, 0.01)
    before = x @ one.out_weight.T + (one.out_bias if has_bias else 0)
    after = x[:, KEPT] @ made.out_weight.T + made.out_bias
    assert torch.allclose(before.mean(dim=0), after.mean(dim=0), atol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
def test_least_squares_is_ordinary_regression_with_an_intercept_where_there_is_a_bias(has_bias):
    one, x = layer(bias=has_bias), inputs(8).double()
    made = COMPENSATIONS["least-squares"].refit(one, KEPT, 1e-9)
    given, target = x[:, KEPT], x @ one.out_weight.double().T
    if has_bias:
        given, target = (
            torch.cat([given, torch.ones(len(x), 1).double()], dim=1),
            target + one.out_bias.double(),
        )
    solution = torch.linalg.lstsq(given, target).solution.T
    assert torch.allclose(made.out_weight.double(), solution[:, : len(KEPT)], atol=1e-3)
    assert not has_bias or torch.allclose(made.out_bias.double(), solution[:, -1], atol=1e-3)


def test_heavy_damping_leaves_the_dense_columns_as_no_compensation_does():
    one = layer(bias=True)
    damped, plain = (
        COMPENSATIONS[name].refit(one, KEPT, 1e9) for name in ("least-squares", "none")
    )
    assert torch.equal(plain.out_weight, one.out_weight[:, KEPT]) and torch.equal(
        plain.out_bias, one.out_bias
    )
    assert torch.allclose(damped.out_weight, plain.out_weight, atol=1e-4)


def test_damping_is_measured_by_the_median():
    moment = torch.diag(torch.tensor([1e12, 4.0, 4.0])).double()
    before = moment.clone()
    factor, _ = damped_factor(moment, 0.5)
    assert torch.equal(moment, before)
    assert torch.allclose((factor @ factor.T).diagonal()[1:], torch.tensor([6.0, 6.0]).double())


def test_a_moment_without_full_rank_is_damped_until_it_can_be_solved():
    # Slightly negative, as rounding leaves it.
    moment = torch.diag(torch.tensor([1.0, 1.0, -0.05])).double()
    assert torch.isfinite(damped_factor(moment, 0.01)[0]).all()


def test_channels_that_are_enormous_together_cost_the_others_no_damping():
    """As at the first token of every text: rounded in single precision, such channels contradict
    each other.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 24, generator=generator)
    x[::50, :6] = 2e4 * torch.rand(6, generator=generator)
    moment = (x.T @ x / len(x)).double()
    ordinary = slice(6, 24)
    failed = torch.linalg.cholesky_ex(moment + 0.01 * moment.diagonal().median() * torch.eye(24))[1]
    assert failed
    factor, _ = damped_factor(moment, 0.01)
    added = (factor @ factor.T - moment).diagonal()
    assert (added[ordinary] < 0.011 * moment.diagonal().median()).all()


@pytest.mark.parametrize(("value", "told"), [(torch.nan, "not finite"), (-1e12, "heavy damping")])
def test_a_moment_that_cannot_be_solved_is_told(value, told):
    with pytest.raises(CalibrationError, match=told):
        damped_factor(torch.diag(torch.tensor([1.0, 1.0, value])).double(), 0.01)


def _solved_exactly(moment, right, damping):
    double = moment.double()
    ridge = damping * moment.diagonal().median() * torch.eye(len(moment)).double()
    return torch.linalg.solve(double + ridge, right.double()).float()


def test_a_fit_is_solved_in_single_precision_and_is_as_good():
    right = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    moment = layer(m=200, x=inputs(200, 4000)).moment()
    factor, _ = damped_factor(moment, 0.01)
    assert factor.dtype == torch.float32
    found, _ = damped_solution(moment.__getitem__, right, 0.01)
    exact = _solved_exactly(moment, right, 0.01)
    assert torch.allclose(found, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def test_where_single_precision_does_not_reach_it_is_solved_in_double():
    """Eigenvalues that differ by more than its digits: what it gives is off."""
    turned = torch.linalg.qr(
        torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    ).Q.double()
    moment = (turned * torch.logspace(0, -7, 60).double()) @ turned.T
    moment, right = ((moment + moment.T) / 2).float(), inputs(3, 60)
    damping = 1e-7 / float(moment.diagonal().median())
    exact = _solved_exactly(moment, right, damping)
    in_single = torch.linalg.solve(moment + 1e-7 * torch.eye(60), right)
    found, _ = damped_solution(moment.__getitem__, right, damping)
    assert not torch.allclose(in_single, exact, rtol=1e-3)
    assert torch.allclose(found, exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def test_a_ridge_below_the_digits_of_single_precision_is_added_in_double():
    alike = torch.ones(2, 2)
    factor, ridge = damped_factor(alike, 1e-9)
    assert factor.dtype == torch.float64
    assert torch.allclose(factor @ factor.T - alike, torch.diag(ridge), atol=1e-12)


TINY = 1e-9


def error(one, kept, name, damping=TINY):
    """What the output loses when only these channels are kept, by the second moment of all
    channels.
    """
    made = COMPENSATIONS[name].refit(one, kept, damping)
    change, shift = made.change(one.out_weight, one.out_bias)
    return one.statistics.energy(change, 0.0 if shift is None else shift)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_every_number_of_channels_has_the_error_that_it_has_by_itself(name, bias):
    one, order = layer(m=12, bias=bias), torch.randperm(12)
    errors = COMPENSATIONS[name].errors(one, order, TINY)
    assert len(errors) == 13 and errors[12] == 0
    for n in range(1, 12):
        kept = order[:n].sort().values
        expected = error(one, kept, name)
        assert float(errors[n]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("damping", [TINY, 0.1, 10])
@pytest.mark.parametrize("n_gone", [2, 7])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_what_is_left_is_known_without_another_product_with_the_moment(name, bias, n_gone, damping):
    one, kept = layer(m=12, bias=bias), torch.arange(12 - n_gone)
    made = COMPENSATIONS[name].refit(one, kept, damping)
    assert made.lost == pytest.approx(error(one, kept, name, damping), rel=1e-3, abs=1e-4)


def test_the_ridge_itself_is_no_damage():
    """Of a channel that is never active nothing is lost, however large its weights and the
    damping.
    """
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 0
    one = layer(m=8, x=x)
    order = torch.tensor([0, 1, 2, 3, 4, 6, 7, 5])
    errors = COMPENSATIONS["least-squares"].errors(one, order, 0.5)
    assert float(errors[7]) == pytest.approx(0, abs=1e-6)


def test_a_mean_square_is_that_of_the_outputs():
    x, weight, bias = inputs(6), torch.randn(3, 6), torch.randn(3)
    for shift in (0.0, bias):
        outputs = (x @ weight.T + shift).square().sum(dim=1)
        assert layer(m=6, x=x).statistics.energy(weight, shift) == pytest.approx(
            float(outputs.mean()), rel=1e-4
        )


def test_an_index_error_while_an_item_is_made_is_not_the_end_of_the_items():
    with pytest.raises(IndexError):
        list(LazySequence(3, [].__getitem__))


def test_every_item_is_made_once():
    made = []
    items = LazySequence(3, lambda index: made.append(index) or 2 * index)
    assert [list(items), list(items), items[2]] == [[0, 2, 4], [0, 2, 4], 4]
    assert made == [0, 1, 2]
