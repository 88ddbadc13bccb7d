"""A verdict over tasks on a page: its table, its questions by what became of them, and the report
in one file.
"""

from collections.abc import Sequence

from sparsedash.reporting.html import (
    Html,
    Table,
    element,
    escape,
    heading,
    paragraph,
    readable,
)
from sparsedash.reporting.record_pair import KIND_OF, KINDS, Kind, end_of
from sparsedash.reporting.run_reports import CONTEXT_SHOWN, FLIPS_SHOWN, html_page
from sparsedash.reporting.task_words import task_remarks, task_rows, tasks_sentence
from sparsedash.reporting.wording import first_upper, tolerance_words
from sparsedash.schema.question_records import AnsweredQuestion
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_verdicts import TaskResult

_CAPTION = (
    "Interval: behind the verdict, at the level in the next column. Still wrong: wrong answers that became other "
    "wrong ones. p: of no difference, after Holm over the tasks that are judged: exact McNemar; of documents by their"
    " interval. KL: mean divergence of the choices' probabilities from dense's, in nats. Documents are shown in bits "
    "a byte; their change is that of word perplexity."
)


def task_table(results: Sequence[TaskResult], addresses: Sequence[str] = ()) -> Table:
    """A row a task. addresses: of the questions of each."""
    head, *rows = task_rows(results)
    names = [row[0] for row in rows]
    links = [
        element("a", escape(name), href=to)
        for name, to in zip(names, addresses, strict=False)
    ]
    return Table(
        "Tasks",
        _CAPTION,
        [name if name == "p" else first_upper(name) for name in head],
        rows,
        links,
    )


def questions_by_kind(result: TaskResult) -> dict[Kind, list[int]]:
    """The places of a task's questions by what became of their answers; of documents all, the
    largest loss first.
    """
    pairs = result.pair.questions
    by_kind: dict[Kind, list[int]] = {kind: [] for kind in KINDS}
    for i, (dense, sparse) in enumerate(pairs):
        by_kind["all"].append(i)
        if dense.right is not None and sparse.right is not None:
            by_kind[KIND_OF[dense.right, sparse.right]].append(i)
    if result.pair.dense.kind == "rolling":
        by_kind["all"].sort(
            key=lambda i: _fall(*pairs[i]),
            reverse=True,
        )
    return by_kind


def _fall(dense: AnsweredQuestion, sparse: AnsweredQuestion) -> float:
    return (
        (dense.log_likelihood or 0.0) - (sparse.log_likelihood or 0.0)
    ) / dense.n_bytes


def answer_text(question: AnsweredQuestion) -> str:
    """A model's answer, in short: the choice it took, or what it wrote."""
    if question.chosen is not None:
        return readable(question.choices[question.chosen].text)
    if len(question.choices) > 1:
        return "no choice"
    if question.choices:
        return "its first choice" if question.right else "another word"
    return readable(question.text)


def task_report(
    name: str, results: Sequence[TaskResult], tolerance: Tolerance
) -> bytes:
    """The report in UTF-8: verdict, table, and the answers of each task that broke or were
    fixed.
    """
    return html_page(
        "Tasks",
        [
            heading(tasks_sentence(name, results)),
            *task_sections(results, tolerance),
        ],
    )


def task_sections(results: Sequence[TaskResult], tolerance: Tolerance) -> list[Html]:
    """What a report says under the sentence on a model's tasks."""
    body = [
        paragraph(
            f"{task_remarks(results)} Limits: {tolerance_words(tolerance)}.".strip(),
            css="sd-muted",
        ),
        element(
            "div",
            task_table(results).html,
            css="numbers",
        ),
    ]
    for result in results:
        kinds = questions_by_kind(result)
        for kind in ("broke", "fixed"):
            if kinds[kind]:
                title = f"{result.task}, {KINDS[kind].lower()}: {len(kinds[kind]):,}"
                body += [
                    element("h2", escape(title)),
                    _flips(result, title, kinds[kind]),
                ]
    return body


def _flips(result: TaskResult, title: str, places: Sequence[int]) -> Html:
    note = f"The first {FLIPS_SHOWN} of them." if len(places) > FLIPS_SHOWN else ""
    rows = []
    for i in places[:FLIPS_SHOWN]:
        dense, sparse = result.pair.questions[i]
        texts = (target_text(dense), answer_text(dense), answer_text(sparse))
        rows.append(
            [
                f"{i + 1:,}",
                end_of(dense.context, CONTEXT_SHOWN),
                *(text[:CONTEXT_SHOWN] for text in texts),
            ]
        )
    return Table(
        title,
        note,
        ["Question", "Context (end)", "Expected", "Dense", "Other model"],
        rows,
    ).html


def target_text(question: AnsweredQuestion) -> str:
    """The expected answer; where that is the number of a choice, its text."""
    choice = right_choice(question)
    return readable(
        question.target if choice is None else question.choices[choice].text
    )


def right_choice(question: AnsweredQuestion) -> int | None:
    """The place of the right choice; None where it is not known.

    A number is its place or its text: where these differ, which one shows in the choice taken,
    being right or wrong.
    """
    target = question.target.strip()
    choices = [choice.text.strip() for choice in question.choices]
    if len(choices) < 2:
        return None
    places = {choices.index(target)} if target in choices else set[int]()
    if question.target_place is not None:
        places.add(question.target_place)
    if len(places) > 1:
        places = (
            places & {question.chosen} if question.right else places - {question.chosen}
        )
    return places.pop() if len(places) == 1 else None
