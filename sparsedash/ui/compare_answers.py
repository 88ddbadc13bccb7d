"""Two models' answers to a task, of another program or of a run, question by question: filters,
choices, texts.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.reporting.html import Html, Table, element, escape, paragraph
from sparsedash.reporting.record_pair import (
    KIND_OF,
    KINDS,
    Kind,
    end_of,
    mark_divergence,
)
from sparsedash.reporting.task_report import (
    answer_text,
    questions_by_kind,
    right_choice,
    target_text,
)
from sparsedash.reporting.task_words import tasks_sentence
from sparsedash.reporting.wording import DENSE, first_upper, likelihood, quantity
from sparsedash.schema.question_records import AnsweredQuestion
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.stats.task_verdicts import JudgedAnswers, TaskResult, choice_logs
from sparsedash.ui import address_bar, judged_files, task_answers, widgets
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.compare_rows import short_cell, show_rows
from sparsedash.ui.judged_files import OPEN
from sparsedash.ui.navigation import current_tolerance

TASK = "task"
SLICE = "slice"
KIND = "filter"
QUESTION = "question"
"""Parameters of the address."""
_SHOWN_CHARACTERS = 20_000
_FIRST_KINDS: tuple[Kind, ...] = ("broke", "fixed", "both-wrong", "all")


def show_questions(backend: Backend) -> None:
    """Draw the page."""
    shown = judged_files.opened(backend)
    address = shown.address
    if shown.judged is None:
        widgets.opening("These answers cannot be compared.")
        widgets.note("A file is missing, or the two models were asked differently.")
        widgets.link("overview", "See the files", **address, **{OPEN: "1"})
        return
    place = st.container()
    names = {key: shown.names[key] for key in shown.judged}
    chosen = next(iter(names))
    if len(names) > 1:
        chosen = address_bar.select(
            RIGHT, "Model", names, chosen, along=_FORGET, noun="model"
        )
    titles = shown.names[shown.baseline], shown.names[chosen]
    _show(shown.judged[chosen], names[chosen], titles, place)
    with widgets.row():
        widgets.link("overview", "Back to all tasks", **address)


def show_run_questions(backend: Backend, run: Run) -> None:
    """Draw the questions of a run's tasks, of the sparse model that the address names."""
    judged = task_answers.named_answers(
        run, backend.answers.of_run(run, current_tolerance())
    )
    if not judged:
        widgets.opening("There are no answers to the tasks yet.")
        widgets.note("The run adds them model by model. Resume it if it has ended.")
        return
    place = st.container()
    names = {name: name for name in judged}
    name = address_bar.select(
        RIGHT, "Sparse model", names, next(iter(names)), along=_FORGET, noun="model"
    )
    _show(judged[name], name, (first_upper(DENSE), name), place)
    with widgets.row():
        widgets.link("overview", "Back to all tasks", run=run.key, **{RIGHT: name})


def _show(
    judged: JudgedAnswers, name: str, titles: tuple[str, str], place: DeltaGenerator
) -> None:
    """name: of the model in sentences. titles: above both answers. place: of the opening
    sentence.
    """
    by_task = {result.task: result for result in judged.results}
    choosing, filtering, slicing = st.columns(3)
    with choosing:
        task = address_bar.select(
            TASK,
            "Task",
            {name: name for name in by_task},
            next(iter(by_task)),
            along=_FORGET,
        )
    result = by_task[task]
    with place:
        widgets.opening(tasks_sentence(name, [result]))
    slices = [_slices(dense) for dense, _ in result.pair.questions]
    counts = Counter(chain.from_iterable(slices))
    changes = _changes(result, slices)
    options = {"": f"All · {len(slices):,}"}
    for slice_name, n in counts.items():
        if 1 < n < len(slices):
            label = f"{slice_name} · {n:,}"
            for kind in _CHANGED:
                if n_changed := changes[slice_name, kind]:
                    label += f", {n_changed:,} {kind}"
            options[slice_name] = label
    chosen = ""
    if len(options) > 1:
        with slicing:
            chosen = address_bar.select(
                SLICE,
                "Slice",
                options,
                "",
                along={KIND: "", QUESTION: ""},
                noun="slice",
            )
    searched = st.text_input(
        "Search in the questions and answers",
        key="search",
        bind=address_bar.BOUND,
        max_chars=200,
        type="search",
    )
    kinds: dict[str, list[int]] = {}
    counted: dict[str, str] = {}
    for kind, places in questions_by_kind(result).items():
        kinds[kind] = [
            i
            for i in places
            if (not chosen or chosen in slices[i])
            and _holds(result.pair.questions[i], searched)
        ]
        if kinds[kind]:
            counted[kind] = f"{KINDS[kind]} · {len(kinds[kind]):,}"
    if not counted:
        widgets.note("No question or answer holds this text. Clear the search.")
        return
    usual = next(kind for kind in _FIRST_KINDS if kinds[kind])
    with filtering:
        shown = address_bar.select(
            KIND, "Answers", counted, usual, along={QUESTION: ""}, noun="kind"
        )
    _show_question(result, kinds[shown], titles)


_CHANGED: tuple[Kind, ...] = ("broke", "fixed")


def _changes(
    result: TaskResult, slices: Sequence[Sequence[str]]
) -> Counter[tuple[str, Kind]]:
    """Numbers of answers of each kind in each slice. slices: those of every question."""
    changes = Counter[tuple[str, Kind]]()
    for names, (dense, sparse) in zip(slices, result.pair.questions, strict=True):
        if dense.right is not None and sparse.right is not None:
            kind = KIND_OF[dense.right, sparse.right]
            changes.update((name, kind) for name in names)
    return changes


def _holds(
    questions: tuple[AnsweredQuestion, AnsweredQuestion], searched: str | None
) -> bool:
    """Whether a question or one of its answers holds the text, in letters of any case."""
    if not searched:
        return True
    texts = [
        questions[0].context,
        target_text(questions[0]),
        *map(answer_text, questions),
    ]
    return any(searched.casefold() in text.casefold() for text in texts)


_FORGET = {SLICE: "", KIND: "", QUESTION: ""}


def _slices(question: AnsweredQuestion) -> list[str]:
    """The task's own fields of a question, such as its subject."""
    return [f"{name}: {value}" for name, value in question.fields.items()]


def _show_question(
    result: TaskResult, places: list[int], titles: tuple[str, str]
) -> None:
    """titles: of the two models."""
    number = address_bar.query_value(QUESTION)
    place = places.index(int(number) - 1) if number in map(_number, places) else 0

    def query(at: int) -> dict[str, str] | None:
        return {QUESTION: _number(places[at])} if 0 <= at < len(places) else None

    # On a phone the columns stand one below the other: the question first.
    with st.container(key="compared"):
        reading, listing = st.columns([3, 2], gap="large")
    with reading:
        steps = [
            ("Previous", "chevron_left", query(place - 1), "K"),
            ("Next", "chevron_right", query(place + 1), "J"),
        ]
        address_bar.draw_steps(
            "step", steps, f"{place + 1:,} of {len(places):,}", "secondary"
        )
        questions = result.pair.questions[places[place]]
        _show_texts(f"Question {places[place] + 1:,}", questions, titles)
    with listing:
        heads = ["Question", "Expected", *titles]
        if questions[0].right is None:
            heads = ["Document", "begins with", *titles]

        def row(at: int) -> tuple[str, str]:
            return _row(places[at], result.pair.questions[places[at]])

        show_rows("rows-questions", heads, len(places), row, place, query)


def _number(position: int) -> str:
    """Name of a question in the address and on the page."""
    return str(position + 1)


def _row(
    position: int, questions: tuple[AnsweredQuestion, AnsweredQuestion]
) -> tuple[str, str]:
    """The question's number, and its cells: the expected answer, "✓" or "✕" with the wrong one for
    each model; of a document its beginning and both log-likelihoods.
    """
    dense = questions[0]
    if dense.right is None:
        nats = [f"*{question.log_likelihood:,.1f} nats*" for question in questions]
        return (
            f"{position + 1:,}",
            f"**{short_cell(target_text(dense))}** {' '.join(nats)}",
        )
    answers = [
        "*✓*" if question.right else f"*✕ {short_cell(answer_text(question))}*"
        for question in questions
    ]
    return (
        f"{position + 1:,}",
        f"**{short_cell(target_text(dense))}** {' '.join(answers)}",
    )


def _show_texts(
    name: str,
    questions: tuple[AnsweredQuestion, AnsweredQuestion],
    titles: tuple[str, str],
) -> None:
    """Draw a question with both answers. titles: of the two models."""
    dense = questions[0]
    title = " · ".join([name, *_slices(dense)])
    context = end_of(dense.context, _SHOWN_CHARACTERS)
    widgets.show(
        element("h2", escape(title), css="sd-muted sd-small sd-passage-number"),
        element(
            "div",
            element("p", escape(context), css="sd-passage"),
            css="sd-reader",
            role="region",
            aria_label="The question",
            tabindex="0",
        ),
    )
    widgets.show(_answers(questions, titles))
    if dense.right is not None:
        widgets.show(paragraph(f"Expected: {target_text(dense)}"))
    if len(dense.choices) > 1:
        widgets.show_table(_choices(questions, titles))


def _answers(
    questions: tuple[AnsweredQuestion, AnsweredQuestion], titles: tuple[str, str]
) -> Html:
    """Both answers with their verdicts; of written ones a mark where they diverge."""
    dense = questions[0]
    if dense.right is None:
        texts = [
            escape(
                f"{question.log_likelihood:,.1f} nats over {quantity(question.n_bytes, 'byte')}"
            )
            for question in questions
        ]
    elif dense.choices:
        texts = [escape(answer_text(question)) for question in questions]
    else:
        texts = list(mark_divergence(*map(answer_text, questions)))
    sections = []
    for title, css, text, question in zip(
        titles, ("sd-dense", "sd-sparse"), texts, questions, strict=True
    ):
        section = element(
            "section",
            element("h3", escape(title)),
            element("p", text, css="sd-written"),
            paragraph(_verdict(question), css="sd-muted"),
            css=f"sd-answer {css}",
        )
        sections.append(section)
    return element("div", *sections, css="sd-answers")


def _verdict(question: AnsweredQuestion) -> str:
    if question.right is None:
        return ""
    verdict = "✓ right" if question.right else "✕ wrong"
    if question.answer in ("", question.text):
        return verdict
    return f"{verdict} · answer found: {question.answer}"


def _choices(
    questions: tuple[AnsweredQuestion, AnsweredQuestion], titles: tuple[str, str]
) -> Table:
    """Every choice with both models' probabilities."""
    dense = questions[0]
    texts = [choice.text.strip() for choice in dense.choices]
    right = right_choice(dense)
    if right is not None:
        texts[right] += " ✓"
    probabilities = [map(likelihood, choice_logs(question)) for question in questions]
    rows = [list(row) for row in zip(texts, *probabilities, strict=True)]
    caption = "Probabilities among the choices: the softmax of their log-likelihoods. ✓: the expected one."
    return Table("Choices", caption, ["Choice", *titles], rows)
