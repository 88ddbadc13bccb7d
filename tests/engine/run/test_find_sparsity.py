"""Searches on a tiny model: trials are records, the run grows by them, and an interrupted search
resumes.
"""

from dataclasses import replace

import pytest

from sparsedash.engine.calibration.calibration import StoredStatistics
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.search import find_sparsity
from sparsedash.engine.run.task_answering import TaskAnswers
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.errors import Cancelled, SettingsError
from sparsedash.schema.find_settings import FindResult, FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import RESUMED, Record, Run
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.service.stored_results import StoredResults
from sparsedash.storage.file_hashes import file_hashes_of
from tests.engine.run.small_runs import CHANNELS, must_not_run
from tests.question_sets import verdicts


@pytest.fixture
def search(settings, passage_file):
    evaluation = EvaluationSettings(corpus=f"file:{passage_file}")
    return FindSettings(
        model=settings.model,
        method=CHANNELS,
        calibration=settings.calibration,
        evaluation=evaluation,
    )


@pytest.fixture
def within(monkeypatch):
    """Sets up to which sparsity everything is within: the tiny model's own losses say nothing."""

    def up_to(permille, otherwise="beyond"):
        evaluate = pipeline.evaluate_models

        def evaluated(run, models, stop=None):
            (record,) = evaluate(run, models, stop)
            if record.pruned is None:
                return [record]
            decision = (
                "within" if record.pruned.sparsity_permille <= permille else otherwise
            )
            decided = replace(
                record, stopping=replace(record.stopping, decision=decision)
            )
            run.store.put(record.key, decided)
            return [decided]

        monkeypatch.setattr(pipeline, "evaluate_models", evaluated)

    return up_to


def tried(result):
    return [trial.permille for trial in result.trials]


def key_of(search, store):
    return search.key(file_hashes_of(search, store))


def test_it_ends_at_neighbours_one_width_multiple_apart_and_its_run_has_every_trial(
    search, store, within
):
    within(300)
    result = find_sparsity(search, store)
    run = store.get(Run, result.key)
    assert result.steps == (83, 167, 250, 333, 417, 500, 583, 667, 750, 833)
    assert (result.answer, result.next_step) == (250, 333)
    assert tried(result) == [417, 167, 250, 333]
    assert {trial.permille: trial.verdict for trial in result.trials}[333] == "beyond"
    assert store.get(FindResult, result.key) == result
    assert run.finished and run.find == search
    assert run.settings.sparsities_permille == (167, 250, 333, 417)
    assert [store.get(Record, key).pruned.widths[0] for key in run.sparse] == [
        80,
        72,
        64,
        56,
    ]


def test_every_trial_of_a_search_among_healed_models_is_healed(search, store, within):
    within(300)
    result = find_sparsity(search.healed(1), store)
    assert result.answer == 250
    assert {
        store.get(Record, trial.record).pruned.healed.steps for trial in result.trials
    } == {1}


@pytest.mark.parametrize(
    ("permille", "otherwise", "answer", "next_step"),
    [(0, "beyond", None, 83), (900, "beyond", 833, None), (100, "open", 83, 167)],
    ids=["nothing within", "all within", "undecided counts as beyond"],
)
def test_the_answer_is_the_largest_step_within(
    permille, otherwise, answer, next_step, search, store, within
):
    within(permille, otherwise)
    result = find_sparsity(search, store)
    assert (result.answer, result.next_step) == (answer, next_step)
    other_verdict = {"open": "undecided"}.get(otherwise, otherwise)
    assert {trial.verdict for trial in result.trials} <= {"within", other_verdict}


def test_too_few_passages_are_refused_before_any_is_answered(search, store):
    few = replace(search.evaluation, n_passages=29)
    with pytest.raises(SettingsError, match="at least 30 different passages, not 29"):
        find_sparsity(replace(search, evaluation=few), store)
    assert not list(store.keys(Record))


def test_a_trial_within_on_its_passages_is_so_on_its_tasks_too_and_others_do_not_answer_them(
    search, store, within, monkeypatch
):
    def answer(tasks, models):
        for model in models:
            answers = verdicts(both=1200, broke=300)[model.spec.permille > 200]
            store.put(key := f"answers of {model.key}", replace(answers, key=key))
            tasks._keys[model.key] = (key,)

    within(300)
    monkeypatch.setattr(TaskAnswers, "answer", answer)
    with_task = replace(
        search, evaluation=replace(search.evaluation, tasks=("builtin:copying",))
    )
    result = find_sparsity(with_task, store)
    assert (result.answer, result.next_step) == (167, 250)
    run = store.get(Run, result.key)
    records = {trial.permille: trial.record for trial in result.trials}
    assert run.answers.keys() == {run.dense, records[167], records[250]}
    results = run_results(StoredResults(store), run)
    assert {
        judged.permille: judged.verdict.verdict
        for judged in results.sparse_models
        if judged.verdict.tasks
    } == {
        167: "undecided",
        250: "beyond",
    }


def test_a_finished_search_is_repeated_from_the_store_and_shown_whole_meanwhile(
    search, store, within
):
    within(300)
    first = find_sparsity(search, store)
    stages = []
    shown = []
    assert find_sparsity(search, store, lambda step: stages.append(step.stage)) == first
    assert not {"calibrate", "prune", "evaluate"} & set(stages)
    store.drop_entry("records", f"record/{first.trials[0].record}")
    find_sparsity(
        search,
        store,
        lambda step: shown.append(store.get(FindResult, first.key).finished),
    )
    assert all(shown)


def test_a_cancelled_search_resumes_with_the_trial_that_was_not_finished(
    search, store, within, monkeypatch
):
    within(300)
    seen = []

    def stops(step):
        run = store.get(Run, key_of(search, store))
        if run is not None and step.stage == "evaluate" and step.point is not None:
            seen.append(
                (step.point, len(run.sparse), len(run.settings.sparsities_permille))
            )
        if step.stage == "evaluate" and step.point == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        find_sparsity(search, store, stops)
    # A page sees the run grow by one trial at a time.
    assert sorted(set(seen)) == [(n, n, n + 1) for n in range(3)]
    run = store.get(Run, key_of(search, store))
    so_far = store.get(FindResult, key_of(search, store))
    assert not run.finished and not so_far.finished
    assert tried(so_far) == [417, 167] and run.settings.sparsities_permille == (
        417,
        167,
        250,
    )
    monkeypatch.setattr(StoredStatistics, "reach", must_not_run)
    points = []
    result = find_sparsity(
        search,
        store,
        lambda step: points.append(step.point) if step.stage == "prune" else None,
    )
    assert result.answer == 250 and {
        point for point in points if point is not None
    } == {2, 3}
    # What the first attempt has done took none of the seconds that are noted.
    assert RESUMED in store.get(Run, key_of(search, store)).cached


def test_a_width_multiple_as_wide_as_the_mlps_is_refused(search, store):
    with pytest.raises(SettingsError, match="less than the 96 channels"):
        find_sparsity(replace(search, method=MethodSettings(width_multiple=96)), store)


def test_single_weights_are_searched_by_percents(search, store, within):
    within(120)
    weights = MethodSettings(
        saliency="magnitude",
        pattern="1x1",
        compensation="none",
    )
    result = find_sparsity(replace(search, method=weights), store)
    assert (result.answer, result.next_step) == (120, 130)
