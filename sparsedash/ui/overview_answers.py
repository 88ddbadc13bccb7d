"""The overview of answers of other programs: verdict, a chart with a line a task, its numbers, the report."""

from urllib.parse import urlencode

from sparsedash.reporting.charts.task_chart import task_chart, task_words
from sparsedash.reporting.task_report import task_report, task_table
from sparsedash.reporting.task_words import task_remarks, tasks_sentence
from sparsedash.reporting.wording import NBSP
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, navigation, task_answers
from sparsedash.ui.address_bar import choose_tolerance
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.task_answers import MODEL

_ABOUT = (
    "Two models are compared on any tasks by the answers that another program wrote: which tasks stay within the "
    "acceptable loss, which cost too much, and every question with both answers.",
    "Add a file of each model, one a task. Nothing is computed and no model is loaded.",
)
_RULE = (
    "Within: the whole interval of a task's accuracy, or of its documents' word perplexity, is inside the limit. "
    f"Beyond: all of it is outside. Levels of the intervals: 90{NBSP}% where one task is judged, more where several "
    f"are, so that the chance that any verdict is wrong stays at 5{NBSP}%."
)
_CAPTION = (
    "0: nothing is lost; 1: all of the acceptable loss. Bars: intervals behind the verdict, levels in the table. Tasks "
    "that are not judged are in the table alone."
)


def show_answers(backend: Backend) -> None:
    """Draw the page."""
    shown = task_answers.opened(backend)
    if shown.judged is None:
        frame.opening("How do two models compare on your tasks?")
        if shown.problem is not None:
            frame.failure(shown.problem.message, shown.problem.advice)
        task_answers.show_files(backend, shown)
        frame.empty(*(_ABOUT if backend.administers else (_ABOUT[0], "An administrator opens the files.")))
        return
    results = shown.judged.results
    frame.opening(tasks_sentence(MODEL, results), task_remarks(results))
    choose_tolerance(_RULE)
    task_answers.show_files(backend, shown)
    if any(result.loss for result in results):
        show_chart(task_chart(results, frame.theme()), "tasks", task_words(results), "task-chart", "ignore")
        frame.remark(_CAPTION)
    address = task_answers.address_of(shown)
    links = [
        f"compare?{urlencode({**address, 'task': each.task, **navigation.tolerance_query()}, doseq=True)}"
        for each in results
    ]
    frame.show_table(task_table(results, links))
    for note in shown.judged.notes:
        frame.note(note)
    with frame.row():
        frame.link("compare", "Compare the answers question by question", **address)

        def report() -> bytes:
            return task_report(MODEL, results, navigation.current_tolerance())

        frame.offer_file("Report, one HTML file", report, "tasks-report.html", "text/html", key="take-task-report")
