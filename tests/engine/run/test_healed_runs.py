"""Runs with healed models: points of their own, whose weights are kept, found again, and exchanged
like any others.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.healing import healing
from sparsedash.engine.run import model_making, run_context
from sparsedash.schema.errors import CalibrationError, JobError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.stage_versions import STAGE_VERSIONS
from sparsedash.storage.store import Store
from tests.engine.run.small_runs import (
    CHANNELS,
    MODEL_CACHE,
    count_calls,
    must_not_run,
    ran,
    rebuilt_model,
    records,
    stages_of,
)
from tests.engine.tiny import IDS


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(healing, "RATE", 1e-2)


@pytest.fixture
def healing_settings(settings):
    """Every method unhealed and healed; one of them reads no text until it is healed."""
    bare = MethodSettings(
        saliency="magnitude",
        compensation="none",
        width_multiple=8,
    )
    return replace(
        settings,
        methods=(CHANNELS, bare),
        sparsities_permille=(500,),
        heal_steps=(0, 4),
        prompts=("the lamp",),
    )


def test_a_healed_model_is_a_point_of_its_own_and_says_what_healing_did(
    healing_settings, store
):
    run, stages = stages_of(healing_settings, store)
    _, plain, healed, bare, bare_healed = (
        record.pruned for record in records(store, run)
    )
    assert "heal" in stages and run.seconds["heal"] > 0
    assert plain.healed is None is bare.healed
    for before, after in ((plain, healed), (bare, bare_healed)):
        done = after.healed
        assert (
            (done.steps, done.kept_step) == (4, 4)
            and 0 < done.after < done.before
            and done.n_tokens > 0
        )
        assert (after.widths, after.layer_errors) == (
            before.widths,
            before.layer_errors,
        )
    assert len({record.outcomes for record in records(store, run)}) == 5


def logits_of(record_key, store):
    """The logits of a record's model, and the loaded model, which is the dense one again."""
    model = rebuilt_model(record_key, store)
    with model.sparse.applied():
        return model.loaded.model(IDS).logits, model.loaded


def test_healed_weights_are_found_again_and_are_those_that_were_evaluated(
    healing_settings, store, monkeypatch
):
    run = ran(healing_settings, store)
    healed_key = run.sparse[1]
    logits, loaded = logits_of(healed_key, store)
    dense_logits = loaded.model(IDS).logits
    few = replace(healing_settings.evaluation, n_passages=5)
    with monkeypatch.context() as patch:
        patch.setattr(model_making, "heal", must_not_run)
        # The two models that exchange weights by reference.
        pair_cache = ModelPairCache(MODEL_CACHE)
        with pair_cache.models([run.dense, healed_key], store, ignore_steps) as pair:
            for model, expected in zip(pair, (dense_logits, logits), strict=True):
                with model.active() as active:
                    assert torch.equal(active.model(IDS).logits, expected)
        again = ran(replace(healing_settings, evaluation=few), store)
        figures = [
            store.get(Record, key).pruned.healed
            for key in (again.sparse[1], healed_key)
        ]
        assert figures[0] == figures[1]
        # Also where the memory has become too small.
        patch.setattr(run_context, "memory_bytes", lambda: 1)
        streamed_logits, streamed = logits_of(healed_key, store)
        assert streamed.residency.streamed
        assert torch.equal(streamed_logits, logits)
    with monkeypatch.context() as patch:
        # Those of a version that healed otherwise.
        patch.setitem(STAGE_VERSIONS, "healed", 1000)
        patch.setattr(model_making, "heal", must_not_run)
        assert torch.equal(logits_of(healed_key, store)[0], logits)
        for entry in store.entries("artefacts"):
            store.drop_entry("artefacts", entry.name)
        with pytest.raises(JobError, match="healed weights of this result are gone"):
            rebuilt_model(healed_key, store)
    assert torch.equal(logits_of(healed_key, store)[0], logits), (
        "healed anew, to the same weights"
    )


@pytest.mark.parametrize(
    ("writing", "steps"),
    [("/healing/0/1", [0, 1]), ("/healed/1", [0]), ("/answers", [])],
    ids=[
        "while the second best state is written",
        "before the weights are whole",
        "in the evaluation after it",
    ],
)
def test_a_run_that_is_killed_as_it_heals_leaves_what_may_be_evicted_and_ends_with_the_same_record(
    writing, steps, healing_settings, store, monkeypatch
):
    """steps: the first two, of four, that the second attempt reports; of none it reads the text
    alone.
    """
    monkeypatch.setattr(healing, "CHECK_EVERY", 1)
    monkeypatch.setattr("sparsedash.storage.checkpoint.CHECKPOINT_INTERVAL_S", 0.0)
    one = replace(
        healing_settings, methods=healing_settings.methods[:1], heal_steps=(4,)
    )
    put = Store.put_artefact
    seen = []

    def tags():
        return {
            entry.name: entry.tag.split()[0]
            for entry in store.entries("artefacts")
            if "/heal" in entry.name
        }

    def killed(store, key, data, about=""):
        if writing in key and any("/heal" in name for name in tags()):
            raise KeyboardInterrupt
        put(store, key, data, about)

    whole = records(store, ran(one, store))
    healed = set(tags())
    store.drop(Record, whole[1].key)
    for entry in store.entries("artefacts"):
        store.drop_entry("artefacts", entry.name)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "put_artefact", killed)
        ran(one, store)
    assert set(tags().values()) == {"unfinished"}
    assert (
        records(
            store,
            ran(
                one, store, lambda step: step.stage == "heal" and seen.append(step.done)
            ),
        )
        == whole
    )
    assert sorted(set(seen))[:2] == steps, "it went on where it was"
    assert tags() == dict.fromkeys(healed, "healed")


def test_what_cannot_be_healed_is_refused_before_anything_is_computed(
    healing_settings, store, monkeypatch
):
    evaluated = count_calls(monkeypatch, run_context.RunContext, "warn_of_calibration")
    with pytest.raises(CalibrationError, match="streams them from disk"):
        ran(replace(healing_settings, residency="streamed"), store)
    assert evaluated == [] and list(store.keys(Record)) == []


def test_a_method_that_needs_no_statistics_is_healed_without_any(
    healing_settings, store
):
    magnitude = replace(method_named("magnitude"), width_multiple=8)
    healed = replace(
        healing_settings,
        methods=(magnitude,),
        sparsities_permille=(250,),
        heal_steps=(8,),
    )
    run = ran(healed, store)
    assert "heal" in run.seconds and "calibrate" not in run.seconds
