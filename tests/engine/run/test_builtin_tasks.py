"""Built-in tasks of a run: answered without lm-evaluation-harness, as greedy writing would answer
them.
"""

from contextlib import nullcontext
from dataclasses import replace
from itertools import chain

import pytest

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.engine.evaluation.greedy_texts import write_greedily
from sparsedash.engine.run import task_answering
from sparsedash.schema.question_records import QuestionSet
from tests.engine.run.small_runs import ran


@pytest.fixture
def task_settings(settings, monkeypatch):
    def refuse(*_):
        raise AssertionError("the harness is called")

    monkeypatch.setattr(task_answering, "load_tasks", refuse)
    tasks = tuple(BUILTIN_TASKS)
    return replace(
        settings,
        evaluation=replace(
            settings.evaluation,
            tasks=tasks,
            task_limit=6,
        ),
    )


def test_every_model_answers_them_once_and_what_is_right_is_what_it_writes_greedily(
    task_settings, store, loaded
):
    steps = []
    run = ran(task_settings, store, steps.append)

    def answers_of(record):
        return [store.get(QuestionSet, key) for key in run.answers[record]]

    every_task = [(task.name, 6, task.points) for task in BUILTIN_TASKS.values()]
    for record in run.records:
        assert [
            (answers.task, len(answers.questions), answers.points)
            for answers in answers_of(record)
        ] == every_task
    questions = list(chain(*(answers.questions for answers in answers_of(run.dense))))
    parts = set(chain(*(task.parts for task in BUILTIN_TASKS.values())))
    assert {question.part for question in questions} == parts
    for question in questions:
        expected = f"{question.context} {question.target}"
        n = len(loaded.tokens(expected)) - len(
            prompt := loaded.tokens(question.context)
        )
        ((written,),) = write_greedily(
            loaded,
            [nullcontext],
            [prompt],
            n,
            [],
            lambda n: None,
        )
        assert question.right == (written.strip() == question.target)
        # A token may be half a character.
        assert question.text in ("�", question.target) or written.strip().startswith(
            question.text
        )
    steps.clear()
    assert ran(task_settings, store, steps.append).answers == run.answers
    assert not [step for step in steps if step.stage == "answer"]


def test_a_task_that_the_dense_model_cannot_do_is_left_out_with_a_reason(
    task_settings, store
):
    variant = replace(
        task_settings,
        evaluation=replace(
            task_settings.evaluation,
            tasks=("builtin:copying",),
            task_limit=60,
        ),
    )
    run = ran(variant, store)
    assert (
        run.warnings.count(
            "builtin:copying was left out: the dense model has 0 of 60 answers right."
        )
        == 1
    )
    assert not run.unanswered and not any(run.answers.values())
    assert ran(variant, store).answers == run.answers
