"""A search on a tiny model: its trials are records and a run that grows, and it goes on after it was stopped."""

from dataclasses import replace

import pytest

from sparsedash.engine.calibration.calibration_cache import CalibrationCache
from sparsedash.engine.evaluation import early_stopping
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.find_sparsity import find_sparsity
from sparsedash.schema.errors import Cancelled, SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, FindResult, FindSettings


@pytest.fixture
def settings(model_folder, passage_file):
    return FindSettings(
        model=str(model_folder),
        method=MethodSettings(width_multiple=8),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}"),
    )


@pytest.fixture
def within(monkeypatch):
    """Lets a test say up to which sparsity everything is within: the tiny model's own losses say nothing."""

    def up_to(permille, otherwise="beyond"):
        asked = pipeline.evaluate_models

        def evaluated(run, models, stop=None):
            (record,) = asked(run, models, stop)
            if record.pruned is None:
                return [record]
            decision = "within" if record.pruned.sparsity_permille <= permille else otherwise
            told = replace(record, stopping=replace(record.stopping, decision=decision))
            run.store.put(record.key, told)
            return [told]

        monkeypatch.setattr(pipeline, "evaluate_models", evaluated)

    return up_to


def tried(result):
    return [trial.permille for trial in result.trials]


def test_it_ends_at_neighbours_one_width_multiple_apart_and_its_run_has_every_trial(settings, store, within):
    within(300)
    result = find_sparsity(settings, store)
    run = store.get(Run, result.key)
    assert result.steps == (83, 167, 250, 333, 417, 500, 583, 667, 750, 833)
    assert (result.answer, result.next_step) == (250, 333)
    assert tried(result) == [417, 167, 250, 333]
    assert result.verdict_at(333) == "beyond" and result.verdict_at(500) is None
    assert store.get(FindResult, result.key) == result
    assert run.finished and run.find == settings
    assert run.settings.sparsities_permille == (167, 250, 333, 417)
    records = [store.get(Record, key) for key in run.sparse]
    assert [record.pruned.widths[0] for record in records] == [80, 72, 64, 56]


def test_where_nothing_is_within_there_is_no_answer(settings, store, within):
    within(0)
    result = find_sparsity(settings, store)
    assert (result.answer, result.next_step, tried(result)[-1]) == (None, 83, 83)


def test_where_everything_is_within_the_answer_is_the_largest_step(settings, store, within):
    within(900)
    result = find_sparsity(settings, store)
    assert (result.answer, result.next_step) == (833, None)


def test_what_stays_undecided_is_taken_for_too_much(settings, store, within):
    within(100, otherwise="open")
    result = find_sparsity(settings, store)
    assert result.answer == 83
    assert {trial.verdict for trial in result.trials} == {"within", "undecided"}


@pytest.mark.parametrize("n", [1, 10])
def test_too_few_passages_find_nothing(settings, store, n):
    result = find_sparsity(replace(settings, evaluation=replace(settings.evaluation, n_passages=n)), store)
    assert result.answer is None and result.n_passages == n
    assert "within" not in {trial.verdict for trial in result.trials}


def test_the_same_search_again_loads_no_model_and_computes_nothing(settings, store, within):
    within(300)
    first, steps = find_sparsity(settings, store), []
    again = find_sparsity(settings, store, lambda step: steps.append(step.stage))
    assert again == first
    assert not {"calibrate", "prune", "evaluate"} & set(steps)


def test_a_search_that_was_stopped_goes_on_with_the_trial_that_was_not_finished(settings, store, within, monkeypatch):
    within(300)

    def stops(step):
        if step.stage == "evaluate" and step.point == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        find_sparsity(settings, store, stops)
    key = _key(settings)
    run, so_far = store.get(Run, key), store.get(FindResult, key)
    assert not run.finished and not so_far.finished
    assert tried(so_far) == [417, 167] and len(run.sparse) == 2
    assert run.settings.sparsities_permille == (417, 167, 250)
    monkeypatch.setattr(CalibrationCache, "reach_statistics", _must_not_run)
    made = []
    result = find_sparsity(settings, store, lambda step: made.append(step.point) if step.stage == "prune" else None)
    assert result.answer == 250 and {point for point in made if point is not None} == {2, 3}


def test_a_page_sees_the_run_grow_by_one_trial_at_a_time(settings, store, within):
    within(300)
    seen = []

    def look(step):
        run = store.get(Run, _key(settings))
        if run is not None and step.stage == "evaluate" and step.point is not None:
            seen.append((step.point, len(run.sparse), len(run.settings.sparsities_permille)))

    find_sparsity(settings, store, look)
    assert sorted(set(seen)) == [(n, n, n + 1) for n in range(4)]


def test_a_finished_search_is_shown_whole_while_it_is_made_again(settings, store, within):
    within(300)
    first = find_sparsity(settings, store)
    store._records.delete(f"record/{first.trials[0].record}")
    seen = []
    find_sparsity(settings, store, lambda step: seen.append(store.get(FindResult, first.key).finished))
    assert all(seen)


def test_trials_are_kept_apart_from_records_that_answer_everything(settings, store):
    result = find_sparsity(settings, store)
    record = store.get(Record, result.trials[0].record)
    assert record.stopping.alpha == pytest.approx(0.05 / 4 * early_stopping.planned_looks(40)[-1].share)
    other = find_sparsity(replace(settings, ratio=1.5), store)
    assert other.trials[0].record != result.trials[0].record
    assert store.get(Run, other.key).dense == store.get(Run, result.key).dense


def test_a_width_multiple_as_wide_as_the_mlps_is_refused(settings, store):
    with pytest.raises(SettingsError, match="less than the 96 channels"):
        find_sparsity(replace(settings, method=MethodSettings(width_multiple=96)), store)


def test_single_weights_are_searched_by_percents(settings, store, within):
    within(120)
    weights = MethodSettings(saliency="magnitude", pattern="1x1", compensation="none")
    result = find_sparsity(replace(settings, method=weights), store)
    assert (result.answer, result.next_step) == (120, 130)


def _key(settings):
    from sparsedash.storage.text_files import fingerprints

    return settings.key(fingerprints(settings))


def _must_not_run(*_, **__):
    raise AssertionError("this stage was in the store")
