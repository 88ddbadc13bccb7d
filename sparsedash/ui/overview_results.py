"""A run on the overview page: answer, next step, numbers, prompts, chart and table; and the list of
runs.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from urllib.parse import urlencode

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import job_status, run_answer, verdicts, wording
from sparsedash.reporting.charts.tradeoff_data import OF_PASSAGES, Measure
from sparsedash.reporting.deployment import structure_sentence
from sparsedash.reporting.findings import search_ends
from sparsedash.reporting.html import (
    Html,
    card,
    cards,
    element,
    escape,
    file_name,
    paragraph,
    readable,
    widget_label,
)
from sparsedash.reporting.model_results import named_shares
from sparsedash.reporting.next_step import NextStep, next_step
from sparsedash.reporting.record_pair import DIVERGENCE_SIGN, mark_divergence
from sparsedash.reporting.run_results import PromptTexts, RunResults, prompt_texts, run_results
from sparsedash.reporting.tradeoff_points import (
    has_task_lines,
    live_model,
    run_tradeoff,
    task_tradeoff,
)
from sparsedash.schema.pair_records import NOT_CONTINUED
from sparsedash.schema.records import Run
from sparsedash.schema.user_records import RunMark
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel, loss_charts, navigation, widgets
from sparsedash.ui.address_bar import choose_measure, choose_tolerance
from sparsedash.ui.chosen_run import link_to_export, show_incomplete
from sparsedash.ui.form_address import form_address
from sparsedash.ui.form_fields import wait_for_rates
from sparsedash.ui.form_run import first_run_settings

_GROWN = "run-grown"
"""Key of the session state: the job whose run grew on this page."""
_MOST_NUMBERS = 3
"""Beside dense's."""
_TO_COME = "…"
_NOT_STORED = "(not stored)"


def show_answer(backend: Backend, results: RunResults, job: Job | None) -> None:
    """Draw the sentence that a run's page opens with, its limits, the next step, and how the run
    ended, if early.

    job: the run's newest.
    """
    run = results.run
    grows = _grows(job)
    ending = run_answer.run_ending(results.run, job)
    ended = bool(ending) or (job is not None and job.stopping)
    # Without the limits of a search: those of the page stand below.
    details = wording.stored_run_details(replace(run, find=None))
    basis = [results.name, wording.reference_title(run.settings.model), details]
    widgets.opening(
        run_answer.answer_sentence(results, ended, race=False),
        " · ".join(filter(None, basis)),
        also=run_answer.race_sentence(results),
        grows=grows,
    )
    choose_tolerance(
        results=chain.from_iterable(answers.results for answers in results.tasks.values())
    )
    _show_next_step(backend, results, grows=grows)
    _offer_newer(backend, run)
    missing = ""
    if job is None or not job.live:
        missing = run_answer.missing_records(run, results.missing)
    sentence = " ".join(filter(None, (ending, missing)))
    show_incomplete(sentence, _resume_without_panel(backend, run, job))


def _resume_without_panel(
    backend: Backend, run: Run, job: Job | None
) -> Callable[[], object] | None:
    """What puts the run in the queue again; None where the panel of its job has the button."""
    if job is not None and job.state != "done":
        return None
    return lambda: job_panel.follow(backend.submit(run.find or run.settings), run.key)


def _show_next_step(backend: Backend, results: RunResults | None, *, grows: bool) -> None:
    """Draw the next step and its link, once the run is finished. grows: keep the room for it from
    the beginning.
    """
    step = next_step(results, backend.reach) if results is not None else None
    if step is None and not grows:
        return
    with st.container(
        key="next-step-grows" if grows else "next-step",
        horizontal=True,
        vertical_alignment="center",
    ):
        if results is None or step is None:
            widgets.show(paragraph("", css="sd-next"))
            return
        sentence = f"{step.sentence}{_takes(backend, results, step)}"
        widgets.show(paragraph(sentence, css="sd-next"))
        if step.kind == "export" and results.headline is not None:
            link_to_export(results.run.key, results.names[results.headline.key])
        elif step.link and step.request is not None:
            address = form_address(step.request)
            if address is not None:
                widgets.link("prune", step.link, **address)


def _offer_newer(backend: Backend, run: Run) -> None:
    """Draw that the hub has newer revisions of what the run read, and the button that runs it on
    them.
    """
    newer = backend.newer_revisions(run)
    if not newer:
        return
    request = replace(run.find or run.settings, revisions=())
    with st.container(
        key="newer-revision",
        horizontal=True,
        vertical_alignment="center",
    ):
        widgets.show(paragraph(wording.newer_words(newer), css="sd-muted"))
        widgets.action_button(
            "Run on the newer one",
            lambda: job_panel.follow(backend.submit(request), run.key),
            key="run-newer",
        )


def _takes(backend: Backend, results: RunResults, step: NextStep) -> str:
    """What a step takes, as the end of its paragraph; nothing where that is not known, or it is
    what ran already.
    """
    if not step.link or step.request in (None, results.run.find, results.run.settings):
        return ""
    seconds = backend.preflight(step.request).duration.total_s
    return f" The run takes about {wording.duration_words(seconds)}." if seconds else ""


def show_no_results(backend: Backend, key: str, run: Run | None, job: Job | None) -> None:
    """Draw the page of a run without results: its job, if any, stands where it stays when they
    come.

    run: None where its own record is missing, or not there yet.
    """
    live = job is not None and job.live
    sentence = "This run has no results."
    if job is not None and live:
        sentence = run_answer.still_to_come(job, "This run has no result yet.")
    elif run or job is None or job.state == "done":
        why = backend.why_missing(run.dense) if run else backend.why_missing(key, Run)
        sentence = run_answer.no_results(run, why)
    # No room is kept where it has ended without results.
    grows = live and _grows(job)
    widgets.opening(
        sentence,
        " · ".join(job_status.job_title(job)) if job is not None else "",
        grows=grows,
    )
    if grows:
        choose_tolerance()
    _show_next_step(backend, None, grows=grows)
    if run is not None and not live:
        show_incomplete("The other records are kept.", _resume_without_panel(backend, run, job))
    if job is not None:
        job_panel.watch_job(
            backend, job, lambda: run_results(backend, backend.run(key)) is not None, brief=True
        )
    if live:
        widgets.empty(
            "The chart appears once the dense model is evaluated, and gains a point with every sparse model."
        )
        return
    request = job_status.job_request(job) if job is not None else None
    if run is not None:
        request = run.find or run.settings
    if request is not None:
        job_panel.link_to_form(request, judged_here=True)


def _grows(job: Job | None) -> bool:
    """Whether a live job adds to the page, or did in this session: then its parts keep their
    places.
    """
    if job is not None and job.live:
        st.session_state[_GROWN] = job.id
    return job is not None and st.session_state.get(_GROWN) == job.id


def show_tradeoff(backend: Backend, results: RunResults, job: Job | None) -> None:
    """Draw the headline numbers, the chart and its table; above them the job that adds to them, if
    any.
    """
    draw = partial(_draw_tradeoff, backend, results)
    if job is not None and (job.state != "done" or _grows(job)):
        has_grown = partial(_has_grown, backend, results)
        job_panel.watch_job(backend, job, has_grown, brief=True, below=draw)
    else:
        draw(job)
    if len(results.race) > 1:
        widgets.show(verdicts.race_table(results).html)
    stem = wording.file_stem(results.run)
    if results.headline is not None:
        loss_charts.show_kinds(results.headline, results.names[results.headline.key], stem)
    if results.sparse_models:
        with st.expander("The numbers as a table"):
            limits = navigation.tolerance_query()
            addresses = {}
            for key, query in results.comparisons.items():
                addresses[key] = f"compare?{urlencode(query | limits)}"
            widgets.show_table(verdicts.numbers_table(results, addresses))
    notes = [
        *run_answer.answer_figures(results, race=len(results.race) < 2),
        verdicts.early_stopping_words(results.records),
        *results.run.warnings,
        wording.source_note(results.run.source_type),
    ]
    for note in notes:
        # That no text was continued stands under the prompts.
        if note and note != NOT_CONTINUED:
            widgets.note(note)


def _has_grown(backend: Backend, results: RunResults) -> bool:
    """Whether the run has more sparse models than the page shows."""
    run = backend.run(results.run.key)
    return run is not None and len(run.sparse) != len(results.run.sparse)


def _draw_tradeoff(backend: Backend, results: RunResults, job: Job | None) -> None:
    """Draw the numbers, the prompts and the chart, as they are at this step of the job."""
    live_job = job if job is not None and job.live else None
    live = live_job is not None
    grows = _grows(job)
    more_to_come = live_job is not None and not live_job.stopping
    widgets.show(cards(_numbers(results, more_to_come, grows), grows=grows))
    if not live:
        for note in (run_answer.estimate_words(results), structure_sentence(backend, results)):
            if note:
                widgets.note(note)
    _show_prompts(backend, results, live=live, grows=grows)
    if not (results.sparse_models or live):
        return
    measures: tuple[Measure, ...] = OF_PASSAGES
    if has_task_lines(results):
        measures = (*OF_PASSAGES, "tasks")
    measure = choose_measure(measures)
    gain, axis = loss_charts.choose_axis(results.lines, results.run.settings.axis)
    if measure == "tasks":
        tradeoff = task_tradeoff(results, axis)
    else:
        point = live_model(results, live_job) if live_job is not None else None
        tradeoff = run_tradeoff(results, axis, point)
    if gain is not None:
        pressed = loss_charts.show_gains(backend, results, tradeoff, gain, measure)
    else:
        file = file_name(wording.file_stem(results.run), measure)
        key = f"race-{measures.index(measure)}"
        paired = bool(results.race)
        pressed = loss_charts.show_tradeoff_chart(tradeoff, measure, file, key, paired=paired)
    loss_charts.open_comparison(results.comparisons.get(pressed))


def _show_prompts(backend: Backend, results: RunResults, *, live: bool, grows: bool) -> None:
    """Draw the run's prompts with both texts, and the link to those of the other models; nothing
    where none is stored.

    live: whether texts may come. grows: keep the room for them.
    """
    rows = list(prompt_texts(backend, results))
    if not rows:
        return
    sparse = results.headline
    has_sparse_text = any(row.sparse is not None for row in rows)
    name = f"Sparse, {results.names[sparse.key]}" if sparse is not None else "Sparse"
    heads = {"Prompt": "", "Dense": "sd-dense"}
    missing = ""
    if has_sparse_text or live:
        heads[name] = "sd-sparse"
        missing = _TO_COME if live else _NOT_STORED
    head = [element("th", escape(text), scope="col", css=css) for text, css in heads.items()]
    table = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *(_prompt_row(row, name, missing) for row in rows)),
        css="sd-prompts sd-grows" if grows else "sd-prompts",
        aria_label="What the models write",
    )
    widgets.show(table)
    remark = "Greedy decoding."
    if has_sparse_text:
        remark = f"Greedy decoding. {DIVERGENCE_SIGN} marks where the two texts diverge."
    elif not live:
        remark = "Greedy decoding, by the dense model alone."
        if sparse and NOT_CONTINUED in results.run.warnings:
            remark = f"{remark} {NOT_CONTINUED}"
        elif sparse:
            remark = f"{remark} The sparse model's texts are not stored."
    with widgets.row("prompts"):
        widgets.remark(remark)
        if sparse is not None:
            others = "Try a prompt of your own"
            if results.run.made_on:
                others = "Other models"
            elif len(results.sparse_records) > 1:
                others = "Other models, and prompts of your own"
            widgets.link("compare", others, **results.comparisons[sparse.key])


def _prompt_row(row: PromptTexts, name: str, missing: str) -> Html:
    """The prompt and both texts, without line breaks.

    name: of the sparse model. missing: in place of its text; nothing where it has no column.
    """
    dense_cell = escape(_one_line(row.dense))
    sparse_cell = escape(missing)
    if row.sparse is not None:
        dense_cell, sparse_cell = mark_divergence(_one_line(row.dense), _one_line(row.sparse))
    cells = [
        element("th", escape(row.prompt), scope="row"),
        element("td", dense_cell, css="sd-dense", data_model="Dense"),
    ]
    if sparse_cell:
        cells.append(element("td", sparse_cell, css="sd-sparse", data_model=name))
    return element("tr", *cells)


def _one_line(text: str) -> str:
    return " ".join(readable(text).split())


def link_to_answers(results: RunResults) -> None:
    """Draw links to the passages, layers and export of the sparse model that the answer speaks
    of.
    """
    if (record := results.headline) is not None:
        name = results.names[record.key]
        widgets.link(
            "compare", "Compare the answers passage by passage", **results.comparisons[record.key]
        )
        if record.pruned is not None and record.pruned.layer_errors:
            widgets.link(
                "compare",
                "See what each layer lost",
                **results.comparisons[record.key],
                view="layers",
            )
        link_to_export(results.run.key, name)


def list_runs(backend: Backend, runs: list[Run], chosen: str) -> None:
    """Draw these runs as links to themselves; the one being shown is marked."""
    marks = backend.user_data.marks()
    limits = navigation.whole_tolerance_query(navigation.current_tolerance())
    for run in runs:
        mark = marks.get(run.key, RunMark())
        notes = {
            "not finished": not run.finished,
            "pinned": mark.pinned,
            "shown above": run.key == chosen,
        }
        search_query = navigation.search_tolerance_query(run.find)
        # Of a search its limits, where the page has others.
        shown = replace(run, find=None) if search_query == limits else run
        parts = [
            wording.moment(run.started_at, frame.zone()),
            wording.stored_run_details(shown),
        ]
        with st.container(gap=None):
            title = widget_label(wording.stored_run_title(run, mark.name))
            widgets.link("overview", title, run=run.key, **search_query)
            widgets.remark(" · ".join([*parts, *(note for note, holds in notes.items() if holds)]))


def _numbers(results: RunResults, live: bool, grows: bool) -> list[Html]:
    """Dense, and models of the best method: those that the answer names, then others; of a race the
    closest rival.

    live: whether more may come. grows: with a place for each number to come; of a search that is
    not known.
    """
    run = results.run
    shares = named_shares(results.best)
    named = [model for model in (shares.within, shares.beyond, *shares.undecided) if model]
    if results.search is not None and results.search.finished:
        named = search_ends(results.search, results.best) or named
    elif results.search is None:
        named += [model for model in results.best if model not in named]
    shown = named[: _MOST_NUMBERS - bool(results.race)]
    numbers = [card("Dense", *verdicts.headline_baseline(results.dense), css="sd-dense")]
    # Of several lines each has a colour of its own in the chart.
    colour = "" if len(results.lines) > 1 else "sd-sparse "
    for model in sorted(shown, key=lambda model: model.permille):
        name = wording.model_words(model.spec, run.settings.names_methods, model.pruned)
        css = f"{colour}sd-{model.verdict.perplexity.verdict}"
        numbers.append(card(name, *verdicts.headline_loss(model.verdict), css=css))
    for rival, difference in results.race[:1]:
        best = wording.spec_title(results.best[0].spec)
        title = f"{wording.spec_title(rival.spec)} against {best}"
        lines = verdicts.headline_difference(best, difference)
        numbers.append(card(title, *lines, css="sd-race"))
    if grows and not run.finished and run.find is None:
        to_come = card("Sparse", "–", "not evaluated: the run ended before", css="sd-sparse")
        if live:
            to_come = card("Sparse", "…", "once the model is evaluated", css="sd-sparse")
        n_to_come = len(run.settings.point_permilles) + (len(run.settings.methods) > 1)
        numbers += [to_come] * (1 + min(_MOST_NUMBERS, n_to_come) - len(numbers))
    return numbers


def show_first_run_duration(backend: Backend) -> None:
    """Draw the time of the first run, and have a worker ready for it; asks again while the machine
    is being measured.

    Not both at once: a worker that loads the engine would make the machine look slow.
    """
    duration = backend.preflight(first_run_settings(backend)).duration
    if duration.total_s is None:
        measuring = backend.is_measuring()
        widgets.remark("Time: being estimated." if measuring else "Time: not known yet.")
        if measuring:
            wait_for_rates(backend)
        return
    backend.expect_work()
    source = "this machine's measured speed" if duration.counted else "earlier runs"
    widgets.remark(
        f"Takes about {wording.duration_words(duration.seconds)} (from {source}); first answers come sooner."
    )
