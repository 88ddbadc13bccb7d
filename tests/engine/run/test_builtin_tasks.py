"""Built-in tasks of a run: answered without lm-evaluation-harness, as greedy writing would answer them."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.engine.evaluation.continuations import write_greedily
from sparsedash.engine.run import pipeline, run_context
from sparsedash.schema.question_records import QuestionSet


@pytest.fixture
def asked(settings, monkeypatch):
    def refuse(*_):
        raise AssertionError("the harness is asked for nothing")

    monkeypatch.setattr(run_context, "load_tasks", refuse)
    tasks = tuple(BUILTIN_TASKS)
    return replace(settings, evaluation=replace(settings.evaluation, tasks=tasks, task_limit=6))


def test_every_model_answers_them_once_and_what_is_right_is_what_it_writes_greedily(asked, store, loaded):
    steps = []
    run = pipeline.run(asked, store, steps.append)
    sets = [[store.get(QuestionSet, key) for key in run.answers[record]] for record in run.records]
    assert [[(own.task, len(own.questions), own.points) for own in each] for each in sets] == [
        [("arithmetic", 6, 5.0), ("copying", 6, 5.0)]
    ] * 3
    assert {question.part for own in sets[0] for question in own.questions} == {
        *("sums", "counting on", "words", "digits")
    }
    for question in (question for own in sets[0] for question in own.questions):
        expected = f"{question.context} {question.target}"
        n = len(loaded.tokens(expected)) - len(prompt := loaded.tokens(question.context))
        ((written,),) = write_greedily(loaded, [nullcontext], [prompt], n, [], lambda n: None)
        assert question.right == (written.strip() == question.target)
        assert question.text == question.target or written.strip().startswith(question.text)
    steps.clear()
    assert pipeline.run(asked, store, steps.append).answers == run.answers
    assert not [step for step in steps if step.stage == "answer"]
