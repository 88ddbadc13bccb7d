"""What is lost for every number of channels at once, against one number of them at a time."""

import itertools

import pytest
import torch

from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.linalg import complement
from tests.engine.pruning.layers import layer

TINY = 1e-9


def error(one, kept, name, damping=TINY):
    """What the output loses when only these channels are kept, by the second moment of all channels."""
    made = COMPENSATIONS[name].refit(one, kept, damping)
    return one.mean_square(*made.change(one.out_weight, one.out_bias))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COMPENSATIONS)
def test_every_number_of_channels_has_the_error_that_it_has_by_itself(name, bias):
    one, order = layer(m=12, bias=bias), torch.randperm(12)
    errors = COMPENSATIONS[name].errors(one, order, TINY)
    assert len(errors) == 13
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


def test_every_pair_that_goes_has_the_error_of_its_own_refit():
    one = layer(m=6)
    for pair in itertools.combinations(range(6), 2):
        kept = complement(torch.tensor(pair), 6)
        errors = COMPENSATIONS["least-squares"].errors(one, torch.cat([kept, torch.tensor(pair)]), TINY)
        expected = error(one, kept, "least-squares")
        assert float(errors[4]) == pytest.approx(expected, rel=1e-3)


def test_the_ridge_itself_is_no_damage():
    """Of a channel that is never active nothing is lost, however large its weights and the damping."""
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 0
    one = layer(m=8, x=x)
    order = torch.tensor([0, 1, 2, 3, 4, 6, 7, 5])
    errors = COMPENSATIONS["least-squares"].errors(one, order, 0.5)
    assert float(errors[7]) == pytest.approx(0, abs=1e-6)


def test_what_is_kept_whole_loses_nothing():
    for row in COMPENSATIONS.values():
        assert row.errors(layer(m=30), torch.randperm(30), 0.01)[30] == 0


def test_a_narrower_block_that_is_refitted_never_errs_less():
    errors = COMPENSATIONS["least-squares"].errors(layer(m=30), torch.randperm(30), TINY)
    assert (errors[:-1] >= errors[1:]).all()
