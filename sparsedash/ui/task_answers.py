"""Answers to tasks on the overview: of other programs, by files in the address; and of a run's own
models.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.reporting.charts.task_chart import task_chart, task_words
from sparsedash.reporting.html import paragraph, widget_label
from sparsedash.reporting.task_report import task_report, task_table
from sparsedash.reporting.task_words import task_remarks, tasks_sentence
from sparsedash.reporting.wording import NBSP, record_names
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.ui import frame, widgets
from sparsedash.ui.address_bar import VIEW, choose_tolerance, select
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.form_fields import file_popover
from sparsedash.ui.navigation import current_tolerance, tolerance_query

OPEN = "answers"
DENSE = "dense"
OTHER = "other"
"""Parameters of the address: that answers are shown, and the keys of each model's files, as many as
there are tasks.
"""
MOST_FILES = 20
"""Of one model: an address has an end. The shell judges folders."""
TITLES = {DENSE: "Dense", OTHER: "Other model"}
_LABELS = {
    DENSE: "A file of the dense model's answers",
    OTHER: "A file of the other model's answers",
}
MODEL = "The other model"
TASKS_VIEW = "tasks"
"""The view of the compare page that shows the questions of a run's tasks."""
_MOST_NAMED = 2
_HELP = (
    "samples_*.jsonl of lm-evaluation-harness (--log_samples), details_*.parquet of lighteval, a log of Inspect, "
    "results of promptfoo, or a CSV or JSONL table. "
    "The shell judges whole folders: sparsedash judge DENSE OTHER."
)

_ABOUT = (
    "Two models are compared on any tasks by the answers that another program wrote: which tasks stay within the "
    "acceptable loss, which cost too much, and every question with both answers."
)
_ADD_FILES = "Add a file of each model, one a task. Nothing is computed and no model is loaded."
_RULE = (
    "Within: the whole interval of a task's accuracy, or of its documents' word perplexity, is inside the limit. "
    f"Beyond: all of it is outside. Levels of the intervals: 90{NBSP}% where one task is judged, more where several "
    f"are, so that the chance that any verdict is wrong stays at 5{NBSP}%."
)
_CAPTION = (
    "0: nothing is lost; 1: all of the acceptable loss. Bars: intervals behind the verdict, levels in the table. Tasks "
    "that are not judged are in the table alone."
)


class Opened(NamedTuple):
    """The keys of each model's files that are stored, and what they say; judged: None while a side
    is missing.
    """

    dense: list[str]
    sparse: list[str]
    judged: JudgedAnswers | None
    problem: CorpusError | None


def is_asked() -> bool:
    """Whether the address asks for answers of other programs, not for a run."""
    return any(name in st.query_params for name in (OPEN, DENSE, OTHER))


def offer_to_open_answers(backend: Backend) -> None:
    """Draw the link to the page that opens answers, for whom may."""
    if backend.administers:
        widgets.link("overview", "Judge answer files", **{OPEN: "1"})


def opened(backend: Backend) -> Opened:
    """What the address names."""
    dense = list(filter(backend.answers.get, _keys(DENSE)))
    sparse = list(filter(backend.answers.get, _keys(OTHER)))
    if not (dense and sparse):
        return Opened(dense, sparse, None, None)
    try:
        judged = backend.answers.judge(dense, sparse, current_tolerance())
    except CorpusError as error:
        return Opened(dense, sparse, None, error)
    return Opened(dense, sparse, judged, None)


def address_of(shown: Opened) -> dict[str, list[str]]:
    """The parameters that show the same answers on another page."""
    return {DENSE: shown.dense, OTHER: shown.sparse}


def show_answers(backend: Backend) -> None:
    """Draw the page."""
    shown = opened(backend)
    if shown.judged is None:
        widgets.opening("How do two models compare on your tasks?")
        if shown.problem is not None:
            widgets.failure(shown.problem.message, shown.problem.advice)
        show_files(backend, shown)
        advice = _ADD_FILES if backend.administers else "An administrator opens the files."
        widgets.empty(_ABOUT, advice)
        return
    results = shown.judged.results
    widgets.opening(tasks_sentence(MODEL, results), task_remarks(results))
    choose_tolerance(_RULE, results)
    show_files(backend, shown)
    _show_results(shown.judged, MODEL, address_of(shown))


def _show_results(judged: JudgedAnswers, name: str, address: Mapping[str, str | list[str]]) -> None:
    """Draw chart, table, links and report.

    name: of the model. address: of its questions on the compare page.
    """
    results = judged.results
    if any(result.loss for result in results):
        show_chart(
            task_chart(results, frame.theme()), "tasks", task_words(results), "task-chart", "ignore"
        )
        widgets.remark(_CAPTION)
    links = []
    for result in results:
        query = {**address, "task": result.task, **tolerance_query()}
        links.append(f"compare?{urlencode(query, doseq=True)}")
    widgets.show_table(task_table(results, links))
    for note in judged.notes:
        widgets.note(note)
    with widgets.row():
        widgets.link("compare", "Compare the answers question by question", **address)
        widgets.offer_file(
            "Report, one HTML file",
            partial(task_report, name, results, current_tolerance()),
            "tasks-report.html",
            "text/html",
            key="take-task-report",
        )


def named_answers(run: Run, found: Mapping[str, JudgedAnswers]) -> dict[str, JudgedAnswers]:
    """The verdicts on the tasks of a run's models, by their names within it; a note on those
    without any.
    """
    names = record_names(run)
    named = {}
    notes: dict[str, None] = {}
    for record, judged in found.items():
        if judged.results:
            named[names[record]] = judged
        else:
            notes |= dict.fromkeys(judged.notes)
    for note in notes:
        widgets.note(note)
    return named


def show_tasks(run: Run, found: Mapping[str, JudgedAnswers], usual: str) -> None:
    """Draw the section of the run's tasks: one model of it, the usual one unless the address names
    another.

    found: by the keys of the records.
    """
    judged = named_answers(run, found)
    if not judged:
        return
    widgets.section("Tasks")
    names = {name: name for name in judged}
    name = select(
        RIGHT,
        "Sparse model",
        names,
        usual if usual in names else next(iter(names)),
    )
    results = judged[name].results
    widgets.show(paragraph(f"{tasks_sentence(name, results)} {task_remarks(results)}".strip()))
    widgets.remark(_RULE)
    _show_results(judged[name], name, {"run": run.key, RIGHT: name, VIEW: TASKS_VIEW})


def show_files(backend: Backend, shown: Opened) -> None:
    """Draw the files of both models; for whom may, how to add one to each or take all away."""
    with widgets.row("answer-files"):
        for name, keys in address_of(shown).items():
            text = f"{TITLES[name]}: {_tasks(backend, keys)}"
            if backend.administers:
                file_popover(
                    widget_label(text),
                    _LABELS[name],
                    None,
                    f"answers-{name}",
                    _HELP,
                    partial(_keep_file, backend, name),
                )
            else:
                widgets.note(text)
        if backend.administers and (shown.dense or shown.sparse):
            st.button(
                "Clear",
                key="answers-clear",
                type="tertiary",
                on_click=st.query_params.from_dict,
                args=({OPEN: "1"},),
            )


def _keep_file(backend: Backend, name: str, file: UploadedFile) -> None:
    """Keep a file of answers, and name it in the address. Raises CorpusError."""
    if len(_keys(name)) >= MOST_FILES:
        raise CorpusError(
            f"At most {MOST_FILES} files a model.", "The shell judges folders: sparsedash judge."
        )
    keys = backend.open_answers(file.name, file.getvalue())
    st.query_params[name] = list(dict.fromkeys([*_keys(name), *keys]))
    st.query_params[OPEN] = "1"


def _keys(name: str) -> list[str]:
    return list(dict.fromkeys(st.query_params.get_all(name)))[:MOST_FILES]


def _tasks(backend: Backend, keys: Sequence[str]) -> str:
    sets = list(filter(None, map(backend.answers.get, keys)))
    if len(sets) > _MOST_NAMED:
        return f"{len(sets)} files, {sum(len(answers.questions) for answers in sets):,} questions"
    if sets:
        return ", ".join(f"{answers.task} ({len(answers.questions):,})" for answers in sets)
    return "add a file of answers" if backend.administers else "an administrator opens files"
