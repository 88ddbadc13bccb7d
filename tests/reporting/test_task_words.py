"""What is said of a verdict over tasks."""

import json

from sparsedash.reporting.task_words import judge_document, task_rows, tasks_sentence
from sparsedash.stats.task_verdicts import judge_tasks, pair_answers
from sparsedash.stats.tolerance import Tolerance
from tests.question_sets import answered, rolled, verdicts

WITHIN, BEYOND = verdicts(1800, 100, 100, task="piqa"), verdicts(1600, 300, 100, task="gsm8k")
OPEN, HARD = verdicts(170, 20, 10, task="boolq"), verdicts(3, wrong=50, task="arc")
TEXT = answered(*(rolled(i, -30.0 - i % 3) for i in range(40)), task="wiki", measure="bits a byte")


def judged(*tasks):
    return judge_tasks([pair_answers(*task) for task in tasks], Tolerance())


def test_the_sentence_says_where_a_model_is_beyond_within_undecided_and_not_judged():
    said = tasks_sentence("small", judged(WITHIN, BEYOND, OPEN, HARD))
    assert said.replace("\u00a0", " ").startswith(
        "small costs too much on gsm8k: accuracy −10.0 points (limit −2). "
        "Within the limit on piqa; too close to call on boolq. About "
    )
    assert said.endswith("arc is not judged: dense has 3 right answers, fewer than 20.")


def test_the_sentence_names_what_is_within_or_that_nothing_can_be_judged():
    assert tasks_sentence("small", judged(WITHIN, (TEXT, TEXT))) == "small stays within the limit on piqa and wiki."
    assert tasks_sentence("small", judged(HARD)).startswith("Nothing can be judged. arc is not judged")
    few = tasks_sentence("small", judged(verdicts(29, task="few")))
    assert few == ("small is too close to call on few. Fewer than 30 questions can never confirm a model: few has 29.")


def test_the_table_has_a_row_a_task():
    head, *rows = task_rows(judged(WITHIN, (TEXT, TEXT), HARD))
    piqa, wiki, arc = (dict(zip(head, row, strict=True)) for row in rows)
    assert [piqa[name] for name in ("questions", "change", "broke", "fixed", "verdict")] == [
        "2,000",
        "0.0 points",
        "100",
        "100",
        "✓ within",
    ]
    assert (wiki["measure"], wiki["change"], wiki["broke"]) == ("bits a byte", "1.00 ×", "")
    assert (arc["change"], arc["verdict"]) == ("", "not judged")


def test_the_document_is_plain_json_even_without_an_interval():
    one = answered(rolled(0, -30.0))
    document = json.loads(json.dumps(judge_document("small", judged((one, one), BEYOND), Tolerance()), allow_nan=False))
    text, sums = document["tasks"]
    assert (document["format"], document["verdict"]) == ("sparsedash.judge/1", "beyond")
    assert (text["loss"]["low"], text["verdict"]) == (None, "undecided")
    assert (sums["task"], sums["kind"], sums["broke"], sums["loss"]["most"]) == ("gsm8k", "generation", 300, 0.02)
