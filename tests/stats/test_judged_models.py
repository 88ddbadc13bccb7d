"""Several models judged together, and ranked with ties."""

import random
from dataclasses import replace

import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.judged_models import judge_models, rank_models
from sparsedash.stats.significance import mcnemar
from sparsedash.stats.task_pairs import pair_answers
from sparsedash.stats.task_verdicts import judge_tasks
from tests.question_sets import answered, question, rolled


def model(n_wrong, n=400, task="sums", start=0):
    """Answers of which the first n_wrong are wrong, their questions numbered from start."""
    return answered(*(question(start + i, i >= n_wrong) for i in range(n)), task=task)


def ranked(**wrong):
    dense = [model(0)]
    models = {name: [model(n)] for name, n in wrong.items()}
    return rank_models(judge_models(dense, models, Tolerance()), "dense")


def test_verdicts_are_those_of_all_models_together():
    dense = [model(0), model(0, task="facts", start=400)]
    models = {
        "a": [model(4), model(0, task="facts", start=400)],
        "b": [model(80)],
    }
    a, b = judge_models(dense, models, Tolerance(points=5)).values()
    pairs = [
        *(pair_answers(one, two) for one, two in zip(dense, models["a"], strict=True)),
        pair_answers(dense[0], models["b"][0]),
    ]
    together = judge_tasks(pairs, Tolerance(points=5))
    assert [result.loss for result in (*a.results, *b.results)] == [
        result.loss for result in together
    ]
    assert b.notes == ["Questions of facts left out: 400, answered by one model only."]


def test_models_rank_below_those_that_are_shown_to_be_better_and_others_tie():
    ranking = ranked(a=100, b=3, c=95)
    places = [(model.name, model.rank, model.ties) for model in ranking.models]
    assert places == [
        ("dense", 1, ("b",)),
        ("b", 1, ("dense",)),
        ("c", 3, ("a",)),
        ("a", 3, ("c",)),
    ]
    assert mcnemar(3, 0) > 0.05 > mcnemar(5, 0) * 0.5
    assert ranking.n_questions == 400
    worst = ranking.models[-1]
    assert worst.change == pytest.approx(-0.25)
    assert worst.low < -0.25 < worst.high < 0
    assert ranking.level == pytest.approx(1 - 0.05 / 3)


def test_only_questions_that_all_answered_count_and_documents_do_not():
    dense = [
        model(0),
        answered(*(rolled(i, -20.0 - i) for i in range(40)), task="texts"),
    ]
    models = {
        "a": [
            model(0, n=300),
            answered(*(rolled(i, -21.0 - i) for i in range(40)), task="texts"),
        ],
        "b": [model(0, n=300, start=100)],
    }
    ranking = rank_models(judge_models(dense, models, Tolerance()), "dense")
    assert (ranking.n_questions, ranking.tasks) == (200, ("sums",))
    few = {"a": [model(0, n=300)], "b": [model(0, n=110, start=290)]}
    assert rank_models(judge_models(dense, few, Tolerance()), "dense") is None


def test_each_task_counts_alike_and_what_differs_between_tasks_is_no_error():
    dense = [model(0), model(0, n=40, task="facts", start=400)]
    models = {"a": [model(0), model(40, n=40, task="facts", start=400)]}
    (first, last) = rank_models(
        judge_models(dense, models, Tolerance()), "dense"
    ).models
    assert (first.name, last.score) == ("dense", 0.5)
    # Each task lost all or nothing: by itself neither varies.
    assert last.high - last.low < 0.1


def test_an_answer_that_cannot_be_paired_is_refused():
    odd = replace(model(0), measure="acc")
    with pytest.raises(CorpusError, match="different measures"):
        judge_models([model(0)], {"a": [odd]}, Tolerance())


def test_equal_models_are_called_different_in_at_most_a_twentieth_of_draws():
    chance = random.Random(7)
    n_wrong = 0
    for _ in range(200):
        sets = {}
        for i in range(4):
            row = [chance.random() < 0.7 for _ in range(120)]
            first = answered(*map(question, range(60), row[:60]))
            second = answered(*map(question, range(60), row[60:]), task="facts")
            sets[f"{i}"] = [first, second]
        dense = sets.pop("0")
        ranking = rank_models(judge_models(dense, sets, Tolerance()), "0")
        n_wrong += any(model.rank > 1 for model in ranking.models)
    assert n_wrong <= 16
