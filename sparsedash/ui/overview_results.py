"""A run on the overview page: headline, rulers, chips, next step, chart and layers, answers and
prompts; in folds its numbers and settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from urllib.parse import urlencode, urlsplit

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import job_status, run_answer, verdicts, wording
from sparsedash.reporting.charts.tradeoff_data import OF_PASSAGES, Measure
from sparsedash.reporting.deployment import structure_sentence
from sparsedash.reporting.html import (
    Html,
    element,
    escape,
    file_name,
    paragraph,
    readable,
    widget_label,
)
from sparsedash.reporting.kind_words import forgotten_sentence, kinds_table
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.next_step import NextStep, next_step
from sparsedash.reporting.record_pair import (
    DIVERGENCE_SIGN,
    SHOWN_CHARACTERS,
    Kind,
    end_of,
    mark_divergence,
)
from sparsedash.reporting.ruler import MAX_SHOWN, rulers_html, rulers_svg, run_rulers
from sparsedash.reporting.run_headline import basis_words, headline
from sparsedash.reporting.run_pictures import (
    answer_dots,
    answer_kinds,
    chip_to_come,
    chips,
    layer_strip,
    strip_words,
)
from sparsedash.reporting.run_results import RunResults, run_results
from sparsedash.reporting.tradeoff_points import (
    has_task_lines,
    live_model,
    run_tradeoff,
    task_tradeoff,
)
from sparsedash.schema.find_settings import planned_run
from sparsedash.schema.pair_records import NOT_CONTINUED, PromptTexts, prompt_texts
from sparsedash.schema.records import Run
from sparsedash.schema.settings import RunSettings
from sparsedash.service.backend import Backend
from sparsedash.ui import frame, job_panel, loss_charts, navigation, widgets
from sparsedash.ui.address_bar import choose_measure, choose_tolerance
from sparsedash.ui.chosen_run import RIGHT, link_to_export, show_incomplete
from sparsedash.ui.form_address import form_address
from sparsedash.ui.form_fields import BUSY, wait_for_rates
from sparsedash.ui.form_run import first_run_settings
from sparsedash.ui.run_sharing import (
    MAX_CHIPS,
    headline_chips,
    headline_pair,
    run_report,
    worst_broken,
)
from sparsedash.ui.task_answers import show_tasks

_GROWN = "run-grown"
"""Key of the session state: the job whose run grew on this page."""
_TO_COME = "…"
_NOT_STORED = "(not stored)"
_TWO_TEXTS = f"Greedy; {DIVERGENCE_SIGN} where they diverge."


def show_answer(backend: Backend, results: RunResults, job: Job | None) -> None:
    """Draw the run's answer in a line, its limit and basis, and how the run ended, if early.

    job: the run's newest.
    """
    run = results.run
    grows = _grows(job)
    ending = run_answer.run_ending(run, job)
    ended = bool(ending) or (job is not None and job.stopping)
    _show_head(backend, results)
    widgets.opening(headline(results, ended), grows=grows)
    with widgets.row("basis"):
        tasks = chain.from_iterable(
            answers.results for answers in results.tasks.values()
        )
        choose_tolerance(results=tasks)
        widgets.remark(basis_words(results))
    _offer_newer(backend, run)
    missing = ""
    if job is None or not job.live:
        missing = run_answer.missing_records(run, results.missing)
    sentence = " ".join(filter(None, (ending, missing)))
    show_incomplete(sentence, _resume_without_panel(backend, run, job))


def _show_head(backend: Backend, results: RunResults) -> None:
    """Draw the run with its date, what can be shared, and the link to the export."""
    run = results.run
    moment = wording.moment(run.started_at, frame.zone())
    with widgets.row("run-head"):
        example = f"{wording.EXAMPLE_TITLE}." if run.made_on else ""
        widgets.remark(example, f"{results.title} · {moment}")
        if run.made_on:
            widgets.link("prune", "Run this here", **(form_address(run.settings) or {}))
        if results.headline is None or results.headline_model is None:
            return
        widgets.popover(
            "Share", "share", partial(_show_shares, backend, results), "share"
        )
        verdict = results.headline_model.verdict.verdict
        if not run.made_on and verdict != "beyond":
            link_to_export(run.key, results.names[results.headline.key])


def _show_shares(backend: Backend, results: RunResults) -> None:
    """Draw the report, the picture and the link of a run."""
    if results.headline is None:
        return
    pair = headline_pair(backend, results)
    if pair is not None:
        passages = pair.texts(backend.passages(pair.left.passages_key))
        widgets.offer_file(
            "Report, one HTML file",
            partial(run_report, backend, results, pair, passages),
            f"{pair.stem}-report.html",
            "text/html",
            key="take-report",
        )
    run = results.run
    about = wording.picture_basis(run, results.tolerance, frame.zone())
    rulers = run_rulers(results)[:MAX_SHOWN]
    picture = partial(
        rulers_svg, headline(results), about, basis_words(results), rulers
    )
    stem = wording.file_stem(run)
    widgets.offer_file(
        "Picture, SVG",
        picture,
        file_name(stem, "ruler.svg"),
        "image/svg+xml",
        key="take-picture",
    )
    address = urlsplit(st.context.url or "")
    query = urlencode({"run": results.run.key, **navigation.tolerance_query()})
    st.code(
        f"{address.scheme}://{address.netloc}/?{query}", language=None, wrap_lines=True
    )


def _resume_without_panel(
    backend: Backend, run: Run, job: Job | None
) -> Callable[[], object] | None:
    """Action that puts the run in the queue again; None where the panel of its job has the button."""
    if job is not None and job.state != "done":
        return None
    return lambda: job_panel.follow(backend.submit(run.find or run.settings), run.key)


def _show_next_step(
    backend: Backend, results: RunResults, step: NextStep | None, *, grows: bool
) -> None:
    """Draw the button of the next step, once the run is finished, or why there is none.

    grows: keep the room for it from the beginning.
    """
    if step is None and not grows:
        return
    with st.container(
        key="next-step-grows" if grows else "next-step",
        horizontal=True,
        vertical_alignment="center",
    ):
        if step is None:
            widgets.show(paragraph("", css="sd-next"))
            return
        if not step.link:
            widgets.show(paragraph(step.sentence, css="sd-next"))
            return
        label = widget_label(f"{step.link}{_takes(backend, results, step)}")
        if not st.button(label, key="take-next-step", type="primary"):
            return
        if step.kind == "export" and results.headline is not None:
            query = {"run": results.run.key, RIGHT: results.names[results.headline.key]}
            st.switch_page(
                "pages/models.py",
                query_params={**query, **navigation.tolerance_query()},
            )
        elif step.request is not None:
            address = form_address(step.request)
            if address is not None:
                st.switch_page(
                    "pages/prune.py",
                    query_params={**address, **navigation.tolerance_query()},
                )


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
    """Time that a step takes, as the end of its button; nothing where that is not known, or it is what
    ran already.
    """
    if not step.link or step.request in (None, results.run.find, results.run.settings):
        return ""
    seconds = backend.preflight(step.request).duration.total_s
    return f", about {wording.duration_words(seconds)}" if seconds else ""


def show_no_results(
    backend: Backend, key: str, run: Run | None, job: Job | None
) -> None:
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
    with widgets.row("run-head"):
        widgets.remark(job_status.job_title(job)[0] if job is not None else "")
    widgets.opening(sentence, grows=grows)
    with widgets.row("basis"):
        if grows:
            choose_tolerance()
        widgets.remark(job_status.job_title(job)[1] if job is not None else "")
    if run is not None and not live:
        show_incomplete(
            "The other records are kept.", _resume_without_panel(backend, run, job)
        )
    request = job_status.job_request(job) if job is not None else None
    settings = planned_run(request) if request is not None else None
    first_texts: tuple[PromptTexts, ...] = ()
    if settings is not None:
        first_texts = backend.first_texts(key, settings)
    if job is not None:
        has_more = partial(_has_more, backend, key, settings, first_texts)
        job_panel.watch_job(backend, job, has_more, brief=True)
    if live:
        widgets.empty(
            "The chart appears once the dense model is evaluated, and gains a point with every sparse model."
        )
        if settings is not None:
            _show_first_texts(first_texts, settings)
        return
    if run is not None:
        request = run.find or run.settings
    if request is not None:
        job_panel.link_to_form(request, judged_here=True)


def _has_more(
    backend: Backend,
    key: str,
    settings: RunSettings | None,
    first_texts: tuple[PromptTexts, ...],
) -> bool:
    """Whether a run has results by now, or more texts than a page without results shows."""
    if run_results(backend, backend.run(key)) is not None:
        return True
    return settings is not None and backend.first_texts(key, settings) != first_texts


def _grows(job: Job | None) -> bool:
    """Whether a live job adds to the page, or did in this session: then its parts keep their
    places.
    """
    if job is not None and job.live:
        st.session_state[_GROWN] = job.id
    return job is not None and st.session_state.get(_GROWN) == job.id


def show_results(backend: Backend, results: RunResults, job: Job | None) -> None:
    """Draw the pictures of a run, its answers and prompts, and in folds all its numbers; above them
    the job that adds to them, if any.
    """
    step = next_step(results, backend.request_rules)
    draw = partial(_draw_pictures, backend, results, step)
    if job is not None and (job.state != "done" or _grows(job)):
        first_texts: tuple[PromptTexts, ...] = ()
        if results.headline is None:
            first_texts = backend.first_texts(results.run.key, results.run.settings)
        has_grown = partial(_has_grown, backend, results, first_texts)
        job_panel.watch_job(backend, job, has_grown, brief=True, below=draw)
    else:
        draw(job)
    live = job is not None and job.live
    if results.headline is not None:
        _show_answers_now(backend, results, live=live, grows=_grows(job))
    else:
        _show_prompts(backend, results, live=live, grows=_grows(job))
    if results.tasks:
        with st.expander("Tasks"):
            name = results.names[results.headline.key] if results.headline else ""
            show_tasks(results.run, results.tasks, name)
    if results.sparse_models:
        with st.expander("Numbers and intervals"):
            _show_numbers(backend, results, live=live)
    with st.expander("Settings and notes"):
        _show_settings(results, step)


def _show_numbers(backend: Backend, results: RunResults, *, live: bool) -> None:
    """Draw the verdicts in sentences, the table of all models, and that of a race."""
    sentences = [
        run_answer.answer_sentence(results, ended=not live),
        "" if live else run_answer.estimate_words(results),
        structure_sentence(backend, results),
        *run_answer.answer_figures(results, race=len(results.race) < 2),
        verdicts.early_stopping_words(results.records),
    ]
    widgets.show(*(paragraph(sentence) for sentence in sentences if sentence))
    addresses = _comparison_addresses(results)
    widgets.show_table(verdicts.numbers_table(results, addresses))
    if len(results.race) > 1:
        widgets.show(verdicts.race_table(results).html)
    headline_record = results.headline
    if headline_record is not None and headline_record.by_kind:
        widgets.remark(forgotten_sentence(headline_record))
        widgets.show_table(kinds_table(headline_record))


def _show_settings(results: RunResults, step: NextStep | None) -> None:
    """Draw how the run was made, what is to be known of it, and the link to its settings."""
    run = results.run
    widgets.show(paragraph(wording.stored_run_details(run)))
    notes = [
        wording.example_origin(run) if run.made_on else "",
        *run.warnings,
        wording.source_note(run.source_type),
        step.sentence if step else "",
    ]
    for note in notes:
        # That no text was continued stands under the prompts.
        if note and note != NOT_CONTINUED:
            widgets.note(note)
    job_panel.link_to_form(run.find or run.settings, judged_here=True)


def _has_grown(
    backend: Backend, results: RunResults, first_texts: tuple[PromptTexts, ...]
) -> bool:
    """Whether the run has more sparse models, or more texts before the first, than the page shows."""
    run = backend.run(results.run.key)
    if run is not None and len(run.sparse) != len(results.run.sparse):
        return True
    settings = results.run.settings
    is_before = results.headline is None
    return is_before and backend.first_texts(results.run.key, settings) != first_texts


def _draw_pictures(
    backend: Backend, results: RunResults, step: NextStep | None, job: Job | None
) -> None:
    """Draw the rulers, the chips, other runs under way, the next step, the chart of losses and the
    layers that were cut, as they are at this step of the job.
    """
    live_job = job if job is not None and job.live else None
    grows = _grows(job)
    more_to_come = live_job is not None and not live_job.stopping
    addresses = _comparison_addresses(results)
    rulers = run_rulers(results, not more_to_come)
    with st.container(key="rulers-and-chips", gap=None):
        if rulers:
            widgets.show(rulers_html(rulers[:1], addresses))
        if rulers[1:]:
            others = rulers_html(rulers[1:MAX_SHOWN], addresses)
            shares_axis = rulers[1].axis == rulers[0].axis
            css = "sd-other-rulers sd-same-axis" if shares_axis else "sd-other-rulers"
            widgets.show(element("div", others, css=css))
        widgets.show(chips(_chips(backend, results, more_to_come, grows)))
    job_panel.mention_other_runs(backend, results.run.key)
    _show_next_step(backend, results, step, grows=grows)
    if rulers[MAX_SHOWN:]:
        with st.expander("More methods"):
            widgets.show(rulers_html(rulers[MAX_SHOWN:], addresses))
    if not (results.sparse_models or live_job is not None):
        return
    losses, layers = st.columns([3, 2], gap="large")
    with losses:
        _show_losses(backend, results, live_job)
    model = results.headline_model
    if model is not None:
        with layers:
            _show_layers(results, model)


def _comparison_addresses(results: RunResults) -> dict[str, str]:
    """Addresses of each model's comparison with dense, by the records' keys."""
    limits = navigation.tolerance_query()
    addresses = {}
    for key, query in results.comparisons.items():
        addresses[key] = f"compare?{urlencode(query | limits)}"
    return addresses


def _show_losses(backend: Backend, results: RunResults, live_job: Job | None) -> None:
    """Draw the chart of what is lost, its measures and axes behind one button."""
    measures: tuple[Measure, ...] = OF_PASSAGES
    if has_task_lines(results):
        measures = (*OF_PASSAGES, "tasks")
    with widgets.row("losses-head"):
        widgets.section("What is lost")
        with st.popover(
            "Measure and axes", type="tertiary", icon=":material/tune:", key="axes"
        ):
            measure = choose_measure(measures)
            gain, axis = loss_charts.choose_axis(results.lines, results.run.settings)
    if measure == "tasks":
        tradeoff = task_tradeoff(results, axis)
    else:
        point = live_model(results, live_job) if live_job is not None else None
        tradeoff = run_tradeoff(results, axis, point)
    if gain is not None:
        pressed = loss_charts.show_gains(backend, results, tradeoff, gain, measure)
    else:
        file = loss_charts.run_chart_file(results, headline(results), measure)
        key = f"race-{measures.index(measure)}"
        paired = bool(results.race)
        pressed = loss_charts.show_tradeoff_chart(
            tradeoff, measure, file, key, paired=paired
        )
    loss_charts.open_comparison(results.comparisons.get(pressed))


def _show_layers(results: RunResults, model: ModelResult) -> None:
    """Draw the layers that were cut from a model, and what it forgot."""
    record = model.record
    name = results.names[record.key]
    with widgets.row("layers-head"):
        widgets.section("Where it was cut")
        if model.pruned.layer_errors or model.method.removes_layers:
            widgets.link(
                "compare",
                "Loss by layer",
                **results.comparisons[record.key],
                view="layers",
            )
    widgets.show(layer_strip(model.pruned))
    widgets.remark(f"{name}. {strip_words(model.pruned)}")
    loss_charts.show_kinds(results, record)


def _show_answers_now(
    backend: Backend, results: RunResults, *, live: bool, grows: bool
) -> None:
    """Draw what the headline's model answers: a dot for each passage, a broken one, the prompts."""
    record = results.headline
    assert record is not None, "the page has a sparse model"
    query = results.comparisons[record.key]
    limits = navigation.tolerance_query()
    numbers = answer_kinds(results.dense, record)
    addresses: dict[Kind, str] = {}
    for kind in numbers:
        addresses[kind] = f"compare?{urlencode({**query, **limits, 'filter': kind})}"
    with widgets.row("answers-head"):
        widgets.section(f"What it answers: {results.names[record.key]}")
        widgets.link("compare", "All answers", **query)
    widgets.show(answer_dots(numbers, addresses))
    if not numbers["broke"]:
        _show_prompts(backend, results, live=live, grows=grows)
        return
    passage, prompts = st.columns([2, 3], gap="large")
    with passage:
        _show_broken(backend, results)
    with prompts:
        _show_prompts(backend, results, live=live, grows=grows)


def _show_broken(backend: Backend, results: RunResults) -> None:
    """Draw the passage whose answer broke worst, with both answers; nothing where none broke."""
    record = results.headline
    assert record is not None, "the page has a sparse model"
    worst = worst_broken(backend, results.dense.key, record.key)
    if worst is None:
        return
    target = element("span", escape(worst.dense.target), css="sd-target")
    context = escape(end_of(worst.context, SHOWN_CHARACTERS))
    lines = []
    for sign, css, name, outcome in (
        ("✓", "sd-dense", "Dense", worst.dense),
        ("✕", "sd-sparse", results.names[record.key], worst.sparse),
    ):
        words = element("b", escape(f"{sign} {name}"))
        answer = element("span", escape(readable(outcome.answer)), css="sd-quoted")
        lines.append(element("p", words, Html(" "), answer, css=css))
    widgets.show(
        element("p", context, Html(" "), target, css="sd-quoted"),
        element("div", *lines, css="sd-broken"),
    )


def _show_prompts(
    backend: Backend, results: RunResults, *, live: bool, grows: bool
) -> None:
    """Draw the run's prompts with both texts, and the link to those of the other models; nothing
    where none is stored.

    live: whether texts may come. grows: keep the room for them.
    """
    run = results.run
    sparse = results.headline
    if sparse is None and live:
        first_texts = backend.first_texts(run.key, run.settings)
        if first_texts:
            _show_first_texts(first_texts, run.settings)
            return
    sparse_key = sparse.key if sparse else None
    rows = list(
        prompt_texts(
            run.settings.prompts, results.dense.key, sparse_key, backend.continuation
        )
    )
    if not rows:
        return
    has_sparse_text = any(row.sparse is not None for row in rows)
    name = ""
    if has_sparse_text or live:
        name = (
            f"Sparse, {results.names[sparse.key]}" if sparse is not None else "Sparse"
        )
    missing = _TO_COME if live else _NOT_STORED
    _show_texts(rows, name, missing, grows=grows)
    remark = "Greedy decoding."
    if has_sparse_text:
        remark = _TWO_TEXTS
    elif not live:
        remark = "Greedy decoding, by the dense model alone."
        if sparse and NOT_CONTINUED in run.warnings:
            remark = f"{remark} {NOT_CONTINUED}"
        elif sparse:
            remark = f"{remark} The sparse model's texts are not stored."
    with widgets.row("prompts"):
        widgets.remark(remark)
        if sparse is not None:
            others = "Try a prompt of your own"
            if run.made_on:
                others = "Other models"
            elif len(results.sparse_records) > 1:
                others = "Other models, and prompts of your own"
            widgets.link("compare", others, **results.comparisons[sparse.key])


def _show_first_texts(rows: Sequence[PromptTexts], settings: RunSettings) -> None:
    """Draw what dense and the first sparse model write, which comes before any record of a run."""
    if not rows:
        return
    name = wording.model_name(settings.points[0], settings.names_methods)
    _show_texts(rows, f"Sparse, {name}", _TO_COME, grows=True)
    with widgets.row("prompts"):
        widgets.remark(_TWO_TEXTS)


def _show_texts(
    rows: Sequence[PromptTexts], name: str, missing: str, *, grows: bool
) -> None:
    """Draw the table of prompts and texts. name: of the sparse model; "" for a table without it.

    missing: in place of a text that is not there. grows: keep the room for more.
    """
    heads = {"Prompt": "", "Dense": "sd-dense"}
    if name:
        heads[name] = "sd-sparse"
    head = [
        element("th", escape(text), scope="col", css=css) for text, css in heads.items()
    ]
    table = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *(_prompt_row(row, name, missing) for row in rows)),
        css="sd-prompts sd-grows" if grows else "sd-prompts",
        aria_label="What the models write",
    )
    widgets.show(table)


def _prompt_row(row: PromptTexts, name: str, missing: str) -> Html:
    """The prompt and both texts, without line breaks. name, missing: see `_show_texts`."""
    dense_cell = escape(_one_line(row.dense))
    sparse_cell = escape(missing if name else "")
    if row.sparse is not None:
        dense_cell, sparse_cell = mark_divergence(
            _one_line(row.dense), _one_line(row.sparse)
        )
    cells = [
        element("th", escape(row.prompt), scope="row"),
        element("td", dense_cell, css="sd-dense", data_model="Dense"),
    ]
    if sparse_cell:
        cells.append(element("td", sparse_cell, css="sd-sparse", data_model=name))
    return element("tr", *cells)


def _one_line(text: str) -> str:
    return " ".join(readable(text).split())


def _chips(
    backend: Backend, results: RunResults, more_to_come: bool, grows: bool
) -> list[Html]:
    """A chip for each model that the headline names, and the places of those to come.

    grows: with a place for each model to come; of a search that is not known.
    """
    run = results.run
    drawn = headline_chips(backend, results)
    if not grows or run.finished or run.find is not None:
        return drawn
    if not more_to_come:
        return drawn
    for spec in run.settings.points[len(run.sparse) :]:
        if len(drawn) < MAX_CHIPS:
            name = wording.model_name(
                spec, run.settings.names_methods, bool(run.source_type)
            )
            drawn.append(chip_to_come(name))
    return drawn


def show_preview(backend: Backend, results: RunResults) -> None:
    """Draw what a run's page will show: the headline, ruler, layers and broken answer of a run."""
    widgets.section("What you will see: an example")
    widgets.show(paragraph(headline(results)))
    widgets.show(rulers_html(run_rulers(results)[:1]))
    model = results.headline_model
    if model is None:
        return
    layers, broken = st.columns([2, 3], gap="large")
    with layers:
        widgets.show(layer_strip(model.pruned))
        widgets.remark(
            f"{results.names[model.record.key]}. {strip_words(model.pruned)}"
        )
    with broken:
        _show_broken(backend, results)


def show_first_run_duration(backend: Backend) -> None:
    """Draw the time of the first run, and have a worker ready for it; asks again while the machine
    is being measured.

    Not both at once: a worker that loads the engine would make the machine look slow.
    """
    duration = backend.preflight(first_run_settings(backend)).duration
    if duration.total_s is None:
        measuring = backend.is_measuring()
        widgets.remark(
            "Time: being estimated." if measuring else "Time: not known yet."
        )
        if measuring:
            wait_for_rates(backend)
        return
    backend.expect_work()
    source = "this machine's measured speed" if duration.counted else "earlier runs"
    widgets.remark(
        f"Takes about {wording.duration_words(duration.seconds)} (from {source}); first answers come sooner."
    )
    if backend.is_busy():
        widgets.remark(BUSY)
