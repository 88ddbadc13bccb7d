"""A run on the overview page: sentence, next step, at most three numbers, chart and table; and the list of runs."""

from typing import get_args
from urllib.parse import urlencode

import streamlit as st

from sparsedash.jobs.job import Job
from sparsedash.reporting import verdicts, wording
from sparsedash.reporting.charts.chart_style import theme_switch_css
from sparsedash.reporting.charts.tradeoff_chart import clicked_record, far_words, tradeoff_chart, tradeoff_words
from sparsedash.reporting.charts.tradeoff_data import Live, Measure
from sparsedash.reporting.html import Html, card, cards, element, escape, paragraph, widget_label
from sparsedash.reporting.job_status import job_announcement, job_title
from sparsedash.reporting.record_pair import record_choices
from sparsedash.reporting.run_answer import (
    answer_costs,
    answer_figures,
    answer_sentence,
    missing_records,
    next_step,
    no_results,
    run_ending,
    still_to_come,
)
from sparsedash.reporting.run_results import RunResults, live_model, run_results
from sparsedash.reporting.verdicts import numbers_table
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Run
from sparsedash.service.backend import Backend
from sparsedash.service.preflight import Duration
from sparsedash.stats.significance import accuracy_interval
from sparsedash.ui import browser_notices, chart_files, frame, job_panel, navigation, overview_gains
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.chosen_run import link_to_export, show_ending, show_incomplete
from sparsedash.ui.form_address import form_address
from sparsedash.ui.form_run import first_run_settings
from sparsedash.ui.frame import JOB_S


def show_next_step(found: RunResults | None, *, grows: bool) -> None:
    """Draw the next step and the link to it, once the run is finished.

    grows: the run is, or was, under way before the visitor's eyes: then the room for it is kept from the beginning.
    """
    step = next_step(found) if found is not None else None
    if step is None and not grows:
        return
    with st.container(key="next-step-grows" if grows else "next-step", horizontal=True, vertical_alignment="center"):
        frame.show(paragraph(step.said if step else "", css="sd-next"))
        if found is None or step is None:
            return
        record = found.headline
        if step.asked is None and record is not None:
            link_to_export(found.run.key, found.name_of(record))
        elif step.asked is not None and (address := form_address(step.asked)) is not None:
            frame.link("prune", step.link, **address)


MEASURE = "measure"
_GROWN = "run-grown"
"""Of the session: the job whose run grew on this page."""
_CLICK = "A click on a point, or on its name in the table, opens its answers beside the dense model's."
_HINTS: dict[Measure, str] = {
    "word perplexity": "1.25 × means that the right last word became 1.25 times less likely, as a geometric mean "
    f"over the passages. It sees a loss sooner than accuracy does. {_CLICK}",
    "accuracy": f"−2 means two fewer right last words in a hundred. {_CLICK}",
    "flips": "Broke: the dense model was right and the sparse one is wrong. Fixed: the other way round. Equal "
    f"accuracy hides both. {_CLICK}",
    "share right": f"Of all passages that were answered. {_CLICK}",
}
_JUDGED = (
    "The green band is what may be lost: ✓ within, ✕ beyond, ? undecided, by intervals that hold for all comparisons; "
    "with several methods the verdicts stand under the axis"
)
_DRAWN: dict[Measure, str] = {
    "word perplexity": f"Bars: the intervals that the verdict rests on; the table has their levels. {_JUDGED}.",
    "accuracy": f"Bars: the intervals that the verdict rests on, of paired differences. {_JUDGED}.",
    "flips": "Bars: 95 % intervals.",
    "share right": "Bars and the blue band: 95 % intervals of each model by itself. A loss is judged by changes.",
}
_BESIDE = "Points that would cover each other stand side by side."
_REST = "Its other records are kept."
_HOLLOW = "Hollow marks: fewer passages than the dense model answered."


def show_answer(found: RunResults, job: Job | None) -> None:
    """Draw the sentence that a run's page opens with, what to do next, and how the run ended, if early.

    job: the run's newest.
    """
    ended = bool(run_ending(found.run, job)) or (job is not None and job.stopping)
    called = f"{found.name} · " if found.name else ""
    basis = f"{called}{wording.reference_title(found.run.settings.model)} · {wording.stored_run_details(found.run)}"
    frame.opening(answer_sentence(found, ended), basis, grows=_grows(job))
    show_next_step(found, grows=_grows(job))
    show_ending(found.run, job)
    if job is None or not job.live:
        show_incomplete(found.run, missing_records(found.run, found.missing))


def show_lost(backend: Backend, key: str, run: Run | None) -> None:
    """Draw the page of a run without a job that had results. run: None where its own record is missing."""
    frame.opening(why_no_results(backend, key, run))
    if run is not None:
        show_incomplete(run, _REST)


def why_no_results(backend: Backend, key: str, run: Run | None) -> str:
    """Why nothing can be shown of a run that had results."""
    return no_results(run, backend.why_missing(key, Run) if run is None else backend.why_missing(run.dense))


def wait_for(backend: Backend, key: str, job: Job) -> None:
    """Draw the page of a run that has no results: with its job in the place that it keeps when they come."""
    title, details = job_title(job)
    run = backend.run(key)
    if job.live:
        said = still_to_come(job, "The first results are")
    else:
        said = why_no_results(backend, key, run) if run or job.state == "done" else "This run has no results."
    # Nothing comes any more where it has ended without any: no room is kept for it.
    grows = job.live and _grows(job)
    frame.opening(said, f"{title} · {details}", grows=grows)
    show_next_step(None, grows=grows)
    if run is not None and not job.live:
        show_incomplete(run, _REST)
    job_panel.watch_job(backend, job, lambda: run_results(backend, backend.run(key)) is not None, brief=True)
    if job.live:
        frame.empty("The chart appears here as soon as the dense model has answered, and grows with every sparse one.")


def _grows(job: Job | None) -> bool:
    """Whether a live job adds to the page, or did before this visitor's eyes: then its parts keep their places."""
    if job is not None and job.live:
        st.session_state[_GROWN] = job.id
    return job is not None and st.session_state.get(_GROWN) == job.id


def show_tradeoff(backend: Backend, found: RunResults, job: Job | None) -> None:
    """Draw the headline numbers, the chart and its table; above them the job that adds to them, if any."""
    frame.show(Html(f"<style>{theme_switch_css()}</style>"))
    if job is not None and job.live:
        _watch_race(backend, found, job)
    else:
        if job is not None and (job.state != "done" or _grows(job)):
            job_panel.draw_job(backend, job, brief=True)
        _draw_race(backend, found, None, grows=_grows(job))
    # What would decide the rest is said at the top as soon as that is what to do next.
    for said in answer_costs(found) if next_step(found) else answer_figures(found):
        frame.note(said)
    with st.expander("The numbers as a table"):
        addresses = _comparisons(found)
        frame.show_table(numbers_table(found, {k: f"compare?{urlencode(q)}" for k, q in addresses.items()}))
    if ended := verdicts.early_stopping_words(found.records):
        frame.note(ended)
    for warning in filter(None, (*found.run.warnings, wording.source_note(found.run.source_type))):
        frame.note(warning)


@frame.fragment(JOB_S)
def _watch_race(backend: Backend, found: RunResults, seen: Job) -> None:
    """The chart while its job is live; reruns the page when the job ends, is to stop or has brought another record."""
    job = backend.job(seen.id)
    run = backend.run(found.run.key)
    if job_panel.has_changed(seen, job) or (run is not None and len(run.sparse) != len(found.run.sparse)):
        st.rerun()
    job_panel.draw_job(backend, job, brief=True)
    browser_notices.announce(job_announcement(backend, job))
    _draw_race(backend, found, live_model(found, job), grows=True)


def _draw_race(backend: Backend, found: RunResults, now: Live | None, *, grows: bool) -> None:
    frame.show(cards(_numbers(found, grows), grows=grows))
    measures: tuple[Measure, ...] = get_args(Measure)
    measure = st.segmented_control(
        "What the chart shows",
        measures,
        default=measures[0],
        key=MEASURE,
        bind=BOUND,
        required=True,
        label_visibility="collapsed",
    )
    measure = measure or measures[0]
    if (gain := overview_gains.chosen_gain()) is not None:
        _open_comparison(found, overview_gains.show_gains(backend, found, gain, measure))
        return
    tradeoff = found.tradeoff(now)
    selected = st.plotly_chart(
        tradeoff_chart(tradeoff, measure, frame.theme()),
        theme=None,
        config=chart_files.chart_config(measure.replace(" ", "-")),
        alt=tradeoff_words(tradeoff, measure),
        key=f"race-{measures.index(measure)}",
        on_select="rerun",
        selection_mode="points",
    )
    chart_files.offer_chart()
    _open_comparison(found, clicked_record(selected["selection"]["points"]))
    fewer = any(point.hollow for point in tradeoff.sparse)
    hints = [_HINTS[measure], _DRAWN[measure], far_words(tradeoff, measure), _BESIDE]
    hints += [_HOLLOW] if fewer or now else []
    frame.show(paragraph(" ".join(filter(None, hints)), css="sd-muted sd-small"))


def _open_comparison(found: RunResults, key: str) -> None:
    """Go to the compare page of the record that was clicked, if one was."""
    if address := _comparisons(found).get(key):
        st.switch_page("pages/compare.py", query_params=address)


def _comparisons(found: RunResults) -> dict[str, dict[str, str]]:
    """What the address of the compare page says of each sparse record beside dense, by the record's key."""
    return {
        offer.key: {"run": found.run.key, "right": offer.address, **navigation.tolerance_query()}
        for offer in record_choices(found.run, ())
        if offer.key != found.run.dense
    }


def link_to_answers(found: RunResults) -> None:
    """Draw links to the passages and to the layers of the sparse model that the answer speaks of."""
    record = found.headline
    if record is None:
        return
    address = _comparisons(found)[record.key]
    frame.link("compare", "Compare the answers passage by passage", **address)
    frame.link("layers", "See what each layer lost", run=found.run.key, record=found.name_of(record))
    link_to_export(found.run.key, found.name_of(record))


def list_runs(backend: Backend, runs: list[Run], chosen: str) -> None:
    """Draw these runs as links to themselves; the one being shown is marked."""
    marks = backend.user_data.marks()
    for run in runs:
        mark = marks.get(run.key, RunMark())
        with st.container(gap=None):
            title = widget_label(wording.stored_run_title(run, mark.name))
            frame.link("overview", title, run=run.key, **navigation.search_tolerance_query(run.find))
            parts = [wording.moment(run.started_at, frame.zone()), wording.stored_run_details(run)]
            parts += [] if run.finished else ["not finished"]
            parts += ["pinned"] if mark.pinned else []
            parts += ["shown above"] if run.key == chosen else []
            frame.show(element("p", escape(" · ".join(parts)), css="sd-muted sd-small"))


def _numbers(found: RunResults, grows: bool) -> list[Html]:
    """Dense, and the mildest and the hardest pruning of the best method; of a search its answer and the next step."""
    rows = found.best
    if found.search is not None and found.search.finished:
        spoken_of = (found.search.answer, found.search.next_step)
        rows = [row for row in rows if row.record.sparsity_permille in spoken_of] or rows
    score = found.dense.last_word
    interval = f"95 % interval {wording.interval(accuracy_interval(found.dense))}"
    right = f"{score.right:,} of {score.total:,} last words right"
    numbers = [card("Dense", wording.percent(score.accuracy), interval, right, css="sd-dense")]
    for row in [rows[0], rows[-1]] if len(rows) > 1 else rows:
        name = wording.card_name(row.method, row.record.sparsity_permille, found.several_methods)
        numbers.append(card(name, *verdicts.headline_loss(row.verdict), css="sd-sparse"))
    return numbers + (_to_come(found, len(numbers)) if grows else [])


def _to_come(found: RunResults, n_there: int) -> list[Html]:
    """A place for each number that a growing run still brings; how many a search brings nobody knows."""
    if found.run.finished or found.run.find is not None:
        return []
    n_missing = min(2, len(found.run.settings.made_permille)) + 1 - n_there
    return [card("Sparse", "…", "when the model has answered", css="sd-sparse") for _ in range(n_missing)]


def show_first_run_duration(backend: Backend) -> None:
    """Draw the time of the first run, and have a worker ready for it; asks again while the machine is being measured.

    Not both at once: a worker that loads the engine would make the machine look slow.
    """
    known = backend.preflight(first_run_settings()).duration
    if known.total_s is not None:
        backend.expect_work()
        _say(known)
    else:
        _wait(backend)


@frame.fragment(JOB_S)
def _wait(backend: Backend) -> None:
    known = backend.preflight(first_run_settings()).duration
    if known.total_s is not None:
        backend.expect_work()
    _say(known)


def _say(known: Duration) -> None:
    said = "How long it will take is being measured." if known.total_s is None else first_run_words(known)
    frame.show(paragraph(said, css="sd-muted sd-small"))


def first_run_words(known: Duration) -> str:
    """The time of a run whose every part is known, and what is behind it."""
    by = "a measurement of this machine" if known.counted else "what ran here before"
    return f"It takes about {wording.duration_words(known.seconds)}, by {by}; the first answers come sooner."
