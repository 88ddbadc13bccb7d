"""Sparse models with single weights at zero: in place, their runs, and their bytes."""

import copy
from dataclasses import replace
from functools import partial
from itertools import chain

import pytest
import torch
from torch import nn

from sparsedash.engine.calibration.calibration import StoredStatistics
from sparsedash.engine.calibration.statistics import (
    shared_inputs,
    unpack_statistics,
    unpack_tensors,
)
from sparsedash.engine.models.decoder_blocks import capture_inputs
from sparsedash.engine.pruning.surgery import reweighted, weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock
from sparsedash.engine.run.sparse_blocks import (
    _pack_masked,
    _unpack_masked,
    unpack_narrowed,
)
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record
from tests.engine.run.small_runs import CHANNELS, count_calls, ran
from tests.engine.tiny import CONFIGS, IDS, save_tiny, tiny_loaded

SPARSEGPT = MethodSettings(
    saliency="obs",
    pattern="2:4",
    scope="decoder",
)
WANDA = MethodSettings(
    compensation="none",
    pattern="1x1",
    scope="decoder",
)


@pytest.fixture
def masked_run(settings):
    evaluation = replace(settings.evaluation, n_passages=5)
    return replace(
        settings,
        methods=(SPARSEGPT,),
        evaluation=evaluation,
    )


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_new_weights_equal_zeros_set_by_hand_and_the_dense_model_comes_back(model_type):
    loaded = tiny_loaded(model_type)
    dense = loaded.model(IDS).logits
    by_hand = copy.deepcopy(loaded)
    weights = []
    for block in by_hand.projections("decoder"):
        for module in block.values():
            weight = module.weight
            weight.data.masked_fill_(weight.abs() < weight.abs().median(), 0)
        weights.append(
            {name: weight_of(module).clone() for name, module in block.items()}
        )
    with reweighted(loaded.projections("decoder"), weights):
        sparse = loaded.model(IDS).logits
    assert torch.equal(sparse, by_hand.model(IDS).logits)
    assert (sparse - dense).abs().max() > 1e-3
    assert torch.equal(loaded.model(IDS).logits, dense)


@pytest.mark.parametrize("model_type", ["bloom", "gpt2", "phi3"])
def test_a_run_measures_the_loss_of_masked_weights(
    model_type, masked_run, store, tmp_path
):
    folder = save_tiny(tmp_path / "m", model_type)
    run = ran(replace(masked_run, model=str(folder)), store)
    pruned = store.get(Record, run.sparse[0]).pruned
    assert run.finished
    assert pruned.sparsity_permille == 500
    assert pruned.widths == pruned.dense_widths
    loaded = tiny_loaded(model_type)
    modules = chain.from_iterable(
        block.values() for block in loaded.projections("decoder")
    )
    n_weights = sum(module.weight.numel() for module in modules)
    reached = pruned.reached
    assert (reached.channels, reached.weights, reached.bytes) == (0.5, 0.5, 0)
    assert reached.macs == pytest.approx(
        n_weights / 2 / loaded.shape.n_matmul, abs=1e-9
    )
    for errors in (pruned.layer_errors, pruned.held_out_errors, pruned.passage_errors):
        assert len(errors) == 3
        assert all(0 < error < 1.5 for error in errors)
    for fitted, plain in zip(
        pruned.layer_errors,
        pruned.uncompensated_errors,
        strict=True,
    ):
        assert fitted < plain


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_projections_are_grouped_by_the_input_that_they_share(model_type):
    loaded = tiny_loaded(model_type)
    layout = loaded.structure.mlps[0]
    inputs = {}
    groups = shared_inputs(loaded)
    for block, block_groups in zip(
        loaded.projections("decoder"),
        groups,
        strict=True,
    ):
        sinks = [partial(inputs.__setitem__, name) for name in block]
        with capture_inputs(list(block.values()), sinks):
            loaded.model(IDS)
        assert sorted(chain.from_iterable(block_groups)) == sorted(block)
        for names in block_groups:
            assert all(torch.equal(inputs[name], inputs[names[0]]) for name in names)
        assert [layout.out] in block_groups
        assert any(set(layout.inner) <= set(names) for names in block_groups)


def test_inputs_are_collected_once_and_only_for_single_weights(
    masked_run, store, monkeypatch
):
    calls = count_calls(monkeypatch, StoredStatistics, "reach")

    def n_collected(**changes):
        ran(replace(masked_run, **changes), store)
        return sum(statistics.kind == "inputs" for statistics, _ in calls)

    assert n_collected(methods=(CHANNELS,)) == 0
    assert n_collected(methods=(SPARSEGPT, WANDA)) == 1
    assert n_collected(methods=(replace(SPARSEGPT, pattern="4:8"),)) == 1
    calibration = replace(masked_run.calibration, token_weights="residual")
    assert n_collected(calibration=calibration) == 2


ERRORS = [(0.1, 1 / 3, None), (0.25, 0.5, 2 / 3)]


def projections(dtype=torch.float32):
    modules = {"up": nn.Linear(5, 7, bias=False), "down": nn.Linear(7, 5, bias=False)}
    return {
        name: module.to(dtype).requires_grad_(False) for name, module in modules.items()
    }


def masked(dense, factor=1.0, errors=ERRORS):
    """Every second weight at zero."""
    weights = {name: module.weight.clone() * factor for name, module in dense.items()}
    for weight in weights.values():
        weight.view(-1)[::2] = 0.0
    return MaskedBlock(weights=weights, errors=errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("refitted", "errors"), [(True, ERRORS), (False, [])])
def test_a_masked_block_is_read_back_to_the_bit(dtype, refitted, errors):
    dense = projections(dtype)
    # A zero of the other sign was not removed.
    dense["up"].weight.view(-1)[1] = -0.0
    block = masked(dense, 1.5 if refitted else 1.0, errors)
    back = _unpack_masked(_pack_masked(block, refitted=refitted), dense, torch.clone)
    assert back.errors == errors
    assert back.weights.keys() == block.weights.keys()
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    for name, weight in block.weights.items():
        assert torch.equal(back.weights[name].view(bits), weight.view(bits))


@pytest.mark.parametrize(
    "data",
    [b"", b"no form at all", _pack_masked(masked(projections()), refitted=True)],
    ids=["empty", "garbage", "another form"],
)
def test_bytes_of_another_form_are_refused(data):
    unpack_masked = partial(
        _unpack_masked,
        dense={"up": nn.Linear(9, 9)},
        hold=torch.clone,
    )
    for unpack in (unpack_narrowed, unpack_masked, unpack_statistics, unpack_tensors):
        with pytest.raises(CalibrationError, match="cannot be read"):
            unpack(data)
