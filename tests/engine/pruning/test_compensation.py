"""Refits against other solvers, damping, and error curves against one width at a time."""

import pytest
import torch

from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.pruning.linalg import damped_factor, damped_solution
from sparsedash.schema.errors import CalibrationError
from tests.engine.pruning.layers import inputs, layer
from tests.engine.tiny import seeded

KEPT = torch.tensor([0, 2, 3, 6, 7])
TINY = 1e-9


def diagonal(*values):
    return torch.diag(torch.tensor(values)).double()


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_bias_takes_the_mean_of_the_removed_channels(has_bias):
    dense = layer(bias=has_bias)
    x = inputs(8)
    narrow = COMPENSATIONS["bias"].refit(dense, KEPT, 0.01)
    before = x @ dense.out_weight.T + (dense.out_bias if has_bias else 0)
    after = x[:, KEPT] @ narrow.out_weight.T + narrow.out_bias
    assert torch.allclose(
        before.mean(dim=0),
        after.mean(dim=0),
        atol=1e-4,
    )


@pytest.mark.parametrize("has_bias", [False, True])
def test_least_squares_is_ordinary_regression_with_an_intercept_for_a_bias(has_bias):
    dense = layer(bias=has_bias)
    x = inputs(8).double()
    narrow = COMPENSATIONS["least-squares"].refit(dense, KEPT, TINY)
    predictors = x[:, KEPT]
    target = x @ dense.out_weight.double().T
    if has_bias:
        predictors = torch.cat([predictors, torch.ones(len(x), 1).double()], dim=1)
        target += dense.out_bias.double()
    solution = torch.linalg.lstsq(predictors, target).solution.T
    assert torch.allclose(
        narrow.out_weight.double(),
        solution[:, : len(KEPT)],
        atol=1e-3,
    )
    if has_bias:
        assert torch.allclose(
            narrow.out_bias.double(),
            solution[:, -1],
            atol=1e-3,
        )


def test_heavy_damping_leaves_the_dense_columns_as_no_compensation_does():
    dense = layer(bias=True)
    damped = COMPENSATIONS["least-squares"].refit(dense, KEPT, 1e9)
    plain = COMPENSATIONS["none"].refit(dense, KEPT, 1e9)
    assert torch.equal(plain.out_weight, dense.out_weight[:, KEPT])
    assert torch.equal(plain.out_bias, dense.out_bias)
    assert torch.allclose(
        damped.out_weight,
        plain.out_weight,
        atol=1e-4,
    )


def test_damping_is_a_share_of_the_median():
    moment = diagonal(1e12, 4.0, 4.0)
    before = moment.clone()
    factor, _ = damped_factor(moment, 0.5)
    assert torch.equal(moment, before)
    assert torch.allclose(
        (factor @ factor.T).diagonal()[1:], torch.tensor([6.0, 6.0]).double()
    )


def test_a_moment_without_full_rank_is_damped_until_it_can_be_solved():
    # Slightly negative, as rounding leaves it.
    factor, _ = damped_factor(diagonal(1.0, 1.0, -0.05), 0.01)
    assert torch.isfinite(factor).all()


def test_channels_that_are_enormous_together_cost_the_others_no_damping():
    """As at the first token of every text: rounding makes such channels contradict each other."""
    generator = seeded(0)
    x = torch.randn(2000, 24, generator=generator)
    x[::50, :6] = 2e4 * torch.rand(6, generator=generator)
    moment = (x.T @ x / len(x)).double()
    median = moment.diagonal().median()
    _, failed = torch.linalg.cholesky_ex(moment + 0.01 * median * torch.eye(24))
    assert failed
    factor, _ = damped_factor(moment, 0.01)
    added = (factor @ factor.T - moment).diagonal()
    assert (added[6:] < 0.011 * median).all()


@pytest.mark.parametrize(
    ("value", "message"), [(torch.nan, "not finite"), (-1e12, "heavy damping")]
)
def test_a_moment_that_cannot_be_solved_is_an_error(value, message):
    with pytest.raises(CalibrationError, match=message):
        damped_factor(diagonal(1.0, 1.0, value), 0.01)


def is_exact(solution, moment, right, damping):
    ridge = damping * moment.diagonal().median() * torch.eye(len(moment)).double()
    exact = torch.linalg.solve(moment.double() + ridge, right.double()).float()
    return torch.allclose(
        solution,
        exact,
        rtol=1e-3,
        atol=1e-3 * float(exact.abs().max()),
    )


def test_a_fit_in_single_precision_is_as_good():
    right = torch.randn(
        200,
        30,
        generator=seeded(0),
    )
    moment = layer(m=200, x=inputs(200, 4000)).moment()
    factor, _ = damped_factor(moment, 0.01)
    assert factor.dtype == torch.float32
    solution, _ = damped_solution(moment.__getitem__, right, 0.01)
    assert is_exact(solution, moment, right, 0.01)


def test_if_single_precision_does_not_suffice_it_is_solved_in_double():
    """Eigenvalues that differ by more than its digits."""
    basis = torch.randn(
        60,
        60,
        generator=seeded(0),
    )
    basis = torch.linalg.qr(basis).Q.double()
    moment = (basis * torch.logspace(0, -7, 60).double()) @ basis.T
    moment = ((moment + moment.T) / 2).float()
    right = inputs(3, 60)
    damping = 1e-7 / float(moment.diagonal().median())
    in_single = torch.linalg.solve(moment + 1e-7 * torch.eye(60), right)
    in_double, _ = damped_solution(moment.__getitem__, right, damping)
    assert not is_exact(in_single, moment, right, damping)
    assert is_exact(in_double, moment, right, damping)


def test_a_ridge_below_the_digits_of_single_precision_is_added_in_double():
    ones = torch.ones(2, 2)
    factor, ridge = damped_factor(ones, TINY)
    assert factor.dtype == torch.float64
    assert torch.allclose(
        factor @ factor.T - ones,
        torch.diag(ridge),
        atol=1e-12,
    )


def error(dense, narrow):
    """Energy of the change of the output, by the second moment of all channels."""
    change, shift = narrow.change(dense.out_weight, dense.out_bias)
    return pytest.approx(
        dense.statistics.energy(change, shift),
        rel=1e-3,
        abs=1e-4,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_an_error_curve_has_the_error_of_each_width(name, bias):
    dense = layer(m=12, bias=bias)
    order = torch.randperm(12)
    compensation = COMPENSATIONS[name]
    errors = compensation.errors(dense, order, TINY)
    assert len(errors) == 13
    assert errors[12] == 0
    for n in range(1, 12):
        narrow = compensation.refit(dense, order[:n].sort().values, TINY)
        assert float(errors[n]) == error(dense, narrow)


@pytest.mark.parametrize("damping", [TINY, 0.1, 10])
@pytest.mark.parametrize("n_gone", [2, 7])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_a_refit_knows_its_error_without_another_product_with_the_moment(
    name, bias, n_gone, damping
):
    dense = layer(m=12, bias=bias)
    narrow = COMPENSATIONS[name].refit(dense, torch.arange(12 - n_gone), damping)
    assert narrow.lost == error(dense, narrow)


def test_the_ridge_is_no_loss():
    """A channel that is never active loses nothing, however large its weights and the damping."""
    x = torch.randn(
        400,
        8,
        generator=seeded(0),
    )
    x[:, 5] = 0
    order = torch.tensor([0, 1, 2, 3, 4, 6, 7, 5])
    errors = COMPENSATIONS["least-squares"].errors(layer(m=8, x=x), order, 0.5)
    assert float(errors[7]) == pytest.approx(0, abs=1e-6)


def test_an_energy_is_the_mean_square_of_the_outputs():
    x = inputs(6)
    weight = torch.randn(3, 6)
    for bias in (0.0, torch.randn(3)):
        outputs = (x @ weight.T + bias).square().sum(dim=1)
        expected = pytest.approx(float(outputs.mean()), rel=1e-4)
        assert layer(m=6, x=x).statistics.energy(weight, bias) == expected


def test_an_index_error_of_an_item_is_not_the_end_of_a_lazy_sequence():
    with pytest.raises(IndexError):
        list(LazySequence(3, [].__getitem__))


def test_every_item_of_a_lazy_sequence_is_computed_once():
    indices = []
    items = LazySequence(3, lambda index: indices.append(index) or 2 * index)
    assert [list(items), list(items), items[2]] == [[0, 2, 4], [0, 2, 4], 4]
    assert indices == [0, 1, 2]
