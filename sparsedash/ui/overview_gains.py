"""The overview's chart of loss against size or speed, and the button that measures speed."""

import os
from collections.abc import Sequence
from typing import get_args

import streamlit as st

from sparsedash.reporting import deployment, wording
from sparsedash.reporting.charts.gain_chart import gain_chart, gain_words
from sparsedash.reporting.charts.tradeoff_chart import clicked_record, far_words
from sparsedash.reporting.charts.tradeoff_data import Measure
from sparsedash.reporting.deployment import (
    GAIN_PHASES,
    GAIN_TITLES,
    GainName,
    Gains,
    TimingOptions,
    run_gains,
    timing_request,
)
from sparsedash.reporting.html import paragraph, table
from sparsedash.reporting.run_results import Judged, RunResults
from sparsedash.schema.settings import Dtype
from sparsedash.service.backend import Backend
from sparsedash.ui import chart_files, frame, job_panel
from sparsedash.ui.address_bar import select

AGAINST, SPARSITY = "against", "sparsity"
"""The parameter of the address, and its usual value."""
_OPTIONS = {SPARSITY: "Sparsity"} | {name: GAIN_TITLES[name] for name in get_args(GainName)}
AS_RUN, ALL = "run", "all"
_NUMBERS = {AS_RUN: "As in the run"} | {name: name for name in get_args(Dtype)}
_THREADS = {ALL: "As many as torch uses"} | {str(n): str(n) for n in range(1, (os.cpu_count() or 1) + 1)}
_LINE = (
    "The line joins the models that no other beats: none is as good in both and better in one. Bars: 95 % intervals. A "
    "click on a point opens its answers beside the dense model's."
)
_EXACT = "Exact, from the widths of the layers; nothing was measured for it."
_MEASURED = (
    "Measured on the machine named below: both models in one process, in turn, in random order, one passage at a time."
)


def chosen_gain() -> GainName | None:
    """Draw the choice of what loss is shown against; None for sparsity."""
    chosen = select(AGAINST, "Loss against", _OPTIONS, SPARSITY, noun="axis")
    return next((name for name in get_args(GainName) if name == chosen), None)


def show_gains(backend: Backend, found: RunResults, name: GainName, measure: Measure) -> str:
    """Draw the chart and what it leaves out. Returns the key of the record that was clicked, or nothing."""
    timed = _chosen_timing() if name in GAIN_PHASES else TimingOptions()
    known, tradeoff, key = run_gains(backend, found, name, timed), found.tradeoff(), ""
    if known.gained.gains:
        selected = st.plotly_chart(
            gain_chart(tradeoff, known.gained, measure, frame.theme()),
            theme=None,
            config=chart_files.chart_config(f"{measure}-against-{name}".replace(" ", "-")),
            alt=gain_words(tradeoff, known.gained, measure),
            key=f"gain-{name}-{measure}",
            on_select="rerun",
            selection_mode="points",
        )
        chart_files.offer_chart()
        key = clicked_record(selected["selection"]["points"])
        basis = _MEASURED if name in GAIN_PHASES else _EXACT
        said = " ".join(filter(None, (_LINE, far_words(tradeoff, measure), basis)))
        frame.show(paragraph(said, css="sd-muted sd-small"))
    for said in omitted_models(known):
        frame.note(said)
    if known.untimed:
        _offer_timing(backend, found, known.untimed, timed)
    if name in GAIN_PHASES:
        _timings(backend, found, timed)
    return key


def _chosen_timing() -> TimingOptions:
    """Draw what the speed is measured with: the numbers of the weights and the threads, both kept in the address."""
    numbers, threads = st.columns(2)
    with numbers:
        dtype = select("numbers", "Number format while timed", _NUMBERS, AS_RUN)
    with threads:
        n_threads = select("threads", "Threads", _THREADS, ALL)
    return TimingOptions(
        dtype=next((name for name in get_args(Dtype) if name == dtype), None),
        n_threads=None if n_threads == ALL else int(n_threads),
    )


def omitted_models(known: Gains) -> list[str]:
    """What the chart does not show and why, in sentences."""
    said = []
    if known.untimed:
        n = len(known.untimed)
        were, them = ("was", "it is") if n == 1 else ("were", "they are")
        said.append(
            f"{n} sparse {wording.plural(n, 'model')} {were} not timed, so {them} not shown: speed that was not "
            "measured is not guessed."
        )
    if known.masked:
        n = len(known.masked)
        have, keep = ("has", "keeps its") if n == 1 else ("have", "keep their")
        said.append(
            f"{n} sparse {wording.plural(n, 'model')} only {have} single weights at zero and {keep} shapes: no "
            "speed-up is expected, and none is timed."
        )
    if known.unknown:
        n = len(known.unknown)
        said.append(
            f"{n} sparse {wording.plural(n, 'model')} cannot be shown: the sizes of this model are noted when it is "
            "loaded the next time, by a run, a prompt or a measurement of speed."
        )
    return said


def _offer_timing(backend: Backend, found: RunResults, untimed: Sequence[Judged], timed: TimingOptions) -> None:
    """Draw the jobs that measure, or the button that asks for them; a reason for the example."""
    if found.run.made_on:
        frame.note("The models of the example cannot be timed here: their statistics do not ship. Run it here first.")
        return
    requests = [timing_request(found, each.record.key, timed) for each in untimed]
    jobs = [job for job in (backend.newest_job(request.key()) for request in requests) if job is not None]
    for job in [job for job in jobs if job.live][:1]:
        job_panel.watch_job(backend, job, brief=True)
        return
    for job in jobs:
        if job.state != "done":
            job_panel.draw_job(backend, job, brief=True)
    n = len(requests)
    st.button(
        "Measure speed" if n == 1 else f"Measure speed of {n} models",
        key="measure-speed",
        icon=":material/speed:",
        on_click=frame.attempt,
        args=(lambda: [backend.submit(request) for request in requests],),
        help="Both models are timed in turn: reading and writing, one and eight passages at once. It takes some "
        "minutes for each model and is best done while the machine does little else.",
    )


def _timings(backend: Backend, found: RunResults, timed: TimingOptions) -> None:
    """Every measurement of this run, as tables with what they rest on."""
    known = [
        (wording.record_name(each.record, found.several_methods), timing)
        for each in found.judged
        if (timing := backend.timing(timing_request(found, each.record.key, timed).key())) is not None
    ]
    if not known:
        return
    with st.expander("The measured speeds as tables"):
        for name, timing in known:
            caption = f"{name}: {deployment.timing_conditions(timing)}."
            frame.show_table(
                table(f"Speed of {name}", caption, list(deployment.SPEED_HEAD), deployment.speed_rows(timing))
            )
            frame.show(paragraph(deployment.ceiling_words(timing), css="sd-muted sd-small"))
