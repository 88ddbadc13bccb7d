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
from tests.engine.tiny import seeded, tiny_loaded

X = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
WEIGHT = torch.tensor([[3.0, 0.0, 1.0], [4.0, 1.0, 1.0]])
TINY = 1e-9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The column's norm times the input's, and the variance times the column's square.
        ("activation-aware", [5 * 5**0.5, 2.0, 0.0]),
        ("wifv", [25.0, 0.0, 0.0]),
        # Squared mask gradients, summed over the sequences.
        ("fisher", [2.0, 5.0, 9.0]),
    ],
)
def test_scores_by_hand(name, expected):
    gradients = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 3.0]])
    scores = SALIENCIES[name].score(
        layer(
            m=3,
            x=X,
            weight=WEIGHT,
            gradients=gradients,
        )
    )
    assert torch.allclose(scores, torch.tensor(expected))


def test_magnitude_is_the_norm_of_all_weights_of_the_channel():
    dense = layer(m=3, d=2, x=X, weight=WEIGHT)
    weights = torch.cat([WEIGHT.T, *dense.inner_weights], dim=1)
    assert torch.allclose(SALIENCIES["magnitude"].score(dense), weights.norm(dim=1))


def test_random_scores_differ_from_block_to_block_and_seed_to_seed():
    mlps = tiny_loaded("llama").mlps
    data = CalibrationData(
        statistics=lambda index: NO_STATISTICS,
        inputs=lambda index: [],
        mask_gradients=lambda index: torch.empty(0),
        curve=lambda *_: [],
    )

    def draws(seed):
        method = MethodSettings(
            saliency="random",
            compensation="none",
            seed=seed,
        )
        blocks = score_channels(mlps, data, method, lambda *_: None)
        return [tuple(block.scores.tolist()) for block in blocks]

    assert draws(1) == draws(1)
    assert len({*draws(0), *draws(1), *draws(2)}) == 3 * len(mlps)


def published_rearrangement(gradients, n_kept):
    """The algorithm as published: gradients (s, m) -> kept channels."""
    vectors = gradients.T
    order = vectors.square().sum(dim=1).sort(stable=True).indices.tolist()
    n_gone = len(order) - n_kept
    gone = order[:n_gone]
    for channel in order[n_gone:]:
        gone.append(channel)
        candidates = vectors[gone]
        lengths = (candidates.sum(dim=0) - candidates).square().sum(dim=1)
        del gone[int(lengths.argmin())]
    return sorted(set(range(len(order))) - set(gone))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_kept", [0, 1, 9, 19, 20])
def test_the_rearrangement_is_the_published_one(seed, n_kept):
    gradients = torch.randn(
        12,
        20,
        generator=seeded(seed),
    ).double()
    fisher = SALIENCIES["fisher"]
    scores = fisher.score(layer(m=20, gradients=gradients))
    kept = fisher.choose(gradients, scores, n_kept)
    assert kept.tolist() == published_rearrangement(gradients, n_kept)


@pytest.mark.parametrize("name", sorted(set(SALIENCIES) - {"fisher"}))
def test_masks_are_nested(name):
    scores = SALIENCIES[name].score(layer(m=20))
    wide, narrow = (
        set(SALIENCIES[name].choose(None, scores, k).tolist()) for k in (15, 9)
    )
    assert narrow < wide


def loss_without(dense, gone):
    """Damped squared error of the best refit without these channels, by the Schur complement."""
    moment = dense.moment().double()
    moment.diagonal().add_(TINY * float(moment.diagonal().median()))
    gone = torch.tensor(gone)
    kept = complement(gone, dense.width)
    cross = moment[gone][:, kept]
    schur = moment[gone][:, gone] - cross @ torch.linalg.solve(
        moment[kept][:, kept], cross.T
    )
    weight = dense.out_weight.double()[:, gone]
    return float(((weight @ schur) * weight).sum())


@pytest.mark.parametrize("seed", range(4))
def test_every_step_removes_the_channel_that_costs_least(seed):
    dense = layer(m=9, seed=seed)
    order = elimination_order(dense, TINY).tolist()
    for n in range(8):
        losses = {
            channel: loss_without(dense, [*order[:n], channel]) for channel in order[n:]
        }
        assert order[n] == min(losses, key=losses.__getitem__)


def test_channels_that_are_never_active_are_removed_first():
    dense = layer(m=9)
    dead = torch.tensor([2, 5])
    covariance = dense.statistics.covariance.clone()
    mean = dense.mean.clone()
    weight = dense.out_weight.clone()
    covariance[dead] = covariance[:, dead] = mean[dead] = 0
    weight[:, dead] *= 100
    statistics = replace(
        dense.statistics,
        covariance=covariance,
        mean=mean,
    )
    silent = replace(
        dense,
        statistics=statistics,
        out_weight=weight,
    )
    assert set(elimination_order(silent)[:2].tolist()) == {2, 5}


def test_nan_weights_end_the_elimination_all_the_same():
    dense = layer(m=9)
    dense.out_weight[2, 4] = torch.nan
    assert sorted(elimination_order(dense, TINY).tolist()) == list(range(9))


def test_of_two_equivalent_channels_only_one_is_removed_in_a_round(monkeypatch):
    generator = seeded(0)
    x = torch.randn(4000, 20, generator=generator).repeat_interleave(2, dim=1)
    dense = layer(
        m=40,
        x=x + 0.05 * torch.randn(4000, 40, generator=generator),
    )
    monkeypatch.setattr(saliency, "OBS_ROUNDS", 8)
    first = elimination_order(dense, TINY)[:20]
    assert len({channel // 2 for channel in first.tolist()}) == 20


@pytest.mark.parametrize("seed", range(4))
def test_a_round_removes_the_channels_that_are_removed_one_by_one(seed, monkeypatch):
    dense = layer(m=24, seed=seed)
    one_by_one = elimination_order(dense)
    monkeypatch.setattr(saliency, "OBS_ROUNDS", 8)
    assert set(elimination_order(dense)[:6].tolist()) == set(one_by_one[:6].tolist())
