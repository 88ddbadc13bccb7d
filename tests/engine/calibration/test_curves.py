"""Measured curves: the loss of the whole model with one narrower MLP, and interpolation."""

import pytest
import torch

from sparsedash.engine.calibration import curves
from sparsedash.engine.calibration.curves import CurveMeasurement, scored_text
from sparsedash.engine.pruning.channel_pruning import curve_widths, score_channels
from sparsedash.engine.pruning.layer import CalibrationData
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.method_settings import MethodSettings
from tests.engine.pruning.layers import statistics_of
from tests.engine.tiny import seeded, tiny_loaded

SEQUENCES = torch.randint(
    1,
    400,
    (40, 30),
    generator=seeded(0),
).tolist()


@pytest.fixture(params=["llama", "opt", "gpt2"])
def loaded(request):
    return tiny_loaded(request.param)


def scored(mlp, losses, *, multiple, active=None):
    """Scores by curves with these losses at the measured widths, and the measured widths.

    active: number of channels that are ever active.
    """
    inputs = torch.randn(
        200,
        mlp.width,
        generator=seeded(1),
    )
    inputs[:, active:] = 0 if active is not None else inputs[:, active:]
    widths = []

    def curve(method, index, versions):
        widths.extend(len(version.kept) for version in versions())
        return losses

    data = CalibrationData(
        statistics=lambda _: statistics_of(inputs),
        inputs=lambda _: [],
        mask_gradients=lambda _: torch.empty(0),
        curve=curve,
    )
    method = MethodSettings(
        allocation="curves",
        width_multiple=multiple,
        curve_levels=4,
    )
    with torch.no_grad():
        (scores,) = score_channels([mlp], data, method, lambda *_: None)
    return scores, widths


def narrower(mlp, n_kept):
    kept = torch.arange(n_kept)
    return PrunedMlp(kept, out_weight(mlp).detach()[:, kept].float())


def divergence(loaded, ids, mlp, narrow):
    dense = loaded.model(ids).logits.float().log_softmax(-1)
    with pruned([mlp], [narrow]):
        changed = loaded.model(ids).logits.float().log_softmax(-1)
    return float((dense.exp() * (dense - changed)).sum(-1).mean())


@torch.no_grad()
def test_a_loss_is_the_divergence_of_the_whole_model_from_the_dense_one(
    loaded, monkeypatch
):
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 10_000)
    text = scored_text(SEQUENCES)
    measurement = CurveMeasurement(loaded, text)
    for index, mlp in enumerate(loaded.mlps):
        versions = [narrower(mlp, n_kept) for n_kept in (mlp.width, mlp.width // 2, 1)]
        losses = measurement.losses(index, versions)
        expected = [
            divergence(loaded, torch.tensor(text), mlp, narrow) for narrow in versions
        ]
        assert losses == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert losses[0] < 1e-6 < losses[2]
    # An earlier block starts over.
    again = CurveMeasurement(loaded, text).losses(1, versions[1:])
    assert measurement.losses(1, versions[1:]) == again


@torch.no_grad()
def test_in_half_precision_the_loss_of_rounding_alone_is_subtracted():
    loaded = tiny_loaded("llama")
    loaded.model.bfloat16()
    text = scored_text(SEQUENCES)
    measurement = CurveMeasurement(loaded, text)
    mlp = loaded.mlps[0]
    rounded = curves._rounded_otherwise(mlp)
    half = narrower(mlp, mlp.width // 2)
    rounding = divergence(loaded, torch.tensor(text), mlp, rounded)
    raw = measurement._measured(0, [rounded, half], lambda share: None)
    assert raw[0] == pytest.approx(rounding, rel=0.2)
    assert rounding > 0
    # Three versions are read together here, and may be rounded otherwise than two.
    expected = [curves.MIN_CERTAIN * raw[0], raw[1] - raw[0]]
    assert measurement.losses(0, [rounded, half]) == pytest.approx(expected, rel=0.05)


def test_held_out_text_is_scored_and_less_of_it_with_a_large_vocabulary(
    loaded, monkeypatch
):
    assert scored_text(SEQUENCES) == [SEQUENCES[15], SEQUENCES[31]]
    assert scored_text(SEQUENCES[:3]) == SEQUENCES[:1]
    assert [len(ids) for ids in scored_text([[7] * 900] * 64)] == [128] * 2
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 20)
    scored_tokens = CurveMeasurement(loaded, scored_text(SEQUENCES))._scored
    assert sum(len(rows) for rows, _ in scored_tokens) == 20


def test_dead_channels_cost_nothing_and_the_first_width_that_costs_is_measured():
    mlp = tiny_loaded("opt").mlps[0]
    scores, widths = scored(mlp, [0.25], multiple=2, active=10)
    assert widths == [8]
    assert scores.losses[8] == pytest.approx(0.25)
    assert scores.losses[:8].min() > 0.25
    assert scores.losses[10:].max() < 1e-6


def test_between_measured_widths_a_curve_follows_the_error_of_the_layer(loaded):
    mlp = loaded.mlps[0]
    scores, widths = scored(mlp, [0.5, 1.0, 1.5, 4.0], multiple=1)
    method = MethodSettings(
        allocation="curves",
        width_multiple=1,
        curve_levels=4,
    )
    assert widths == curve_widths(mlp.width, method) == sorted(widths, reverse=True)
    assert scores.losses[widths].tolist() == pytest.approx([0.5, 1.0, 1.5, 4.0])
    between = scores.losses[widths[2] : widths[1]]
    assert scores.losses[-1] == 0
    assert between.min() > 0.9
    assert between.max() < 1.7
