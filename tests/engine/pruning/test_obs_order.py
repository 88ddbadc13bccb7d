"""Structured OBS against brute force: what it takes next is what least squares would mourn least."""

import itertools

import pytest
import torch

from sparsedash.engine.pruning import saliency
from sparsedash.engine.pruning.linalg import complement
from sparsedash.engine.pruning.saliency import elimination_order
from tests.engine.pruning.layers import layer

TINY = 1e-9


def loss_without(one, gone, damping=TINY):
    """Damped squared error of the best refit without these channels, by the Schur complement."""
    moment = one.known.second_moment.double().clone()
    moment.diagonal().add_(damping * float(moment.diagonal().median()))
    gone = torch.tensor(gone)
    kept = complement(gone, one.width)
    cross = moment[gone][:, kept]
    left = moment[gone][:, gone] - cross @ torch.linalg.solve(moment[kept][:, kept], cross.T)
    weight = one.out_weight.double()[:, gone]
    return float(((weight @ left) * weight).sum())


@pytest.mark.parametrize("seed", range(4))
def test_every_step_takes_the_channel_that_costs_least(seed):
    one = layer(m=9, seed=seed)
    order = elimination_order(one, TINY).tolist()
    for n in range(8):
        others = [c for c in range(9) if c not in order[:n]]
        assert order[n] == min(others, key=lambda c: loss_without(one, [*order[:n], c]))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_two_are_the_best_of_all_pairs_where_inputs_hardly_depend_on_each_other(seed):
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(seed))
    one = layer(m=8, seed=seed, x=x)
    best = min(itertools.combinations(range(8), 2), key=lambda pair: loss_without(one, list(pair)))
    assert set(elimination_order(one, TINY)[:2].tolist()) == set(best)


def test_weights_that_are_no_numbers_end_it_all_the_same():
    one = layer(m=9)
    one.out_weight[2, 4] = torch.nan
    assert sorted(elimination_order(one, TINY).tolist()) == list(range(9))


def test_several_that_leave_at_a_time_are_mended_as_if_they_left_one_by_one(monkeypatch):
    one = layer(m=20)
    weight, inverse = one.out_weight.double(), torch.linalg.inv(one.moment().double())
    apart = weight.clone(), inverse.clone()
    together = weight.clone(), inverse.clone()
    for channel in (3, 11, 7):
        saliency._downdate_(*apart, torch.tensor([channel]))
    saliency._downdate_(*together, torch.tensor([3, 11, 7]))
    others = complement(torch.tensor([3, 11, 7]), 20)
    for one_by_one, at_once in zip(apart, together, strict=True):
        assert torch.allclose(one_by_one[:, others], at_once[:, others])


def test_above_the_number_of_rounds_several_leave_at_a_time(monkeypatch):
    monkeypatch.setattr(saliency, "OBS_ROUNDS", 6)
    assert sorted(elimination_order(layer(m=21)).tolist()) == list(range(21))


def test_of_two_that_can_stand_in_for_each_other_only_one_leaves_in_a_round(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 20, generator=generator).repeat_interleave(2, dim=1)
    one = layer(m=40, x=x + 0.05 * torch.randn(4000, 40, generator=generator))
    monkeypatch.setattr(saliency, "OBS_ROUNDS", 8)
    first = elimination_order(one, TINY)[:20]
    assert len({channel // 2 for channel in first.tolist()}) == 20


@pytest.mark.parametrize("seed", range(4))
def test_several_that_leave_in_a_round_are_those_that_leave_one_by_one(seed, monkeypatch):
    one = layer(m=24, seed=seed)
    one_by_one = elimination_order(one)
    monkeypatch.setattr(saliency, "OBS_ROUNDS", 8)
    assert set(elimination_order(one)[:6].tolist()) == set(one_by_one[:6].tolist())
