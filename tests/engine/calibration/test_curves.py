"""Measured curves: the loss of the whole model by one narrower MLP, and what is between two
measured widths.
"""

import pytest
import torch

from sparsedash.engine.calibration import curves
from sparsedash.engine.calibration.curves import CurveMeasurement, judged_text
from sparsedash.engine.pruning.channel_pruning import curve_widths, score_channels
from sparsedash.engine.pruning.layer import CalibrationData, Sample, Statistics
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.method_settings import MethodSettings
from tests.engine.tiny import tiny_loaded

SEQUENCES = torch.randint(1, 400, (40, 30), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(params=["llama", "opt", "gpt2"])
def loaded(request):
    return tiny_loaded(request.param)


def data(inputs, losses, asked=()):
    """Calibration on these inputs of one MLP, with these losses at the measured widths. asked:
    takes the versions.
    """
    sample = Sample(inputs=inputs, weights=torch.ones(len(inputs)))
    apart = inputs - inputs.mean(0)
    covariance = apart.T @ apart / len(inputs)
    statistics = Statistics(
        covariance=covariance, mean=inputs.mean(0), held_out=sample, n_tokens=len(inputs)
    )

    def curve(method, index, versions):
        found = versions()
        if isinstance(asked, list):
            asked.extend(found)
        return losses

    return CalibrationData(
        statistics=lambda _: statistics,
        inputs=lambda _: [],
        mask_gradients=lambda _: torch.empty(0),
        curve=curve,
    )


def narrower(mlp, n_kept):
    kept = torch.arange(n_kept)
    return PrunedMlp(kept, out_weight(mlp).detach()[:, kept].float())


@torch.no_grad()
def test_a_loss_is_the_divergence_of_the_whole_model_from_the_dense_one(loaded, monkeypatch):
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 10_000)
    ids = torch.tensor(judged_text(SEQUENCES))
    dense = loaded.model(ids).logits.log_softmax(-1)
    measurement = CurveMeasurement(loaded, judged_text(SEQUENCES))
    for index, mlp in enumerate(loaded.mlps):
        versions = [narrower(mlp, n_kept) for n_kept in (mlp.width, mlp.width // 2, 1)]
        found = measurement.losses(index, versions)
        for loss, narrow in zip(found, versions, strict=True):
            with pruned([mlp], [narrow]):
                changed = loaded.model(ids).logits.log_softmax(-1)
            expected = (dense.exp() * (dense - changed)).sum(-1).mean()
            assert loss == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
        assert found[0] < 1e-6 < found[2]
    # An earlier block is measured as it was.
    assert measurement.losses(1, versions[1:]) == CurveMeasurement(
        loaded, judged_text(SEQUENCES)
    ).losses(1, versions[1:])


@torch.no_grad()
def test_in_half_precision_what_rounding_alone_makes_is_subtracted():
    loaded = tiny_loaded("llama")
    loaded.model.bfloat16()
    ids, measurement = (
        torch.tensor(judged_text(SEQUENCES)),
        CurveMeasurement(loaded, judged_text(SEQUENCES)),
    )
    dense = loaded.model(ids).logits.float().log_softmax(-1)
    other, half = (
        curves._rounded_otherwise(loaded.mlps[0]),
        narrower(loaded.mlps[0], loaded.mlps[0].width // 2),
    )
    with pruned([loaded.mlps[0]], [other]):
        changed = loaded.model(ids).logits.float().log_softmax(-1)
    rounding = float((dense.exp() * (dense - changed)).sum(-1).mean())
    raw = measurement._measured(0, [other, half], lambda share: None)
    assert raw[0] == pytest.approx(rounding, rel=0.2) and rounding > 0
    found = measurement.losses(0, [other, half])
    # Three versions are read together here, and may be rounded otherwise than two.
    assert found == pytest.approx([curves.LEAST_CERTAIN * raw[0], raw[1] - raw[0]], rel=0.05)


def test_held_out_text_is_judged_and_where_the_vocabulary_is_large_fewer_tokens_of_it(
    loaded, monkeypatch
):
    assert judged_text(SEQUENCES) == [SEQUENCES[15], SEQUENCES[31]]
    assert judged_text(SEQUENCES[:3]) == SEQUENCES[:1]
    assert [len(own) for own in judged_text([[7] * 900] * 64)] == [128] * 2
    monkeypatch.setattr(curves, "judged_tokens", lambda vocabulary: 20)
    judged = CurveMeasurement(loaded, judged_text(SEQUENCES))._scored
    assert sum(len(rows) for rows, _ in judged) == 20


@torch.no_grad()
def test_widths_that_lose_only_dead_channels_cost_nothing_and_spoil_no_other_width():
    method, mlp = (
        MethodSettings(allocation="curves", width_multiple=1, curve_levels=4),
        tiny_loaded("opt").mlps[0],
    )
    inputs = torch.randn(200, mlp.width, generator=torch.Generator().manual_seed(1))
    inputs[:, : mlp.width // 4] = 0
    (scores,) = score_channels([mlp], data(inputs, [0.01, 0.05, 0.2]), method, lambda *_: None)
    dead = scores.losses[-mlp.width // 4 :]
    assert dead.abs().max() < 1e-6 and scores.losses.max() < 10


@torch.no_grad()
def test_where_every_width_of_a_curve_loses_only_dead_channels_the_first_that_costs_is_measured():
    method, mlp = (
        MethodSettings(allocation="curves", width_multiple=2, curve_levels=4),
        tiny_loaded("opt").mlps[0],
    )
    inputs = torch.randn(200, mlp.width, generator=torch.Generator().manual_seed(1))
    inputs[:, 10:] = 0
    (scores,) = score_channels([mlp], data(inputs, [0.25], asked := []), method, lambda *_: None)
    assert [len(narrow.kept) for narrow in asked] == [8]
    assert (
        scores.losses[8] == pytest.approx(0.25)
        and scores.losses[:8].min() > 0.25 > 1e-6 > scores.losses[10:].max()
    )


@torch.no_grad()
def test_between_measured_widths_a_curve_follows_the_error_of_the_layer(loaded):
    method = MethodSettings(allocation="curves", width_multiple=1, curve_levels=4)
    mlp, asked = loaded.mlps[0], []
    inputs = torch.randn(200, mlp.width, generator=torch.Generator().manual_seed(1))
    (scores,) = score_channels(
        [mlp], data(inputs, [0.5, 1.0, 1.5, 4.0], asked), method, lambda *_: None
    )
    losses = scores.losses
    widths = curve_widths(mlp.width, method)
    assert [len(narrow.kept) for narrow in asked] == widths and widths == sorted(
        widths, reverse=True
    )
    assert losses[widths].tolist() == pytest.approx([0.5, 1.0, 1.5, 4.0])
    between = losses[widths[2] : widths[1]]
    assert losses[-1] == 0 and between.min() > 0.9 and between.max() < 1.7
