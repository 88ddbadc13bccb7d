"""Scores by hand, the published rearrangement, and structured OBS against brute force."""

from dataclasses import replace

import pytest
import torch

from sparsedash.engine.pruning import saliency
from sparsedash.engine.pruning.channel_pruning import score_channels
from sparsedash.engine.pruning.layer import NO_STATISTICS, CalibrationData
from sparsedash.engine.pruning.linalg import complement
from sparsedash.engine.pruning.saliency import SALIENCIES, elimination_order
from sparsedash.schema.method_settings import MethodSettings
from tests.engine.pruning.layers import layer
from tests.engine.tiny import tiny_loaded

X = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
WEIGHT = torch.tensor([[3.0, 0.0, 1.0], [4.0, 1.0, 1.0]])


def score(name, **parts):
    return SALIENCIES[name].score(layer(m=3, x=X, weight=WEIGHT, **parts))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The column's size times the input's, and the variance times the column's square.
        ("activation-aware", [5 * 5**0.5, 2.0, 0.0]),
        ("wifv", [25.0, 0.0, 0.0]),
        # Squared mask gradients, summed over the sequences.
        ("fisher", [2.0, 5.0, 9.0]),
    ],
)
def test_scores_by_hand(name, expected):
    gradients = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 3.0]])
    assert torch.allclose(score(name, gradients=gradients), torch.tensor(expected))


def test_magnitude_is_the_size_of_all_weights_of_the_channel():
    one = layer(m=3, d=2, x=X, weight=WEIGHT)
    whole = torch.cat([WEIGHT.T, *one.inner_weights], dim=1)
    assert torch.allclose(SALIENCIES["magnitude"].score(one), whole.norm(dim=1))


def test_lots_are_drawn_from_the_seed():
    assert torch.equal(score("random", seed=1), score("random", seed=1))
    assert not torch.equal(score("random", seed=1), score("random", seed=2))


def test_no_block_of_one_seed_draws_what_a_block_of_the_next_seed_draws():
    mlps = tiny_loaded("llama").mlps
    data = CalibrationData(
        statistics=lambda index: NO_STATISTICS,
        inputs=lambda index: [],
        mask_gradients=lambda index: torch.empty(0),
        curve=lambda *_: [],
    )
    draws = []
    for seed in range(3):
        method = MethodSettings(saliency="random", compensation="none", seed=seed)
        for block in score_channels(mlps, data, method, lambda *_: None):
            draws.append(tuple(block.scores.tolist()))
    assert len(set(draws)) == len(draws) == 3 * len(mlps)


def published_rearrangement(gradients, n_kept):
    """The algorithm as published: gradients (s, m) -> kept channels."""
    vectors = gradients.T
    order = vectors.square().sum(dim=1).sort(stable=True).indices.tolist()
    n_gone = len(order) - n_kept
    gone = order[:n_gone]
    for joins in order[n_gone:]:
        gone.append(joins)
        candidates = vectors[gone]
        lengths = (candidates.sum(dim=0) - candidates).square().sum(dim=1)
        del gone[int(lengths.argmin())]
    return sorted(set(range(len(order))) - set(gone))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_kept", [0, 1, 9, 19, 20])
def test_the_rearrangement_is_the_published_one(seed, n_kept):
    gradients = torch.randn(12, 20, generator=torch.Generator().manual_seed(seed)).double()
    one = layer(m=20, gradients=gradients)
    fisher = SALIENCIES["fisher"]
    chosen = fisher.choose(one.mask_gradients, fisher.score(one), n_kept)
    assert chosen.tolist() == published_rearrangement(gradients, n_kept)


@pytest.mark.parametrize("name", sorted(set(SALIENCIES) - {"fisher"}))
def test_masks_are_nested(name):
    one = layer(m=20)
    saliency = SALIENCIES[name]
    scores = saliency.score(one)
    wide, narrow = (set(saliency.choose(one.mask_gradients, scores, k).tolist()) for k in (15, 9))
    assert narrow < wide


TINY = 1e-9


def loss_without(one, gone, damping=TINY):
    """Damped squared error of the best refit without these channels, by the Schur complement."""
    moment = one.moment().double()
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


def test_channels_that_are_never_active_go_first():
    one = layer(m=9)
    dead = torch.tensor([2, 5])
    covariance, mean, weight = (
        one.statistics.covariance.clone(),
        one.mean.clone(),
        one.out_weight.clone(),
    )
    covariance[dead] = covariance[:, dead] = mean[dead] = 0
    weight[:, dead] *= 100
    silent = replace(
        one, statistics=replace(one.statistics, covariance=covariance, mean=mean), out_weight=weight
    )
    assert set(elimination_order(silent)[:2].tolist()) == {2, 5}


def test_weights_that_are_no_numbers_end_it_all_the_same():
    one = layer(m=9)
    one.out_weight[2, 4] = torch.nan
    assert sorted(elimination_order(one, TINY).tolist()) == list(range(9))


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
