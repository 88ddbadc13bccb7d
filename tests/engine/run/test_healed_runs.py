"""Runs with healed models: points of their own, whose weights are kept, found again, and exchanged
like any others.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.healing import healing
from sparsedash.engine.run import run_context
from sparsedash.engine.run.model_making import rebuild_model
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
    records,
    stages_of,
)
from tests.engine.tiny import IDS


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(healing, "RATE", 1e-2)


@pytest.fixture
def asked(settings):
    """Every method unhealed and healed; one of them reads no text until it is healed."""
    bare = MethodSettings(saliency="magnitude", compensation="none", width_multiple=8)
    return replace(
        settings,
        methods=(CHANNELS, bare),
        sparsities_permille=(500,),
        heal_steps=(0, 4),
        prompts=("the lamp",),
    )


def test_a_healed_model_is_a_point_of_its_own_and_says_what_healing_did(asked, store):
    run, stages = stages_of(asked, store)
    _, plain, healed, bare, bare_healed = (record.pruned for record in records(store, run))
    assert "heal" in stages and run.seconds["heal"] > 0
    assert plain.healed is None is bare.healed
    for before, after in ((plain, healed), (bare, bare_healed)):
        done = after.healed
        assert (
            (done.steps, done.kept_step) == (4, 4)
            and 0 < done.after < done.before
            and done.n_tokens > 0
        )
        assert (after.widths, after.layer_errors) == (before.widths, before.layer_errors)
    assert len({record.outcomes for record in records(store, run)}) == 5


def test_healed_weights_are_found_again_and_are_those_that_were_evaluated(
    asked, store, monkeypatch
):
    run = ran(asked, store)
    first = rebuild_model(store.get(Record, run.sparse[1]), store, ignore_steps, MODEL_CACHE)
    with first.sparse.applied():
        logits = first.loaded.model(IDS).logits
    with monkeypatch.context() as patch:
        patch.setattr("sparsedash.engine.run.model_making.heal", must_not_run)
        # The two models that exchange weights by reference.
        with ModelPairCache(MODEL_CACHE).models(
            [run.dense, run.sparse[1]], store, ignore_steps
        ) as (
            dense,
            healed,
        ):
            for model, expected in ((healed, logits), (dense, first.loaded.model(IDS).logits)):
                with model.active() as loaded:
                    assert torch.equal(loaded.model(IDS).logits, expected)
        other = replace(asked, evaluation=replace(asked.evaluation, n_passages=5))
        assert (
            records(store, ran(other, store))[2].pruned.healed
            == records(store, run)[2].pruned.healed
        )
        # Also where the memory has become too small.
        patch.setattr(run_context, "memory_bytes", lambda: 1)
        streamed = rebuild_model(store.get(Record, run.sparse[1]), store, ignore_steps, MODEL_CACHE)
        with streamed.sparse.applied():
            assert streamed.loaded.residency.streamed and torch.equal(
                streamed.loaded.model(IDS).logits, logits
            )
    with monkeypatch.context() as patch:
        # Those of a version that healed otherwise.
        patch.setitem(STAGE_VERSIONS, "healed", 1000)
        patch.setattr("sparsedash.engine.run.model_making.heal", must_not_run)
        known = rebuild_model(store.get(Record, run.sparse[1]), store, ignore_steps, MODEL_CACHE)
        with known.sparse.applied():
            assert torch.equal(known.loaded.model(IDS).logits, logits)
        for entry in store.entries("artefacts"):
            store.drop_entry("artefacts", entry.name)
        with pytest.raises(JobError, match="healed weights of this result are gone"):
            rebuild_model(store.get(Record, run.sparse[1]), store, ignore_steps, MODEL_CACHE)
    again = rebuild_model(store.get(Record, run.sparse[1]), store, ignore_steps, MODEL_CACHE)
    with again.sparse.applied():
        assert torch.equal(again.loaded.model(IDS).logits, logits), (
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
    writing, steps, asked, store, monkeypatch
):
    """steps: the first two, of four, that the second attempt reports; of none it reads the text
    alone.
    """
    monkeypatch.setattr(healing, "CHECK_EVERY", 1)
    monkeypatch.setattr("sparsedash.storage.checkpoint.CHECKPOINT_INTERVAL_S", 0.0)
    one = replace(asked, methods=asked.methods[:1], heal_steps=(4,))
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
            store, ran(one, store, lambda step: step.stage == "heal" and seen.append(step.done))
        )
        == whole
    )
    assert sorted(set(seen))[:2] == steps, "it went on where it was"
    assert tags() == dict.fromkeys(healed, "healed")


def test_what_cannot_be_healed_is_refused_before_anything_is_computed(asked, store, monkeypatch):
    evaluated = count_calls(monkeypatch, run_context.RunContext, "warn_of_calibration")
    with pytest.raises(CalibrationError, match="streams them from disk"):
        ran(replace(asked, residency="streamed"), store)
    assert evaluated == [] and list(store.keys(Record)) == []


def test_a_method_that_needs_no_statistics_is_healed_without_any(asked, store):
    magnitude = replace(method_named("magnitude"), width_multiple=8)
    healed = replace(asked, methods=(magnitude,), sparsities_permille=(250,), heal_steps=(8,))
    run = ran(healed, store)
    assert "heal" in run.seconds and "calibrate" not in run.seconds
