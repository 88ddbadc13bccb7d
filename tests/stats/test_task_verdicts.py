"""Verdicts over tasks: which questions are paired, what is judged, and how tasks are judged
together.
"""

from dataclasses import replace
from math import exp, log

import pytest

from sparsedash.schema.errors import CorpusError, SettingsError
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_pairs import pair_answers, pair_tasks
from sparsedash.stats.task_verdicts import judge_tasks, overall_verdict
from tests.question_sets import answered, question, rolled, scored, verdicts


def judge(*tasks, **tolerance):
    return judge_tasks([pair_answers(*task) for task in tasks], Tolerance(**tolerance))


def test_questions_are_paired_by_document_in_any_order_and_one_that_repeats_another_is_left_out():
    dense = answered(
        question(0),
        question(1),
        question(0, right=False),
        question(2),
    )
    other_answers = answered(
        question(3),
        question(0),
        question(0, right=False),
        question(1),
    )
    pair = pair_answers(dense, other_answers)
    assert [(one.doc_hash, one.right, two.right) for one, two in pair.questions] == [
        ("doc 0", True, True),
        ("doc 1", True, True),
    ]
    assert pair_tasks([dense], [other_answers])[1] == [
        "Questions of sums left out: 2, answered by one model only.",
        "Questions of sums left out: 1, repeats of another.",
    ]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (
            answered(question(0), question(1, prompt_hash="x")),
            r"^sums was asked differently: the prompt differs in 1 of 2 questions",
        ),
        (
            answered(question(0), question(1, target_hash="x")),
            "the expected answer differs in 1 of 2",
        ),
        (
            answered(scored(-1, -2), scored(-1, -2, i=1)),
            "the kind of answer differs in 2 of 2",
        ),
        (answered(question(7)), "no question of sums in common"),
        (answered(question(0), measure="f1"), "different measures: exact_match and f1"),
        (answered(question(0), version="2"), "different versions: 1 and 2"),
    ],
)
def test_a_pair_that_was_asked_or_judged_differently_is_refused_by_name(other, why):
    with pytest.raises(CorpusError, match=why):
        pair_answers(answered(question(0), question(1), version="1"), other)


def test_questions_with_other_choices_are_refused():
    one = scored(-1, -2)
    changed = replace(
        one,
        choices=tuple(
            replace(choice, text=f"{choice.text}!") for choice in one.choices
        ),
    )
    with pytest.raises(CorpusError, match="the text of the choices differs in 1 of 1"):
        pair_answers(answered(one), answered(changed))


def test_a_document_is_paired_with_the_same_part_where_there_are_several():
    law, art = (question(0, fields={"part": part}) for part in ("law", "art"))
    swapped = answered(law, replace(art, right=False))
    pairs = pair_answers(
        swapped, answered(replace(art, prompt_hash=law.prompt_hash))
    ).questions
    assert [one.part for one, _ in pairs] == ["art"]
    # Of one part each, whatever the files' names say.
    assert len(pair_answers(answered(law), answered(art)).questions) == 1


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({"both": 1800, "broke": 100, "fixed": 100}, "within"),
        ({"both": 1700, "broke": 200, "fixed": 100}, "beyond"),
        ({"both": 170, "broke": 20, "fixed": 10}, "undecided"),
        ({"both": 29}, "undecided"),
        ({"both": 19, "wrong": 2000}, "not judged"),
    ],
)
def test_a_task_is_judged_by_its_flips_against_the_limit(counts, verdict):
    (result,) = judge(verdicts(**counts))
    assert result.verdict == verdict
    assert overall_verdict([result]) == verdict


def test_a_task_s_own_limit_holds_where_the_tolerance_is_narrower():
    own_points = tuple(
        replace(answers, points=5.0) for answers in verdicts(440, 30, 30)
    )
    assert [
        result.loss.most for result in judge(own_points, verdicts(440, 30, 30))
    ] == [0.05, 0.02]
    (wide,) = judge_tasks([pair_answers(*own_points)], Tolerance(points=8.0))
    assert (wide.loss.most, wide.verdict) == (0.08, "within")
    # Named, the limit is the visitor's even where the task's is wider.
    (named,) = judge_tasks(
        [pair_answers(*own_points)],
        Tolerance(
            points=8.0,
            tasks=((own_points[0].task, 3.0),),
        ),
    )
    assert (named.loss.most, named.own_limit) == (0.03, 3.0) and wide.own_limit is None


@pytest.mark.parametrize(
    "tasks", [(("", 3.0),), (("sums", 0.0),), (("sums", float("nan")),)]
)
def test_an_impossible_limit_of_a_task_is_refused(tasks):
    with pytest.raises(SettingsError):
        Tolerance(tasks=tasks)


def biased(n_stereotypes, n=1000, **values):
    """Answers of which so many are the stereotype, as the reader inverts them."""
    questions = [
        replace(scored(-1, -2, i=i), right=i >= n_stereotypes) for i in range(n)
    ]
    return answered(
        *questions,
        **{
            "task": "crows",
            "measure": "pct_stereotype",
            "higher_is_better": False,
            **values,
        },
    )


def test_a_model_that_became_more_biased_costs_too_much_and_one_that_became_less_so_does_not():
    dense = biased(600)
    (more,) = judge((dense, biased(800)))
    (less,) = judge((dense, biased(400)))
    # More stereotypes than guessing gives are no reason not to judge: there can be more still.
    assert (more.verdict, more.broke, more.fixed) == ("beyond", 200, 0)
    assert (less.verdict, less.broke, less.fixed) == ("within", 0, 200)


def test_answers_stored_without_a_direction_or_with_another_one_are_refused_by_the_measure():
    for second, why in (
        (biased(600, higher_is_better=None), "different measures"),
        (biased(600, higher_is_better=True), "different measures"),
    ):
        with pytest.raises(CorpusError, match=why):
            pair_answers(biased(600), second)
    stored = biased(600, higher_is_better=None)
    with pytest.raises(
        CorpusError,
        match="higher or lower is better of pct_stereotype, by which crows is judged",
    ):
        pair_answers(stored, stored)


def test_the_chance_of_a_wrong_verdict_is_shared_by_all_tasks_that_are_judged_and_undecided():
    alone = verdicts(900, 50, 50)
    open_ = verdicts(90, 5, 5, task="open")
    unjudged = verdicts(5, wrong=50, task="hard")
    assert judge(alone)[0].loss.level == 0.9
    result = judge(verdicts(1800, 100, 100), open_, unjudged)
    assert result[2].p_value is None
    # The first is within by half of the chance and leaves the second the whole of it.
    assert [(task.verdict, task.loss and task.loss.level) for task in result] == [
        ("within", 0.95),
        ("undecided", 0.9),
        ("not judged", None),
    ]
    assert overall_verdict(result) == "undecided"
    assert overall_verdict(judge(verdicts(1800, 100, 100), unjudged)) == "within"
    assert (
        overall_verdict(judge(open_, verdicts(1700, 200, 100, task="lost"))) == "beyond"
    )


def test_a_dense_model_that_only_guesses_is_not_judged():
    dense = answered(*(scored(-1, -2, i=i, right=i < 55) for i in range(100)))
    (result,) = judge((dense, dense))
    assert (result.dense, result.not_judged) == (0.55, "chance")
    # Of all its questions, those that the other answered too.
    easy = answered(
        *dense.questions, *(scored(-1, *[-2] * 9, i=i) for i in range(100, 900))
    )
    assert judge((easy, dense))[0].not_judged == "chance"


def test_flips_wrong_answers_that_moved_and_the_divergence_of_the_choices_are_counted():
    dense = answered(
        scored(-1, -1, i=0),
        scored(
            -3,
            -2,
            i=1,
            right=False,
        ),
        scored(
            -3,
            -2,
            i=2,
            right=False,
        ),
    )
    sparse = answered(
        scored(log(0.9), log(0.1), i=0),
        scored(-2, -3, i=1, right=False),
        scored(-3, -2, i=2, right=False),
    )
    (result,) = judge((dense, sparse))
    # KL of (1/2, 1/2) from (0.9, 0.1); of the swapped pair p log(p / q) + q log(q / p) with p - q =
    # tanh(1/2).
    p = 1 / (1 + exp(-1))
    expected = (0.5 * log(0.5 / 0.9) + 0.5 * log(0.5 / 0.1) + 2 * p - 1) / 3
    assert (result.broke, result.fixed, result.moved) == (0, 0, 1)
    assert result.divergence == pytest.approx(expected)


def test_documents_are_judged_by_word_perplexity_and_shown_in_bits_a_byte():
    def documents(more):
        fallen = [more * (1 + i % 2 + 0.1 * (-1) ** (i // 2)) for i in range(40)]
        return answered(
            *(
                rolled(i, -30.0 - nats, n_words=10 + 10 * (i % 2))
                for i, nats in enumerate(fallen)
            )
        )

    (result,) = judge((documents(0), documents(0.5)))
    # 1.5 nats more in 30 words, with a little spread.
    assert result.loss.value == pytest.approx(0.05)
    assert result.loss.high - result.loss.low < 0.01
    assert (result.verdict, result.loss.most) == ("within", pytest.approx(log(1.1)))
    assert result.dense == pytest.approx(60 / log(2) / 180)
    assert judge((documents(0), documents(2)))[0].verdict == "beyond"


@pytest.mark.parametrize("n", [2, 40])
@pytest.mark.parametrize("fallen", [0.3, 30.0])
def test_few_documents_or_all_with_the_same_change_settle_nothing(n, fallen):
    dense = answered(*(rolled(i, -30.0, n_words=3) for i in range(n)))
    sparse = answered(*(rolled(i, -30.0 - fallen, n_words=3) for i in range(n)))
    (result,) = judge((dense, sparse))
    assert (result.verdict, result.p_value, result.loss.needed) == (
        "undecided",
        1.0,
        None,
    )


def test_how_many_questions_would_settle_a_task_without_flips_is_not_known():
    (result,) = judge(verdicts(40))
    assert (result.verdict, result.loss.needed) == ("undecided", None)
