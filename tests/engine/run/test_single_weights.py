"""Single weights in whole models: every family, the masks in place and out again, and the job that makes them."""

import copy
from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.calibration import calibration_cache
from sparsedash.engine.calibration.statistics import shared_inputs
from sparsedash.engine.comparison.continuation import continue_prompt
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.models.decoder_blocks import family_named, n_matmul_weights
from sparsedash.engine.models.loading import LoadedModel, ModelShelf
from sparsedash.engine.pruning.surgery import reweighted, weight_of
from sparsedash.engine.pruning.weight_pruning import PATTERNS
from sparsedash.engine.run import pipeline
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from tests.engine.tiny import save_tiny, tiny_model, tiny_tokenizer

SPARSEGPT = MethodSettings(saliency="obs", pattern="2:4", scope="decoder")
WANDA = MethodSettings(compensation="none", pattern="1x1", scope="decoder")


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=(SPARSEGPT,),
        sparsities_permille=(250, 400),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=5),
    )


def tiny(model_type):
    return LoadedModel(
        identity=model_type,
        dtype="float32",
        model=tiny_model(model_type),
        tokenizer=tiny_tokenizer(),
        family=family_named(model_type),
    )


def ids():
    return torch.randint(1, 400, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_new_weights_do_what_setting_them_by_hand_does_and_the_dense_model_comes_back(model_type):
    loaded = tiny(model_type)
    dense = loaded.model(ids()).logits
    projections = loaded.projections("decoder")
    masks = [
        {name: PATTERNS["2:4"].zeros(weight_of(part).abs(), 500, by_row=False) for name, part in block.items()}
        for block in projections
    ]
    by_hand = copy.deepcopy(loaded)
    for block, own in zip(by_hand.projections("decoder"), masks, strict=True):
        for name, gone in own.items():
            weight_of(block[name]).data.masked_fill_(gone, 0)
    weights = [
        {name: weight_of(block[name]).masked_fill(gone, 0) for name, gone in own.items()}
        for block, own in zip(projections, masks, strict=True)
    ]
    with reweighted(projections, weights):
        sparse = loaded.model(ids()).logits
    assert torch.equal(sparse, by_hand.model(ids()).logits)
    assert (sparse - dense).abs().max() > 1e-3
    assert torch.equal(loaded.model(ids()).logits, dense)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_projections_that_are_given_the_same_are_found_together(model_type):
    loaded = tiny(model_type)
    seen = {}
    blocks = loaded.projections("decoder")
    for number, block in enumerate(blocks):
        for name, part in block.items():
            part.register_forward_pre_hook(lambda _, args, key=(number, name): seen.__setitem__(key, args[0]))
    groups = shared_inputs(loaded)
    loaded.model(ids())
    for number, (block, found) in enumerate(zip(blocks, groups, strict=True)):
        assert sorted(name for names in found for name in names) == sorted(block)
        for names in found:
            first = seen[number, names[0]]
            assert all(torch.equal(seen[number, name], first) for name in names)
        assert [names for names in found if loaded.family.out in names] == [[loaded.family.out]]
        inner = next(names for names in found if loaded.family.inner[0] in names)
        assert set(loaded.family.inner) <= set(inner)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_goes_through_a_job(model_type, settings, store, tmp_path):
    folder = save_tiny(tmp_path / "m", model_type)
    run = pipeline.run(replace(settings, model=str(folder)), store)
    (record,) = (store.get(Record, key) for key in run.sparse)
    made, model = record.pruned, tiny_model(model_type)
    assert run.finished and made.sparsity_permille == 500
    assert made.mlp_sparsity == 0.5
    loaded = tiny(model_type)
    decoder = sum(p.weight.numel() for block in loaded.projections("decoder") for p in block.values())
    assert made.matmul_ratio == pytest.approx(decoder / 2 / n_matmul_weights(model), abs=1e-9)
    assert made.widths == made.dense_widths
    for errors in (made.layer_errors, made.held_out_errors, made.passage_errors):
        assert len(errors) == 3
        assert all(0 < error < 1.5 for error in errors)
    pairs = zip(made.layer_errors, made.uncompensated_errors, strict=True)
    assert all(fitted < plain for fitted, plain in pairs)


def test_a_pattern_with_its_own_sparsity_is_one_record_beside_a_sweep(settings, store):
    channels = MethodSettings(width_multiple=8)
    run = pipeline.run(replace(settings, methods=(SPARSEGPT, channels)), store)
    made = [store.get(Record, key).pruned for key in run.sparse]
    assert [(one.method.pattern, one.sparsity_permille) for one in made] == [
        ("2:4", 500),
        ("channelx1", 250),
        ("channelx1", 400),
    ]


def test_the_mlps_alone_leave_attention_as_it_is(settings, store):
    method = replace(SPARSEGPT, scope="mlp")
    everywhere = replace(settings, methods=(SPARSEGPT, method))
    decoder, mlp = (store.get(Record, key).pruned for key in pipeline.run(everywhere, store).sparse)
    assert decoder.mlp_sparsity == mlp.mlp_sparsity == 0.5
    assert decoder.matmul_ratio > mlp.matmul_ratio > 0


def test_zero_percent_gives_the_dense_answers(settings, store):
    methods = (WANDA, replace(WANDA, saliency="obs", compensation="least-squares"))
    run = pipeline.run(replace(settings, methods=methods, sparsities_permille=(0,)), store)
    dense = store.get(Record, run.dense)
    for key in run.sparse:
        zero = store.get(Record, key)
        assert zero.outcomes == dense.outcomes
        assert zero.pruned.mlp_sparsity == zero.pruned.matmul_ratio == 0


def test_the_inputs_are_gathered_once_and_only_where_single_weights_go(settings, store, monkeypatch):
    pipeline.run(replace(settings, methods=(MethodSettings(width_multiple=8),)), store)
    passes = []
    reach = calibration_cache.CalibrationCache.reach_inputs
    monkeypatch.setattr(
        calibration_cache.CalibrationCache,
        "reach_inputs",
        lambda own, index: passes.append(own._token_weights) or reach(own, index),
    )
    pipeline.run(replace(settings, methods=(SPARSEGPT, WANDA)), store)
    assert passes == ["equal"]
    pipeline.run(replace(settings, methods=(replace(SPARSEGPT, pattern="4:8"),)), store)
    assert passes == ["equal"]
    weighted = replace(settings.calibration, token_weights="residual")
    pipeline.run(replace(settings, calibration=weighted), store)
    assert passes == ["equal", "residual"]


def test_inputs_that_were_forgotten_are_gathered_again(settings, store):
    pipeline.run(settings, store)
    for name in list(store._artefacts):
        store._artefacts.delete(name)
    stages = []

    def watch(step):
        stages.append(step.stage)

    assert pipeline.run(replace(settings, methods=(WANDA,)), store, watch).finished
    assert "calibrate" in stages


def test_masked_models_write_continuations(settings, store):
    run = pipeline.run(settings, store)
    asked = ContinuationSettings(left=run.dense, right=run.sparse[0], prompt="the lamp and", n_tokens=6)
    both = continue_prompt(asked, store, ModelPairCache(ModelShelf()))
    assert both.left != both.right
