"""Answers of a run's own models to its tasks on the overview: verdicts, chart, table and report."""

from collections.abc import Mapping
from functools import partial
from urllib.parse import urlencode

from sparsedash.reporting.charts.task_chart import task_chart, task_words
from sparsedash.reporting.html import paragraph
from sparsedash.reporting.task_report import task_report, task_table
from sparsedash.reporting.task_words import task_remarks, tasks_sentence
from sparsedash.reporting.wording import NBSP, picture_basis, record_names
from sparsedash.schema.records import Run
from sparsedash.stats.task_verdicts import JudgedAnswers
from sparsedash.ui import frame, widgets
from sparsedash.ui.address_bar import VIEW, select
from sparsedash.ui.browser_scripts import ChartFile, show_chart
from sparsedash.ui.chosen_run import RIGHT
from sparsedash.ui.navigation import current_tolerance, tolerance_query

TASKS_VIEW = "tasks"
"""The view of the compare page that shows the questions of a run's tasks."""
RULE = (
    "Within: the whole interval of a task's accuracy, or of its documents' word perplexity, is inside the limit. "
    f"Beyond: all of it is outside. Levels of the intervals: 90{NBSP}% where one task is judged, more where several "
    f"are, so that the chance that any verdict is wrong stays at 5{NBSP}%."
)
_CAPTION = (
    "0: nothing is lost; 1: all of the acceptable loss. Bars: intervals behind the verdict, levels in the table. Tasks "
    "that are not judged are in the table alone."
)


def show_task_results(
    judged: JudgedAnswers, name: str, basis: str, address: Mapping[str, str | list[str]]
) -> None:
    """Draw chart, table, links and report.

    name: of the model. basis: the line under the title of the chart's file. address: of its
    questions on the compare page.
    """
    results = judged.results
    if any(result.loss for result in results):
        words = task_words(results)
        file = ChartFile("tasks", tasks_sentence(name, results), [basis])
        show_chart(
            task_chart(results, frame.theme()), file, words, "task-chart", "ignore"
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


def named_answers(
    run: Run, found: Mapping[str, JudgedAnswers]
) -> dict[str, JudgedAnswers]:
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
    widgets.show(
        paragraph(f"{tasks_sentence(name, results)} {task_remarks(results)}".strip())
    )
    widgets.remark(RULE)
    basis = picture_basis(run, current_tolerance(), frame.zone())
    address: dict[str, str | list[str]] = {
        "run": run.key,
        RIGHT: name,
        VIEW: TASKS_VIEW,
    }
    show_task_results(judged[name], name, basis, address)
