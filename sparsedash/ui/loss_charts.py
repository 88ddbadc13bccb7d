"""Charts of loss, against sparsity, size or speed, with their hints, and the button that measures
speed.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import get_args

import streamlit as st

from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.reporting import deployment, wording
from sparsedash.reporting.charts.kind_chart import kind_chart, kinds_words
from sparsedash.reporting.charts.tradeoff_chart import (
    clicked_record,
    far_words,
    gain_chart,
    gain_words,
    tradeoff_chart,
    tradeoff_words,
)
from sparsedash.reporting.charts.tradeoff_data import Measure, TradeoffData
from sparsedash.reporting.deployment import (
    GAIN_PHASES,
    GAIN_TITLES,
    GainName,
    run_gains,
)
from sparsedash.reporting.html import file_name, paragraph, widget_label
from sparsedash.reporting.model_results import ModelResult
from sparsedash.reporting.run_headline import basis_words, headline
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.pair_records import Runtime, Timing, TimingSettings
from sparsedash.schema.records import Record
from sparsedash.schema.settings import Dtype, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.stats.kind_estimates import kind_estimates
from sparsedash.ui import frame, job_panel, navigation, widgets
from sparsedash.ui.address_bar import choose_budget, query_value, select
from sparsedash.ui.browser_scripts import ChartFile, show_chart

_HIGHLIGHT = "highlight"
"""The parameter of the address: the label of the highlighted line."""
_FEW = 2
"""Up to so many lines none has to be highlighted to be followed."""
_SPARSITY = "sparsity"
_AS_RUN = "run"
_ALL = "all"
_AXES = {
    _SPARSITY: "Sparsity",
    **{name: GAIN_TITLES[name] for name in get_args(GainName)},
}
_FORMATS = {_AS_RUN: "As in the run", **{name: name for name in get_args(Dtype)}}
_TORCH = "torch"
_RUNTIMES = {name: name for name in get_args(Runtime)}
_THREADS = {
    _ALL: "As many as torch uses",
    **{str(n): str(n) for n in range(1, (os.cpu_count() or 1) + 1)},
}
_CLICK = "Click a point to compare its answers with the dense model's."
_BARS_95 = f"Bars: {wording.LEVEL} intervals."
_BARS = "Bars: confidence intervals behind the verdict."
_SIGNS = "✓ within, ✕ beyond, ? undecided."
_SIGNS_HERE = f"Here: {_SIGNS}"
_NOT_JUDGED = f"Accuracy is not judged: too few answers are right. {_BARS_95}"
_BAND = "Green band: the acceptable loss."
_CAPTIONS: dict[Measure, str] = {
    "word perplexity": _SIGNS_HERE,
    "accuracy": _SIGNS_HERE,
    "flips": _BARS_95,
    "share right": f"Bars and blue band: {wording.LEVEL} intervals of each model by itself.",
    "tasks": f"A line for each task that is judged. {_SIGNS}",
}
_HELP: dict[Measure, str] = {
    "word perplexity": "1.25 × means that the right last word became 1.25 times less likely, as a geometric mean over "
    f"the passages. It reveals losses earlier than accuracy. {_BAND}",
    "accuracy": f"−2 means two fewer right last words in a hundred. {_BAND}",
    "flips": "Broke: dense right, sparse wrong. Fixed: dense wrong, sparse right. Equal accuracy can hide both.",
    "share right": "Each model's share of the passages it was evaluated on; verdicts use paired changes instead.",
    "tasks": f"−2 means two fewer right answers in a hundred, of the same questions. {_BAND} It is not drawn if "
    "tasks have different limits. Documents are left out: their loss is one of perplexity.",
}
_PAIRED = "Methods whose bars overlap may still differ: see their paired differences under “Numbers and intervals”."
_HOLLOW = "Hollow marks: evaluated on fewer passages than the dense model."
_FRONT = "Line: Pareto front."
_BEATEN = "Pareto front: no other model is better on both axes."
_EXACT = "Computed exactly from the widths of the layers."
_MEASURED = (
    f"Bars of speed: {wording.LEVEL} intervals. Measured on the machine named below: both models in one process, "
    "in random order, one passage at a time."
)


def show_tradeoff_chart(
    tradeoff: TradeoffData,
    measure: Measure,
    file: ChartFile,
    key: str,
    *hints: str,
    paired: bool = False,
) -> str:
    """Draw the chart with its caption; return the key of the record whose point was clicked.

    hints: about these lines, behind the "?". paired: whether the page tests
    method against method.
    """
    tradeoff = replace(tradeoff, highlighted=query_value(_HIGHLIGHT))
    chart = tradeoff_chart(tradeoff, measure, frame.theme())
    alt = tradeoff_words(tradeoff, measure)
    pressed = clicked_record(show_chart(chart, file, alt, key))
    points = chain.from_iterable(tradeoff.lines.values())
    hollow = _HOLLOW if any(point.hollow or point.live for point in points) else ""
    caption = [_CAPTIONS[measure]]
    if measure == "accuracy" and measure not in tradeoff.limits:
        caption = [_NOT_JUDGED]
    behind = ""
    paired_words = ""
    if caption == [_SIGNS_HERE]:
        behind = _BARS
        paired_words = _PAIRED if paired else ""
    more = [
        *hints,
        _HELP[measure],
        behind,
        paired_words,
        far_words(tradeoff, measure),
        hollow,
        _CLICK,
    ]
    show_caption(key, f"chart: {measure}", caption, more)
    return pressed


def show_caption(
    key: str, of: str, caption: Sequence[str], more: Sequence[str]
) -> None:
    """Draw the caption of a chart or table, and a "?" that opens the rest, a paragraph each. of:
    "chart: flips".
    """
    with st.container(
        key=f"caption-{key}",
        horizontal=True,
        vertical_alignment="top",
        gap="small",
    ):
        widgets.remark(*caption)
        # The style sheet shows a "?" in place of the label.
        label = widget_label(f"How to read this {of}")
        with st.popover(label, type="tertiary", key=f"help-{key}"):
            widgets.show(*(paragraph(text, css="sd-small") for text in more if text))


def open_comparison(address: Mapping[str, str] | None) -> None:
    """Go to a clicked model's answers next to the dense model's; stay where none was clicked."""
    if address:
        st.switch_page(
            "pages/compare.py", query_params={**address, **navigation.tolerance_query()}
        )


def choose_highlight(labels: Collection[str]) -> None:
    """Draw the choice of the line that alone has a colour, where there are many of these."""
    if len(labels) > _FEW:
        select(
            _HIGHLIGHT,
            "Highlight",
            {"": "All lines", **{label: label for label in labels}},
            "",
        )


def choose_axis(
    labels: Collection[str], settings: RunSettings
) -> tuple[GainName | None, Budget]:
    """Draw the choices of the axis that loss is plotted against, and of the highlighted line.

    Returns the gain, or None for sparsity, and the budget whose shares that is. settings: of the
    run.
    """
    usual = settings.axis
    first, second, third = st.columns(3)
    with first:
        chosen = select(
            "against",
            "Plot loss against",
            _AXES,
            _SPARSITY,
            noun="axis",
        )
    gain = next((name for name in get_args(GainName) if name == chosen), None)
    if gain:
        with second:
            choose_highlight(labels)
        return gain, usual
    with second:
        budget = choose_share(usual, settings.methods)
    with third:
        choose_highlight(labels)
    return None, budget


def choose_share(usual: Budget, methods: Sequence[MethodSettings]) -> Budget:
    """Draw the choice of the budget whose shares are the sparsity axis. usual: the runs' own.

    methods: of their models.
    """
    return choose_budget(
        "share", "Sparsity axis", usual, wording.budget_titles(methods)
    )


def show_gains(
    backend: Backend,
    found: RunResults,
    tradeoff: TradeoffData,
    name: GainName,
    measure: Measure,
) -> str:
    """Draw the chart and what it leaves out.

    Returns the key of the record that was pressed, or nothing.
    """
    is_timed = name in GAIN_PHASES
    key = ""
    timing_of = (
        _choose_timing(backend, found)
        if is_timed
        else partial(TimingSettings, dense=found.dense.key)
    )
    gained, omitted = run_gains(backend, found, name, timing_of)
    if gained.gains:
        tradeoff = replace(tradeoff, highlighted=query_value(_HIGHLIGHT))
        chart = gain_chart(tradeoff, gained, measure, frame.theme())
        alt = gain_words(tradeoff, gained, measure)
        file = run_chart_file(found, headline(found), measure, "against", name)
        key = clicked_record(
            show_chart(
                chart,
                file,
                alt,
                f"gain-{name}-{measure}",
            )
        )
        bars = _BARS if measure in tradeoff.limits else _BARS_95
        caption = _FRONT
        front = f"{_BEATEN} {bars}"
        if measure == "tasks":
            caption = _CAPTIONS[measure]
            front = ""
        more = [
            front,
            far_words(tradeoff, measure),
            _MEASURED if is_timed else _EXACT,
            _CLICK,
        ]
        show_caption(
            f"gain-{name}",
            f"chart: {measure} against {name}",
            [caption],
            more,
        )
    for reason, models in omitted.items():
        widgets.note(
            f"{wording.quantity(len(models), 'sparse model')} not shown: {reason}."
        )
    untimed = omitted.get(deployment.UNTIMED)
    if untimed:
        _offer_timing(backend, found, untimed, timing_of)
    if is_timed:
        _show_timings(backend, found, timing_of)
    return key


def _choose_timing(backend: Backend, found: RunResults) -> deployment.TimingOf:
    """Draw the choices of runtime, number format and threads for a measurement of speed."""
    (first, second, third) = st.columns(3)
    model = found.run.settings.model
    named = backend.named_model(model)
    problem = llama_cpp_problem(model, named.family if named else None)
    with first:
        runtime = select(
            "runtime",
            "Timed in",
            {_TORCH: _TORCH} if problem else _RUNTIMES,
            _TORCH,
        )
        if problem:
            widgets.note(f"Not in llama.cpp: {problem}.")
    with second:
        formats = (
            _FORMATS if runtime == _TORCH else {_AS_RUN: "Of the files; dense in F16"}
        )
        dtype = select("numbers", "Number format while timed", formats, _AS_RUN)
    with third:
        n_threads = select("threads", "Threads", _THREADS, _ALL)
    return partial(
        TimingSettings,
        dense=found.dense.key,
        dtype=next((name for name in get_args(Dtype) if name == dtype), None),
        n_threads=None if n_threads == _ALL else int(n_threads),
        runtime=next((name for name in get_args(Runtime) if name == runtime), "torch"),
    )


def _offer_timing(
    backend: Backend,
    found: RunResults,
    untimed: Sequence[ModelResult],
    timing_of: deployment.TimingOf,
) -> None:
    """Draw the jobs that measure, or the button that asks for them; a reason for the example."""
    if found.run.made_on:
        widgets.note(
            "The example's models cannot be timed: their statistics do not ship. Run it here first."
        )
        return
    requests = [timing_of(sparse=model.record.key) for model in untimed]
    jobs = [job for request in requests if (job := backend.newest_job(request.key()))]
    for job in jobs:
        if job.live:
            job_panel.watch_job(backend, job, brief=True)
            return
    for job in jobs:
        if job.state != "done":
            job_panel.draw_job(backend, job, brief=True)
    widgets.action_button(
        "Measure speed"
        if len(requests) == 1
        else f"Measure speed of {len(requests)} models",
        lambda: [backend.submit(request) for request in requests],
        key="measure-speed",
        icon="speed",
        help="Times prefill and decoding of both models in turn, one and eight passages at once. Takes some minutes "
        "per model; leave the machine otherwise idle.",
    )


def _show_timings(
    backend: Backend, found: RunResults, timing_of: deployment.TimingOf
) -> None:
    """Draw every measurement of this run as a table with its conditions."""
    measured = {}
    for model in found.sparse_models:
        timing = backend.result(Timing, timing_of(sparse=model.record.key).key())
        if timing:
            measured[found.names[model.record.key]] = timing
    if measured:
        with st.expander("Measured speeds"):
            for name, timing in measured.items():
                widgets.show_table(
                    deployment.speed_table(name, timing, wording.file_stem(found.run))
                )
                widgets.remark(deployment.ceiling_words(timing))


def run_chart_file(results: RunResults, title: str, *parts: str) -> ChartFile:
    """A chart of a run as a file. parts: of its name, after that of the run."""
    name = file_name(wording.file_stem(results.run), *parts)
    basis = wording.picture_basis(results.run, results.tolerance, frame.zone())
    return ChartFile(name, title, [basis, basis_words(results)])


def show_kinds(results: RunResults, record: Record) -> None:
    """Draw what a sparse model lost by kind of text, where measured."""
    estimates = kind_estimates(record.by_kind)
    if not estimates:
        return
    figure = kind_chart(estimates, frame.theme())
    name = results.names[record.key]
    file = run_chart_file(results, f"What {name} forgot", name, "forgotten")
    show_chart(figure, file, kinds_words(estimates), "kinds", "ignore")
