"""Answers of other programs, opened from files: models judged against the first of them or another
one, in the overview's place.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from sparsedash.reporting.charts.ranking_chart import ranking_chart, ranking_chart_words
from sparsedash.reporting.html import element, paragraph
from sparsedash.reporting.judged_words import ranking_caption, ranking_sentence
from sparsedash.reporting.leaderboard import Leaderboard, answers_leaderboard
from sparsedash.reporting.record_pair import unique_names
from sparsedash.reporting.slice_words import (
    differing_slices,
    questions_file,
    slice_table,
    slices_sentence,
)
from sparsedash.reporting.task_words import task_remarks, tasks_sentence
from sparsedash.reporting.wording import basis_today, quantity
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import ModelAnswers
from sparsedash.service.backend import Backend
from sparsedash.stats.answer_slices import slice_tasks
from sparsedash.stats.judged_models import Ranking, rank_models
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.ui import frame, widgets
from sparsedash.ui.address_bar import choose_tolerance, query_value, select
from sparsedash.ui.browser_scripts import ChartFile, show_chart
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.form_fields import file_popover
from sparsedash.ui.navigation import current_tolerance
from sparsedash.ui.task_answers import RULE, show_task_results

OPEN = "answers"
MODELS = "models"
BASELINE = "baseline"
"""Parameters of the address: that answers are shown, the keys of the models' answers with commas between, and the one
that the others are judged against.
"""
MAX_MODELS = 20
"""An address has an end. The shell judges more."""
_KEPT = "answers-kept"
"""Of the session: the keys of files that were added since the last clearing."""
_HELP = (
    "One file or zip a model: samples_*.jsonl of lm-evaluation-harness (--log_samples), details_*.parquet of "
    "lighteval, a log of Inspect, results of promptfoo or OpenCompass, or a CSV or JSONL table; a zip holds the "
    "folder of one model. "
    "The shell judges folders: sparsedash judge DENSE OTHER."
)
_ABOUT = (
    "Models are compared on any tasks by the answers that another program wrote: which tasks stay within the "
    "acceptable loss, which cost too much, and every question with both answers."
)
_DELETED = "The answer files that you judged last were deleted."
_ADD_FILES = (
    "Add the answers of two models or more. Nothing is computed and no model is loaded."
)


class Opened(NamedTuple):
    """The opened answers that the address names, by key. baseline: a key of them. judged: the others
    by key; None with fewer than two, or where they cannot be paired, for the reason `problem`.
    """

    models: Mapping[str, ModelAnswers]
    names: Mapping[str, str]
    baseline: str
    judged: Mapping[str, JudgedAnswers] | None
    problem: CorpusError | None

    @property
    def address(self) -> dict[str, str]:
        """The parameters that show the same answers on another page."""
        return {MODELS: ",".join(self.models), BASELINE: self.baseline}


def is_asked() -> bool:
    """Whether the address asks for answers of other programs, not for a run."""
    return OPEN in st.query_params or MODELS in st.query_params


def offer_to_open_answers(backend: Backend) -> None:
    """Draw the link to the page that opens answers, for whom may."""
    if backend.administers:
        widgets.link("overview", "Judge answer files", **{OPEN: "1"})


def opened(backend: Backend) -> Opened:
    """The judged models that the address names."""
    return _opened(backend, _keys(), query_value(BASELINE))


def _opened(backend: Backend, keys: Sequence[str], baseline: str) -> Opened:
    """baseline: the first one where this is no key of them."""
    models = {}
    for key in keys:
        answers = backend.answers.get(key)
        if answers is not None:
            models[key] = answers
    names = unique_names({key: answers.name for key, answers in models.items()})
    if baseline not in models:
        baseline = next(iter(models), "")
    if len(models) < 2:
        return Opened(models, names, baseline, None, None)
    ordered = {baseline: models[baseline], **models}
    try:
        judged = backend.answers.judge(ordered, current_tolerance())
    except CorpusError as error:
        return Opened(models, names, baseline, None, error)
    return Opened(models, names, baseline, judged, None)


def show_judged_last(backend: Backend, opening: DeltaGenerator) -> None:
    """Draw the table of the models that this user judged last, by tasks. opening: the place of the
    first sentence.
    """
    keys = backend.user_data.judged_answers()
    shown = _opened(backend, keys, "")
    with opening:
        if shown.judged is None:
            widgets.opening("No answer files are judged yet.")
            widgets.note(_DELETED if keys else _ABOUT)
            offer_to_open_answers(backend)
            return
        board = _board(shown)
        widgets.opening(board.sentence)
        choose_tolerance(
            RULE, chain.from_iterable(part.results for part in shown.judged.values())
        )
    _show_board(board)
    widgets.link("overview", "Ranking, slices and questions", **shown.address)
    offer_to_open_answers(backend)


def show_answers(backend: Backend) -> None:
    """Draw the page."""
    shown = opened(backend)
    # At the same place of the page whatever is shown: a field that moves loses what is under way.
    opening = st.container()
    limits = st.container()
    _show_files(backend, shown)
    if shown.judged is None:
        with opening:
            widgets.opening("How do models compare on your tasks?")
            if shown.problem is not None:
                widgets.failure(shown.problem.message, shown.problem.advice)
        advice = (
            _ADD_FILES if backend.administers else "An administrator opens the files."
        )
        widgets.empty(_ABOUT, advice)
        return
    backend.user_data.keep_judged_answers(tuple({shown.baseline: "", **shown.models}))
    with limits:
        choose_tolerance(
            RULE, chain.from_iterable(part.results for part in shown.judged.values())
        )
    if len(shown.judged) == 1:
        (chosen,) = shown.judged
    else:
        _show_all(shown, opening)
        widgets.section("One model")
        names = {key: shown.names[key] for key in shown.judged}
        chosen = select(RIGHT, "Model", names, next(iter(names)), noun="model")
    answers = shown.judged[chosen]
    name = shown.names[chosen]
    sentence = tasks_sentence(name, answers.results)
    remarks = task_remarks(answers.results)
    if len(shown.judged) == 1:
        with opening:
            widgets.opening(sentence, remarks)
    else:
        widgets.show(paragraph(f"{sentence} {remarks}".strip()))
    basis = basis_today(current_tolerance(), frame.zone())
    show_task_results(answers, name, basis, {**shown.address, RIGHT: chosen})
    _show_slices(answers)
    widgets.offer_file(
        "Every question, CSV",
        partial(questions_file, answers.results),
        "questions.csv",
        "text/csv",
        key="take-questions",
    )


def _show_all(shown: Opened, opening: DeltaGenerator) -> None:
    """Draw what ranks several models, and the table of models by tasks. opening: the place of the
    first sentence.
    """
    judged = {
        shown.names[key]: answers for key, answers in (shown.judged or {}).items()
    }
    ranking = rank_models(judged, shown.names[shown.baseline])
    board = _board(shown)
    with opening:
        if ranking is None:
            widgets.opening(board.sentence)
        else:
            widgets.opening(ranking_sentence(ranking), board.sentence)
    if ranking is not None:
        _show_ranking(ranking)
    _show_board(board)


def _board(shown: Opened) -> Leaderboard:
    sets = {shown.names[shown.baseline]: shown.models[shown.baseline].sets}
    for key, name in shown.names.items():
        sets.setdefault(name, shown.models[key].sets)
    return answers_leaderboard(sets, current_tolerance())


def _show_board(board: Leaderboard) -> None:
    rows = board.rows(only_beyond=False, order="")
    widgets.show(element("div", board.table(rows).html, css="sd-board"))
    widgets.remark(board.caption)
    widgets.offer_table(board.table(rows))


def _show_ranking(ranking: Ranking) -> None:
    basis = basis_today(current_tolerance(), frame.zone())
    show_chart(
        ranking_chart(ranking, frame.theme()),
        ChartFile("ranking", ranking_sentence(ranking), [basis]),
        ranking_chart_words(ranking),
        "ranking-chart",
        "ignore",
    )
    widgets.remark(ranking_caption(ranking))


def _show_slices(answers: JudgedAnswers) -> None:
    slices = slice_tasks(
        [result.pair for result in answers.results], current_tolerance()
    )
    if not slices:
        return
    widgets.section("Slices")
    widgets.show(paragraph(slices_sentence(slices)))
    differing = differing_slices(slices)
    if differing:
        widgets.show_table(slice_table(differing, "Slices that differ"))
    with st.expander("All slices"):
        widgets.show_table(slice_table(slices))


def _show_files(backend: Backend, shown: Opened) -> None:
    """Draw the models; for whom may, how to add some or take all away."""
    with widgets.row("answer-files"):
        if backend.administers:
            file_popover(
                "Add answers",
                "Files of answers, one a model",
                None,
                "answers-files",
                _HELP,
                partial(_keep_file, backend),
                several=True,
            )
            if shown.models:
                st.button(
                    "Clear",
                    key="answers-clear",
                    type="tertiary",
                    on_click=_clear,
                )
    if len(shown.models) > 1:
        select(BASELINE, "Baseline", shown.names, shown.baseline, noun="model")
    counts = []
    for key, name in shown.names.items():
        n_questions = quantity(shown.models[key].n_questions, "question")
        tasks = quantity(len(shown.models[key].sets), "task")
        counts.append(f"{name}: {n_questions}, {tasks}")
    if counts:
        widgets.remark(f"{'; '.join(counts)}.")


def _keep_file(backend: Backend, file: UploadedFile) -> None:
    """Keep a file of answers, and name it in the address. Raises CorpusError."""
    keys = backend.open_answers(file.name, file.getvalue())
    # Files that come one after another meet an address that the browser has not heard of yet.
    kept = st.session_state.setdefault(_KEPT, [])
    known = list(dict.fromkeys([*_keys(), *kept, *keys]))
    if len(known) > MAX_MODELS:
        raise CorpusError(
            f"At most {MAX_MODELS} models.", "The shell judges more: sparsedash judge."
        )
    kept += keys
    st.query_params[MODELS] = ",".join(known)
    st.query_params[OPEN] = "1"


def _clear() -> None:
    st.session_state.pop(_KEPT, None)
    st.query_params.from_dict({OPEN: "1"})


def _keys() -> list[str]:
    keys = filter(None, query_value(MODELS).split(","))
    return list(dict.fromkeys(keys))[:MAX_MODELS]
