"""Sparse models: masked weights of every family in place and out again, the runs that make them,
and their bytes.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.calibration.calibration_cache import StoredStatistics
from sparsedash.engine.calibration.statistics import (
    shared_inputs,
    unpack_statistics,
    unpack_tensors,
)
from sparsedash.engine.pruning.surgery import reweighted, weight_of
from sparsedash.engine.pruning.weight_pruning import MaskedBlock
from sparsedash.engine.run.sparse_blocks import _pack_masked, _unpack_masked, unpack_narrowed
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record
from tests.engine.run.small_runs import CHANNELS, count_calls, ran, records, stages_of
from tests.engine.tiny import IDS, save_tiny, tiny_loaded

SPARSEGPT = MethodSettings(saliency="obs", pattern="2:4", scope="decoder")
WANDA = MethodSettings(compensation="none", pattern="1x1", scope="decoder")


@pytest.fixture
def masked_run(settings):
    return replace(
        settings, methods=(SPARSEGPT,), evaluation=replace(settings.evaluation, n_passages=5)
    )


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_new_weights_do_what_setting_them_by_hand_does_and_the_dense_model_comes_back(model_type):
    loaded = tiny_loaded(model_type)
    dense, projections, by_hand = (
        loaded.model(IDS).logits,
        loaded.projections("decoder"),
        copy.deepcopy(loaded),
    )
    weights = []
    for block, own in zip(by_hand.projections("decoder"), projections, strict=True):
        for part in block.values():
            part.weight.data.masked_fill_(part.weight.abs() < part.weight.abs().median(), 0)
        weights.append({name: weight_of(block[name]).clone() for name in own})
    with reweighted(projections, weights):
        sparse = loaded.model(IDS).logits
    assert torch.equal(sparse, by_hand.model(IDS).logits)
    assert (sparse - dense).abs().max() > 1e-3
    assert torch.equal(loaded.model(IDS).logits, dense)


@pytest.mark.parametrize("model_type", ["bloom", "gpt2", "phi3"])
def test_a_run_measures_what_masked_weights_lose(model_type, masked_run, store, tmp_path):
    folder = save_tiny(tmp_path / "m", model_type)
    run = ran(replace(masked_run, model=str(folder)), store)
    made = store.get(Record, run.sparse[0]).pruned
    assert run.finished and made.sparsity_permille == 500 and made.widths == made.dense_widths
    loaded = tiny_loaded(model_type)
    decoder = sum(
        p.weight.numel() for block in loaded.projections("decoder") for p in block.values()
    )
    assert (made.reached.channels, made.reached.weights, made.reached.bytes) == (0.5, 0.5, 0)
    assert made.reached.macs == pytest.approx(decoder / 2 / loaded.shape.n_matmul, abs=1e-9)
    for errors in (made.layer_errors, made.held_out_errors, made.passage_errors):
        assert len(errors) == 3 and all(0 < error < 1.5 for error in errors)
    assert all(
        fitted < plain
        for fitted, plain in zip(made.layer_errors, made.uncompensated_errors, strict=True)
    )


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_projections_are_grouped_by_the_input_that_they_share(model_type):
    loaded, seen = tiny_loaded(model_type), {}
    blocks = loaded.projections("decoder")
    for number, block in enumerate(blocks):
        for name, part in block.items():
            part.register_forward_pre_hook(
                lambda _, args, key=(number, name): seen.__setitem__(key, args[0])
            )
    groups = shared_inputs(loaded)
    loaded.model(IDS)
    for number, (block, found) in enumerate(zip(blocks, groups, strict=True)):
        assert sorted(name for names in found for name in names) == sorted(block)
        for names in found:
            assert all(torch.equal(seen[number, name], seen[number, names[0]]) for name in names)
        assert [names for names in found if loaded.family.out in names] == [[loaded.family.out]]
        assert any(set(loaded.family.inner) <= set(names) for names in found)


def test_a_pattern_with_its_own_sparsity_is_one_record_next_to_a_sweep(masked_run, store):
    run = ran(
        replace(masked_run, methods=(SPARSEGPT, replace(SPARSEGPT, scope="mlp"), CHANNELS)), store
    )
    _, decoder, mlp, *channels = (record.pruned for record in records(store, run))
    assert decoder.sparsity_permille == mlp.sparsity_permille == 500
    assert [made.sparsity_permille for made in channels] == [250, 500]
    # The MLPs alone leave attention as it is.
    assert decoder.reached.channels == mlp.reached.channels == 0.5
    assert decoder.reached.macs > mlp.reached.macs > 0


def test_inputs_are_collected_once_and_only_where_single_weights_go(masked_run, store, monkeypatch):
    calls = count_calls(monkeypatch, StoredStatistics, "reach")

    def n_collected():
        return sum(collected.kind == "inputs" for collected, _ in calls)

    for methods, n_passes in (
        ((CHANNELS,), 0),
        ((SPARSEGPT, WANDA), 1),
        ((replace(SPARSEGPT, pattern="4:8"),), 1),
    ):
        ran(replace(masked_run, methods=methods), store)
        assert n_collected() == n_passes
    ran(
        replace(masked_run, calibration=replace(masked_run.calibration, token_weights="residual")),
        store,
    )
    assert n_collected() == 2


def test_forgotten_inputs_are_collected_again(masked_run, store):
    ran(masked_run, store)
    for entry in list(store.entries("artefacts")):
        store.drop_entry("artefacts", entry.name)
    run, stages = stages_of(replace(masked_run, methods=(WANDA,)), store)
    assert run.finished and "calibrate" in stages


ERRORS = [(0.1, 1 / 3, None), (0.25, 0.5, 2 / 3)]


def masked(dense, factor=1.0, errors=ERRORS):
    """Every second weight is gone; of the others one is a zero of the other sign, which is none
    that is gone.
    """
    weights = {name: module.weight.clone() * factor for name, module in dense.items()}
    for weight in weights.values():
        weight.view(-1)[::2] = 0.0
    return MaskedBlock(weights=weights, errors=errors)


def projections(dtype=torch.float32, width=5):
    made = {
        "up": nn.Linear(width, width + 2, bias=False),
        "down": nn.Linear(width + 2, width, bias=False),
    }
    return {name: module.to(dtype).requires_grad_(False) for name, module in made.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("refitted", "errors"), [(True, ERRORS), (False, [])])
def test_a_masked_block_comes_back_to_the_bit(dtype, refitted, errors):
    dense = projections(dtype)
    dense["up"].weight.view(-1)[1] = -0.0
    block = masked(dense, 1.5 if refitted else 1.0, errors)
    back = _unpack_masked(_pack_masked(block, refitted=refitted), dense, torch.clone)
    assert back.errors == errors
    assert back.weights.keys() == block.weights.keys()
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    assert all(
        torch.equal(back.weights[name].view(bits), block.weights[name].view(bits)) for name in dense
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"no form at all", _pack_masked(masked(projections()), refitted=True)],
    ids=["empty", "garbage", "another form"],
)
def test_bytes_of_another_form_are_refused(data):
    unpack_masked = partial(_unpack_masked, dense={"up": nn.Linear(9, 9)}, hold=torch.clone)
    for unpack in (unpack_narrowed, unpack_masked, unpack_statistics, unpack_tensors):
        with pytest.raises(CalibrationError, match="cannot be read"):
            unpack(data)
