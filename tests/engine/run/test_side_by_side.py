"""Where weights lie in files, models answer side by side: a block is read once for all of them, and nothing else
differs.
"""

from dataclasses import replace

import pytest
import torch

from sparsedash.catalog.engine_limits import MODELS_TOGETHER
from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.models.residency import Streamed
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.run import pipeline, sparse_models
from sparsedash.schema.errors import CalibrationError, Cancelled, ModelError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, PartSettings, RunSettings
from sparsedash.storage.store import Store
from tests.engine.run.whole_runs import answers, ran


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=(method_named("wanda-channels"), method_named("wanda")),
        sparsities_permille=(200, 400, 600),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=12),
        residency="streamed",
    )


@pytest.fixture
def together(monkeypatch):
    """How many models were asked at a time."""
    asked, evaluated = [], pipeline.evaluate_models

    def watched(run, models, *given, **more):
        asked.append(len(models))
        return evaluated(run, models, *given, **more)

    monkeypatch.setattr(pipeline, "evaluate_models", watched)
    return asked


def test_as_many_models_as_may_answer_together_with_the_same_records(settings, together, tmp_path):
    found = []
    for way in ("resident", "streamed"):
        store = Store(tmp_path / way)
        found.append(answers(store, ran(replace(settings, residency=way), store)))
        store.close()
    assert together == [1] * 7 + [MODELS_TOGETHER, 7 - MODELS_TOGETHER]
    assert found[0] == found[1]


def readings(monkeypatch, settings, store):
    """How often the first block was brought in from elsewhere in the model while passages were answered."""
    entered, enter = [], Streamed._enter

    def watched(self, block):
        entered.append(self._blocks.index(block))
        enter(self, block)

    monkeypatch.setattr(Streamed, "_enter", watched)
    evaluated = pipeline.evaluate_models

    def only_these(run, models, *given, **more):
        entered.clear()
        found = evaluated(run, models, *given, **more)
        told.extend(entered)
        return found

    told = []
    monkeypatch.setattr(pipeline, "evaluate_models", only_these)
    ran(settings, store)
    return sum(now == 0 != before for before, now in zip([-1, *told], told, strict=False))


def test_a_block_is_read_once_for_all_models_also_for_words_that_go_on(settings, store, tmp_path, monkeypatch):
    shared = readings(monkeypatch, settings, store)
    monkeypatch.undo()
    alone = Store(tmp_path / "alone")
    monkeypatch.setattr(pipeline, "MODELS_TOGETHER", 1)
    one_by_one = readings(monkeypatch, settings, alone)
    alone.close()
    # Two readings for the seven of one by one, but that words of one model go on for longer than those of another.
    assert shared < 0.4 * one_by_one


def test_what_was_made_now_is_not_said_to_have_been_stored(settings, store):
    assert not ran(settings, store).cached
    again = ran(replace(settings, sparsities_permille=(200, 300, 400, 500, 600)), store)
    assert "evaluation, dense" in again.cached
    assert "evaluation, 20 % sparse" in again.cached
    assert not {"evaluation, 30 % sparse", "evaluation, 50 % sparse"} & set(again.cached)
    assert len(again.sparse) == 10


def test_models_that_may_stop_early_are_asked_one_after_another(settings, store, together):
    ran(replace(settings, evaluation=replace(settings.evaluation, stop_early=True)), store)
    assert together == [1] * 7


def test_a_part_of_a_run_answers_side_by_side_as_well(settings, store, together):
    made = pipeline.run_part(
        PartSettings(run=settings, run_key=settings.key(), points=(1, 4)), store, ignore_steps, ModelShelf()
    )
    assert together == [3]
    assert len(made.sparse) == 2


def test_the_run_is_shown_with_all_that_have_answered(settings, store):
    shown = []

    def watch(step):
        run = store.get(Run, settings.key())
        if run is not None and step.stage == "walk" and step.done == 0:
            shown.append((bool(run.dense), len(run.sparse)))

    pipeline.run(settings, store, watch, ModelShelf(), run_key=settings.key())
    assert set(shown) == {(True, 3)}


def test_what_goes_wrong_with_one_is_told_when_those_before_it_have_answered(settings, store, together, monkeypatch):
    sparse_model = sparse_models.sparse_model

    def breaks(run, method, permille):
        if permille == 400:
            raise ModelError("Its weights are no numbers.")
        return sparse_model(run, method, permille)

    monkeypatch.setattr(sparse_models, "sparse_model", breaks)
    with pytest.raises(ModelError, match="no numbers"):
        pipeline.run(settings, store, ignore_steps, ModelShelf(), run_key="broken")
    assert together == [1, 1]
    kept = store.get(Run, "broken")
    assert kept.dense and len(kept.sparse) == 1 and not kept.finished


def test_answers_that_are_no_numbers_end_the_run_at_their_own_model(settings, store, together, monkeypatch):
    sparse_model = sparse_models.sparse_model

    def breaks(run, method, permille):
        made = sparse_model(run, method, permille)

        def broken(index):
            (made.narrowed[index].out_weight if index == 1 else torch.empty(0)).fill_(float("nan"))
            return made.narrowed[index]

        return replace(made, narrowed=LazySequence(3, broken)) if permille == 400 else made

    monkeypatch.setattr(sparse_models, "sparse_model", breaks)
    with pytest.raises(CalibrationError, match="NaN"):
        pipeline.run(settings, store, ignore_steps, ModelShelf(), run_key="broken")
    assert together == [MODELS_TOGETHER, 1, 1, 1]
    assert len(store.get(Run, "broken").sparse) == 1


def test_one_that_is_stopped_is_not_begun_again_one_by_one(settings, store, together):
    def stop(step):
        if step.stage == "evaluate" and step.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(settings, store, stop)
    assert together == [MODELS_TOGETHER]
