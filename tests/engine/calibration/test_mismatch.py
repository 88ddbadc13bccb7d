"""The alarm before the evaluation: what layers lose on the passages beside what they lose on the
calibration text.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration import calibration_cache
from sparsedash.engine.calibration.calibration_cache import PassageActivations, mismatch_warning
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.compensation import passage_error
from sparsedash.engine.pruning.layer import Sample
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.stats.mean_intervals import MISMATCH_ALARM
from tests.engine.calibration.plain_forward import WEIGHTS, seen_by
from tests.engine.conftest import passages as texts
from tests.engine.run.small_runs import CHANNELS, ran
from tests.engine.tiny import tiny_loaded
from tests.factories import PRUNED


@pytest.fixture
def passages():
    split = [text.rsplit(" ", 1) for text in texts(MISMATCH_PASSAGES + 2)]
    return Passages(
        key="p",
        indices=tuple(range(len(split))),
        contexts=tuple(context for context, _ in split),
        targets=tuple(f" {target}" for _, target in split),
    )


def kept_of(store, loaded, passages, token_weights="equal"):
    watched = [[loaded.family.out]] * len(loaded.blocks)
    return PassageActivations(
        store, loaded, passages, watched, lambda: None, token_weights=token_weights
    )


@pytest.mark.parametrize("token_weights", WEIGHTS)
def test_the_activations_are_those_of_the_first_few_passages_with_their_weights(
    token_weights, loaded, store, passages, monkeypatch
):
    pairs = list(zip(passages.contexts, passages.targets, strict=True))[:MISMATCH_PASSAGES]
    read = [
        loaded.tokenizer(context + target).input_ids[:MISMATCH_TOKENS] for context, target in pairs
    ]
    inputs, streams = seen_by(loaded, sorted(read, key=len, reverse=True))
    made = kept_of(store, loaded, passages)
    for index in range(len(loaded.mlps)):
        made.of(index)
    # Made once for all weights.
    monkeypatch.setattr(LoadedModel, "walk", None)
    kept = kept_of(store, loaded, passages, token_weights)
    for index in range(len(loaded.mlps)):
        (sample,) = kept.of(index)
        assert torch.allclose(sample.inputs, torch.cat(inputs[index]), rtol=0.01, atol=1e-3)
        assert torch.allclose(
            sample.weights, WEIGHTS[token_weights](torch.cat(streams[index])), rtol=1e-3
        )


def test_an_error_on_passages_is_the_share_of_the_output_that_is_lost(loaded):
    mlps = loaded.mlps
    x = torch.randn(20, mlps[0].width, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(mlps[0].width // 2)
    narrowed = [PrunedMlp(kept, out_weight(mlp)[:, kept], mlp.out.bias) for mlp in mlps]
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1))
    sample = Sample(inputs=x, weights=weights)
    for mlp, narrow in zip(mlps, narrowed, strict=True):
        dense, sparse = x @ out_weight(mlp).T, x[:, kept] @ out_weight(mlp)[:, kept].T
        lost, whole = (
            float((weights[:, None] * y.square()).sum()) for y in (dense - sparse, dense)
        )
        assert passage_error(mlp, narrow, sample) == pytest.approx(lost / whole)


@pytest.mark.parametrize(
    ("fitted", "held_out", "passages", "times"),
    [
        ((), (0.1,) * 3, (0.1 * (MISMATCH_ALARM - 0.01),) * 3, None),
        # By the median of the layers that lose anything.
        ((), (0.1, 0.1, 0.1, 0.0), (0.1, 0.4, 90.0, 0.0), "4.0"),
        ((), (0.0,), (0.0,), None),
        ((), (0.1, 0.1), (), None),
        # An overfit alone is no mismatch.
        ((0.1,) * 3, (0.4,) * 3, (0.4,) * 3, None),
        ((0.1,) * 3, (), (0.4,) * 3, "4.0"),
    ],
)
def test_the_alarm_compares_passages_with_held_out_text(fitted, held_out, passages, times):
    n = len(held_out or fitted)
    errors = {"layer_errors": fitted, "held_out_errors": held_out, "passage_errors": passages}
    warning = mismatch_warning(replace(PRUNED, widths=(64,) * n, dense_widths=(128,) * n, **errors))
    assert f"layers lose {times} times as much" in warning if times else warning is None
    assert not times or ("held-out" in warning) == bool(held_out)


def test_the_alarm_is_on_the_run_before_the_evaluation_and_again_from_the_store(
    settings, store, monkeypatch
):
    assert not any(
        "unlike the passages" in line for line in ran(settings, store, run_key="no alarm").warnings
    )
    monkeypatch.setattr(calibration_cache, "MISMATCH_ALARM", 0.0)
    seen = []

    def watch(step):
        if step.stage == "evaluate" and step.done == 0 and "sparse" in step.message:
            seen.append(store.get(Run, "watched").warnings)

    ran(replace(settings, sparsities_permille=(300,)), store, watch, run_key="watched")
    assert any("unlike the passages" in line for line in seen[0])
    again = ran(settings, store, run_key="again")
    assert sum("unlike the passages" in line for line in again.warnings) == 1


def test_the_record_holds_what_each_layer_loses(settings, store):
    methods = (
        CHANNELS,
        replace(CHANNELS, allocation="curves"),
        replace(CHANNELS, compensation="none"),
    )
    run = ran(replace(settings, methods=methods, sparsities_permille=(250,)), store)
    usual, measured, plain = (store.get(Record, key).pruned for key in run.sparse)
    for made in (usual, measured):
        assert len(made.passage_errors) == len(made.layer_errors) == 3
        assert all(0 <= error < 2 for error in made.passage_errors) and max(made.passage_errors) > 0
        pairs = zip(made.layer_errors, made.uncompensated_errors, strict=True)
        assert all(fitted <= before for fitted, before in pairs)
    assert usual.alone == ()
    assert len(measured.alone) == 3 and max(measured.alone) > 0
    # Nothing is bought where nothing is compensated.
    assert plain.uncompensated_errors == pytest.approx(plain.layer_errors, rel=1e-5)


def test_of_a_short_context_as_much_is_read_as_it_holds(store):
    loaded = tiny_loaded("gpt2", n_positions=100)
    long = Passages(key="p", indices=(0,), contexts=(" ".join(texts(40)),), targets=(" end",))
    (sample,) = kept_of(store, loaded, long).of(0)
    assert len(sample.inputs) == 100
