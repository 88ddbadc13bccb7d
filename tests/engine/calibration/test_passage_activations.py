"""The alarm before the evaluation: losses of layers on the passages against calibration text."""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.resources import MISMATCH_PASSAGES, MISMATCH_TOKENS
from sparsedash.engine.calibration import passage_activations
from sparsedash.engine.calibration.passage_activations import (
    PassageActivations,
    mismatch_warning,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.compensation import passage_error
from sparsedash.engine.pruning.layer import Sample
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.stats.mean_intervals import MISMATCH_ALARM
from tests.engine.calibration.plain_forward import WEIGHTS, seen_by
from tests.engine.conftest import passages as texts
from tests.engine.run.small_runs import CHANNELS, ran
from tests.engine.tiny import seeded, tiny_loaded
from tests.factories import PRUNED

UNLIKE = "unlike the passages"


@pytest.fixture
def passages():
    pairs = [text.rsplit(" ", 1) for text in texts(MISMATCH_PASSAGES + 2)]
    return Passages(
        key="p",
        indices=tuple(range(len(pairs))),
        contexts=tuple(context for context, _ in pairs),
        targets=tuple(f" {target}" for _, target in pairs),
    )


def samples(store, loaded, passages, token_weights="equal"):
    """The sample of each block's inner activations."""
    watched = [[loaded.structure.mlps[0].out]] * len(loaded.blocks)
    activations = PassageActivations(
        store,
        loaded,
        passages,
        watched,
        lambda: None,
        token_weights=token_weights,
    )
    return [activations.of(index)[0] for index in range(len(loaded.blocks))]


@pytest.mark.parametrize("token_weights", WEIGHTS)
def test_the_activations_are_those_of_the_first_few_passages_with_their_weights(
    token_weights, loaded, store, passages, monkeypatch
):
    sequences = []
    for context, target in zip(
        passages.contexts,
        passages.targets,
        strict=True,
    ):
        sequences.append(loaded.tokenizer(context + target).input_ids[:MISMATCH_TOKENS])
    first = sorted(
        sequences[:MISMATCH_PASSAGES],
        key=len,
        reverse=True,
    )
    inputs, streams = seen_by(loaded, first)
    samples(store, loaded, passages)
    # Stored once for all weights.
    monkeypatch.setattr(LoadedModel, "walk", None)
    for index, sample in enumerate(samples(store, loaded, passages, token_weights)):
        weights = WEIGHTS[token_weights](torch.cat(streams[index]))
        assert torch.allclose(
            sample.inputs,
            torch.cat(inputs[index]),
            rtol=0.01,
            atol=1e-3,
        )
        assert torch.allclose(
            sample.weights,
            weights,
            rtol=1e-3,
        )


def test_of_a_short_context_as_much_is_read_as_it_holds(store):
    loaded = tiny_loaded("gpt2", n_positions=100)
    long = Passages(
        key="p",
        indices=(0,),
        contexts=(" ".join(texts(40)),),
        targets=(" end",),
    )
    assert len(samples(store, loaded, long)[0].inputs) == 100


def test_an_error_on_passages_is_the_lost_share_of_the_output(loaded):
    x = torch.randn(
        20,
        96,
        generator=seeded(0),
    )
    weights = torch.rand(20, generator=seeded(1))
    kept = torch.arange(48)

    def energy(outputs):
        return float((weights[:, None] * outputs.square()).sum())

    for mlp in loaded.mlps:
        weight = out_weight(mlp)
        narrow = PrunedMlp(kept, weight[:, kept], mlp.out.bias)
        dense = x @ weight.T
        lost = energy(dense - x[:, kept] @ weight[:, kept].T)
        error = passage_error(mlp, narrow, Sample(inputs=x, weights=weights))
        assert error == pytest.approx(lost / energy(dense))


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
def test_the_alarm_compares_passages_with_held_out_text(
    fitted, held_out, passages, times
):
    n = len(held_out or fitted)
    pruned = replace(
        PRUNED,
        widths=(64,) * n,
        dense_widths=(128,) * n,
        layer_errors=fitted,
        held_out_errors=held_out,
        passage_errors=passages,
    )
    warning = mismatch_warning(pruned)
    if times is None:
        assert warning is None
    else:
        assert f"layers lose {times} times as much" in warning
        assert ("held-out" in warning) == bool(held_out)


def test_the_alarm_is_on_the_run_before_the_evaluation_and_again_from_the_store(
    settings, store, monkeypatch
):
    warnings = ran(settings, store, run_key="no alarm").warnings
    assert not any(UNLIKE in line for line in warnings)
    monkeypatch.setattr(passage_activations, "MISMATCH_ALARM", 0.0)
    before_evaluation = []

    def watch(step):
        if step.stage == "evaluate" and step.done == 0 and "sparse" in step.message:
            before_evaluation.append(store.get(Run, "watched").warnings)

    ran(
        replace(settings, sparsities_permille=(300,)),
        store,
        watch,
        run_key="watched",
    )
    assert any(UNLIKE in line for line in before_evaluation[0])
    again = ran(settings, store, run_key="again")
    assert sum(UNLIKE in line for line in again.warnings) == 1


def test_the_record_holds_the_losses_of_each_layer(settings, store):
    methods = (
        CHANNELS,
        replace(CHANNELS, allocation="curves"),
        replace(CHANNELS, compensation="none"),
    )
    run = ran(
        replace(
            settings,
            methods=methods,
            sparsities_permille=(250,),
        ),
        store,
    )
    usual, by_curves, plain = (store.get(Record, key).pruned for key in run.sparse)
    for pruned in (usual, by_curves):
        assert len(pruned.passage_errors) == len(pruned.layer_errors) == 3
        assert all(0 <= error < 2 for error in pruned.passage_errors)
        assert max(pruned.passage_errors) > 0
        for fitted, before in zip(
            pruned.layer_errors,
            pruned.uncompensated_errors,
            strict=True,
        ):
            assert fitted <= before
    assert usual.alone == ()
    assert len(by_curves.alone) == 3
    assert max(by_curves.alone) > 0
    assert plain.uncompensated_errors == pytest.approx(plain.layer_errors, rel=1e-5)
