"""What is said of a verdict over tasks."""

import json
import re
from dataclasses import replace

from sparsedash.reporting.charts.task_chart import task_chart, task_words
from sparsedash.reporting.task_report import (
    answer_text,
    right_choice,
    target_text,
    task_report,
)
from sparsedash.reporting.task_words import (
    idle_limits,
    judge_document,
    task_remarks,
    task_rows,
    tasks_sentence,
)
from sparsedash.schema.question_records import ScoredChoice
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_pairs import pair_answers
from sparsedash.stats.task_verdicts import judge_tasks
from tests.factories import plain
from tests.question_sets import answered, rolled, scored, verdicts

WITHIN = verdicts(
    1800,
    100,
    100,
    task="piqa",
)
BEYOND = verdicts(
    1600,
    300,
    100,
    task="gsm8k",
)
OPEN = verdicts(
    170,
    20,
    10,
    task="boolq",
)
HARD = verdicts(3, wrong=50, task="arc")
TEXT = answered(
    *(rolled(i, -30.0 - i % 3) for i in range(40)),
    task="wiki",
    measure="bits a byte",
)


def judged(*tasks):
    return judge_tasks(
        [pair_answers(*task) for task in tasks],
        Tolerance(),
    )


def test_the_sentence_says_where_a_model_is_beyond_within_and_undecided_and_remarks_say_the_rest():
    results = judged(
        WITHIN,
        BEYOND,
        OPEN,
        HARD,
    )
    assert plain(tasks_sentence("small", results)) == (
        "small costs too much: gsm8k −10.0 points (limit −2). Within the limit on piqa; too close to call on boolq."
    )
    settle, why_not = task_remarks(results).split(" arc ")
    assert re.fullmatch(
        r"About [\d,]+ questions of boolq would settle it\.",
        settle,
    )
    assert why_not == "is not judged: dense has 3 right answers, fewer than 20."


def test_the_sentence_names_what_is_within_or_that_nothing_can_be_judged():
    assert (
        tasks_sentence("small", judged(WITHIN, (TEXT, TEXT)))
        == "small stays within the limit on piqa and wiki."
    )
    assert tasks_sentence("small", judged(HARD)) == "Nothing can be judged."
    few = judged(verdicts(29, task="few"))
    assert tasks_sentence("small", few) == "small is too close to call on few."
    same, can_never = task_remarks(few).split(". ", 1)
    assert same == "All 29 answers are the same as the baseline's"
    assert can_never == "Fewer than 30 questions can never confirm a model: few has 29."
    # 2.2 points lost where two are allowed.
    near = judged(
        verdicts(
            429,
            41,
            30,
            task="near",
        )
    )
    settled = "too close to the limit to be settled by more questions."
    assert task_remarks(near) == f"near is {settled}"
    nearer = judged(verdicts(429, 41, 30, task="nearer"))
    assert task_remarks([*near, *nearer]) == f"near and nearer are {settled}"


def test_a_task_s_own_limit_is_said():
    named_sets = tuple(
        replace(answers, points=5.0)
        for answers in verdicts(
            470,
            30,
            30,
            task="copying",
        )
    )
    results = judged(named_sets, WITHIN)
    assert (
        tasks_sentence("small", results)
        == "small stays within the limit on copying and piqa."
    )
    assert task_remarks(results) == "Limit on copying: 5 points."


def test_the_table_has_a_row_a_task():
    head, *rows = task_rows(judged(WITHIN, (TEXT, TEXT), HARD))
    piqa, wiki, arc = (dict(zip(head, row, strict=True)) for row in rows)
    assert [
        piqa[name] for name in ("questions", "change", "broke", "fixed", "verdict")
    ] == [
        "2,000",
        "0.0 points",
        "100",
        "100",
        "✓ within",
    ]
    assert (wiki["measure"], wiki["change"], wiki["broke"]) == (
        "bits a byte",
        "1.00 ×",
        "",
    )
    assert (arc["change"], arc["verdict"], arc["p"]) == ("", "not judged", "")


def test_the_document_is_plain_json_even_without_an_interval():
    one, low = (answered(rolled(0, log_likelihood)) for log_likelihood in (-30.0, -1e9))
    document = json.loads(
        json.dumps(
            judge_document(
                "small",
                judged((one, low), BEYOND),
                Tolerance(),
            ),
            allow_nan=False,
        )
    )
    text, sums = document["tasks"]
    assert (document["format"], document["verdict"]) == ("sparsedash.judge/1", "beyond")
    assert (text["loss"]["low"], text["verdict"]) == (None, "undecided")
    assert (sums["task"], sums["kind"], sums["broke"], sums["loss"]["most"]) == (
        "gsm8k",
        "generation",
        300,
        0.02,
    )


def test_limits_that_hold_nowhere_are_named():
    one = answered(rolled(0, -30.0))
    results = judged((one, one))
    text = idle_limits(
        results,
        Tolerance(tasks=((results[0].task, 3.0), ("piqua", 1.0))),
    )
    assert text == [
        f"Limits name piqua, but the answers are of {results[0].task}.",
        f"No answer of {results[0].task} is right or wrong: the limit of word perplexity holds.",
    ]


def test_the_chart_has_a_line_a_judged_task_and_what_is_far_beyond_stands_at_the_edge_with_its_value():
    results = judged(WITHIN, BEYOND, HARD)
    figure = task_chart(results, "dark")
    _, points = figure.data
    # Of 10 points at a limit of 2.
    assert list(points.x) == [0.0, 5.0]
    assert list(points.marker.symbol) == ["circle", "triangle-right"]
    assert list(figure.layout.yaxis.ticktext) == ["piqa", "gsm8k"]
    assert [note.text for note in figure.layout.annotations] == ["✓", "✕", "5.0"]
    assert (
        task_words(results)
        == "Loss as a multiple of the acceptable loss: piqa 0.0, within; gsm8k 5.0, beyond."
    )


def test_the_report_is_one_page_with_the_answers_that_broke_and_no_markup_of_theirs():
    dense, sparse = verdicts(
        80,
        15,
        5,
        task="<b>sums</b>",
    )
    page = task_report(
        "small",
        judged((dense, sparse)),
        Tolerance(),
    ).decode()
    assert "&lt;b&gt;sums&lt;/b&gt;, broke: 15" in page and "<b>sums" not in page
    assert "script" not in page


def test_where_lower_is_better_the_table_and_the_document_say_so():
    sets = [
        replace(
            answers,
            measure="pct_stereotype",
            higher_is_better=False,
        )
        for answers in verdicts(80, 15, 5)
    ]
    results = judged(tuple(sets))
    head, row = task_rows(results)
    assert row[head.index("measure")] == "pct_stereotype (lower is better, inverted)"
    (task,) = judge_document("small", results, Tolerance())["tasks"]
    assert (task["measure"], task["inverted"]) == ("pct_stereotype", True)


def test_where_no_choice_is_the_first_one_none_is_shown():
    assert answer_text(replace(scored(-1, -2), chosen=None)) == "no choice"


def test_the_right_choice_is_found_by_its_number_or_its_text():
    by_number = scored(-1, -2)
    by_text = replace(scored(-1, -2), target="choice 1")
    assert (right_choice(by_number), target_text(by_text), right_choice(by_text)) == (
        0,
        "choice 1",
        1,
    )
    assert right_choice(replace(by_number, target="nothing")) is None
    assert right_choice(replace(by_number, target="00000019")) is None
    # The target "1" is the text of the first choice and the place of the second.
    numbers = [ScoredChoice(text=text, log_likelihood=-1.0) for text in ("1", "2", "3")]
    odd = replace(
        by_number,
        target="1",
        choices=tuple(numbers),
    )
    assert [
        right_choice(replace(odd, chosen=place, right=right))
        for place, right in ((0, True), (0, False), (2, False))
    ] == [0, 1, None]


def test_a_copy_of_the_baseline_is_called_one():
    """Somebody may have added a file twice."""
    same = judged(verdicts(40, task="sums"))
    remark = "All 40 answers are the same as the baseline's."
    assert task_remarks(same).startswith(remark)
    assert "the same" not in task_remarks(judged(verdicts(40, 1, task="sums")))
