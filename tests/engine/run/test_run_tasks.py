"""Tasks of a run: every model answers them, once, also streamed and after a run that was broken
off.
"""

import json
import shutil
from dataclasses import replace
from itertools import chain

import pytest

from sparsedash.engine.run import task_answering
from sparsedash.engine.run.model_making import RunModel
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.errors import Cancelled, CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Run
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.stored_results import StoredResults
from sparsedash.stats.task_verdicts import is_unanswered, judge_run
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store
from tests.engine.conftest import passages
from tests.engine.run.small_runs import count_calls, ran
from tests.engine.tasks.conftest import trials  # noqa: F401 - a fixture
from tests.engine.tasks.task_folder import MULTIPLE_CHOICE, WRITTEN, write_task


@pytest.fixture
def task_settings(settings, tmp_path):
    tasks = (
        write_task(
            tmp_path,
            "choice",
            passages(9),
            **MULTIPLE_CHOICE,
        ),
        write_task(
            tmp_path,
            "written",
            passages(6),
            **WRITTEN,
        ),
    )
    return replace(
        settings,
        evaluation=replace(
            settings.evaluation,
            tasks=tasks,
            task_limit=5,
        ),
    )


def texts(store, run):
    answered = []
    for key in chain(*(run.answers[record] for record in run.records)):
        questions = store.get(QuestionSet, key).questions
        answered.append([(question.chosen, question.text) for question in questions])
    return answered


def require_judged(judged, *names):
    """Both sparse models are judged by these tasks."""
    assert len(judged) == 2
    for answers in judged.values():
        assert tuple(result.task for result in answers.results) == names


def test_every_model_answers_every_task_once_and_a_run_without_tasks_shares_their_records(
    task_settings, settings, store
):
    steps = []
    run = ran(task_settings, store, steps.append)
    assert list(run.answers) == [run.dense, *run.sparse]
    assert [len(questions) for questions in texts(store, run)] == [5, 5] * 3
    assert {step.message for step in steps if step.stage == "answer"} >= {
        "choice: dense",
        "written: 50 % sparse",
    }
    steps.clear()
    again = ran(task_settings, store, steps.append)
    assert again.answers == run.answers and "answers to tasks" in again.cached
    assert not [step for step in steps if step.stage == "answer"]
    assert ran(settings, store).records == run.records
    judged = judge_run(run, lambda key: store.get(QuestionSet, key), Tolerance())
    require_judged(judged, "choice", "written")


def test_a_finished_run_that_gets_tasks_and_prompts_makes_each_model_once(
    task_settings, settings, store, monkeypatch
):
    ran(settings, store)
    rebuilt = count_calls(monkeypatch, RunModel, "begin")
    run = ran(replace(task_settings, prompts=("The boat", "Once")), store)
    assert len(rebuilt) == len(run.sparse) == 2
    assert [len(answers) for answers in texts(store, run)] == [5, 5] * 3


def test_a_run_that_is_broken_off_keeps_the_tasks_that_are_answered(
    task_settings, store, monkeypatch
):
    def cancel(step):
        if step.stage == "answer" and step.message.startswith("written"):
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(task_settings, store, cancel)
    (kept,) = store.keys(QuestionSet)
    answered = count_calls(monkeypatch, task_answering, "_answer")
    run = ran(task_settings, store)
    assert run.answers[run.dense][0] == kept
    assert [task.name for _, task, _, _ in answered] == [
        "written",
        *["choice", "written"] * 2,
    ]


def test_a_task_that_fails_is_a_warning_and_the_rest_goes_on(
    task_settings, store, monkeypatch
):
    real = task_answering._answer

    def fail(run, task, models, keys):
        if task.name == "choice":
            raise CorpusError("It broke.")
        real(run, task, models, keys)

    monkeypatch.setattr(task_answering, "_answer", fail)
    run = ran(task_settings, store)
    assert run.finished and "choice was not answered. It broke." in run.warnings
    judged = judge_run(run, lambda key: store.get(QuestionSet, key), Tolerance())
    require_judged(judged, "written")
    # Not even a model that gives every answer of dense is within on tasks that nobody could answer.
    assert run.unanswered == ("choice",)
    assert all(is_unanswered(run, record, judged) for record in run.sparse)
    results = run_results(
        StoredResults(store), run, Tolerance(ratio=10.0, points=100.0)
    )
    assert {result.verdict.verdict for result in results.sparse_models} == {"undecided"}


def test_rules_of_writing_that_are_not_heeded_are_said(task_settings, store, tmp_path):
    folder = shutil.copytree(task_settings.model, tmp_path / "m")
    file = folder / "generation_config.json"
    file.write_text(
        json.dumps(
            {
                "repetition_penalty": 1.3,
                "no_repeat_ngram_size": 0,
                "temperature": 0.7,
            }
        )
    )
    warnings = ran(
        replace(
            task_settings,
            model=str(folder),
            sparsities_permille=(500,),
        ),
        store,
    ).warnings
    (warning,) = (line for line in warnings if "without" in line)
    assert warning.startswith(
        "written: texts are written without repetition_penalty = 1.3, which the model's"
    )


def test_more_written_tokens_than_the_model_has_end_a_run_at_once(
    task_settings, store, tmp_path
):
    task = write_task(
        tmp_path,
        "long",
        passages(3),
        **WRITTEN | {"generation_kwargs": {"max_gen_toks": 10**6}},
    )
    with pytest.raises(CorpusError, match="long asks for 1,000,000 written tokens"):
        ran(
            replace(
                task_settings,
                evaluation=replace(task_settings.evaluation, tasks=(task,)),
            ),
            store,
        )


@pytest.mark.parametrize("passages_known", [False, True])
def test_streamed_models_answer_side_by_side_and_say_the_same(
    task_settings, settings, passages_known, store, tmp_path, monkeypatch
):
    resident = ran(task_settings, store)
    together = count_calls(monkeypatch, task_answering, "_answer")
    second_store = Store(tmp_path / "other")
    if passages_known:
        ran(replace(settings, residency="streamed"), second_store)
    streamed = ran(replace(task_settings, residency="streamed"), second_store)
    assert [len(models) for _, _, models, _ in together] == [3, 3]
    assert streamed.answers == resident.answers
    assert texts(second_store, streamed) == texts(store, resident)
    second_store.close()


def test_a_run_s_file_carries_its_answers(task_settings, store, tmp_path):
    run = ran(task_settings, store)
    second_store = Store(tmp_path / "other")
    keep_run(read_run_file(run_file(run, store)), second_store)
    assert second_store.get(Run, run.key) == run
    assert texts(second_store, run) == texts(store, run)
    second_store.close()
